"""The `numeric` verifier: a number within the gold's own precision.

For readings and measurements. A gold of 8.66 accepts what rounds to 8.66; a gold without a decimal
point is exact. `meta["tolerance"]` (relative, at most 0.1) widens that, as ChartQA's 5 % does.
"""

from __future__ import annotations

from lmm_r1.rewards.answers import read
from lmm_r1.rewards.exact import Exact, TooBig
from lmm_r1.rewards.extract import MAX_ANSWER
from lmm_r1.rewards.latex import Parsed
from lmm_r1.rewards.math import checked_with_unit
from lmm_r1.rewards.objects import Named
from lmm_r1.rewards.phrases import unframed
from lmm_r1.rewards.sentences import last_line, stated
from lmm_r1.rewards.spelling import join_thousands, tidy
from lmm_r1.rewards.terms import equal_values, times
from lmm_r1.rewards.units import conversion
from lmm_r1.rewards.values import Value
from lmm_r1.types import Problem, Verdict

MAX_TOLERANCE = 0.1


def _number(text: str) -> Value | None:
    """The single real number of an answer, or None. Raises TooBig."""
    if len(text) > MAX_ANSWER:
        raise TooBig("an answer is too long")
    tidied = tidy(last_line(text))
    value = _value(unframed(tidied))
    return value or next((found for said in stated(tidied) if (found := _value(unframed(said)))), None)


def _value(text: str) -> Value | None:
    found = read(join_thousands(text))
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
        converted = _in_unit_of(wanted, found)
        if converted is None:
            return Verdict(0.0, "wrong")
        found = converted
        return Verdict(1.0, "correct") if _close(wanted, found, tolerance) else Verdict(0.0, "wrong")
    except TooBig:
        return Verdict(0.0, "too_big")


def _in_unit_of(gold: Value, answer: Value) -> Value | None:
    """The answer in the gold's unit; None when the two contradict each other."""
    if (gold.percent and answer.unit) or (answer.percent and gold.unit):
        return None  # both sides say what they count
    if gold.unit == answer.unit or not (gold.unit and answer.unit):
        based = answer.unit.startswith("base ") and answer.unit != gold.unit
        left_out = gold.unit != answer.unit and (gold.compound or answer.compound)
        return None if based or left_out or (answer.unit == "cent" and not gold.unit) else answer
    factor = conversion(answer.unit, gold.unit)
    if factor is None or answer.percent or gold.percent:
        return None
    return Value(Parsed(times(answer.parsed.value, Exact.number(factor)), None, answer.parsed.unfinished), gold.unit)


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
    return checked_with_unit(lambda gold, answer: judge_number(gold, answer, tolerance), problem.answer, reply)
