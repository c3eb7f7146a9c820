"""Expressions compared by value: limits, domains, and near misses."""

from __future__ import annotations

import threading

import pytest

from lmm_r1.rewards.exact import NotExact, TooBig
from lmm_r1.rewards.latex import parse
from lmm_r1.rewards.spelling import tidy
from lmm_r1.rewards.terms import MAX_STEPS, Term, same_function


def same(a: str, b: str) -> bool | None:
    return same_function(parse(tidy(a)).value, parse(tidy(b)).value)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("\\sin^2 x + \\cos^2 x", "1", True), ("\\sqrt{x^2}", "x", False), ("\\sqrt{x^2}", "|x|", True), ("\\ln x^2", "2\\ln x", True),
        ("\\sqrt[3]{x^3}", "x", True), ("e^{\\pi\\sqrt{163}}", "262537412640768744", False), ("e^{-90}", "0", False),
        ("\\frac{\\sin x}{x}", "1", False), ("\\lfloor 2.9 \\rfloor + \\sin 0", "2", True), ("\\ln 0", "1", None),
        ("\\sqrt{2+\\sqrt{3}}", "\\frac{\\sqrt{6}+\\sqrt{2}}{2}", True), ("(-1)^x", "e^{i \\pi x}", True),
    ],
)  # fmt: skip
def test_values_decide(a: str, b: str, expected: bool | None) -> None:
    """Catches a near miss taken for equal, and a domain that is ignored."""
    assert same(a, b) is expected


@pytest.mark.parametrize(
    "text", ["e^{10^6}", "e^{e^{e^{e^9}}}", "\\sin(10^{30}) + \\ln x", "\\sqrt{x}^{10^9}", "(\\ln 7)^{10^8}"]
)
def test_sizes_are_limited(text: str) -> None:
    """Catches an answer that keeps the comparison busy."""
    with pytest.raises(TooBig):
        same(text, "\\ln 2")


def test_steps_are_limited() -> None:
    """Catches a tree that is cheap to build and dear to evaluate."""
    term = Term.call("ln", (Term.symbol("x"),))
    for _ in range(14):
        term = term + term
    with pytest.raises(TooBig):
        same_function(term, Term.symbol("x"))
    assert MAX_STEPS < 2**14


def test_division_by_zero_is_no_value() -> None:
    """Catches a crash on 1/0 in a tree."""
    with pytest.raises(NotExact):
        Term.number(1) / Term.number(0)
    assert same("\\frac{1}{\\ln 1}", "3") is None


def test_threads_agree() -> None:
    """Catches precision that one thread changes under another."""
    pairs = [
        ("\\sin(2x)", "2\\sin x\\cos x"),
        ("\\ln 6", "\\ln 2+\\ln 3"),
        ("\\sqrt{x+1}", "\\sqrt{x}+1"),
        ("e^{x}", "e^{x}+e^{-90}"),
    ]
    wrong: list[object] = []

    def work() -> None:
        for _ in range(10):
            found = [same(a, b) for a, b in pairs]
            if found != [True, True, False, False]:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
