"""The environment of ordinary problems: one question, one reply, done. The reward comes from verifiers."""

from __future__ import annotations

from lmm_r1.seams import Step
from lmm_r1.types import Message, Problem


class SingleTurn:
    """One episode of one reply."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def start(self) -> tuple[Message, ...]:
        """The problem's own messages."""
        return self._problem.messages

    def step(self, reply: str) -> Step:
        """Every reply ends the episode."""
        return Step(feedback=(), reward=0.0, done=True)

    def close(self) -> None:
        """Holds nothing."""
