"""The `numeric` verifier: a number within the gold's own precision.

For readings and measurements. A gold of 8.66 accepts what rounds to 8.66; a gold without a decimal
point is exact. `meta["tolerance"]` (relative, at most 0.1) widens that, as ChartQA's 5 % does.
"""

from __future__ import annotations

from lmm_r1.rewards.answers import Named, equal_values, read
from lmm_r1.rewards.exact import TooBig
from lmm_r1.rewards.extract import MAX_ANSWER
from lmm_r1.rewards.math import checked
from lmm_r1.rewards.spelling import join_thousands, tidy
from lmm_r1.rewards.values import Value
from lmm_r1.types import Problem, Verdict

MAX_TOLERANCE = 0.1


def _number(text: str) -> Value | None:
    """The single real number of an answer, or None. Raises TooBig."""
    if len(text) > MAX_ANSWER:
        raise TooBig("an answer is too long")
    found = read(join_thousands(tidy(text)))
    value = found.value if isinstance(found, Named) else found
    return value if isinstance(value, Value) and value.parsed.value.approximate() is not None else None


def judge_number(gold: str, answer: str, tolerance: float = 0.0) -> Verdict:
    """Compare two numbers; tolerance is relative to the gold."""
    try:
        wanted = _number(gold)
    except TooBig:
        wanted = None
    if wanted is None or not 0.0 <= tolerance <= MAX_TOLERANCE:
        return Verdict(0.0, "error")
    try:
        found = _number(answer)
        if found is None:
            return Verdict(0.0, "unparsable_answer")
        if found.parsed.unfinished and not wanted.parsed.unfinished:
            return Verdict(0.0, "wrong")
        if wanted.unit and found.unit and wanted.unit != found.unit:
            return Verdict(0.0, "wrong")
        return Verdict(1.0, "correct") if _close(wanted, found, tolerance) else Verdict(0.0, "wrong")
    except TooBig:
        return Verdict(0.0, "too_big")


def _close(gold: Value, answer: Value, tolerance: float) -> bool:
    """Equal, or within half a unit of the gold's last digit or the tolerance; a percent sign may be missing."""
    g, a = gold.parsed.value, answer.parsed.value
    if equal_values(g, a):
        return True
    wanted, found = g.approximate(), a.approximate()
    if wanted is None or found is None:
        return False
    if answer.percent and not gold.percent and _within(gold, wanted, found / 100, tolerance):
        return True
    return _within(gold, wanted, found, tolerance)


def _within(gold: Value, wanted: float, found: float, tolerance: float) -> bool:
    decimals = gold.parsed.decimals or 0
    rounding = 0.5 * 10.0**-decimals if 0 < decimals <= 12 else 0.0
    allowed = max(rounding, tolerance * abs(wanted))
    return allowed > 0.0 and abs(wanted - found) <= allowed * (1 + 1e-9)


def numeric_verdict(problem: Problem, reply: str) -> Verdict:
    """The `numeric` verifier."""
    stated = problem.meta.get("tolerance", 0.0)
    tolerance = float(stated) if isinstance(stated, int | float) else -1.0
    return checked(lambda gold, answer: judge_number(gold, answer, tolerance), problem.answer, reply)
