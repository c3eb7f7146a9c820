"""Reading expressions: recursive descent over a tidy text (spelling.py) into exact values.

`parse` gives an `Exact`, or a `Term` when it has no normal form. Nothing is ever evaluated as code, and length, depth
and number sizes are limited before any work is done.

Left out: sums, products, limits, integrals: they raise NotExact and are compared as strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

from lmm_r1.rewards.exact import Exact, NotExact, TooBig
from lmm_r1.rewards.terms import CONSTANTS, FUNCTIONS, Term, inverse_of

MAX_TOKENS = 400
MAX_DEPTH = 30
MAX_DIGITS = 1_000
MAX_EXPONENT = 400  # of 1e400

R = TypeVar("R", Exact, Term)

_TOKEN = re.compile(
    r"\s*(?:(\d*\.\d*\s?\\overline\s?\{\d+\}|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)"
    r"|(\\[a-zA-Z]+)|([a-zA-Z]+)|([-+*/^(){}\[\]!_|]))"
)
#: Words that are read as the LaTeX command of the same name.
_PLAIN = FUNCTIONS | {"pi", "sqrt"}
_GREEK_LETTERS = (
    "pi infty alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell"
)
_GREEK = frozenset(_GREEK_LETTERS.split())
_TIMES = frozenset(("*", "\\cdot", "\\times"))
_OVER = frozenset(("/", "\\div"))
#: Opening bracket: (closing bracket, the function that the pair stands for).
_BRACKETS = {
    "(": (")", ""),
    "{": ("}", ""),
    "|": ("|", "abs"),
    "\\lfloor": ("\\rfloor", "floor"),
    "\\lceil": ("\\rceil", "ceil"),
}
_CLOSING = frozenset(closing for closing, _ in _BRACKETS.values())
#: Two letters that are a word, not a product of two variables; three and more always are.
_SHORT_WORDS = "no on or so up in at by of to as an if it is we us am pm"
_WORDS = frozenset(_SHORT_WORDS.split())
#: Three letters of one of these are variables.
_NAMES = tuple(map(frozenset, ("abcd", "wxyz", "pqrs", "klmn", "uvwt")))


@dataclass(frozen=True, slots=True)
class Parsed:
    """A value; decimals: digits after the point of a lone decimal, else None.

    unfinished: sums and products of written numbers (27+36-33, 9*8*7), several powers, roots or divisions that come
    out as a number (10!/8!), or functions of numbers (log_2 8) were left to be computed: a copy of the question,
    not its answer. Forms in which people write answers are finished: 8/2, 2^10, 5!, sqrt(16), 3 * 2^10.
    """

    value: Exact | Term
    decimals: int | None
    unfinished: bool


def parse(text: str) -> Parsed:
    """The value of a tidy expression. Raises NotExact when it has none here, TooBig over a limit."""
    tokens = _tokens(text)
    if "\\infty" in tokens and len(tokens) > 2:
        raise NotExact("arithmetic with infinity")
    try:
        return _parse(tokens, Exact)
    except NotExact:
        return _parse(tokens, Term)


def _parse(tokens: list[str], ring: type[R]) -> Parsed:
    reader = _Reader(list(tokens), ring)
    value = reader.sum()
    if reader.at != len(tokens):
        raise NotExact(f"cannot read {reader.peek()!r}")
    digits = tokens[1:] if tokens[0] in ("-", "+") else tokens
    decimals = None
    if len(digits) == 1 and "." in digits[0] and not re.search("[eEo]", digits[0]):
        decimals = len(digits[0].partition(".")[2])
    number = value.symbols <= CONSTANTS  # an expression in variables may be written in any way
    if not number:
        return Parsed(value, decimals, False)
    vanished = any(_is_variable(token) for token in tokens)  # 0x, x - x
    return Parsed(value, decimals, vanished or reader.unfinished or _is_computation(reader, value))


def _is_variable(token: str) -> bool:
    return (token.isalpha() or token[1:] in _GREEK) and token.lstrip("\\") not in CONSTANTS


def _is_computation(reader: _Reader[R], value: R) -> bool:
    """Whether more was written than the number needs: (1+i)^8, sqrt(2) sqrt(8), 10!/8!, 51/3/1."""
    if isinstance(value, Exact) and reader.sums >= max(1, len(value.terms)):
        return True
    return value.rational is not None and (reader.divisions > 1 or reader.heavy > 1)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotExact(f"cannot read {text[at : at + 1]!r}")
        letters = match.group(3)
        if letters in _PLAIN:
            tokens.append("\\" + letters)
        elif letters == "infinity":
            tokens.append("\\infty")
        elif letters and _is_word(letters, text, match):
            raise NotExact("a word")
        else:
            tokens += list(letters) if letters else [match.group().strip()]
        if len(tokens) > MAX_TOKENS:
            raise TooBig("an expression is too long")
        at = match.end()
    if not tokens:
        raise NotExact("nothing to read")
    return tokens


def _is_word(letters: str, text: str, match: re.Match[str]) -> bool:
    """Whether letters are a word, not variables side by side as in 3abc and \\frac12at^2."""
    if len(letters) > 3:
        return True
    if len(letters) == 3:
        return not any(set(letters) <= names for names in _NAMES) or not re.search(r"[\d+^/=(-]", text)
    glued = text[match.start(3) - 1 : match.start(3)] in ("}", ")") or text[match.end() : match.end() + 1] == "^"
    return letters.lower() in _WORDS and not glued


class _Reader(Generic[R]):
    """Recursive descent over tokens into a ring; `at` is the next token, `bars` the open | of absolute values."""

    def __init__(self, tokens: list[str], ring: type[R]) -> None:
        self.tokens = tokens
        self.ring: type[R] = ring
        self.at = self.depth = self.bars = self.divisions = self.sums = self.heavy = self.inside = 0
        self.unfinished = False

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise NotExact("the expression breaks off")
        self.at += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise NotExact(f"{token!r} is missing")

    def sum(self) -> R:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("an expression is nested too deeply")
        total = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            right = self.product()
            self.sums += not (total.rational == 0 and "i" in right.symbols)  # 0 + 5i
            self.unfinished |= total.rational is not None and right.rational is not None
            total = total + right if sign == "+" else total - right
        self.depth -= 1
        return total

    def product(self) -> R:
        start = self.at
        total = self.signed()
        while True:
            token, plain = self.peek(), self._plain(start)
            if token in _TIMES:
                self.at += 1
                start = self.at
                total = total * self.signed()
                self.unfinished |= plain and self._plain(start)
            elif token in _OVER:
                self.at += 1
                start = self.at
                total = total / self.signed()
                self.divisions += 1
            elif self._begins_factor(token):
                if token[0].isdigit() and self.tokens[self.at - 1][-1].isdigit():
                    raise NotExact("two numbers side by side")
                start = self.at
                total = total * self.power()
                self.unfinished |= plain and self._plain(start)
            else:
                return total

    def _plain(self, start: int) -> bool:
        """Whether the tokens from `start` are one written number, bracketed or not."""
        return all(token in "(){}-+" or token[0].isdigit() for token in self.tokens[start : self.at])

    def _begins_factor(self, token: str) -> bool:
        """Whether a token may stand right behind a factor, as in 2x, 2(x+1) or 2|x|."""
        if token == "|":
            return self.bars == 0
        before = self.tokens[self.at - 1] if self.at else ""
        if (
            token[:1].isdigit()
            and (before.isalpha() or before[1:] in _GREEK or before == "\\circ")
            and not self._is_power()
        ):
            raise NotExact("a number behind a letter")  # 17 R 3, 4 x 6, 3 o 5: a word or a mark, no product
        return bool(token) and token not in _CLOSING and (token[0].isalnum() or token in "({" or token[0] == "\\")

    def _is_power(self) -> bool:
        """Whether a number behind a letter is meant as a factor: n 2^{n-1}, (-1)^n 2."""
        if self.tokens[self.at - 2 : self.at - 1] == ["^"] and self.tokens[self.at - 1] != "\\circ":
            return True
        if self.peek(1) != "^":
            return False
        if self.peek(2) != "{":
            return self.peek(2).isalpha()
        inside = self.tokens[self.at + 3 : self.at + 12]
        return any(token.isalpha() for token in inside[: inside.index("}") if "}" in inside else 9])

    def signed(self) -> R:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.power()
        return -value if negative else value

    def power(self) -> R:
        base = self.atom()
        while self.peek() == "!":
            self.at += 1
            self.heavy += 1
            base = base.factorial()
        if self.peek() != "^":
            return base
        self.at += 1
        if self.peek() == "\\circ":
            self.at += 1
            return base * self.ring.symbol("pi") / self.ring.number(180)
        self.heavy += 1
        return base.power(self.exponent())

    def exponent(self) -> R:
        """What follows a ^; right-associative."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("powers are nested too deeply")
        value = self.signed()
        self.depth -= 1
        return value

    def group(self) -> R:
        """{expression}, or the next digit or atom as LaTeX takes it."""
        token = self.peek()
        if token == "{":
            self.at += 1
            value = self.sum()
            self.expect("}")
            return value
        if token.isdigit() and len(token) > 1:  # \frac37: one digit each
            self.tokens[self.at] = token[1:]
            return self.ring.number(int(token[0]))
        return self.atom()

    def atom(self) -> R:
        self.inside += 1
        if self.inside > 2 * MAX_DEPTH:
            raise TooBig("an expression is nested too deeply")
        value = self._atom(self.take())
        self.inside -= 1
        return value

    def _atom(self, token: str) -> R:
        if token[0].isdigit() or token[0] == ".":
            return self._mixed(token)
        if token in _BRACKETS:
            return self._bracketed(token)
        if token == "\\frac":
            self.divisions += 1
            return self.group() / self.group()
        if token == "\\sqrt":
            return self._root()
        if token == "\\binom":
            return self._binomial()
        if token[0] == "\\" and token[1:] in FUNCTIONS:
            return self._function(token[1:])
        if token.isalpha() or token[1:] in _GREEK:
            return self.ring.symbol(token.lstrip("\\") + self._subscript())
        raise NotExact(f"cannot read {token!r}")

    def _bracketed(self, token: str) -> R:
        """(x), {x}, |x| and the two roundings."""
        closing, function = _BRACKETS[token]
        outer, self.bars = self.bars, int(token == "|")
        value = self.sum()
        self.expect(closing)
        self.bars = outer
        return self.ring.call(function, (value,)) if function else value

    def _function(self, name: str) -> R:
        r"""\sin^2 2x, \log_{3} x, \sin^{-1} x: the argument is a bracket, or the factors up to the next function."""
        base = None
        if name == "log" and self.peek() == "_":
            self.at += 1
            base = self.group()
        exponent = None
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
            if exponent.rational == -1:
                name, exponent = inverse_of(name), None
        argument = self._argument()
        self.unfinished |= argument.symbols <= CONSTANTS and name != "exp"
        value = self.ring.call(name, (argument,) if base is None else (argument, base))
        return value if exponent is None else value.power(exponent)

    def _argument(self) -> R:
        if self.peek() in _BRACKETS:
            return self._bracketed(self.take())
        value = self.signed()
        while self._begins_factor(self.peek()) and self.peek() != "(" and self.peek()[1:] not in FUNCTIONS:
            value = value * self.power()
        return value

    def _mixed(self, token: str) -> R:
        """A number, or a mixed number such as 4\\frac{1}{2} or 4 1/2, which is a sum and not a product."""
        value = self.ring.number(_literal(token))
        if not token.isdigit():
            return value
        if self.peek() == "\\frac":
            mark, fraction = self.at, self.atom()
        elif self.peek().isdigit() and self.peek(1) == "/" and self.peek(2).isdigit():
            mark = self.at
            top, _, bottom = self.take(), self.take(), self.take()
            fraction = self.ring.number(_literal(top)) / self.ring.number(_literal(bottom))
        else:
            return value
        part = fraction.rational
        if part is None:  # 2\frac{x}{3} is a product
            return value * fraction
        if not 0 < part < 1:
            raise NotExact(f"cannot read {self.tokens[mark]!r} after a number")
        return value + fraction

    def _root(self) -> R:
        degree = 2
        if self.peek() == "[":
            self.at += 1
            token = self.take()
            if not token.isdigit() or len(token) > 2:
                raise NotExact("a root of odd degree")
            degree = int(token)
            self.expect("]")
        self.heavy += 1
        # \sqrt13 is read as people mean it, not as LaTeX sets it
        return (self.group() if self.peek() == "{" else self.atom()).root(degree)

    def _binomial(self) -> R:
        self.heavy += 1
        return self.ring.call("binom", (self.group(), self.group()))

    def _subscript(self) -> str:
        if self.peek() != "_":
            return ""
        self.at += 1
        token = self.take()
        if token != "{":
            return "_" + token
        token = self.take()
        self.expect("}")
        return "_" + token


def _literal(token: str) -> Fraction:
    if len(token) > MAX_DIGITS:
        raise TooBig("a number has too many digits")
    if "\\overline" in token:
        head, _, tail = token.partition("\\overline")
        whole, _, fixed = head.strip().partition(".")
        period = tail.strip(" {}")
        repeated = Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
        return Fraction(f"{whole or 0}.{fixed or 0}") + repeated
    exponent = token.lower().partition("e")[2]
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
        raise TooBig("a number has too large an exponent")
    return Fraction("0" + token if token.startswith(".") else token)
