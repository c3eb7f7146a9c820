r"""A second opinion: a tiny strict grammar of formulas, evaluated by mpmath at fixed points. It shares no code with the verifier.

It reads numbers, letters, + - * / ^ !, brackets, \frac, \sqrt, \binom, \pi, and a few functions; anything else is None, which
means "no opinion". Two texts surely differ when both are read and their values differ; they surely agree when both are
read and agree to 40 digits at every point. Nothing is evaluated as code.
"""

from __future__ import annotations

import re
from functools import lru_cache

import mpmath

_DIGITS = 60
_POINTS = 3
_FUNCTIONS = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "ln": mpmath.log, "log": mpmath.log, "arctan": mpmath.atan,
    "exp": mpmath.exp,
}  # fmt: skip
_DROPPED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|\$|\\displaystyle|~|\\\(|\\\)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+", re.ASCII)
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
#: A word is no product of letters.
_WORD = re.compile(
    r"(?<![a-zA-Z\\])(?:[a-zA-Z]{3}|(?:or|to|in|is|if|at|by|no|of|an|as|be|it|on|up|so|do)(?![a-zA-Z]))", re.IGNORECASE
)
_MIXED = re.compile(r"\\[dt]?frac\s?\{?\d+\}?\s?\{?\d+\}?")


class Unread(ValueError):
    """The text is outside the grammar."""


class _Reader:
    """One pass over one text at one point; raises Unread."""

    def __init__(self, text: str, point: int) -> None:
        self.text, self.at, self.point = text, 0, point

    def peek(self) -> str:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1
        return self.text[self.at : self.at + 1]

    def command(self) -> str:
        match = _COMMAND.match(self.text, self.at) if self.peek() == "\\" else None
        return match[1] if match else ""

    def take(self, wanted: str) -> bool:
        if self.peek() == "" or not self.text.startswith(wanted, self.at):
            return False
        self.at += len(wanted)
        return True

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise Unread(f"no {wanted} at {self.at}")

    def whole(self) -> mpmath.mpc:
        value = self.sum()
        if self.peek():
            raise Unread(f"{self.peek()} at {self.at}")
        return value

    def sum(self) -> mpmath.mpc:
        value = self.product()
        while self.peek() in ("+", "-"):
            minus = self.text[self.at] == "-"
            self.at += 1
            other = self.product()
            value = value - other if minus else value + other
        return value

    def product(self) -> mpmath.mpc:
        value = self.signed()
        while True:
            nxt = self.peek()
            if nxt == "*" or self.command() in ("cdot", "times"):
                self.at += 1 if nxt == "*" else len(self.command()) + 1
                value *= self.signed()
            elif nxt == "/" or self.command() == "div":
                self.at += 1 if nxt == "/" else 4
                value = self.quotient(value, self.signed())
            elif nxt and (
                (nxt.isalpha() and nxt.isascii()) or nxt in "({" or nxt in "0123456789." or self.starts_factor()
            ):
                value *= self.power()
            else:
                return value

    def starts_factor(self) -> bool:
        return self.command() in {"frac", "dfrac", "tfrac", "sqrt", "pi", "binom", *_FUNCTIONS}

    def signed(self) -> mpmath.mpc:
        if self.take("-"):
            return -self.signed()
        return self.signed() if self.take("+") else self.power()

    def power(self) -> mpmath.mpc:
        value = self.atom()
        while self.take("!"):
            if value.imag or value.real != mpmath.floor(value.real) or not 0 <= value.real < 5000:
                raise Unread("factorial of no whole number")
            value = mpmath.mpc(mpmath.factorial(value.real))
        if self.take("^"):
            exponent = self.argument()
            if value == 0 or abs(exponent) > 10000:
                raise Unread("a power out of range")
            value = mpmath.power(value, exponent)
        return value

    def argument(self) -> mpmath.mpc:
        """What TeX takes as an argument: braces, one digit, one letter, or a command with its own arguments."""
        if self.take("{"):
            value = self.sum()
            self.expect("}")
            return value
        nxt = self.peek()
        if nxt.isdigit() and nxt.isascii():
            self.at += 1
            return mpmath.mpc(int(nxt))
        if nxt.isalpha() or nxt == "\\":
            return self.atom()
        raise Unread("no argument")

    def atom(self) -> mpmath.mpc:
        nxt = self.peek()
        if match := _NUMBER.match(self.text, self.at) if nxt else None:
            self.at = match.end()
            value = mpmath.mpc(match[0])
            if _MIXED.match(self.text, self.at) and "." not in match[0]:
                return value + self.atom()
            return value
        for opened, closed in (("(", ")"), ("{", "}")):
            if self.take(opened):
                value = self.sum()
                self.expect(closed)
                return value
        if nxt.isalpha() and nxt.isascii():
            self.at += 1
            return self.letter(nxt)
        return self.called(self.command())

    def called(self, name: str) -> mpmath.mpc:
        if not name:
            raise Unread("no atom")
        self.at += len(name) + 1
        if name in ("frac", "dfrac", "tfrac"):
            top = self.argument()
            return self.quotient(top, self.argument())
        if name == "sqrt":
            degree = mpmath.mpc(2)
            if self.take("["):
                degree = self.sum()
                self.expect("]")
            inside = self.argument()
            if degree.real == 3 and inside.imag == 0 and inside.real < 0:
                return -mpmath.cbrt(-inside.real)
            return mpmath.root(inside, int(degree.real)) if degree.real in (2, 3, 4, 5, 6, 7, 8) else self.none()
        if name == "pi":
            return mpmath.mpc(mpmath.pi)
        if name == "binom":
            n, k = self.argument(), self.argument()
            return mpmath.mpc(mpmath.binomial(n, k)) if abs(n) < 3000 and abs(k) < 3000 else self.none()
        if name in _FUNCTIONS and self.peek() not in ("^", "_"):
            value = _FUNCTIONS[name](self.power())
            return mpmath.mpc(value)
        return self.none()

    def none(self) -> mpmath.mpc:
        raise Unread("outside the grammar")

    def letter(self, name: str) -> mpmath.mpc:
        if name == "i":
            return mpmath.mpc(0, 1)
        if name == "e":
            return mpmath.mpc(mpmath.e)
        return mpmath.mpc(mpmath.sqrt(ord(name) + 7 * self.point) / (2 + self.point))

    def quotient(self, top: mpmath.mpc, bottom: mpmath.mpc) -> mpmath.mpc:
        if bottom == 0:
            raise Unread("division by zero")
        return top / bottom


@lru_cache(maxsize=65536)
def values(text: str) -> tuple[mpmath.mpc, ...] | None:
    """The values of a formula at the points; None outside the grammar."""
    text = _DROPPED.sub(" ", text).strip()
    if not text or len(text) > 200 or text.count("(") + text.count("{") > 30 or _WORD.search(text):
        return None
    with mpmath.workdps(_DIGITS):
        try:
            return tuple(_Reader(text, point).whole() for point in range(_POINTS))
        except (Unread, ValueError, ZeroDivisionError, OverflowError, mpmath.libmp.NoConvergence):
            return None


def _apart(a: mpmath.mpc, b: mpmath.mpc, digits: int) -> bool:
    with mpmath.workdps(_DIGITS):
        return bool(abs(a - b) > mpmath.mpf(10) ** -digits * max(abs(a), abs(b)))


def formulas_differ(a: str, b: str) -> bool:
    """Whether both are read and differ at some point by more than 15 digits can hide."""
    x, y = values(a), values(b)
    return x is not None and y is not None and any(_apart(p, q, 15) for p, q in zip(x, y, strict=True))


def formulas_agree(a: str, b: str) -> bool:
    """Whether both are read and agree to 40 digits at every point."""
    x, y = values(a), values(b)
    return x is not None and y is not None and not any(_apart(p, q, 40) for p, q in zip(x, y, strict=True))


def _factors(a: str, b: str) -> list[mpmath.mpc] | None:
    """left - right of one equation over left - right of the other at each point; None when one is not read."""
    sides = [text.split("=") for text in (a, b)]
    if any(len(pair) != 2 for pair in sides):
        return None
    read = [[values(side) for side in pair] for pair in sides]
    found = []
    with mpmath.workdps(_DIGITS):
        for point in range(_POINTS):
            first, second = (left[point] - right[point] if left and right else mpmath.mpc(0) for left, right in read)
            if abs(first) < 1e-30 or abs(second) < 1e-30:
                return None
            found.append(first / second)
    return found


def relations_differ(a: str, b: str) -> bool:
    """Whether two equations "left = right" are read and their differences are no constant multiple of each other."""
    factors = _factors(a, b)
    return factors is not None and any(_apart(factors[0], factor, 15) for factor in factors)


def relations_agree(a: str, b: str) -> bool:
    """Whether two equations are read and one difference is a constant multiple of the other."""
    factors = _factors(a, b)
    return factors is not None and not any(_apart(factors[0], factor, 40) for factor in factors)


_BRACKET = re.compile(r"(?:\\left)?(\(|\[|\\\{)(.*?)(?:\\right)?(\)|\]|\\\})", re.DOTALL)


def split_top(text: str, mark: str = ",") -> list[str]:
    """The parts between marks that stand in no bracket."""
    depth, parts, last = 0, [], 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == mark and depth == 0:
            parts.append(text[last:at])
            last = at + 1
    return [part.strip() for part in (*parts, text[last:])]


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""("(", inside, ")") of a text that one pair of brackets holds; \left and \right are left out."""
    bare = _DROPPED.sub("", text).strip()
    match = _BRACKET.fullmatch(bare)
    if match is None:
        return None
    depth, opening = 0, len(match[1])
    for at, char in enumerate(bare):
        depth += (char in "([{") - (char in ")]}")
        if depth <= 0 and at < len(bare) - 1 and at >= opening:
            return None
    return match[1], match[2].strip(), match[3]


def surely_differ(a: str, b: str) -> bool:
    """Whether two answers of one shape are different ones, by this reading alone; False is "no opinion"."""
    x, y = bracketed(a), bracketed(b)
    if x and y and (x[0], x[2]) == (y[0], y[2]) and ("," in x[1] or "," in y[1]):
        left, right = split_top(x[1]), split_top(y[1])
        if x[0] == "\\{":
            return lists_differ(left, right)
        return len(left) != len(right) or any(formulas_differ(p, q) for p, q in zip(left, right, strict=True))
    if x or y:
        return formulas_differ(a, b)
    left, right = split_top(a), split_top(b)
    if len(left) > 1 or len(right) > 1:
        return lists_differ(left, right)
    if "=" in a and "=" in b:
        return relations_differ(a, b)
    return formulas_differ(a, b)


def lists_differ(left: list[str], right: list[str]) -> bool:
    """Whether some item of one list surely differs from every item of the other."""
    one = any(all(surely_differ_item(p, q) for q in right) for p in left)
    return one or any(all(surely_differ_item(p, q) for p in left) for q in right)


def surely_differ_item(a: str, b: str) -> bool:
    """As surely_differ, for an item of a list."""
    return surely_differ(a, b) if bracketed(a) and bracketed(b) else formulas_differ(a, b)
