"""Golds on their verifier: themselves, and not anything."""

from __future__ import annotations

import random

import pytest

from lmm_r1.data.preparing.golds import ACCEPTS_OTHERS, CHUNK, NOT_ITSELF, UNKNOWN, Sampler, reason, reasons
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Problem, Verdict


def problem(answer: str, verifier: str = "math") -> Problem:
    return Problem("p", (), answer, verifier)


def lenient(problem: Problem, reply: str) -> Verdict:
    """Pays everything for the gold "any", as a grader does that skips golds it cannot read."""
    return Verdict(1.0, "correct") if problem.answer == "any" else VERIFIERS["math"](problem, reply)


def broken(problem: Problem, reply: str) -> Verdict:
    """Fails on the gold "boom"."""
    return Verdict(float(1 // (problem.answer != "boom")), "correct")


def probes_of(*golds: str, seed: int = 0, verifiers: dict = VERIFIERS) -> dict:  # type: ignore[type-arg]
    sampler = Sampler(seed)
    for gold in golds:
        sampler.add("math", gold)
    return dict(sampler.probes(verifiers))


def test_a_gold_must_verify_itself() -> None:
    """Catches a gold that no reply could ever match."""
    probes = probes_of("1", "2", "3")
    assert reason(problem("12"), VERIFIERS, probes) == ""
    assert reason(problem("9^{9^{9^9}}"), VERIFIERS, probes) == NOT_ITSELF
    assert reason(problem("1", "maths"), VERIFIERS, probes) == UNKNOWN


def test_a_gold_that_accepts_everything_is_dropped() -> None:
    """Catches a grader that pays every reply for a gold it cannot read, in a large data set and in a tiny one."""
    for golds in (tuple(map(str, range(50))), ("5",), ()):
        verifiers = {"math": lenient}
        probes = probes_of(*golds, "any", verifiers=verifiers)
        assert reason(problem("any"), verifiers, probes) == ACCEPTS_OTHERS
        assert reason(problem("5"), verifiers, probes) == ""


def test_two_spellings_of_a_value_are_no_fault() -> None:
    """Catches 0.5 being dropped since another row says 1/2."""
    probes = probes_of("0.5", "\\frac{1}{2}", "1/2", "50\\%", "7", "8")
    for gold in ("0.5", "\\frac{1}{2}", "7"):
        assert reason(problem(gold), VERIFIERS, probes) == ""
    halves = [p for p in probes["math"] if VERIFIERS["math"](problem("0.5"), f"\\boxed{{{p}}}").value == 1.0]
    assert len(halves) <= 1, "probes must differ from each other"


def test_a_tolerance_is_no_fault() -> None:
    """Catches years on a chart, each within a few percent of the next, being dropped as accepting everything."""
    sampler = Sampler(0)
    years = [str(year) for year in range(1900, 2020)]
    for year in years:
        sampler.add("numeric", year)
    probes = sampler.probes(VERIFIERS)
    assert {reason(problem(year, "numeric"), VERIFIERS, probes) for year in years} == {""}


def test_a_verifier_that_fails_drops_the_row_alone() -> None:
    """Catches one strange gold that ends the preparation of all rows."""
    assert list(reasons([problem("boom"), problem("1")], {"math": broken}, {})) == [NOT_ITSELF, ""]


def test_probes_are_a_function_of_golds_and_seed() -> None:
    """Catches probes that depend on the order of the rows, or not on the seed."""
    golds = [str(n) for n in range(1000)]
    shuffled = random.Random(1).sample(golds, len(golds))
    assert probes_of(*golds) == probes_of(*shuffled, *golds[:10])
    assert probes_of(*golds, seed=1) != probes_of(*golds)
    assert len(probes_of(*golds)["math"]) == 8


@pytest.mark.parametrize("workers", [2])
def test_workers_change_nothing(workers: int) -> None:
    """Catches results that come in the order in which processes finish."""
    golds = [str(n) if n % 7 else "9^{9^{9^9}}" for n in range(2 * CHUNK + 10)]
    probes = probes_of(*golds[:50])
    alone = list(reasons(map(problem, golds), VERIFIERS, probes))
    assert list(reasons(map(problem, golds), VERIFIERS, probes, workers)) == alone
    assert alone.count(NOT_ITSELF) == golds.count("9^{9^{9^9}}")
