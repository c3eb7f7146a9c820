"""What the search for false accepts is made of: a gold, a wrong answer, and a reading of plain numbers of its own.

Nothing here asks the verifier. A case is wrong by construction: either by what its words say (a denial, a second value)
or because two plain readings with exact fractions differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

from lmm_r1.types import Problem


@dataclass(frozen=True, slots=True)
class Gold:
    """A right answer as it stands in a data set: text, the verifier that reads it, option texts of a choice."""

    text: str
    verifier: str = "math"
    choices: tuple[str, ...] | None = None


#: Ways in which a reply holds an answer. None makes a wrong answer right.
FORMS = ("<answer>{}</answer>", "<answer>\\boxed{{}}</answer>", "So \\boxed{{}}.", "<think>t</think><answer>The answer is {}.</answer>", "<answer>{}.</answer>",
         "<answer>Final answer: {}</answer>", "<answer> **{}** </answer>", "<answer>Therefore, it is {}.</answer>", "<answer>答案是{}</answer>")  # fmt: skip
WHOLE = "{}"


def _plain(style: Callable[[str], str]) -> Callable[[str], str]:
    """A style for answers without LaTeX; others stay."""
    return lambda text: text if set(text) & set("\\\\${}^_") else style(text)


_LONE = re.compile(r"(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])")  # n is a letter, N a unit
#: Other letters, spaces and mark-up for the same words.
STYLES: tuple[Callable[[str], str], ...] = (
    _plain(lambda text: text if _LONE.search(text) else text.upper()),
    _plain(lambda text: text[:1].upper() + text[1:]),
    _plain(lambda text: f"\\text{{{text}}}"),
    _plain(lambda text: f"\\textbf{{{text}}}"),
    _plain(lambda text: f"\\mathrm{{{text}}}"),
    _plain(lambda text: f"${text}$"),
    _plain(lambda text: text.replace(" ", "~")),
    _plain(lambda text: text.replace(" ", "  ")),
    _plain(lambda text: text.replace(" ", "\n", 1)),
    _plain(lambda text: re.sub(r"(?<![a-zA-Z'])([a-z]{2,})(?![a-zA-Z'])", r"\\text{ \1 }", text)),
    _plain(lambda text: re.sub(r"(?<![a-zA-Z'])([a-z]{2,})(?![a-zA-Z'])", r"**\1**", text, count=1)),
    lambda text: f"({text})",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A pair that must not be paid. `kind` names the mutation; `form` is how the reply holds the answer (FORMS)."""

    kind: str
    gold: str
    answer: str
    verifier: str = "math"
    choices: tuple[str, ...] | None = None
    meta: Mapping[str, object] = field(default_factory=dict)
    form: str = "<answer>{}</answer>"

    @property
    def reply(self) -> str:
        """What the verifier is given."""
        return self.form.replace("{}", self.answer, 1)

    def problem(self) -> Problem:
        """The prepared row that the reply answers."""
        return Problem("search", (), self.gold, verifier=self.verifier, choices=self.choices, meta=self.meta)


#: A mutation: the wrong answers to one gold.
Mutation = Callable[[Gold, Random], Iterator[Case]]

_DECIMAL = re.compile(r"-?(?:\d{1,15}(?:\.\d{1,12})?|\.\d{1,12})", re.ASCII)
_FRACTION = re.compile(r"(-?)\\[dt]?frac(?:\{(-?\d{1,12})\}\{(-?\d{1,12})\}|(\d)(\d))", re.ASCII)
_SLASH = re.compile(r"(-?\d{1,12})/(\d{1,12})", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,15}")


def stripped(text: str) -> str:
    """A gold without dollar signs and blanks around it."""
    return text.strip().strip("$").strip()


def plain_number(text: str) -> Fraction | None:
    """The value of an integer, a decimal or one fraction of integers; None for anything else."""
    text = stripped(text).replace(" ", "")
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if match := _FRACTION.fullmatch(text):
        top, bottom = int(match[2] or match[4]), int(match[3] or match[5])
        return Fraction(-top if match[1] else top, bottom) if bottom else None
    if match := _SLASH.fullmatch(text):
        return Fraction(int(match[1]), int(match[2])) if int(match[2]) else None
    return None


def whole_number(text: str) -> int | None:
    """The value of a row of ASCII digits; None for anything else."""
    return int(text) if _WHOLE.fullmatch(text) else None


def written(value: Fraction) -> str:
    """A whole number or a fraction as LaTeX."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def other_number(value: Fraction, rng: Random) -> int:
    """A whole number from 2 to 97, at least 1 away from the value's size and from twice that: 10 rounds 9.7, and 7 less than 14 is 7."""
    while True:
        found = rng.randint(2, 97)
        if abs(found - abs(value)) >= 1 and abs(found - 2 * abs(value)) >= 1:
            return found
