"""What an answer can be: a value with its unit, an assignment, an equation, an inequality, several of these, or a string.

Reading them: answers.py. Comparing them: equality.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmm_r1.rewards.exact import Exact
from lmm_r1.rewards.terms import Term
from lmm_r1.rewards.values import Value

INTERVALS = ("()", "(]", "[)", "[]")


@dataclass(frozen=True, slots=True)
class Named:
    """name = value."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Equation:
    """difference = 0."""

    difference: Exact | Term


@dataclass(frozen=True, slots=True)
class Inequality:
    """difference < 0, <= 0 or != 0 (sign: "<", "<=", "ne"), in several variables or of a higher degree."""

    sign: str
    difference: Exact | Term


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that only string equality can compare."""

    text: str


@dataclass(frozen=True, slots=True)
class Several:
    """kind: "list" (bare, unordered unless compared with a tuple), "set", "union", "intersection", "minus" (the first
    without the others), "ne" (all numbers but these), "ratio", "matrix", a word that joins values ("range", "out of", "by"), "row", or one of INTERVALS (also for tuples).
    """

    kind: str
    items: tuple[Answer, ...]
    label: str = ""  # the name before a point: A(2, 3)


Answer = Value | Named | Equation | Inequality | Opaque | Several
