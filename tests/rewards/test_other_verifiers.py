"""The choice, numeric and text verifiers."""

from __future__ import annotations

import pytest

from lmm_r1 import verify
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Problem

OPTIONS = ("24", "36", "48", "60")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("B", "correct"), ("(B)", "correct"), ("B.", "correct"), ("b", "correct"), ("\\text{B}", "correct"), ("B. 36", "correct"),
        ("\\textbf{(B)}\\ 36", "correct"), ("36", "correct"), ("Option B", "correct"), ("B) 36", "correct"), ("36.0", "correct"),
        ("C", "wrong"), ("B. 48", "wrong"), ("48", "wrong"), ("A, B", "wrong"), ("E", "wrong"), ("37", "unparsable_answer"),
        ("B or C", "unparsable_answer"), ("Because", "unparsable_answer"),
    ],
)  # fmt: skip
def test_choice(answer: str, reason: str) -> None:
    """Catches a letter that disagrees with its own text, and a hedge between letters."""
    assert verify("B", f"<answer>{answer}</answer>", "choice", OPTIONS).reason == reason


def test_choice_in_other_shapes() -> None:
    """Catches several letters paid one by one, equal options, and a gold outside the options."""
    assert verify("A, C", "\\boxed{C, A}", "choice").value == 1.0
    assert verify("A, C", "\\boxed{A}", "choice").value == 0.0
    assert verify("36", "\\boxed{B}", "choice", OPTIONS).value == 1.0
    assert verify("B", "\\boxed{36}", choices=OPTIONS).value == 1.0
    assert verify("A", "\\boxed{9/3}", "choice", ("3", "3.0", "4")).reason == "ambiguous"
    assert verify("E", "\\boxed{E}", "choice", OPTIONS).reason == "error"
    assert verify("B", "\\boxed{a}", "choice", ("b", "a")).reason == "correct"
    assert verify("blue", "\\boxed{A}", "choice").reason == "error"


@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        ("8.66", "8.66", 1.0), ("8.66", "8.6603", 1.0), ("8.66", "5\\sqrt3", 1.0), ("8.66", "8.67", 0.0), ("8", "8.01", 0.0),
        ("8", "8", 1.0), ("12 cm", "12", 1.0), ("12 cm", "12 km", 0.0), ("8", "7+1", 0.0), ("8", "8,9", 0.0), ("25", "25\\%", 1.0),
    ],
)  # fmt: skip
def test_numeric_takes_the_golds_own_precision(gold: str, answer: str, value: float) -> None:
    """Catches a tolerance wider than the gold's last digit."""
    assert verify(gold, f"\\boxed{{{answer}}}", "numeric").value == value


def test_numeric_tolerance_is_stated_and_bounded() -> None:
    """Catches a row whose tolerance would accept anything."""
    within = Problem("p", (), "100", "numeric", meta={"tolerance": 0.05})
    assert VERIFIERS["numeric"](within, "\\boxed{104}").value == 1.0
    assert VERIFIERS["numeric"](within, "\\boxed{106}").value == 0.0
    for tolerance in (0.5, -1, "much", float("nan")):
        problem = Problem("p", (), "100", "numeric", meta={"tolerance": tolerance})
        assert VERIFIERS["numeric"](problem, "\\boxed{100}").reason == "error", tolerance


def test_text() -> None:
    """Catches substring matches ("not red" for "red") and lost articles ("A")."""
    for answer in ("Red", "the red", "\\text{red}.", "red!"):
        assert verify("red", f"<answer>{answer}</answer>", "text").value == 1.0, answer
    for answer in ("not red", "redder", "red blue", "blue"):
        assert verify("red", f"<answer>{answer}</answer>", "text").value == 0.0, answer
    assert verify("A", "<answer>a</answer>", "text").value == 1.0
    assert verify("12 7", "<answer>7 12</answer>", "text").value == 0.0
    assert verify("...", "<answer>...</answer>", "text").reason == "error"
