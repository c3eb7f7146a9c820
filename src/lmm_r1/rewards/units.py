r"""Units behind a number: finding them, one spelling for each, and which of them measure the same thing.

    12\text{ cm}^2  ->  ("12", "cm2");   60 miles per hour  ->  ("60", "mile/h");   1.5 hours  =  90 minutes

A unit is any word that does not change what the number says ("apples" is one, "dozen" is not). Only units of the
table below are converted; two others are equal when they are spelled alike. Factors are exact by definition
(international yard and pound, 1959).

Left out: prefixes and currencies beyond the table; degrees, which math.py compares with multiples of pi.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from lmm_r1.rewards.spelling import KRAM, MARK

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = (
    {word: n for n, word in enumerate(_ONES.split())}
    | {word: 20 + 10 * n for n, word in enumerate(_TENS.split())}
    | {"hundred": 100, "one hundred": 100}
)
_MARKED_UNIT = re.compile(
    rf"{MARK}([a-zA-Z][a-zA-Z /.-]{{0,40}})(?:\^\{{?(-?\d)\}}?)?\s?{KRAM}\s?(?:\^\s?\{{?(-?\d)\}}?)?$"
)
_MARKED_QUOTIENT = re.compile(
    rf"{MARK}([a-zA-Z]{{1,20}}){KRAM}\s?/\s?{MARK}([a-zA-Z]{{1,20}}){KRAM}\s?(?:\^\s?\{{?(\d)\}}?)?$"
)
_FRACTION_UNIT = re.compile(
    rf"\\frac\s?\{{\s?{MARK}?\s?([a-zA-Z]{{1,10}})\s?{KRAM}?\s?\}}\s?\{{\s?{MARK}?\s?([a-zA-Z]{{1,10}})\s?{KRAM}?\s?(?:\^\s?\{{?([23])\}}?)?\s?\}}$"
)
_BARE_UNIT = re.compile(r"(?<![a-zA-Z\\_])([a-zA-Z][a-zA-Z /]{1,40})()(?:\^\{?([23])\}?)?$")
#: Units that may follow a number without \text; other bare words need at least four letters.
_SHORT_NAMES = "mm cm dm km nm in ft yd mi kg mg lb oz ml mL cl cL kL ms min hr hrs hour mph kmh day days gal USD usd sec secs lbs mins cc Hz kHz mV kV mA ohm Pa kPa kJ kW kN"
_SHORT = frozenset(_SHORT_NAMES.split())
_ALIASES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd",
    "mi": "mile", "kilogram": "kg", "gram": "g", "milligram": "mg", "pound": "lb", "lbs": "lb", "ounce": "oz", "cents": "cent",
    "hour": "h", "hr": "h", "hrs": "h", "minute": "min", "mins": "min", "second": "s", "sec": "s", "liter": "l", "litre": "l",
    "milliliter": "ml", "millilitre": "ml", "mph": "mile/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h", "gal": "gallon", "cc": "cm3", "usd": "dollar",
}  # fmt: skip
#: Words that change what a number says; "5 or more" is not 5.
_CHANGING_WORDS = (
    "or and not no non more less fewer greater than at least most about only if when undefined wrong incorrect false true right "
    "except nor maybe perhaps approximately mod pi is are was be below above under over zero minus plus times divided choose through "
    "squared cubed factorial root power percent half halves third thirds quarter quarters fourth fourths fifth fifths "
    "sixth sixths seventh eighths eighth ninth ninths tenth tenths hundredth hundredths thousandth thousandths dozen dozens "
    "tens doubled tripled halved double triple twice thrice negative negated subtracted reversed imaginary score gross untrue never "
    "impossible excluded removed "
    "hundred hundreds thousand thousands million millions billion billions trillion trillions infinity"
)
_NO_UNIT = frozenset(_CHANGING_WORDS.split()) | frozenset(_NUMBER_WORDS)

_F = Fraction
#: unit -> (what it measures, how many of the first unit of that it is)
_MEASURES: dict[str, tuple[str, Fraction]] = {
    "m": ("length", _F(1)), "mm": ("length", _F(1, 1000)), "cm": ("length", _F(1, 100)), "dm": ("length", _F(1, 10)),
    "km": ("length", _F(1000)), "in": ("length", _F(127, 5000)), "ft": ("length", _F(381, 1250)),
    "yd": ("length", _F(1143, 1250)), "mile": ("length", _F(201168, 125)),
    "g": ("mass", _F(1)), "mg": ("mass", _F(1, 1000)), "kg": ("mass", _F(1000)),
    "lb": ("mass", _F(45359237, 100000)), "oz": ("mass", _F(45359237, 1600000)),
    "s": ("time", _F(1)), "ms": ("time", _F(1, 1000)), "min": ("time", _F(60)), "h": ("time", _F(3600)),
    "day": ("time", _F(86400)), "week": ("time", _F(604800)),
    "month": ("months", _F(1)), "year": ("months", _F(12)),
    "dollar": ("money", _F(1)), "cent": ("money", _F(1, 100)),
}  # fmt: skip
#: Volumes that are not a cube of a length, in cubic metres.
_VOLUMES = {"l": _F(1, 1000), "ml": _F(1, 1_000_000), "cl": _F(1, 100_000)}


def spelled(word: str) -> int | None:
    """seven, twenty one: the number that words spell, up to a hundred."""
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word]
    tens, _, ones = word.partition(" ")
    a, b = _NUMBER_WORDS.get(tens, 0), _NUMBER_WORDS.get(ones, 0)
    return a + b if 20 <= a < 100 and 1 <= b <= 9 else None


def without_unit(text: str) -> tuple[str, str]:
    """(what stands before a trailing unit, the unit in one spelling); ("text", "") when there is none."""
    for pattern in (_MARKED_QUOTIENT, _FRACTION_UNIT):
        quotient = pattern.search(text)
        if quotient and text[: quotient.start()].strip():
            top, bottom, power = quotient.groups()
            unit = f"{_one_spelling([top])}/{_one_spelling([bottom])}{power or ''}"
            if pattern is _MARKED_QUOTIENT or measure(unit) is not None:
                return text[: quotient.start()].strip(), unit
    match = _MARKED_UNIT.search(text)
    bare = match is None
    match = match or _BARE_UNIT.search(text)
    if match is None or not text[: match.start()].strip():
        return text, ""
    words = match.group(1).replace("/", " / ").split()
    if any(w.lower() in _NO_UNIT for w in words):
        return text, ""
    if bare and not _written_as_unit(words):
        return text, ""
    power = match.group(2) or match.group(3) or ""
    if words[0].lower() in ("square", "sq", "sq."):
        power, words = "2", words[1:]
    elif words[0].lower() in ("cubic", "cu", "cu."):
        power, words = "3", words[1:]
    return text[: match.start()].strip(), _one_spelling(words) + power


def _written_as_unit(words: list[str]) -> bool:
    """Whether bare words are no product of variables: long ones, known short ones, or a quotient such as m/s."""
    if "/" in words or "per" in words:
        return measure(_one_spelling(words)) is not None
    return all(w in _SHORT or len(w) >= 4 or w in ("sq", "cu") for w in words) and words[0] != "per"


def _one_spelling(words: list[str]) -> str:
    names = [w.strip(".").lower() for w in words]
    names = [n[:-1] if len(n) > 3 and n.endswith("s") else n for n in names]
    joined = " ".join(_ALIASES.get(n, n) for n in names)
    return joined.replace(" per ", "/").replace(" / ", "/")


@lru_cache(maxsize=1024)
def measure(unit: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """((quantity, power) sorted, the factor to its first unit); None for a unit that is not converted.

    measure("km/h") is ((("length", 1), ("time", -1)), 5/18).
    """
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for k, part in enumerate(unit.split("/")):
        match = re.fullmatch(r"([a-z]+)([1-9]?)", part)
        if match is None or k > 1:
            return None
        name, power = match.group(1), int(match.group(2) or 1) * (-1 if k else 1)
        if name in _VOLUMES:
            quantity, size, power = "length", _VOLUMES[name], power * 3
            if abs(power) != 3:
                return None
            factor *= size if power > 0 else 1 / size
        elif name in _MEASURES:
            quantity, size = _MEASURES[name]
            factor *= size**power
        else:
            return None
        powers[quantity] = powers.get(quantity, 0) + power
    return tuple(sorted(powers.items())), factor


def conversion(unit: str, other: str) -> Fraction | None:
    """How many `other` one `unit` is; None when they do not measure the same thing, or are not in the table."""
    a, b = measure(unit), measure(other)
    return a[1] / b[1] if a is not None and b is not None and a[0] == b[0] else None
