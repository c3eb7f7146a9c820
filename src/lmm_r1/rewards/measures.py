r"""Measures in several units, and values that words join.

    2 h 30 min, 5 ft 6 in, 30^\circ 15'   one value (`read_compound`)
    10 to 20, 3 out of 4, 4 ft by 6 ft    a sequence whose order counts, named after the word (`read_joined`)
    17 R 3                                quotient and remainder
    N 30^\circ E                          a direction

What stands between two numbers is never an invisible product here: a word that is not in these tables makes a text
unreadable (answers.py), and that is never equal to anything but itself.
"""

from __future__ import annotations

import re

from lmm_r1.rewards.exact import Exact, NotExact
from lmm_r1.rewards.latex import Parsed
from lmm_r1.rewards.objects import Several
from lmm_r1.rewards.spelling import KRAM, MARK
from lmm_r1.rewards.units import conversion, spelled, unit_of
from lmm_r1.rewards.values import Value, read_value

_NUMBER = r"\d+(?:\.\d+)?(?:\s?\\frac\s?\{\d{1,3}\}\s?\{\d{1,3}\}|\s\d{1,3}/\d{1,3})?"
_UNIT = rf"(?:{MARK}\s?[a-zA-Z']{{1,12}}\.?\s?{KRAM}|[a-zA-Z]{{1,12}}\.?|\^\s?\\circ|'{{1,2}})"
_PART = rf"({_NUMBER})\s?({_UNIT})"
_BETWEEN = rf"\s?(?:,|{MARK}?\s?and\s?{KRAM}?)?\s?"
_COMPOUND = re.compile(rf"(-?)({_PART}(?:{_BETWEEN}{_PART}){{1,3}})")
_PARTS = re.compile(_PART)
_SHORT_TIMES = {"m": "min", "d": "day", "hrs": "h"}
_ANGLES = {"'": "arcmin", "''": "arcsec"}

_DIGIT = re.compile(r"\d")
#: kind: what may stand between its two values. The first that splits a text names it.
_JOINTS = {
    "to": r"is to|to|through|until|up to|bis",
    "by": r"-by-|by|x|X|\\times",
    "out of": r"out of every|out of|in every|of every|in",
    "per": r"per|for every|for each",
    "times": r"times",
    "remainder": r"R|r|[Rr]este?|resto|rem\.?|(?:and )?(?:with )?(?:an? |the )?remainder(?: of| is)?|with (?:a )?rem\.?(?: of)?|[余餘][数數]?(?:是|为|為)?|\.{6}",
    "between": r"and|to",
}
_JOINT = {
    kind: re.compile(rf"(?:,\s?)?{MARK}?\s?(?<![a-zA-Z\\])(?:{words})(?![a-zA-Z])\s?{KRAM}?")
    for kind, words in _JOINTS.items()
}
_DEGREES = re.compile(rf"\s?(?:\^?\s?\\circ|{MARK}?degrees?{KRAM}?)\s?$")
_QUOTIENT = re.compile(
    rf"^{MARK}?\s?(?:(?:the )?quotient(?: is| of|:)?|商(?:是|为|為)?)\s?{KRAM}?\s?(?=\d)", re.IGNORECASE
)
_RANGE = re.compile(rf"^{MARK}?\s?(from|between)\s?{KRAM}?\s", re.IGNORECASE)
_COMPASS = r"N|S|E|W|[Nn]orth|[Ss]outh|[Ee]ast|[Ww]est"
_BEARING = re.compile(
    rf"{MARK}?\s?({_COMPASS})\s?{KRAM}?\s?([^a-zA-Z{MARK}{KRAM}]{{1,20}}?(?:\\circ|\s?{MARK}?degrees?{KRAM}?)?)\s?{MARK}?\s?({_COMPASS})\s?{KRAM}?"
)


def read_compound(text: str) -> Value | None:
    """One measure written in several units of one quantity, the larger first; None for anything else."""
    found = _COMPOUND.fullmatch(text) if text[:1].isdigit() or text[:1] == "-" else None
    if found is None:
        return None
    parts = [(m.group(1), m.group(2)) for m in _PARTS.finditer(found.group(2))]
    units = _named(
        [
            unit.replace(MARK, "").replace(KRAM, "").replace(" ", "").replace("\\circ", "degree").strip("^.")
            for _, unit in parts
        ]
    )
    total = Exact.number(0)
    previous = None
    for (number, _), unit in zip(parts, units, strict=True):
        try:
            value = read_value(number).parsed.value
        except NotExact:
            return None  # 5 7/3 ft
        factor = conversion(unit, units[-1])
        if not isinstance(value, Exact) or factor is None:
            return None
        size = value * Exact.number(factor)
        if previous is not None and (previous <= factor or not 0 <= (size.rational or 0) < previous):
            return None  # 3 cm and 5 m are two lengths
        previous, total = factor, total + size
    return Value(Parsed(-total if found.group(1) else total, None, False), units[-1], compound=True)


def _named(written: list[str]) -> list[str]:
    """The units by one spelling: in 3h 40m the m are minutes, behind degrees ' and '' are parts of a degree."""
    units = [unit if unit in ("degree", "d") else unit_of(unit) for unit in written]
    if "degree" in units or "deg" in units:
        return [_ANGLES.get(raw, {"min": "arcmin", "s": "arcsec"}.get(unit, "degree" if unit == "deg" else unit))
                for raw, unit in zip(written, units, strict=True)]  # fmt: skip
    if {"h", "s", "min", "day", "d"} & set(units):
        return [_SHORT_TIMES.get(unit, unit) for unit in units]
    return units


def read_joined(text: str) -> Several | None:
    """Values with words between them, in their order; None when the text is none. Raises NotExact for a word it cannot read."""
    bearing = _BEARING.fullmatch(text.strip())
    if bearing:
        angle = read_value(_DEGREES.sub("", bearing.group(2)))
        return Several(f"bearing {bearing.group(1)[0].upper()} {bearing.group(3)[0].upper()}", (angle,))
    text = _QUOTIENT.sub("", text, count=1)
    ranged = _RANGE.match(text)
    text = text[ranged.end() :] if ranged else text
    kinds = ("to",) if ranged and ranged.group(1).lower() == "from" else ("between",) if ranged else _JOINT
    for kind in kinds:
        pieces = _JOINT[kind].split(text)
        if len(pieces) > 1 and all(_holds_number(piece) for piece in pieces) and len(pieces) <= 4:
            if any(piece.count("(") != piece.count(")") or piece.count("{") != piece.count("}") for piece in pieces):
                continue
            items = [read_value(_balanced(piece)) for piece in pieces]
            return Several("range" if ranged else kind, tuple(items))
    return None


def _holds_number(piece: str) -> bool:
    return bool(_DIGIT.search(piece)) or spelled(piece.strip(f" {MARK}{KRAM}").casefold()) is not None


def _balanced(piece: str) -> str:
    """A piece of a marked text with its own marks: the joint may have stood inside one \\text."""
    piece = piece.strip()
    if piece.count(MARK) > piece.count(KRAM):
        piece += KRAM
    elif piece.count(KRAM) > piece.count(MARK):
        at = re.search(r"[a-zA-Z]", piece)
        piece = piece[: at.start()] + MARK + piece[at.start() :] if at else piece.replace(KRAM, "")
    return piece


def quotient(answer: Several) -> tuple[Exact, Exact] | None:
    """(1, 12) for 1 in 12: what may also be written as a fraction."""
    if answer.kind != "out of" or len(answer.items) != 2:
        return None
    values = [
        item.parsed.value for item in answer.items if isinstance(item, Value) and not item.unit and not item.percent
    ]
    exact = [value for value in values if isinstance(value, Exact)]
    return (exact[0], exact[1]) if len(exact) == 2 and exact[1].rational else None
