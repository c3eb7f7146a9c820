"""What every shipped game's episodes have in common: played once, a reply's answer read one way, a turn limit.

Leaves out: what a move does, and what it pays.
"""

from __future__ import annotations

import random
import re

from lmm_r1.types import Message, Problem

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*)</answer>\s*\Z", re.DOTALL)


class Once:
    """The part of an environment that keeps an episode single-use."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._started = self._over = False

    def start(self) -> tuple[Message, ...]:
        """The problem's own messages. RuntimeError when called again."""
        if self._started:
            raise RuntimeError(
                f"the episode of problem {self._problem.id} was started before: an environment is played once"
            )
        self._started = True
        return self._problem.messages

    def playing(self) -> None:
        """RuntimeError before the start and after the end."""
        if not self._started or self._over:
            when = "after its end" if self._over else "before its start"
            raise RuntimeError(f"the episode of problem {self._problem.id} got a reply {when}")

    def close(self) -> None:
        """Holds nothing."""
        self._over = True


def answer_of(reply: str) -> str | None:
    """The text of a reply's one answer, with which it must end; None without. What stands elsewhere is no move."""
    found = _ANSWER.search(reply)
    if found is None or reply.count("<answer>") != 1:
        return None
    return found[1].strip()


def dice(problem: Problem, what: str) -> random.Random:
    """A generator that hangs on the problem's id and nothing else."""
    return random.Random(f"{what}/{problem.id}")


def said(thoughts: str, answer: str) -> str:
    """A reply in the published format, as scripted players speak."""
    return f"<think>{thoughts}</think><answer>{answer}</answer>"
