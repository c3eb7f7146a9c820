"""Exact arithmetic on what answers are made of: sums of rational numbers times symbols and square roots.

3/7, 2*sqrt(13), 8*pi + 36*sqrt(3), 14 - i and x^2 + 2x + 1 are all such sums, and each has one normal
form, so equality is comparison: no floating point, no guessing at zero. What does not fit (sin, sums,
roots of roots, division by a sum) raises NotExact; what would grow beyond the limits raises TooBig
before it is computed.

Left out: parsing (latex.py), and expressions beyond this form (terms.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 65_536  # of a numerator or denominator: 2004! has 19,000, 2024^4046 has 44,500
MAX_TERMS = 200
MAX_DEGREE = 100
MAX_FACTORIAL = 2_500
MAX_CHOSEN_FROM = 10_000  # the upper number of a binomial
MAX_RADICAND = 10**7  # trial division stays below 3,200 steps
MAX_ROOT_BITS = 2_000  # of a number whose third or higher root is taken

#: (symbols and their powers, sorted by name; square-free radicand)
Key = tuple[tuple[tuple[str, int], ...], int]
ONE: Key = ((), 1)


class NotExact(ValueError):
    """The expression has no normal form here."""


class TooBig(ValueError):
    """The expression is over a size limit."""


def _fits(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooBig("a number is too large")
    return value


@lru_cache(maxsize=1024)
def square_part(n: int) -> tuple[int, int]:
    """(a, b) with n = a * a * b and b square-free, for n >= 1. Raises NotExact when n cannot be factored cheaply."""
    root = math.isqrt(n)
    if root * root == n:
        return root, 1
    outer, rest, d = 1, n, 2
    while rest > MAX_RADICAND and d <= 1_000:
        while rest % (d * d) == 0:
            outer, rest = outer * d, rest // (d * d)
        d += 1
    if rest > MAX_RADICAND:
        raise NotExact("a radicand is too large to be factored")
    inner, d = 1, 2
    while d * d <= rest:
        while rest % (d * d) == 0:
            outer, rest = outer * d, rest // (d * d)
        if rest % d == 0:
            inner, rest = inner * d, rest // d
        d += 1
    return outer, inner * rest


@dataclass(frozen=True, slots=True)
class Exact:
    """A sum of terms: {(symbols, radicand): rational coefficient}; no zero coefficients, so == is equality."""

    terms: Mapping[Key, Fraction]

    @staticmethod
    def number(value: Fraction | int) -> Exact:
        """A rational number."""
        value = _fits(Fraction(value))
        return Exact({ONE: value} if value else {})

    @staticmethod
    def symbol(name: str) -> Exact:
        """A variable, or a constant such as pi that is left as it is; "i" is the imaginary unit."""
        return Exact({(((name, 1),), 1): Fraction(1)})

    @staticmethod
    def call(name: str, args: tuple[Exact, ...]) -> Exact:
        """A function of exact values: |x|, roundings and binomials of rational numbers; the others raise NotExact."""
        value = args[0].rational
        if name == "binom":
            return Exact.number(_binomial(value, args[1].rational))
        if name == "abs" and value is not None:
            return Exact.number(abs(value))
        if name in ("floor", "ceil") and value is not None:
            return Exact.number(math.floor(value) if name == "floor" else math.ceil(value))
        raise NotExact(f"{name} has no normal form")

    @property
    def rational(self) -> Fraction | None:
        """The value when it is a plain rational number, else None."""
        if not self.terms:
            return Fraction(0)
        return self.terms.get(ONE) if len(self.terms) == 1 else None

    @property
    def symbols(self) -> frozenset[str]:
        """Names of all symbols."""
        return frozenset(name for key in self.terms for name, _ in key[0])

    def __add__(self, other: Exact) -> Exact:
        total = dict(self.terms)
        for key, value in other.terms.items():
            total[key] = _fits(total.get(key, Fraction(0)) + value)
        return _sum(total)

    def __neg__(self) -> Exact:
        return Exact({key: -value for key, value in self.terms.items()})

    def __sub__(self, other: Exact) -> Exact:
        return self + -other

    def __mul__(self, other: Exact) -> Exact:
        if len(self.terms) * len(other.terms) > 4 * MAX_TERMS:
            raise TooBig("a product has too many terms")
        total: dict[Key, Fraction] = {}
        for a, x in self.terms.items():
            for b, y in other.terms.items():
                key, factor = _product(a, b)
                total[key] = _fits(total.get(key, Fraction(0)) + _fits(x * y) * factor)
        return _sum(total)

    def inverse(self) -> Exact:
        """1 / self; raises NotExact for zero and for more than one term."""
        if len(self.terms) != 1:
            raise NotExact("division by a sum or by zero")
        ((symbols, radicand), value), *_ = self.terms.items()
        sign = 1
        flipped = []
        for name, power in symbols:
            if name == "i":
                sign = -sign  # 1 / i = -i
                flipped.append((name, 1))
            else:
                flipped.append((name, -power))
        return Exact({(tuple(flipped), radicand): _fits(sign / (value * radicand))})

    def __truediv__(self, other: Exact) -> Exact:
        return self * other.inverse()

    def power(self, exponent: Exact) -> Exact:
        """self ** exponent for integer exponents, and for 1/2 of a rational number."""
        e = exponent.rational
        if e is None:
            raise NotExact("a power that is no number")
        if e == Fraction(1, 2):
            return self.root(2)
        if e.denominator != 1:
            raise NotExact("a fractional power")
        n = abs(int(e))
        base = self.inverse() if e < 0 else self
        value = base.rational
        if value is not None:
            size = max(value.numerator.bit_length(), value.denominator.bit_length()) - (abs(value) == 1)
            if size * n > MAX_BITS:
                raise TooBig("a power is too large")
            return Exact.number(Fraction(value.numerator**n, value.denominator**n) if n else Fraction(1))
        if n > (MAX_DEGREE if len(base.terms) == 1 else 20):
            raise TooBig("a power is too high")
        result = Exact.number(1)
        for _ in range(n):
            result = result * base
        return result

    def root(self, degree: int) -> Exact:
        """The real root of a rational number: square roots in normal form, others only when they come out even."""
        value = self.rational
        if value is None or degree < 2:
            raise NotExact("a root of something that is no number")
        if value == 0:
            return self
        if degree == 2:
            outer, inner = square_part(abs(value.numerator) * value.denominator)
            key: Key = ((("i", 1),) if value < 0 else (), inner)
            return Exact({key: Fraction(outer, value.denominator)})
        if (value < 0 and degree % 2 == 0) or degree > MAX_DEGREE:
            raise NotExact("an even root of a negative number")
        sign = -1 if value < 0 else 1
        return Exact.number(
            sign * Fraction(_whole_root(abs(value.numerator), degree), _whole_root(value.denominator, degree))
        )

    def factorial(self) -> Exact:
        """self! for a whole number."""
        value = self.rational
        if value is None or value.denominator != 1 or value < 0:
            raise NotExact("a factorial of something that is no whole number")
        if value > MAX_FACTORIAL:
            raise TooBig("a factorial is too large")
        return Exact.number(math.factorial(int(value)))

    def approximate(self) -> float | None:
        """The value as a float when pi and e are the only symbols, else None."""
        constants = {"pi": math.pi, "e": math.e}
        if not self.symbols <= constants.keys():
            return None
        total = 0.0
        try:
            for (symbols, radicand), value in self.terms.items():
                total += float(value) * math.sqrt(radicand) * math.prod(constants[n] ** p for n, p in symbols)
        except OverflowError:
            return None
        return total if math.isfinite(total) else None


def _binomial(n: Fraction | None, k: Fraction | None) -> int:
    if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
        raise NotExact("a binomial of something that is no whole number")
    if n > MAX_CHOSEN_FROM:
        raise TooBig("a binomial is too large")
    return math.comb(int(n), int(k))


def _sum(total: dict[Key, Fraction]) -> Exact:
    terms = {key: value for key, value in total.items() if value}
    if len(terms) > MAX_TERMS:
        raise TooBig("a sum has too many terms")
    return Exact(terms)


def _product(a: Key, b: Key) -> tuple[Key, Fraction]:
    """(key, factor) of the product of two keys: sqrt(6) * sqrt(3) = 3 * sqrt(2), i * i = -1."""
    common = math.gcd(a[1], b[1])
    radicand, factor = a[1] // common * (b[1] // common), Fraction(common)
    powers = dict(a[0])
    for name, power in b[0]:
        powers[name] = powers.get(name, 0) + power
    if powers.get("i", 0) == 2:
        del powers["i"]
        factor = -factor
    if radicand.bit_length() > MAX_BITS or any(abs(p) > MAX_DEGREE for p in powers.values()):
        raise TooBig("a product is too large")
    return (tuple(sorted((n, p) for n, p in powers.items() if p)), radicand), factor


def _whole_root(n: int, degree: int) -> int:
    """The exact integer root; raises NotExact when there is none."""
    if n.bit_length() > MAX_ROOT_BITS:
        raise NotExact("a root of a number this large")
    low, high = 0, 1 << (n.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= n:
            low = middle
        else:
            high = middle - 1
    if low**degree != n:
        raise NotExact("an irrational root")
    return low
