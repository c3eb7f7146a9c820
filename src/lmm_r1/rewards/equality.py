"""Whether two answers are the same mathematical object. Reading them: answers.py; the verifier: math.py.

Left out: sets of real numbers (realsets.py), and everything that needs more than the two objects.
"""

from __future__ import annotations

from fractions import Fraction

from lmm_r1.rewards.exact import Exact, Key
from lmm_r1.rewards.latex import Parsed, parse
from lmm_r1.rewards.measures import quotient
from lmm_r1.rewards.objects import INTERVALS, Answer, Equation, Inequality, Named, Opaque, Several
from lmm_r1.rewards.realsets import is_set_expression, same_real_set
from lmm_r1.rewards.terms import CONSTANTS, Term, equal_values, minus, real_number, times
from lmm_r1.rewards.units import conversion, measure, unit_of
from lmm_r1.rewards.values import Value

_EXACT_DECIMALS = 6  # as in the released checker: 0.333333 is 1/3, 0.333 is not
_FINITE = 12  # digits: a fraction that ends within them could have been written exactly
_FLOAT_DIGITS = 15  # from here on the last digit may be a computer's rounding
_FLOAT_ERROR = Fraction(1, 2**52)
_SIGNIFICANT = 3  # a decimal gold with fewer digits is no rounding of another value
_LETTER_UNITS = frozenset("mghslLNJWV")  # read as a variable when nothing marks them


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
    if (
        isinstance(gold, Named)
        and isinstance(answer, Named)
        and gold.name != answer.name
        and (_is_quotient(gold, answer) or _other_argument(gold.name, answer.name))
    ):
        return False  # AB/BC and BC/AB
    if _same_family(gold, answer):
        return True
    if same_value(_plain(gold), _plain(answer)):
        return not _is_relation(answer) or not isinstance(gold, Named)
    return isinstance(gold, Named) and _same_up_to_a_factor(_difference(gold), _difference(answer), negative=True)


def _other_argument(gold: str, answer: str) -> bool:
    """f(x) and f(y)."""
    return gold != answer and gold[1:2] == answer[1:2] == "(" and gold[2:-1].isalpha() and answer[2:-1].isalpha()


def _is_quotient(gold: Named, answer: Named) -> bool:
    return all(":" in name or "/" in name or "\\frac" in name for name in (gold.name, answer.name))


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
    gold, answer = _as_measures(gold, answer)
    if gold.unit and answer.unit and gold.unit != answer.unit and not _same_scale(gold.unit, answer.unit):
        return _same_measure(gold, answer)
    if gold.unit != answer.unit and (gold.compound or answer.compound) and not (gold.unit and answer.unit):
        return False  # 2 h 30 min are not 150
    if "clock" in gold.parsed.value.symbols ^ answer.parsed.value.symbols:  # 1:20 beside 1/20 is no time of the day
        left, right = _clock_as_ratio(gold), _clock_as_ratio(answer)
        return _same_ratio(left, answer) if left else right is not None and _same_ratio(right, gold)
    if answer.parsed.unfinished and not gold.parsed.unfinished:
        return False
    a, b = gold.parsed.value, answer.parsed.value
    if answer.unit == "cent" and not gold.unit:
        return False  # 5 dollars are not 5 cents
    if answer.unit.startswith("base ") and not gold.unit and answer.unit != "base 10":
        return False  # 10 in base two is not ten
    if isinstance(b, Term) and not a.symbols - CONSTANTS and b.symbols - CONSTANTS:
        return False  # cos^2 x + sin^2 x is the question to the answer 1
    if answer.percent and not gold.percent and (size := a.rational) is not None and abs(size) < 1:
        return equal_values(times(a, Exact.number(100)), b)  # 0.5 is 50 %, not 0.5 %
    if {gold.unit, answer.unit} in ({"degree", ""}, {"degree", "rad"}):
        degrees, plain = (a, b) if gold.unit == "degree" else (b, a)
        if "pi" in plain.symbols or "rad" in (gold.unit, answer.unit):  # 30 degrees and pi/6
            return equal_values(times(degrees, Exact.symbol("pi")), times(plain, Exact.number(180)))
    if _equal(gold.parsed, answer.parsed):
        return True
    if gold.percent != answer.percent and not gold.unit and not answer.unit:
        percent, plain = (a, b) if gold.percent else (b, a)
        return equal_values(percent, times(plain, Exact.number(100)))
    return False


def _as_measures(gold: Value, answer: Value) -> tuple[Value, Value]:
    """5m beside 5 metres or 500 cm: a single letter behind a number is then its unit."""
    if gold.unit and not answer.unit and measure(gold.unit) is not None:
        return gold, _with_letter_unit(answer)
    if answer.unit and not gold.unit and measure(answer.unit) is not None:
        return _with_letter_unit(gold), answer
    return gold, answer


def _with_letter_unit(value: Value) -> Value:
    found = value.parsed.value
    if value.percent or not isinstance(found, Exact) or len(found.terms) != 1:
        return value
    ((symbols, radicand), factor), *_ = found.terms.items()
    letters = [name for name, _ in symbols if name in _LETTER_UNITS]
    if len(letters) != 1 or dict(symbols)[letters[0]] != 1:
        return value
    rest = tuple((name, power) for name, power in symbols if name != letters[0])
    return Value(Parsed(Exact({(rest, radicand): factor}), None, value.parsed.unfinished), unit_of(letters[0]))


def _same_scale(unit: str, other: str) -> bool:
    """Two names under which the number is the same: a temperature without its scale, an angle in radians, yen or yuan."""
    if other == "degree" and unit in ("degreeC", "degreeF"):
        return True
    return {unit, other} in ({"degree", "rad"}, {"yenyuan", "yen"}, {"yenyuan", "yuan"}, {"pound", "sterling"})


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
    return equal_values(gold.parsed.value, times(answer.parsed.value, Exact.number(factor)))


def _equal(gold: Parsed, answer: Parsed) -> bool:
    if equal_values(gold.value, answer.value):
        return True
    if answer.decimals is not None and answer.decimals >= _EXACT_DECIMALS and gold.decimals is None:
        found = answer.value.rational
        if found is None or abs(found) * 10 ** (answer.decimals - _EXACT_DECIMALS + 1) < 1:
            return False  # 0.000002 shows one digit, not six
        return _shows(gold.value, found, answer.decimals, cut=True)
    if gold.decimals is not None and gold.decimals >= 2 and answer.decimals is None:
        rounded = gold.value.rational
        if rounded is None or abs(rounded) * 10**gold.decimals < 10 ** (_SIGNIFICANT - 1):
            return False  # 0.05 is no rounding of 1/19
        return _shows(answer.value, rounded, gold.decimals, cut=False)
    return False


def _shows(exact: Exact | Term, shown: Fraction, decimals: int, cut: bool) -> bool:
    """Whether a decimal is the rounding of a value that has no end (cut: or its beginning), or what a computer prints of it."""
    whole = exact.rational
    if whole is not None and 10**_FINITE % whole.denominator == 0:
        return False  # it could have been written exactly: 127/500 is 0.254, and 0.25 no rounding of it
    rough = exact.approximate()
    if rough is None or abs(rough - float(shown)) > 2.0 * 10.0 ** -min(decimals, 12) + 1e-12 * abs(rough):
        return False
    value = real_number(exact, decimals)
    if value is None:
        return False
    off = abs(value - shown)
    if off * 2 * 10**decimals <= 1 or (
        cut and off * 10**decimals < 1 and abs(shown) <= abs(value) and value * shown > 0
    ):
        return True
    digits = len(str(abs(shown.numerator * 10**decimals // shown.denominator)))
    return _FLOAT_DIGITS <= digits <= _FLOAT_DIGITS + 3 and off <= abs(value) * _FLOAT_ERROR


def _same_several(gold: Answer, answer: Answer) -> bool:
    if not (isinstance(gold, Several) and isinstance(answer, Several)):
        several, single = (gold, answer) if isinstance(gold, Several) else (answer, gold)
        if not isinstance(several, Several):
            return False
        if several.kind == "set" and len(several.items) == 1:
            return same(several.items[0], single)
        if (parts := quotient(several)) is not None and isinstance(single, Value):
            whole = (parts[0] / parts[1]).rational
            if whole is None or whole.denominator == 1:
                return False  # 0 out of 3 is no way to write 0
            return not single.unit and same_value(Value(Parsed(parts[0] / parts[1], None, False)), single)
        as_ratio = _clock_as_ratio(single)
        if several.kind == "to":
            return as_ratio is not None and _same_ratio(several, as_ratio)
        return several.kind == "ratio" and _same_ratio(several, as_ratio or single)
    kinds = {gold.kind, answer.kind}
    if kinds in ({"range", "to"}, {"range", "between"}):
        gold, kinds = Several("to", gold.items), {"to"}
        answer = Several("to", answer.items)
    if kinds in ({"ratio"}, {"ratio", "to"}):
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
    named = _distinct_names(gold), _distinct_names(answer)
    if any(named) and kinds & {"set", "or"} and not all(named):
        return (
            "()" not in kinds
            and _indexed(gold if named[0] else answer)
            and _same_members(_unnamed(gold), _unnamed(answer))
        )
    if any(named) and (kinds <= {"()", "list", "set"} or kinds in ({"or"}, {"or", "set"})):
        gold, answer = _by_name(gold, answer) if all(named) else _in_written_order(gold, answer)
        return all(_same_item(g, a) for g, a in zip(gold.items, answer.items, strict=True))
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


def _by_name(gold: Several, answer: Several) -> tuple[Several, Several]:
    """Both sides sorted by their names."""
    return _sorted(gold), _sorted(answer)


def _indexed(answer: Several) -> bool:
    """x_1 = 1, x_2 = 2 are the members of a set; x = 1, y = 2 are not."""
    return len({item.name.partition("_")[0] for item in answer.items if isinstance(item, Named)}) == 1


def _unnamed(answer: Several) -> Several:
    return Several("list", tuple(item.value if isinstance(item, Named) else item for item in answer.items))


def _sorted(answer: Several) -> Several:
    return Several(answer.kind, tuple(sorted(answer.items, key=lambda i: i.name if isinstance(i, Named) else "")))


def _in_written_order(gold: Several, answer: Several) -> tuple[Several, Several]:
    """One side names its values: as they are written. The coordinates of a point in brackets have an order of their own."""
    if "()" not in (gold.kind, answer.kind):
        return gold, answer
    return tuple(_sorted(side) if _coordinates(side) else side for side in (gold, answer))  # type: ignore[return-value]


def _coordinates(answer: Several) -> bool:
    return {item.name for item in answer.items if isinstance(item, Named)} in ({"x", "y"}, {"x", "y", "z"})


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
    """a : b : c up to a factor, by name where both sides name their parts; a ratio of two is also its quotient."""
    if isinstance(answer, Named):
        answer = answer.value
    if isinstance(answer, Several) and _distinct_names(gold) and _distinct_names(answer):
        gold, answer = _by_name(gold, answer)
        if [i.name for i in gold.items if isinstance(i, Named)] != [
            i.name for i in answer.items if isinstance(i, Named)
        ]:
            return False
    wanted = [value.parsed.value for value in _values(gold)]
    if isinstance(answer, Value) and len(wanted) == 2 and not answer.unit and not answer.percent:
        if answer.parsed.unfinished or wanted[1].rational == 0:
            return False
        return equal_values(times(answer.parsed.value, wanted[1]), wanted[0])
    if not (isinstance(answer, Several) and answer.kind in ("ratio", "to") and len(answer.items) == len(wanted)):
        return False
    values = _values(answer)
    if len(values) != len(wanted) or any(value.parsed.unfinished or value.unit for value in values):
        return False
    found = [value.parsed.value for value in values]
    if any(value.rational == 0 for value in (*wanted, *found)):
        return all(equal_values(w, f) for w, f in zip(wanted, found, strict=True))
    first = zip(wanted[1:], found[1:], strict=True)
    return all(equal_values(times(wanted[0], f), times(found[0], w)) for w, f in first)


def _values(answer: Several) -> list[Value]:
    """The values of a ratio's parts, without their names."""
    return [_plain(item) for item in answer.items if isinstance(item, Value | Named)]


def _same_item(gold: Answer, answer: Answer) -> bool:
    """As `same`, but inside a list the names of assignments count."""
    if isinstance(gold, Named) and isinstance(answer, Named) and gold.name != answer.name:
        return False
    if (
        isinstance(gold, Several)
        and isinstance(answer, Several)
        and gold.label
        and answer.label
        and gold.label != answer.label
    ):
        return False
    return same(gold, answer)


def _same_family(gold: Answer, answer: Answer) -> bool:
    r"""Whether two families of angles differ in the name of their whole number alone: \frac{\pi}{4} + k\pi and ... + n\pi."""
    sides = [side.value if isinstance(side, Named) else side for side in (gold, answer)]
    first, second = (_counter(side) for side in sides)
    if first is None or second is None or first[0] == second[0]:
        return False
    return first[1] == second[1]


def _counter(answer: Answer) -> tuple[str, Exact] | None:
    """(the one letter k, m or n that counts multiples of pi, the value with it renamed)."""
    if not isinstance(answer, Value) or answer.unit or answer.percent or not isinstance(answer.parsed.value, Exact):
        return None
    letters = answer.parsed.value.symbols - CONSTANTS
    if len(letters) != 1 or not letters <= {"k", "m", "n", "l"} or "pi" not in answer.parsed.value.symbols:
        return None
    (letter,) = letters
    renamed: dict[Key, Fraction] = {}
    for (symbols, radicand), factor in answer.parsed.value.terms.items():
        powers = dict(symbols)
        if letter in powers and (powers[letter] != 1 or powers.get("pi") != 1):
            return None
        renamed[(tuple(sorted(("k" if name == letter else name, power) for name, power in symbols)), radicand)] = factor
    return letter, Exact(renamed)
