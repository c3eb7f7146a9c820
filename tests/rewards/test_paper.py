"""The released rules, with their holes (arXiv 2503.07536 and its released code)."""

from __future__ import annotations

import pytest

from lmm_r1.rewards.paper import paper_verdict
from lmm_r1.types import Problem

THOUGHTS = "<think>try $3$ and $5$</think>"


@pytest.mark.parametrize(
    ("tail", "gold", "value"),
    [
        ("<answer> $2$ </answer>", "2", 1), ("$2$", "2", 1), ("The answer is $\\boxed{2}$", "2", 1), ("<answer> 2 </answer>", "2", 0),
        ("$A$", "A", 1), ("$\\boxed{A}$", "A", 1), ("A", "A", 0), ("$b$", "B", 0), ("$\\frac12$", "0.5", 1), ("$0.333333$", "\\frac{1}{3}", 1),
        ("$50\\%$", "0.5", 1), ("$30^\\circ$", "30", 1), ("$12\\text{ cm}$", "12", 1), ("$1,000$", "1000", 1), ("$(1,2)$", "(1,2)", 1),
        ("$\\{1,2\\}$", "\\{2,1\\}", 1), ("$x=3$", "3", 1), ("$a^2+2ab+b^2$", "(a+b)^2", 1), ("$\\text{yes}$", "yes", 0),
    ],
)  # fmt: skip
def test_the_published_table(tail: str, gold: str, value: float) -> None:
    """Catches a compatibility mode that is better than what was published."""
    assert paper_verdict(Problem("p", (), gold), THOUGHTS + tail).value == value


def test_the_published_holes() -> None:
    """Catches a hole that was mended here: runs could no longer be compared."""
    assert paper_verdict(Problem("p", (), "8"), "<think>\\boxed{7}</think><answer>$8$</answer>").value == 0.0
    assert paper_verdict(Problem("p", (), "8"), "<think>\\boxed{8}</think><answer>$7$</answer>").value == 1.0
    assert paper_verdict(Problem("p", (), "\\begin{what"), "anything").value == 1.0
