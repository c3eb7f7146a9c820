"""One value: a number or an expression with its unit, percent sign, base, ordinal ending or word for its size.

Reading what stands around the expression; the expression itself is latex.py's, units are units.py's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lmm_r1.rewards.exact import Exact, NotExact
from lmm_r1.rewards.latex import Parsed, parse
from lmm_r1.rewards.spelling import KRAM, MARK
from lmm_r1.rewards.units import spelled, without_unit

_PERCENT = re.compile(rf"(?:%|{MARK}?\s?(?:percent|per cent|percentage|pct\.?)\s?{KRAM}?)$")
_DEGREE = re.compile(rf"(?:\^\s?\\circ\s?{MARK}?([CF]?){KRAM}?|{MARK}?\s?(?:degrees?|deg)\s?{KRAM}?)$")
_TRIGONOMETRIC = re.compile(r"(?<![a-zA-Z])(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_BASE_WORDS = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_BASE = re.compile(
    rf"\(?(\d{{1,400}})\)?(?:_\s?\{{?\s?{MARK}?(\d{{1,2}}|{'|'.join(_BASE_WORDS)}){KRAM}?\s?\}}?|\s?{MARK}?\s?\(?base (\d{{1,2}})\)?\s?{KRAM}?)"
)
_SCALE = re.compile(rf"(?<=[\d\s}}])\s*{MARK}?\s?(thousand|million|billion|trillion)(?![a-zA-Z])\s*", re.IGNORECASE)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_ORDINAL = re.compile(rf"(\d+)\s?\^?\s?\{{?\s?{MARK}?(?:st|nd|rd|th){KRAM}?\s?\}}?")


@dataclass(frozen=True, slots=True)
class Value:
    """An exact value, its unit ("" without one) and whether a percent sign stood behind it.

    compound: written in several units (2 h 30 min), so that none of them can be left out.
    """

    parsed: Parsed
    unit: str = ""
    percent: bool = False
    compound: bool = False


def read_value(text: str) -> Value:
    """The value of a tidy text without relation signs. Raises NotExact when it names none here, TooBig over a limit."""
    body, unit, percent = text.strip(), "", False
    if body.startswith(MARK) and body.endswith(KRAM) and body[1:2].isdigit():
        body = body[1:-1].strip()
    word = body.replace(MARK, "").replace(KRAM, "").strip().casefold().replace("-", " ")
    if (number := spelled(word)) is not None:
        return Value(Parsed(Exact.number(number), None, False))
    ordinal = _ORDINAL.fullmatch(body)
    if ordinal:
        return Value(parse(ordinal.group(1)), "th")
    scale = _SCALE.search(body)
    if scale:
        rest = body[scale.end() :]
        opened = MARK if rest.endswith(KRAM) and MARK not in rest and rest != KRAM else ""
        rest = "" if rest == KRAM else opened + rest
        body = f"{body[: scale.start()]}\\times 10^{{{_SCALES[scale.group(1).lower()]}}}{rest}"
    based = _BASE.fullmatch(body)
    if based:
        base = based.group(2) or based.group(3)
        return Value(Parsed(Exact.number(int(based.group(1))), None, False), f"base {_BASE_WORDS.get(base, base)}")
    for pattern, mark in ((_PERCENT, "%"), (_DEGREE, "degree")):
        match = pattern.search(body)
        if match and match.start() > 0 and not _TRIGONOMETRIC.search(body):
            body, percent = body[: match.start()].strip(), mark == "%"
            unit = "" if percent else mark + (match.group(1) or "")
            break
    else:
        body, unit = without_unit(body)
    parsed = parse(body)
    if unit and parsed.value.symbols - {"pi"}:
        raise NotExact("a unit behind a variable")
    return Value(parsed, unit, percent)
