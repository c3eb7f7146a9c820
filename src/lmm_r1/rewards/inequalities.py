r"""Inequalities: an interval when one variable is bounded by constants (x \ge 0 is [0, \infty)), else a sign and a difference.

Left out: solving anything that is not linear.
"""

from __future__ import annotations

import re

from lmm_r1.rewards.exact import Exact
from lmm_r1.rewards.latex import Parsed
from lmm_r1.rewards.objects import Answer, Inequality, Several
from lmm_r1.rewards.terms import CONSTANTS, minus
from lmm_r1.rewards.values import Value, read_value

COMPARISON = re.compile(r"<=|>=|[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_INFINITY = Exact.symbol("infty")
EVERYTHING = Several("()", (Value(Parsed(-_INFINITY, None, False)), Value(Parsed(_INFINITY, None, False))))


def inequality(text: str) -> Answer | None:
    """An interval when one variable is bounded by constants, else an Inequality; None when it is neither."""
    signs = [{"<=": "\\le", ">=": "\\ge"}.get(sign, sign) for sign in COMPARISON.findall(text)]
    sides = [read_value(side) for side in COMPARISON.split(text)]
    if any(side.unit or side.percent for side in sides):
        return None
    if len(signs) == 1:
        return _bound(sides[0], signs[0], sides[1])
    directions = {sign.strip("\\")[0] in "<l" for sign in signs}
    if len(signs) != 2 or "\\ne" in signs or len(directions) != 1:
        return None
    for outer, at in ((2, 0), (0, 1)):  # 0 <= x < \infty
        if is_infinite(sides[outer]) and signs[outer // 2] in ("<", ">"):
            return _bound(sides[at], signs[at], sides[at + 1])
    first, second = _bound(sides[0], signs[0], sides[1]), _bound(sides[1], signs[1], sides[2])
    if not (isinstance(first, Several) and isinstance(second, Several)) or "ne" in (first.kind, second.kind):
        return None
    low, high = (first, second) if directions == {True} else (second, first)
    if is_infinite(low.items[0]) or is_infinite(high.items[1]):
        return None
    return Several(low.kind[0] + high.kind[1], (low.items[0], high.items[1]))


def is_infinite(item: Answer) -> bool:
    """Whether an endpoint is one of the two infinities."""
    return isinstance(item, Value) and "infty" in item.parsed.value.symbols


def _bound(left: Value, sign: str, right: Value) -> Several | Inequality:
    """left sign right, solved for its variable when that is linear."""
    less = sign in ("<", "\\le")
    solved = _solved(left, right)
    if solved is None:
        a, b = (left, right) if less or sign == "\\ne" else (right, left)
        kind = "ne" if sign == "\\ne" else "<=" if sign in ("\\le", "\\ge") else "<"
        return Inequality(kind, minus(a.parsed.value, b.parsed.value))
    boundary, flipped = solved
    if sign == "\\ne":
        return Several("ne", (boundary,))
    closed = sign in ("\\le", "\\ge")
    minus_infinity, infinity = EVERYTHING.items
    if less != flipped:
        return Several("(" + ("]" if closed else ")"), (minus_infinity, boundary))
    return Several(("[" if closed else "(") + ")", (boundary, infinity))


def _solved(left: Value, right: Value) -> tuple[Value, bool] | None:
    """(the constant that the variable is compared with, whether the sign turns round)."""
    for side, other, flipped in ((left, right, False), (right, left, True)):
        value = side.parsed.value
        constant = not other.parsed.value.symbols - CONSTANTS
        if constant and isinstance(value, Exact) and _is_variable(value):
            return other, flipped
    difference = minus(left.parsed.value, right.parsed.value)
    variables = difference.symbols - CONSTANTS
    if not isinstance(difference, Exact) or len(variables) != 1:
        return None
    (name,) = variables
    key = (((name, 1),), 1)
    slope = difference.terms.get(key)
    rest = Exact({k: v for k, v in difference.terms.items() if k != key})
    if slope is None or name in rest.symbols:
        return None
    # Solving it was the reader's work: as an answer it is unfinished (2x + 3 > 7 for x > 2).
    return Value(Parsed(-rest * Exact.number(1 / slope), None, True)), slope < 0


def _is_variable(value: Exact) -> bool:
    if len(value.terms) != 1:
        return False
    ((symbols, radicand), factor), *_ = value.terms.items()
    return radicand == 1 and factor == 1 and len(symbols) == 1 and symbols[0][1] == 1 and symbols[0][0] not in CONSTANTS
