"""The `math` verifier: are two answers the same mathematical object?

Numbers, fractions, radicals, polynomials and units are compared exactly; lists, sets, tuples and
intervals item by item; what cannot be read exactly, as normalised strings. Decisions that need one:

* A unit or a percent sign may be left out by one side; two different units are two different answers.
* "x = 3" answers 3. In a list of assignments the names count.
* An unfinished computation (27+36-33 for 30, 9*8*7 for 504) is not an answer, unless the gold is one:
  else copying the question pays. A form in which answers are written (8/2, 2^10, 5!) is one.
* A decimal answers an exact gold when it has six right digits after the point; an exact answer, a gold
  that is itself a rounding, when it rounds to it.

A verdict never raises, whatever the strings. Reading: answers.py. Source of the cases: the published
checkers' known faults; nothing of them is used here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from lmm_r1.rewards.answers import (
    INTERVALS,
    Answer,
    Equation,
    Inequality,
    Named,
    Opaque,
    Several,
    equal_values,
    minus,
    read,
)
from lmm_r1.rewards.exact import Exact, TooBig
from lmm_r1.rewards.extract import MAX_ANSWER, extract
from lmm_r1.rewards.latex import Parsed, parse
from lmm_r1.rewards.phrases import unframed, without_tail
from lmm_r1.rewards.realsets import is_set_expression, same_real_set
from lmm_r1.rewards.spelling import MARK, canonical, join_thousands, tidy
from lmm_r1.rewards.terms import CONSTANTS, Term
from lmm_r1.rewards.units import conversion
from lmm_r1.rewards.values import Value
from lmm_r1.types import Problem, Verdict

_EXACT_DECIMALS = 6  # as in the released checker: 0.333333 is 1/3, 0.333 is not
_FLOAT_DECIMALS = 12
_ZEROS = re.compile(r",0\d\d(?!\d)")
RIGHT, WRONG = Verdict(1.0, "correct"), Verdict(0.0, "wrong")
_LETTER_UNITS = frozenset("mghls")  # read as a variable when no word marks them


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer is the gold's equal."""
    if isinstance(gold, Several) or isinstance(answer, Several):
        return _same_several(gold, answer)
    if isinstance(gold, Opaque) or isinstance(answer, Opaque):
        return isinstance(gold, Opaque) and isinstance(answer, Opaque) and gold.text == answer.text != ""
    if isinstance(gold, Inequality) or isinstance(answer, Inequality):
        return isinstance(gold, Inequality) and isinstance(answer, Inequality) and _same_inequality(gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation) or _is_relation(gold):
        return _same_up_to_a_factor(_difference(gold), _difference(answer), negative=True)
    if isinstance(gold, Named) and isinstance(answer, Named) and gold.name.count("'") != answer.name.count("'"):
        return False  # y and its derivative
    if same_value(_plain(gold), _plain(answer)):
        return not _is_relation(answer) or not isinstance(gold, Named)
    return isinstance(gold, Named) and _same_up_to_a_factor(_difference(gold), _difference(answer), negative=True)


def _is_relation(answer: Answer) -> bool:
    """x + y = 5 or a + b = c: a relation between variables. m + n = 106 names what was asked for."""
    if not isinstance(answer, Named) or "+" not in answer.name:
        return False
    return set(answer.name) <= set("xyz+ ") or bool(answer.value.parsed.value.symbols - CONSTANTS)


def _plain(answer: Value | Named) -> Value:
    return answer.value if isinstance(answer, Named) else answer


def _difference(answer: Answer) -> Exact | Term | None:
    """Left side minus right side; None for what relates no variables (x = 5 does not: 2x + 3 = 13 is its question)."""
    if isinstance(answer, Equation):
        return answer.difference
    if not isinstance(answer, Named):
        return None
    value = answer.value.parsed.value
    if "+" in answer.name:
        return minus(parse(answer.name).value, value)
    single = len(answer.name) == 1 and value.symbols - CONSTANTS
    return minus(Exact.symbol(answer.name), value) if single else None


def _same_inequality(gold: Inequality, answer: Inequality) -> bool:
    return gold.sign == answer.sign and _same_up_to_a_factor(
        gold.difference, answer.difference, negative=gold.sign == "ne"
    )


def _same_up_to_a_factor(gold: Exact | Term | None, answer: Exact | Term | None, negative: bool) -> bool:
    """Equal up to a rational factor (positive unless negative ones are allowed); trees only up to the sign."""
    if gold is None or answer is None:
        return False
    if isinstance(gold, Exact) and isinstance(answer, Exact):
        if gold.terms.keys() != answer.terms.keys():
            return False
        factors = {gold.terms[key] / answer.terms[key] for key in gold.terms}
        return len(factors) == 1 and (negative or factors.pop() > 0)
    return equal_values(gold, answer) or (negative and equal_values(gold, -answer))


def same_value(gold: Value, answer: Value) -> bool:
    """Exactly equal, or equal by one of the two rounding rules; units must not contradict each other."""
    if (gold.percent and answer.unit) or (answer.percent and gold.unit):
        return False  # both sides say what they count
    scale_left_out = answer.unit == "degree" and gold.unit in ("degreeC", "degreeF")
    if gold.unit and answer.unit and gold.unit != answer.unit and not scale_left_out:
        return _same_measure(gold, answer)
    if "clock" in gold.parsed.value.symbols ^ answer.parsed.value.symbols:  # 1:20 beside 1/20 is no time of the day
        left, right = _clock_as_ratio(gold), _clock_as_ratio(answer)
        return _same_ratio(left, answer) if left else right is not None and _same_ratio(right, gold)
    if answer.parsed.unfinished and not gold.parsed.unfinished:
        return False
    a, b = gold.parsed.value, answer.parsed.value
    if answer.unit == "cent" and not gold.unit:
        return False  # 5 dollars are not 5 cents
    if isinstance(b, Term) and not a.symbols - CONSTANTS and b.symbols - CONSTANTS:
        return False  # cos^2 x + sin^2 x is the question to the answer 1
    if answer.percent and not gold.percent and (size := a.rational) is not None and abs(size) < 1:
        return equal_values(_product(a, Exact.number(100)), b)  # 0.5 is 50 %, not 0.5 %
    if _equal(gold.parsed, answer.parsed):
        return True
    if gold.percent != answer.percent and not gold.unit and not answer.unit:
        percent, plain = (a, b) if gold.percent else (b, a)
        return equal_values(percent, _product(plain, Exact.number(100)))
    if gold.unit in _LETTER_UNITS and not answer.unit:
        return equal_values(_product(a, Exact.symbol(gold.unit)), b)  # 5 meters and 5 m
    if answer.unit in _LETTER_UNITS and not gold.unit:
        return equal_values(a, _product(b, Exact.symbol(answer.unit)))
    if {gold.unit, answer.unit} == {"degree", ""}:
        degrees, plain = (a, b) if gold.unit else (b, a)
        if "pi" in plain.symbols:  # 30 degrees and pi/6
            return equal_values(_product(degrees, Exact.symbol("pi")), _product(plain, Exact.number(180)))
    return False


def _clock_as_ratio(answer: Answer) -> Several | None:
    """1:20, which was read as a time of the day, as a ratio; None for 1:05, 11:30 pm and all that is no time."""
    if not isinstance(answer, Value) or answer.unit or answer.parsed.value.symbols != {"clock"}:
        return None
    minutes = next(iter(answer.parsed.value.terms.values())) if isinstance(answer.parsed.value, Exact) else 0
    hours, rest = divmod(int(minutes), 60)
    if hours == 0 or rest < 10:
        return None
    return Several("ratio", tuple(Value(Parsed(Exact.number(part), None, False)) for part in (hours, rest)))


def _same_measure(gold: Value, answer: Value) -> bool:
    """90 minutes and 1.5 hours: equal after an exact conversion."""
    factor = conversion(answer.unit, gold.unit)
    if factor is None or answer.parsed.unfinished or gold.percent or answer.percent:
        return False
    return equal_values(gold.parsed.value, _product(answer.parsed.value, Exact.number(factor)))


def _equal(gold: Parsed, answer: Parsed) -> bool:
    if equal_values(gold.value, answer.value):
        return True
    if answer.decimals is not None and answer.decimals >= _EXACT_DECIMALS and gold.decimals is None:
        whole, found = gold.value.rational, answer.value.rational
        if whole is not None and 10**_FLOAT_DECIMALS % whole.denominator == 0:
            return False  # it could have been written exactly
        if found is None or abs(found) * 10 ** (answer.decimals - _EXACT_DECIMALS + 1) < 1:
            return False  # 0.000002 shows one digit, not six
        return _near(gold.value, answer.value, answer.decimals, 0.5) or _truncated(
            gold.value, answer.value, answer.decimals
        )
    if gold.decimals is not None and gold.decimals >= 2 and answer.decimals is None:
        exact = answer.value.rational
        if exact is not None and 10**_FLOAT_DECIMALS % exact.denominator == 0:
            return False  # 127/500 is 0.254: a gold of 0.25 is no rounding of it
        return _near(gold.value, answer.value, gold.decimals, 0.5)
    return False


def _truncated(exact: Exact | Term, cut: Exact | Term, decimals: int) -> bool:
    """Whether `cut` is `exact` without the digits after the first `decimals`."""
    x, y = exact.approximate(), cut.approximate()
    if x is None or y is None or x * y < 0:
        return False
    return _near(exact, cut, decimals, 1.0) and abs(y) <= abs(x)


def _near(a: Exact | Term, b: Exact | Term, decimals: int, units: float) -> bool:
    """Whether two values differ by at most `units` of the last of `decimals` digits."""
    x, y = a.approximate(), b.approximate()
    if x is None or y is None or decimals > _FLOAT_DECIMALS or max(abs(x), abs(y)) * 10.0**decimals > 1e15:
        return False
    return abs(x - y) * 10.0**decimals <= units * (1 + 1e-9)


def _same_several(gold: Answer, answer: Answer) -> bool:
    if not (isinstance(gold, Several) and isinstance(answer, Several)):
        several, single = (gold, answer) if isinstance(gold, Several) else (answer, gold)
        if not isinstance(several, Several):
            return False
        if several.kind == "set" and len(several.items) == 1:
            return same(several.items[0], single)
        return several.kind == "ratio" and _same_ratio(several, _clock_as_ratio(single) or single)
    kinds = {gold.kind, answer.kind}
    if kinds == {"ratio"}:
        return _same_ratio(gold, answer)
    if "cases" in kinds:
        return kinds == {"cases"} and _same_cases(gold, answer)
    if kinds & {"set"} and kinds & {"()"}:  # one point in braces
        inner = gold if gold.kind == "set" else answer
        if len(inner.items) == 1:
            return same(inner.items[0], answer if inner is gold else gold)
    if is_set_expression(gold) or is_set_expression(answer):
        return same_real_set(gold, answer) or (kinds == {"union"} and _same_members(gold, answer))
    if "matrix" in kinds:
        gold, answer = _as_vector(gold), _as_vector(answer)
        kinds = {gold.kind, answer.kind}
    if len(gold.items) != len(answer.items):
        return False
    if all(isinstance(item, Named) for item in gold.items) != all(isinstance(item, Named) for item in answer.items):
        gold, answer = _in_order_of_names(gold), _in_order_of_names(answer)
        if _distinct_names(gold) or _distinct_names(answer):
            return all(same(g, a) for g, a in zip(gold.items, answer.items, strict=True))
    if kinds == {"union", "list"}:  # x < -1 or x > 1
        kinds = {"union"} if all(_is_interval(item) for item in (*gold.items, *answer.items)) else kinds
    ordered_kinds = [kind for kind in kinds if kind not in ("list", "set", "union")]
    if ordered_kinds:
        ordered = len(kinds) == 1 or (kinds == {ordered_kinds[0], "list"} and ordered_kinds[0] == "()")
        return ordered and all(_same_item(g, a) for g, a in zip(gold.items, answer.items, strict=True))
    if "union" in kinds and len(kinds) > 1:
        return False
    return _same_members(gold, answer)


def _same_members(gold: Several, answer: Several) -> bool:
    """The same items in any order."""
    if len(gold.items) != len(answer.items):
        return False
    left = list(answer.items)
    for item in gold.items:
        found = next((k for k, candidate in enumerate(left) if _same_item(item, candidate)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_cases(gold: Several, answer: Several) -> bool:
    """The same values under the same conditions, in any order; one side may say "otherwise" once."""
    otherwise = Opaque("otherwise")
    left = [row.items for row in answer.items if isinstance(row, Several)]
    if len(left) != len(gold.items):
        return False
    open_rows = []  # rows of the gold whose condition the answer does not name
    for value, condition, variables in (row.items for row in gold.items if isinstance(row, Several)):
        named = (
            k for k, (v, c, names) in enumerate(left) if same(condition, c) and variables == names and same(value, v)
        )
        found = next(named, None)
        if found is None:
            open_rows.append((value, condition))
        else:
            del left[found]
    if not open_rows:
        return True
    (value, condition), (other, other_condition, _) = open_rows[0], left[0]
    return len(open_rows) == 1 and otherwise in (condition, other_condition) and same(value, other)


def _distinct_names(answer: Several) -> bool:
    names = {item.name for item in answer.items if isinstance(item, Named)}
    return len(names) == len(answer.items)


def _in_order_of_names(answer: Several) -> Several:
    """x = 2, y = 3 by name: beside values without names, their order is that of the names."""
    if not _distinct_names(answer):
        return answer
    return Several(answer.kind, tuple(sorted(answer.items, key=lambda i: i.name if isinstance(i, Named) else "")))


def _is_interval(item: Answer) -> bool:
    return isinstance(item, Several) and item.kind in INTERVALS


def _as_vector(answer: Several) -> Several:
    """A matrix of one column or one row as a tuple, so that (1, 2) answers a column vector."""
    if answer.kind != "matrix" or not all(isinstance(row, Several) for row in answer.items):
        return answer
    rows = [row.items for row in answer.items if isinstance(row, Several)]
    if len(rows) > 1 and all(len(row) == 1 for row in rows):
        return Several("()", tuple(row[0] for row in rows))
    return Several("()", rows[0]) if len(rows) == 1 and len(rows[0]) > 1 else answer


def _same_ratio(gold: Several, answer: Answer) -> bool:
    """a : b : c up to a factor; a ratio of two is also its quotient."""
    wanted = [item.parsed.value for item in gold.items if isinstance(item, Value)]
    if isinstance(answer, Value) and len(wanted) == 2 and not answer.unit and not answer.percent:
        if answer.parsed.unfinished or wanted[1].rational == 0:
            return False
        return equal_values(_product(answer.parsed.value, wanted[1]), wanted[0])
    if not (isinstance(answer, Several) and answer.kind == "ratio" and len(answer.items) == len(wanted)):
        return False
    if any(isinstance(item, Value) and item.parsed.unfinished for item in answer.items):
        return False
    found = [item.parsed.value for item in answer.items if isinstance(item, Value)]
    if any(value.rational == 0 for value in (*wanted, *found)):
        return all(same(g, a) for g, a in zip(gold.items, answer.items, strict=True))
    first = zip(wanted[1:], found[1:], strict=True)
    return all(equal_values(_product(wanted[0], f), _product(found[0], w)) for w, f in first)


def _product(a: Exact | Term, b: Exact | Term) -> Exact | Term:
    return a * b if isinstance(a, Exact) and isinstance(b, Exact) else Term.of(a) * Term.of(b)


def _same_item(gold: Answer, answer: Answer) -> bool:
    """As `same`, but inside a list the names of assignments count."""
    if isinstance(gold, Named) and isinstance(answer, Named) and gold.name != answer.name:
        return False
    return same(gold, answer)


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str, Answer, Answer] | None:
    """(tidy text, reading with thousands joined, reading without); None for a gold that cannot pay."""
    if not gold.strip() or len(gold) > MAX_ANSWER:
        return None
    text = without_tail(tidy(gold))
    try:
        readings = _readings(text)
    except TooBig:
        return None
    return (text, *readings) if canonical(text) else None


@lru_cache(maxsize=256)
def _readings(text: str) -> tuple[Answer, Answer]:
    """12,345 may be a number or a list: both readings; 1,000 is no list. Inside brackets it is always a list."""
    joined = text if any(b in text for b in ("(", "[", "\\{")) else join_thousands(text)
    first = read(joined)
    return first, first if joined == text or _ZEROS.search(text) else read(text)


def _same_products(gold: str, answer: str) -> bool:
    r"""Whether both are equal when letters that look like a word or a unit are a product: \frac12at^2 and \frac{at^2}{2}."""
    if not all(_OPERATOR.search(side) and MARK not in side for side in (gold, answer)):
        return False
    if not (_LETTERS.search(gold) or _LETTERS.search(answer)):
        return False
    first, second = (read(_LETTERS.sub(lambda m: " ".join(m.group()), side)) for side in (gold, answer))
    return not isinstance(first, Opaque) and not isinstance(second, Opaque) and same(first, second)


#: Two or three letters that are no command, and what shows that they stand in an expression.
_LETTERS = re.compile(r"(?<![a-zA-Z\\])(?!sin|cos|tan|log|exp|ln)[a-zA-Z]{2,3}(?![a-zA-Z])")
_OPERATOR = re.compile(r"[-+^=/0-9]|\\frac")
_INTEGER = re.compile(r"-?\d{1,18}")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d{1,9})\}\{([1-9]\d{0,8})\}|(-?)(\d{1,9})/([1-9]\d{0,8})")


def _quick(gold: str, answer: str) -> Verdict | None:
    """The verdict on whole numbers and fractions written plainly; None for anything else."""
    a, b = _plain_fraction(gold), _plain_fraction(answer)
    if a is None or b is None:
        return None
    return RIGHT if a[0] * b[1] == b[0] * a[1] else WRONG


def _plain_fraction(text: str) -> tuple[int, int] | None:
    """(numerator, denominator) of an integer or a plain fraction."""
    if _INTEGER.fullmatch(text):
        return int(text), 1
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom = match.groups()[:3] if match.group(3) else match.groups()[3:]
    return (-int(top) if sign else int(top)), int(bottom)


def judge(gold: str, answer: str) -> Verdict:
    """Compare an extracted answer with the gold answer. A gold that cannot be read pays nothing: "error"."""
    quick = _quick(gold, answer)
    if quick is not None:
        return quick
    wanted = _read_gold(gold)
    if wanted is None:
        return Verdict(0.0, "error")
    if len(answer) > MAX_ANSWER:
        return Verdict(0.0, "too_big")
    text = unframed(tidy(answer))
    try:
        readings = _readings(text)
    except TooBig:
        return Verdict(0.0, "too_big")
    gold_text, *golds = wanted
    try:
        if canonical(text) == canonical(gold_text) or any(same(g, a) for g, a in zip(golds, readings, strict=True)):
            return RIGHT
        if _same_products(gold_text, text):
            return RIGHT
    except TooBig:
        return Verdict(0.0, "too_big")
    unread = isinstance(readings[0], Opaque) and not any(isinstance(g, Opaque) for g in golds)
    return Verdict(0.0, "unparsable_answer" if unread else "wrong")


def checked(compare: Callable[[str, str], Verdict], gold: str, reply: str) -> Verdict:
    """Extract the answer of a reply and compare it; the reason says where it failed."""
    found = extract(reply)
    return Verdict(0.0, found.reason) if found.reason else compare(gold, found.answer)


def math_verdict(problem: Problem, reply: str) -> Verdict:
    """The `math` verifier."""
    return checked(judge, problem.answer, reply)
