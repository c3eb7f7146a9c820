r"""Sets of real numbers, compared as sets: (-\infty, 0) \cup (0, \infty) is \mathbb{R} \setminus \{0\} is x \ne 0.

The endpoints of both sets cut the line into points and gaps between them. Two sets are equal when each of these lies
in both or in neither, so union, intersection and difference are "or", "and" and "and not" and need no normal form.

Left out: sets whose endpoints cannot be put in order (variables, values that agree to ten digits without being equal).
"""

from __future__ import annotations

from collections.abc import Iterator

from lmm_r1.rewards.inequalities import is_infinite
from lmm_r1.rewards.objects import INTERVALS, Answer, Several
from lmm_r1.rewards.terms import equal_values
from lmm_r1.rewards.values import Value

_OPERATIONS = ("union", "intersection", "minus", "ne")


def is_set_expression(answer: Answer) -> bool:
    """Whether an answer is a set that is built from others, so that it has more than one way to be written."""
    return isinstance(answer, Several) and answer.kind in _OPERATIONS


def same_real_set(gold: Answer, answer: Answer) -> bool:
    """Whether two answers are the same set of real numbers; False when one of them is no such set."""
    try:
        cells = _Cells([*_endpoints(gold), *_endpoints(answer)])
        return all(cells.holds(gold, cell) == cells.holds(answer, cell) for cell in range(cells.count))
    except _NoSet:
        return False


class _NoSet(Exception):
    """This is no set of real numbers, or its endpoints cannot be ordered."""


def _endpoints(answer: Answer) -> Iterator[Value]:
    if isinstance(answer, Value):
        value = answer.parsed.value
        if is_infinite(answer):
            return
        if answer.unit or answer.percent or answer.parsed.unfinished or value.approximate() is None:
            raise _NoSet
        yield answer
    elif isinstance(answer, Several) and answer.kind in (*_OPERATIONS, *INTERVALS, "set", "list"):
        for item in answer.items:
            yield from _endpoints(item)
    else:
        raise _NoSet


class _Cells:
    """The line cut at the endpoints: even cells are gaps, odd ones points, ascending."""

    def __init__(self, endpoints: list[Value]) -> None:
        placed: list[tuple[float, list[Value]]] = []  # equal values together
        for value in endpoints:
            at = value.parsed.value.approximate()
            if at is None:
                raise _NoSet
            near = [same for place, same in placed if abs(place - at) <= 1e-10 * max(1.0, abs(at))]
            equal = next((s for s in near if equal_values(value.parsed.value, s[0].parsed.value)), None)
            if equal is not None:
                equal.append(value)
            elif near:
                raise _NoSet  # too close to be put in order by floats
            else:
                placed.append((at, [value]))
        placed.sort(key=lambda pair: pair[0])
        self.count = 2 * len(placed) + 1
        self._cell_of = {id(value): 2 * k + 1 for k, (_, same) in enumerate(placed) for value in same}

    def holds(self, answer: Answer, cell: int) -> bool:
        """Whether a cell lies in the set."""
        if isinstance(answer, Value):
            return self._place(answer) == cell
        if not isinstance(answer, Several):
            raise _NoSet
        if answer.kind in INTERVALS:
            return self._within(answer, cell)
        inside = [self.holds(item, cell) for item in answer.items]
        if answer.kind == "ne":
            return not any(inside)
        if answer.kind == "minus":
            return inside[0] and not any(inside[1:])
        if answer.kind == "intersection":
            return all(inside)
        return any(inside)  # a union, or the points of a set or of a bare list

    def _place(self, value: Value) -> int:
        if id(value) not in self._cell_of:
            raise _NoSet  # infinity is no point
        return self._cell_of[id(value)]

    def _within(self, interval: Several, cell: int) -> bool:
        if len(interval.items) != 2:
            raise _NoSet
        low, high = interval.items
        if not (isinstance(low, Value) and isinstance(high, Value)):
            raise _NoSet
        first, last = _infinite_sign(low), _infinite_sign(high)
        if first > 0 or last < 0:
            raise _NoSet
        closed_low, closed_high = interval.kind[0] == "[", interval.kind[1] == "]"
        above = first < 0 or cell > (at := self._place(low)) or (closed_low and cell == at)
        below = last > 0 or cell < (at := self._place(high)) or (closed_high and cell == at)
        return above and below


def _infinite_sign(value: Value) -> int:
    """-1 and 1 for the two infinities, 0 for a number."""
    if not is_infinite(value):
        return 0
    found = value.parsed.value
    terms = getattr(found, "terms", None)
    if not terms or len(terms) != 1:
        raise _NoSet
    return -1 if next(iter(terms.values())) < 0 else 1
