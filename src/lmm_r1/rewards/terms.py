"""Expressions without a normal form, and whether two of them are the same function.

sin, log, roots of sums, division by a sum: `exact` has no normal form for them. They are kept as trees and
compared by value, at random points and to 60 and 120 digits: a difference that is zero shrinks as digits are
added, one that is not stays. Unlike a simplifier this always ends (steps and sizes are limited) and never takes
two small numbers for equal (1/2^99 is not 1/2^98). Two answers that agree in all digits at every point are
taken for equal; the chance that different ones do is below 2^-100 a point.

Points are real and of both signs, so sqrt(x^2) is not x. A point at which one side is not real is used only
when no point is real on both sides, so ln(x^2) is 2 ln(x).

Left out: integrals, limits, derivatives, sums; parsing (latex.py).
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from lmm_r1.rewards.exact import MAX_BITS, Exact, NotExact, TooBig

MAX_MAGNITUDE = 50_000  # bits before the point of any intermediate value
MAX_STEPS = 5_000  # of one evaluation
LOW_BITS, HIGH_BITS = 200, 400  # about 60 and 120 digits
MAX_BITS_SHOWN = 1_200  # a decimal with up to 280 digits behind the point is compared with a value that has no end
POINTS = 8

#: Functions of one argument by their LaTeX name, and log with its base.
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth exp ln log lg abs floor ceil".split()  # noqa: SIM905
)
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
#: Symbols that stand for a number.
CONSTANTS = frozenset(("pi", "e", "i"))


@dataclass(frozen=True, slots=True)
class Term:
    """A tree. op: "number", "symbol", "call" (leaf says which), or one of "+ * / ^ root !" (root: leaf is the degree)."""

    op: str
    args: tuple[Term, ...] = ()
    leaf: Fraction | str | int = 0

    @staticmethod
    def number(value: Fraction | int) -> Term:
        """A rational number. Raises TooBig."""
        value = Fraction(value)
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooBig("a number is too large")
        return Term("number", (), value)

    @staticmethod
    def symbol(name: str) -> Term:
        """A variable, or one of pi, e, i."""
        return Term("symbol", (), name)

    @staticmethod
    def call(name: str, args: tuple[Term, ...]) -> Term:
        """A function of FUNCTIONS, or "binom" of two; log may have its base as a second argument."""
        return Term("call", args, name)

    @staticmethod
    def of(value: Exact | Term) -> Term:
        """The tree of an exact sum; a tree as it is."""
        if isinstance(value, Term):
            return value
        total = Term.number(0)
        for (symbols, radicand), factor in value.terms.items():
            part = Term.number(factor)
            if radicand != 1:
                part = part * Term("root", (Term.number(radicand),), 2)
            for name, power in symbols:
                part = part * Term("^", (Term.symbol(name), Term.number(power)))
            total = total + part
        return total

    @property
    def rational(self) -> Fraction | None:
        """The value of a plain number, else None."""
        return self.leaf if self.op == "number" and isinstance(self.leaf, Fraction) else None

    @property
    def symbols(self) -> frozenset[str]:
        """Names of all symbols."""
        return frozenset(str(term.leaf) for term in self._nodes() if term.op == "symbol")

    @property
    def has_log(self) -> bool:
        r"""Whether a \log stands somewhere whose base is not written."""
        return any(term.op == "call" and term.leaf == "log" and len(term.args) == 1 for term in self._nodes())

    def _nodes(self) -> Iterator[Term]:
        stack = [self]
        while stack:
            term = stack.pop()
            yield term
            stack.extend(term.args)

    def __add__(self, other: Term) -> Term:
        a, b = self.rational, other.rational
        return Term.number(a + b) if a is not None and b is not None else Term("+", (self, other))

    def __neg__(self) -> Term:
        return Term.number(-1) * self

    def __sub__(self, other: Term) -> Term:
        return self + -other

    def __mul__(self, other: Term) -> Term:
        a, b = self.rational, other.rational
        return Term.number(a * b) if a is not None and b is not None else Term("*", (self, other))

    def __truediv__(self, other: Term) -> Term:
        a, b = self.rational, other.rational
        if b == 0:
            raise NotExact("division by zero")
        return Term.number(a / b) if a is not None and b is not None else Term("/", (self, other))

    def power(self, exponent: Term) -> Term:
        """self ** exponent."""
        return Term("^", (self, exponent))

    def root(self, degree: int) -> Term:
        """The real root of odd degree, the principal one else."""
        if degree < 2:
            raise NotExact("a root of no degree")
        return Term("root", (self,), degree)

    def factorial(self) -> Term:
        """self!, continued by the gamma function."""
        return Term("!", (self,))

    def approximate(self) -> float | None:
        """The value as a float when pi and e are the only symbols and it is real, else None."""
        if not self.symbols <= {"pi", "e"}:
            return None
        try:
            value = _Point({}, LOW_BITS, natural=False).of(self)
            found = float(value.real) if _is_real(value) else math.nan
        except (NotExact, TooBig, OverflowError):
            return None
        return found if math.isfinite(found) else None


def equal_values(a: Exact | Term, b: Exact | Term) -> bool:
    """Whether two values are the same number or the same function."""
    if isinstance(a, Exact) and isinstance(b, Exact):
        return a == b
    return same_function(a, b) is True


def minus(a: Exact | Term, b: Exact | Term) -> Exact | Term:
    """a - b."""
    return a - b if isinstance(a, Exact) and isinstance(b, Exact) else Term.of(a) - Term.of(b)


def times(a: Exact | Term, b: Exact | Term) -> Exact | Term:
    """a * b."""
    return a * b if isinstance(a, Exact) and isinstance(b, Exact) else Term.of(a) * Term.of(b)


def real_number(value: Exact | Term, decimals: int) -> Fraction | None:
    """A real value without variables, good for so many decimals; None for what is none, or needs more than MAX_BITS_SHOWN."""
    if (rational := value.rational) is not None:
        return rational
    rough = value.approximate()
    if rough is None:
        return None
    needed = 4 * decimals + 64 + max(0, math.frexp(rough)[1])
    bits = next((bits for bits in (LOW_BITS, HIGH_BITS, MAX_BITS_SHOWN) if bits >= needed), None)
    if bits is None:
        return None
    try:
        found = _Point({}, bits, natural=False).of(Term.of(value))
    except NotExact:
        return None
    if not _is_real(found):
        return None
    sign, mantissa, exponent, _ = found.real._mpf_
    size = Fraction(mantissa) * Fraction(2) ** exponent
    return -size if sign else size


def same_function(a: Exact | Term, b: Exact | Term) -> bool | None:
    """Whether two expressions are equal wherever both are real; None when no point decides. Raises TooBig."""
    left, right = Term.of(a), Term.of(b)
    if "infty" in left.symbols | right.symbols:
        return None
    found = _agree(left, right, natural=False)
    # \log without a base is the common logarithm to some and the natural one to others.
    return _agree(left, right, natural=True) if found is False and (left.has_log or right.has_log) else found


def _agree(left: Term, right: Term, natural: bool) -> bool | None:
    symbols = left.symbols | right.symbols
    names = sorted(symbols - CONSTANTS)
    real, other = 0, []
    for values, optional in _points(names, _reach(left, right)):
        try:
            equal, both_real = _equal_at(left, right, values, natural)
        except NotExact:
            continue
        except TooBig:
            if optional:
                continue
            raise
        if not both_real:
            if not equal and "i" in symbols and all(value.denominator == 1 for value in values.values()):
                return (
                    False  # i^n and (-i)^n are meant as complex numbers; no branch of a root or a logarithm is in play
                )
            other.append(equal)
        elif not equal:
            return False
        else:
            real += 1
    if real > 1 or (real and not names):
        return True  # one real point alone proves nothing: sqrt{x-1} and sqrt{1-x} agree at 1, and are both 0 there
    return all(other) if other else None


def _reach(*terms: Term) -> float:
    """The largest number that is written in the terms, from 12 to 10^6: beyond it |x - 100| is x - 100."""
    sizes = [
        abs(float(t.leaf))
        for term in terms
        for t in term._nodes()
        if isinstance(t.leaf, Fraction) and abs(t.leaf) < 10**6
    ]
    return max([12.0, *sizes])


def _points(names: list[str], reach: float) -> Iterator[tuple[dict[str, Fraction], bool]]:
    """(fixed pseudo-random point, whether it may be left out when values grow too large there).

    Small and large, of both signs, beyond all written numbers, and whole numbers of every remainder by 4: (-1)^n is
    real at those alone. One point when there is nothing to vary.
    """
    if not names:
        yield {}, False
        return
    rng = random.Random(20_250_307)
    for at in range(POINTS):
        low, high = ((0.2, 2.5), (-2.5, -0.2), (3.0, 12.0), (-2.5, 2.5))[at % 4]
        yield {name: Fraction(rng.uniform(low, high)) for name in names}, False
    for sign in (1, -1):
        yield {name: Fraction(sign * rng.uniform(1.5 * reach, 3 * reach)) for name in names}, True
    first = {name: rng.randint(1, 4) for name in names}
    for at in range(4 if len(names) == 1 else 8):  # with two, also such that their difference turns from even to odd
        apart = at // 4
        yield (
            {name: Fraction(start + at + 4 * (at % 2) + apart * k) for k, (name, start) in enumerate(first.items())},
            True,
        )


def _equal_at(left: Term, right: Term, values: dict[str, Fraction], natural: bool) -> tuple[bool, bool]:
    """(equal, both real) at a point. Raises NotExact where a side has no value."""
    low = _Point(values, LOW_BITS, natural)
    a, b = low.of(left), low.of(right)
    both_real = _is_real(a) and _is_real(b)
    rough = abs(a - b)
    if rough > low.largest * mpmath.mpf(2) ** -(LOW_BITS // 2):
        return False, both_real
    high = _Point(values, HIGH_BITS, natural)
    a, b = high.of(left), high.of(right)
    fine, size = abs(a - b), max(abs(a), abs(b))
    two = mpmath.mpf(2)
    if fine <= size * two ** (20 - HIGH_BITS) or fine <= rough * two ** -((HIGH_BITS - LOW_BITS) // 2):
        return True, both_real
    return bool(rough == 0 and fine <= high.largest * two ** (LOW_BITS // 2 - HIGH_BITS)), both_real


class _Contexts(threading.local):
    """mpmath's contexts hold their precision, so every thread has its own."""

    def __init__(self) -> None:
        self.by_bits: dict[int, Any] = {}

    def at(self, bits: int) -> Any:
        if bits not in self.by_bits:
            context = mpmath.MPContext()
            context.prec = bits
            self.by_bits[bits] = context
        return self.by_bits[bits]


_CONTEXTS = _Contexts()


class _Point:
    """Evaluates trees at one point; natural: what \\log means. `largest` is the largest magnitude that came up."""

    def __init__(self, values: dict[str, Fraction], bits: int, natural: bool) -> None:
        self.ctx, self.natural = _CONTEXTS.at(bits), natural
        self.values = {name: self._number(value) for name, value in values.items()}
        self.values |= {"pi": +self.ctx.pi, "e": +self.ctx.e, "i": self.ctx.mpc(0, 1)}
        self.largest = self.ctx.mpf(1)
        self.steps = 0

    def _number(self, value: Fraction) -> Any:
        return self.ctx.mpf(value.numerator) / value.denominator

    def of(self, term: Term) -> Any:
        """The value of a tree. NotExact where it has none, TooBig over a limit."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooBig("an expression takes too many steps")
        try:
            value = self._value(term)
        except (NotExact, TooBig):
            raise
        except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence) as error:
            raise NotExact(str(error)) from error
        if not self.ctx.isfinite(value):
            raise NotExact("no finite value")
        size = abs(value)
        if size and self.ctx.mag(size) > MAX_MAGNITUDE:
            raise TooBig("a value is too large")
        self.largest = max(self.largest, size)
        return value

    def _value(self, term: Term) -> Any:
        ctx = self.ctx
        if term.op == "number":
            assert isinstance(term.leaf, Fraction)
            return self._number(term.leaf)
        if term.op == "symbol":
            return self.values[str(term.leaf)]
        args = [self.of(arg) for arg in term.args]
        if term.op == "+":
            return args[0] + args[1]
        if term.op == "*":
            return args[0] * args[1]
        if term.op == "/":
            return args[0] / args[1]
        if term.op == "^":
            return self._power(*args)
        if term.op == "root":
            assert isinstance(term.leaf, int)
            if _is_real(args[0]) and args[0].real < 0 and term.leaf % 2:
                return -ctx.root(-args[0].real, term.leaf)
            return ctx.root(args[0], term.leaf)
        if term.op == "!":
            return self._factorial(args[0])
        return self._call(str(term.leaf), args)

    def _power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if not _is_real(exponent) or exponent.real <= 0:
                raise NotExact("a power of zero")
            return base
        if abs(exponent) * (abs(self.ctx.mag(abs(base))) + 2) > MAX_MAGNITUDE:
            raise TooBig("a power is too large")
        if _is_real(exponent) and self.ctx.isint(exponent.real):
            return base ** int(exponent.real)
        return base**exponent

    def _factorial(self, x: Any) -> Any:
        if abs(x) > 3_000:
            raise TooBig("a factorial is too large")
        return self.ctx.gamma(x + 1)

    def _call(self, name: str, args: list[Any]) -> Any:
        ctx, x = self.ctx, args[0]
        if name == "binom":
            return self._factorial(x) / (self._factorial(args[1]) * self._factorial(x - args[1]))
        if abs(x) > MAX_MAGNITUDE and name not in ("ln", "log", "lg", "abs", "floor", "ceil"):
            raise TooBig("an argument is too large")
        if name in ("ln", "log", "lg"):
            if x == 0 or (len(args) > 1 and args[1] in (0, 1)):
                raise NotExact("no logarithm")
            if len(args) > 1:
                return ctx.log(x) / ctx.log(args[1])
            return ctx.log(x) if name == "ln" or (name == "log" and self.natural) else ctx.log(x) / ctx.log(10)
        if name in ("floor", "ceil"):
            if not _is_real(x):
                raise NotExact("rounding a complex number")
            nearest = ctx.nint(x.real)
            if abs(x.real - nearest) < ctx.mpf(2) ** (-ctx.prec // 2):
                return nearest  # 2.9999..., which is 3
            return (ctx.floor if name == "floor" else ctx.ceil)(x.real)
        if name == "abs":
            return abs(x)
        return getattr(ctx, {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(name, name))(x)


def _is_real(value: Any) -> bool:
    return bool(value.imag == 0)


def inverse_of(name: str) -> str:
    """The function that name^{-1} means. NotExact when it means none."""
    if name not in _INVERSES:
        raise NotExact(f"no inverse of {name}")
    return _INVERSES[name]
