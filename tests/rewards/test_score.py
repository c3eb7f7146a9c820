"""The reward: r = 0.5 format + 1.0 accuracy, parts apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmm_r1.config import Reward
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.score import make_scorer
from lmm_r1.types import Message, Problem, Text, Turn, Verdict
from tests.fakes import said

PROBLEM = Problem("p", (Message("user", (Text("2+2?"),)),), "4")


@pytest.mark.parametrize(
    ("reply", "reward", "parts", "reasons"),
    [
        ("<think>2+2=4</think><answer>4</answer>", 1.5, (1.0, 1.0), ("correct", "correct")),
        ("<think>2+2=5</think><answer>5</answer>", 0.5, (1.0, 0.0), ("correct", "wrong")),
        ("so \\boxed{4}", 1.0, (0.0, 1.0), ("wrong", "correct")),
        ("4", 0.0, (0.0, 0.0), ("wrong", "no_answer")),
    ],
)
def test_the_two_parts_are_added(
    reply: str, reward: float, parts: tuple[float, float], reasons: tuple[str, str]
) -> None:
    """Catches accuracy gated on format, wrong weights, and parts logged with their weights."""
    score = make_scorer(Reward())(PROBLEM, said("an earlier turn", reply), "eos")
    assert score.reward == reward
    assert (score.parts["format"], score.parts["accuracy"]) == parts
    assert (score.verdicts["format"], score.verdicts["accuracy"]) == reasons


def test_weights_come_from_the_recipe() -> None:
    """Catches weights that are written into the code."""
    score = make_scorer(Reward(format=0.25, accuracy=2.0))(PROBLEM, said("<think></think><answer>4</answer>"), "eos")
    assert score.reward == 2.25


def test_a_failing_verifier_is_an_error_verdict_and_not_the_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one strange reply that ends a run, or that is paid."""

    def broken(problem: Problem, reply: str) -> Verdict:
        raise RuntimeError(reply)

    monkeypatch.setitem(VERIFIERS, "math", broken)
    score = make_scorer(Reward())(PROBLEM, said("<think></think><answer>4</answer>"), "eos")
    assert (score.reward, score.verdicts["accuracy"]) == (0.5, "error")


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_a_game_in_the_right_format_has_all_of_it(count: int) -> None:
    """Catches shares that add up to 0.9999: a table then says that the expert is out of format."""
    turns = [Turn(0, 1, "<think></think><answer>up</answer>", reward=0.1) for _ in range(count)]
    score = make_scorer(Reward())(replace(PROBLEM, env="sokoban"), turns, "eos")
    assert score.parts["format"] == 1.0 and score.reward == pytest.approx(0.5 + 0.1 * count)
    assert score.reward == sum(score.per_turn)
    half = [*turns, Turn(0, 1, "up")]
    assert make_scorer(Reward())(replace(PROBLEM, env="sokoban"), half, "eos").parts["format"] == count / (count + 1)
