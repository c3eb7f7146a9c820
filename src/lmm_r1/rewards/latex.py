"""Reading answers: one spelling for what people and models write, and a parser into exact values.

`tidy` maps Unicode, LaTeX spacing, text wrappers and thousands separators to one spelling; `parse`
reads a tidy expression by recursive descent into an `Exact`. Nothing is ever evaluated as code, every
pattern is linear, and length, depth and number sizes are limited before any work is done.

Left out: functions (sin, log), sums, matrices: they raise NotExact and are compared as strings.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from lmm_r1.rewards.exact import Exact, NotExact, TooBig

MAX_TOKENS = 400
MAX_DEPTH = 30
MAX_DIGITS = 1_000
MAX_EXPONENT = 400  # of 1e400

#: Marks around what stood in \text{...}: words, never a product of letters.
MARK, KRAM = "\x02", "\x03"

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_SPELLING = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒", "-"),
        **dict.fromkeys("$`", " "),
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "π": "\\pi ",
        "√": "\\sqrt ",
        "°": "^\\circ ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "±": "\\pm ",
        "∪": "\\cup ",
        "∈": "\\in ",
        "∠": "\\angle ",
        "θ": "\\theta ",
        "\u00a0": " ",
        "~": " ",
        "“": " ",
        "”": " ",
        '"': " ",
    }
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u2060\ufeff]")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|limits|big|Big|bigg|Bigg|bigl|bigr|textstyle)(?![a-zA-Z])|\\[!]|\\\$"
)
_SPACE = re.compile(r"\\(?:[ ;:()\[\]]|quad(?![a-zA-Z])|qquad(?![a-zA-Z]))|\\\\")
_FRAC = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SYNONYMS = {
    "\\leq": "\\le",
    "\\geq": "\\ge",
    "\\neq": "\\ne",
    "\\leqslant": "\\le",
    "\\geqslant": "\\ge",
    "\\lt": "<",
    "\\gt": ">",
}
_SYNONYM = re.compile(r"\\(?:leqslant|geqslant|leq|geq|neq|lt|gt)(?![a-zA-Z])")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|emph)\s?\{([^{}]*)\}"
)
_BOX = re.compile(r"\\boxed\s{0,4}\{([^{}]*)\}")
_GROUP = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\ )(?=\d{3}(?!\d))")
_THIN = re.compile(r"\\,")
_NUMERIC = re.compile(r"[-+]?\d[\d,./ ]*%?")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def tidy(text: str) -> str:
    """One spelling of an answer; words from \\text{...} come back between MARK and KRAM."""
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m.group()), text)
    text = re.sub("[⁰¹²³⁴-⁹⁻⁺]+", lambda m: "^{" + m.group().translate(_SUPER) + "}", text)
    text = re.sub("[₀-₉]+", lambda m: "_{" + m.group().translate(_SUB) + "}", text)
    text = _CONTROL.sub(" ", unicodedata.normalize("NFKC", text))
    text = _DROPPED.sub("", text.replace("\\%", "%").translate(_SPELLING))
    text = _THIN.sub(" ", _GROUP.sub("", text))
    text = _FRAC.sub(r"\\frac", _SYNONYM.sub(lambda m: _SYNONYMS[m.group()], text))
    for pattern in (_TEXT, _BOX, _TEXT):
        text = pattern.sub(_unwrap, text)
    text = _SPACE.sub(" ", text).replace("^{\\circ}", "^\\circ").replace("\\degree", "^\\circ ")
    return text.replace("**", " ").strip().rstrip(".,;:").strip()


def _unwrap(match: re.Match[str]) -> str:
    inside = match.group(1).strip()
    if match.group().startswith("\\boxed") or len(inside) <= 1 or _NUMERIC.fullmatch(inside):
        return "" if inside in (".", ",", ";", ":") else inside
    return f" {MARK}{inside}{KRAM} "


def join_thousands(text: str) -> str:
    """12,345 -> 12345, where the grouping is right; 12,34 stays two numbers."""
    return _THOUSANDS.sub(lambda m: m.group().replace(",", ""), text)


def canonical(text: str) -> str:
    """The string that is compared when nothing exact can be: no spaces, no marks, plain words in lower case."""
    bare = _SINGLE.sub(r"\1\2", "".join(text.replace(MARK, "").replace(KRAM, "").split()))
    return bare.casefold() if bare.isalpha() and len(bare) > 1 else bare


_SINGLE = re.compile(r"([_^])\{(\w)\}")
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+)|(\\[a-zA-Z]+)|([a-zA-Z]+)|([-+*/^(){}\[\]!_]))")
_GREEK_LETTERS = (
    "pi infty alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell"
)
_GREEK = frozenset(_GREEK_LETTERS.split())
_TIMES = frozenset(("*", "\\cdot", "\\times"))
_OVER = frozenset(("/", "\\div"))
#: Two letters that are a word, not a product of two variables; three and more always are.
_SHORT_WORDS = "no on or so up in at by of to as an if it is we us am pm"
_WORDS = frozenset(_SHORT_WORDS.split())


@dataclass(frozen=True, slots=True)
class Parsed:
    """An exact value; decimals: digits after the point of a lone decimal, else None.

    unfinished: numbers were left to be computed, as in 27+36-33: a copy of the question, not its answer.
    """

    value: Exact
    decimals: int | None
    unfinished: bool


def parse(text: str) -> Parsed:
    """The exact value of a tidy expression. Raises NotExact when it has none here, TooBig over a limit."""
    tokens = _tokens(text)
    if "\\infty" in tokens and len(tokens) > 2:
        raise NotExact("arithmetic with infinity")
    reader = _Reader(tokens)
    value = reader.sum()
    if reader.at != len(tokens):
        raise NotExact(f"cannot read {tokens[reader.at]!r}")
    digits = tokens[1:] if tokens[0] in ("-", "+") else tokens
    decimals = None
    if len(digits) == 1 and "." in digits[0] and "e" not in digits[0].lower():
        decimals = len(digits[0].partition(".")[2])
    # A division that comes out whole is a question too; 6/8 is left as it is.
    rational = value.rational
    whole_division = reader.divided and rational is not None and rational.denominator == 1
    return Parsed(value, decimals, reader.unfinished or whole_division)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotExact(f"cannot read {text[at : at + 1]!r}")
        letters = match.group(3)
        if letters and (len(letters) > 2 or letters.lower() in _WORDS):
            raise NotExact("a word")
        tokens += list(letters) if letters else [match.group().strip()]
        if len(tokens) > MAX_TOKENS:
            raise TooBig("an expression is too long")
        at = match.end()
    if not tokens:
        raise NotExact("nothing to read")
    return tokens


class _Reader:
    """Recursive descent over tokens; `at` is the next one."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.unfinished = self.divided = False

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

    def sum(self) -> Exact:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("an expression is nested too deeply")
        total = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            right = self.product()
            self.unfinished |= total.rational is not None and right.rational is not None
            total = total + right if sign == "+" else total - right
        self.depth -= 1
        return total

    def product(self) -> Exact:
        total = self.signed()
        while True:
            token = self.peek()
            if token in _TIMES:
                self.at += 1
                # 1.5 \times 10^{6} is one number
                scientific = self.peek() == "10" and self.peek(1) == "^"
                total = self._times(total, self.signed(), scientific)
            elif token in _OVER:
                self.at += 1
                right = self.signed()
                self.divided |= total.rational is not None and right.rational is not None
                total = total / right
            elif token and (token[0].isalnum() or token == "(" or token == "{" or token[0] == "\\"):
                if token[0].isdigit() and self.tokens[self.at - 1][-1].isdigit():
                    raise NotExact("two numbers side by side")
                total = self._times(total, self.power(), False)
            else:
                return total

    def _times(self, left: Exact, right: Exact, finished: bool) -> Exact:
        self.unfinished |= not finished and left.rational is not None and right.rational is not None
        return left * right

    def signed(self) -> Exact:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.power()
        return -value if negative else value

    def power(self) -> Exact:
        base = self.atom()
        while self.peek() == "!":
            self.at += 1
            self.unfinished = True
            base = base.factorial()
        if self.peek() != "^":
            return base
        self.at += 1
        ten = base.rational == 10
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("powers are nested too deeply")
        exponent = self.signed()  # right-associative
        self.depth -= 1
        self.unfinished |= base.rational is not None and not ten
        return base.power(exponent)

    def group(self) -> Exact:
        """{expression}, or the next digit or atom as LaTeX takes it."""
        token = self.peek()
        if token == "{":
            self.at += 1
            value = self.sum()
            self.expect("}")
            return value
        if token.isdigit() and len(token) > 1:  # \frac37: one digit each
            self.tokens[self.at] = token[1:]
            return Exact.number(int(token[0]))
        return self.atom()

    def atom(self) -> Exact:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return self._mixed(token)
        if token in ("(", "{"):
            value = self.sum()
            self.expect(")" if token == "(" else "}")
            return value
        if token == "\\frac":
            top, bottom = self.group(), self.group()
            self.divided |= top.rational is not None and bottom.rational is not None
            return top / bottom
        if token == "\\sqrt":
            return self._root()
        if token == "\\binom":
            return self._binomial()
        if token.isalpha() or token[1:] in _GREEK:
            return Exact.symbol(token.lstrip("\\") + self._subscript())
        raise NotExact(f"cannot read {token!r}")

    def _mixed(self, token: str) -> Exact:
        """A number, or a mixed number such as 4\\frac{1}{2} or 4 1/2, which is a sum and not a product."""
        value = Exact.number(_literal(token))
        if not token.isdigit():
            return value
        if self.peek() == "\\frac":
            mark, fraction = self.at, self.atom()
        elif self.peek().isdigit() and self.peek(1) == "/" and self.peek(2).isdigit():
            mark, fraction = self.at, Exact.number(Fraction(1))
            top, _, bottom = self.take(), self.take(), self.take()
            fraction = Exact.number(_literal(top)) / Exact.number(_literal(bottom))
        else:
            return value
        part = fraction.rational
        if part is None:  # 2\frac{x}{3} is a product
            return value * fraction
        if not 0 < part < 1:
            raise NotExact(f"cannot read {self.tokens[mark]!r} after a number")
        return value + fraction

    def _root(self) -> Exact:
        degree = 2
        if self.peek() == "[":
            self.at += 1
            token = self.take()
            if not token.isdigit() or len(token) > 2:
                raise NotExact("a root of odd degree")
            degree = int(token)
            self.expect("]")
        # \sqrt13 is read as people mean it, not as LaTeX sets it
        value = (self.group() if self.peek() == "{" else self.atom()).root(degree)
        self.unfinished |= value.rational is not None
        return value

    def _binomial(self) -> Exact:
        n, k = self.group().rational, self.group().rational
        self.unfinished = True
        if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
            raise NotExact("a binomial of something that is no whole number")
        if n > 1_000:
            raise TooBig("a binomial is too large")
        return Exact.number(math.comb(int(n), int(k)))

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
    exponent = token.lower().partition("e")[2]
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
        raise TooBig("a number has too large an exponent")
    return Fraction("0" + token if token.startswith(".") else token)
