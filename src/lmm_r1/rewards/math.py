"""The `math` verifier: are two answers the same mathematical object?

Numbers, fractions, radicals, polynomials and units are compared exactly; lists, sets, tuples and
intervals item by item; what cannot be read exactly, as normalised strings. Decisions that need one:

* A unit or a percent sign may be left out by one side; two different units are two different answers.
* "x = 3" answers 3. In a list of assignments the names count.
* An unfinished computation (27+36-33 for 30, 51/3 for 17) is not an answer, unless the gold is one:
  else copying the question pays.
* A decimal answers an exact gold when it has six right digits after the point; an exact answer, a gold
  that is itself a rounding, when it rounds to it.

A verdict never raises, whatever the strings. Left out: functions, relations and matrices beyond string
equality. Source of the cases: the published checkers' known faults; nothing of them is used here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lmm_r1.rewards.exact import Exact, NotExact, TooBig
from lmm_r1.rewards.extract import MAX_ANSWER, extract
from lmm_r1.rewards.latex import KRAM, MARK, Parsed, canonical, join_thousands, parse, tidy
from lmm_r1.types import Problem, Verdict

MAX_ITEMS = 50
_EXACT_DECIMALS = 6  # as in the released checker: 0.333333 is 1/3, 0.333 is not
_FLOAT_DECIMALS = 12

_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|approx|equiv|sim|in|mid|mod|pmod|to|cong|subset)(?![a-zA-Z])")
_SYMBOL = r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w{1,8}\}?)?"
_LABEL = re.compile(
    rf"(?:{_SYMBOL}(?:\s?\(\s?[a-zA-Z]\s?\))?|m?\s?\\angle\s?[a-zA-Z0-9]{{1,4}}|[A-Z]{{2}}|[a-zA-Z]{{3,20}}|{MARK}[^{KRAM}]*{KRAM})"
)
_MEMBER = re.compile(rf"^\s*{_SYMBOL}\s*\\in(?![a-zA-Z])\s*")
_AND = re.compile(rf"{MARK}(?:,\s?)?(?:and|or){KRAM}|\s(?:and|or)\s|\\(?:land|lor)(?![a-zA-Z])")
_PERCENT = re.compile(rf"(?:%|{MARK}?\s?(?:percent|per cent)\s?{KRAM}?)$")
_DEGREE = re.compile(rf"(?:\^\s?\\circ\s?[CF]?|{MARK}?\s?(?:degrees?|deg)\s?{KRAM}?)$")
_MARKED_UNIT = re.compile(rf"{MARK}([a-zA-Z][a-zA-Z /.-]{{0,40}}){KRAM}\s?(?:\^\{{?([23])\}}?)?$")
_BARE_UNIT = re.compile(r"(?<![a-zA-Z\\_])([a-zA-Z][a-zA-Z ]{1,40})(?:\^\{?([23])\}?)?$")
#: Units that may follow a number without \text; other bare words need at least four letters.
_UNIT_NAMES = (
    "mm cm dm km nm in ft yd mi kg mg lb oz ml mL kL ms min hr hrs hour mph kmh Hz kHz mV kV mA ohm Pa kPa kJ kW kN"
)
_UNITS = frozenset(_UNIT_NAMES.split())
_ALIASES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "kilogram": "kg",
    "gram": "g", "hour": "h", "hr": "h", "minute": "min", "second": "s", "sec": "s", "liter": "l", "litre": "l",
}  # fmt: skip
#: Words that change what a number says; "5 or more" is not 5.
_CHANGING_WORDS = (
    "or and not more less than at least most about only if when undefined hundred thousand million billion dozen half "
    "wrong except nor maybe approximately mod pi"
)
_NO_UNIT = frozenset(_CHANGING_WORDS.split())


@dataclass(frozen=True, slots=True)
class Value:
    """An exact value, its unit ("" without one) and whether a percent sign stood behind it."""

    parsed: Parsed
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """name = value."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Equation:
    """difference = 0."""

    difference: Exact


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that only string equality can compare."""

    text: str


@dataclass(frozen=True, slots=True)
class Several:
    """kind: "list" (bare, unordered unless compared with a tuple), "set", "union", or the two brackets of a tuple."""

    kind: str
    items: tuple[Answer, ...]


Answer = Value | Named | Equation | Opaque | Several


def read(text: str) -> Answer:
    """Read a tidy answer. Raises TooBig only."""
    text = text.strip()
    if "\\begin" in text:
        return Opaque(canonical(text))
    text = _MEMBER.sub("", text)
    parts = _split(text, "\\cup")
    if len(parts) > 1:
        return Several("union", tuple(read(p) for p in parts))
    if text.startswith("\\{") and text.endswith("\\}") and "\\{" not in text[2:]:
        return Several("set", tuple(read(p) for p in _split(text[2:-2], ",")))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _closes_at_end(text):
        parts = _split(text[1:-1], ",")
        if len(parts) > 1:
            return Several(text[0] + text[-1], tuple(read(p) for p in parts))
    parts = [p for p in _split(_AND.sub(",", text), ",") if p.strip()]
    if len(parts) > 1:
        return Several("list", tuple(read(p) for p in parts))
    text = parts[0].strip() if parts else text
    if "\\pm" in text and text.count("\\pm") == 1:
        before, _, after = text.partition("\\pm")
        return Several("list", (_item(f"{before}+{after}"), _item(f"{before}-{after}")))
    return _item(text)


def _split(text: str, separator: str) -> list[str]:
    """Split where no bracket is open. Half-open intervals count as one bracket."""
    parts, depth, last, at = [], 0, 0, 0
    while at < len(text):
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, at):
            parts.append(text[last:at])
            at += len(separator)
            last = at
            continue
        at += 1
    parts.append(text[last:])
    if len(parts) > MAX_ITEMS:
        raise TooBig("a list is too long")
    return parts


def _closes_at_end(text: str) -> bool:
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return at == len(text) - 1
    return False


def _item(text: str) -> Answer:
    """One answer without commas: a value, name = value, an equation, or a string."""
    opaque = Opaque(canonical(text))
    if _RELATION.search(text):
        return opaque
    sides = [side.strip() for side in text.split("=")]
    try:
        if len(sides) == 1:
            return _value(text)
        if len(sides) > 4 or not all(sides):
            return opaque
        if len(sides) == 2 and not _LABEL.fullmatch(sides[0]) and _LABEL.fullmatch(sides[1]):
            sides.reverse()  # 3 = x
        if _LABEL.fullmatch(sides[0]):
            values = [_value(side) for side in sides[1:]]
            same = all(v.parsed.value == values[-1].parsed.value for v in values)
            return Named(canonical(sides[0]), values[-1]) if same else opaque
        left, right = (_value(side).parsed.value for side in sides) if len(sides) == 2 else (None, None)
        if left is None or right is None or not (left - right).symbols:
            return opaque  # a chain such as 2+1 = 3 = 3, or a claim such as 2 = 2, names no answer
        return Equation(left - right)
    except NotExact:
        return opaque


def _value(text: str) -> Value:
    body, unit, percent = text.strip(), "", False
    for pattern, mark in ((_PERCENT, "%"), (_DEGREE, "degree")):
        match = pattern.search(body)
        if match and match.start() > 0:
            body, percent, unit = body[: match.start()].strip(), mark == "%", "" if mark == "%" else mark
            break
    else:
        body, unit = _without_unit(body)
    parsed = parse(body)
    if unit and parsed.value.symbols - {"pi"}:
        raise NotExact("a unit behind a variable")
    return Value(parsed, unit, percent)


def _without_unit(text: str) -> tuple[str, str]:
    """(what stands before a trailing unit, the unit in one spelling)."""
    match = _MARKED_UNIT.search(text)
    bare = match is None
    match = match or _BARE_UNIT.search(text)
    if match is None or not text[: match.start()].strip():
        return text, ""
    words = match.group(1).split()
    if any(w.lower() in _NO_UNIT for w in words):
        return text, ""
    if bare and not all(w in _UNITS or len(w) >= 4 for w in words):
        return text, ""
    power = match.group(2) or ""
    if words[0].lower() in ("square", "sq", "sq."):
        power, words = "2", words[1:]
    elif words[0].lower() in ("cubic", "cu", "cu."):
        power, words = "3", words[1:]
    names = [w.strip(".").lower() for w in words]
    names = [n[:-1] if len(n) > 3 and n.endswith("s") else n for n in names]
    return text[: match.start()].strip(), " ".join(_ALIASES.get(n, n) for n in names) + power


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer is the gold's equal."""
    if isinstance(gold, Several) or isinstance(answer, Several):
        return _same_several(gold, answer)
    if isinstance(gold, Opaque) or isinstance(answer, Opaque):
        return isinstance(gold, Opaque) and isinstance(answer, Opaque) and gold.text == answer.text != ""
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _same_equation(_difference(gold), _difference(answer))
    return same_value(_plain(gold), _plain(answer))


def _plain(answer: Value | Named) -> Value:
    return answer.value if isinstance(answer, Named) else answer


def _difference(answer: Value | Named | Equation) -> Exact | None:
    if isinstance(answer, Equation):
        return answer.difference
    if isinstance(answer, Named) and len(answer.name) == 1:
        return Exact.symbol(answer.name) - answer.value.parsed.value
    return None


def _same_equation(gold: Exact | None, answer: Exact | None) -> bool:
    """Equal up to a rational factor."""
    if gold is None or answer is None or gold.terms.keys() != answer.terms.keys():
        return False
    return len({gold.terms[key] / answer.terms[key] for key in gold.terms}) == 1


def same_value(gold: Value, answer: Value) -> bool:
    """Exactly equal, or equal by one of the two rounding rules; units must not contradict each other."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if answer.parsed.unfinished and not gold.parsed.unfinished:
        return False
    if _equal(gold.parsed, answer.parsed):
        return True
    hundred = Exact.number(100)
    if gold.percent != answer.percent and not gold.unit and not answer.unit:
        percent, plain = (gold, answer) if gold.percent else (answer, gold)
        return percent.parsed.value == plain.parsed.value * hundred
    return False


def _equal(gold: Parsed, answer: Parsed) -> bool:
    if gold.value == answer.value:
        return True
    if answer.decimals is not None and answer.decimals >= _EXACT_DECIMALS and gold.decimals is None:
        return _near(gold.value, answer.value, answer.decimals, 1.0)
    if gold.decimals is not None and gold.decimals >= 2 and answer.decimals is None:
        return _near(gold.value, answer.value, gold.decimals, 0.5)
    return False


def _near(a: Exact, b: Exact, decimals: int, units: float) -> bool:
    """Whether two values differ by at most `units` of the last of `decimals` digits."""
    x, y = a.approximate(), b.approximate()
    if x is None or y is None or decimals > _FLOAT_DECIMALS or max(abs(x), abs(y)) * 10.0**decimals > 1e15:
        return False
    return abs(x - y) * 10.0**decimals <= units * (1 + 1e-9)


def _same_several(gold: Answer, answer: Answer) -> bool:
    if not (isinstance(gold, Several) and isinstance(answer, Several)):
        several, single = (gold, answer) if isinstance(gold, Several) else (answer, gold)
        return (
            isinstance(several, Several)
            and several.kind == "set"
            and len(several.items) == 1
            and same(several.items[0], single)
        )
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.kind, answer.kind}
    tuples = [kind for kind in kinds if kind not in ("list", "set", "union")]
    if tuples:
        ordered = len(kinds) == 1 or (kinds == {tuples[0], "list"} and tuples[0] == "()")
        return ordered and all(_same_item(g, a) for g, a in zip(gold.items, answer.items, strict=True))
    if "union" in kinds and len(kinds) > 1:
        return False
    left = list(answer.items)
    for item in gold.items:
        found = next((k for k, candidate in enumerate(left) if _same_item(item, candidate)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_item(gold: Answer, answer: Answer) -> bool:
    """As `same`, but inside a list the names of assignments count."""
    if isinstance(gold, Named) and isinstance(answer, Named) and gold.name != answer.name:
        return False
    return same(gold, answer)


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str, Answer, Answer] | None:
    """(canonical text, reading with thousands joined, reading without); None for a gold that cannot pay."""
    if not gold.strip() or len(gold) > MAX_ANSWER:
        return None
    text = tidy(gold)
    try:
        readings = _readings(text)
    except TooBig:
        return None
    return (canonical(text), *readings) if canonical(text) else None


def _readings(text: str) -> tuple[Answer, Answer]:
    """12,345 may be a number or a list: both readings. Inside brackets it is always a list."""
    plain = read(text)
    joined = text if any(b in text for b in ("(", "[", "\\{")) else join_thousands(text)
    return (plain if joined == text else read(joined)), plain


def judge(gold: str, answer: str) -> Verdict:
    """Compare an extracted answer with the gold answer. A gold that cannot be read pays nothing: "error"."""
    wanted = _read_gold(gold)
    if wanted is None:
        return Verdict(0.0, "error")
    if len(answer) > MAX_ANSWER:
        return Verdict(0.0, "too_big")
    text = tidy(answer)
    try:
        readings = _readings(text)
    except TooBig:
        return Verdict(0.0, "too_big")
    string, *golds = wanted
    if canonical(text) == string or any(same(g, a) for g, a in zip(golds, readings, strict=True)):
        return Verdict(1.0, "correct")
    unread = isinstance(readings[0], Opaque) and not any(isinstance(g, Opaque) for g in golds)
    return Verdict(0.0, "unparsable_answer" if unread else "wrong")


def checked(compare: Callable[[str, str], Verdict], gold: str, reply: str) -> Verdict:
    """Extract the answer of a reply and compare it; the reason says where it failed."""
    found = extract(reply)
    return Verdict(0.0, found.reason) if found.reason else compare(gold, found.answer)


def math_verdict(problem: Problem, reply: str) -> Verdict:
    """The `math` verifier."""
    return checked(judge, problem.answer, reply)
