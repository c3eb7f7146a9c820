r"""Crosses: the gold of one row as the answer to another. What pays must agree by a reading of our own.

`may_be_equal` is asked only for pairs that were paid. It knows the policies of docs/verifier.md that make two differently written
golds one answer: names and units that one side leaves out, degrees beside multiples of pi, percent, bare lists without order,
brackets left out, a gold that is a rounding. What it cannot read counts as wrong, so that a person looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from random import Random

from tests.rewards.false_accepts.cases import Case, Gold, plain_number
from tests.rewards.false_accepts.reading import bracketed, formulas_agree, relations_agree, split_top, values

_SPACES = re.compile(r"\\[!,;: ]|\s|~|\\left(?![a-z])|\\right(?![a-z])|\$|\\displaystyle|\\quad")
_UNIT = re.compile(
    r"(?<=[\d}\])i])(?:\\(?:text|mathrm|rm|textrm|mbox)\{([^{}]*)\}(?:\^?\{?([23])\}?)?|(\^\{?\\circ\}?|°)(?:\\mathrm\{?([CF])\}?|([CFT]))?|(\\?%)|([a-z]{1,12})(?:\^\{?([23])\}?)?)\.?$"
)
_NAME = re.compile(
    r"^(?:[A-Za-z][A-Za-z. ]*|[a-zA-Z]\([a-z]\)|[A-Za-z]_\{?\w\}?|\\[a-z]+(?:[A-Z]|\([a-z]\))?|m\\angle[A-Z0-9]+)=(?!.*=)"
)
_BASE = re.compile(r"^(-?\d+)_\{?(\d+)\}?$")


def squeezed(text: str) -> str:
    """A text without spaces, dollar signs and sizes of brackets: equal ones are the same answer."""
    text = _SPACES.sub("", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").rstrip(".").strip("=")
    return text.replace("\\leq", "\\le").replace("\\geq", "\\ge").replace("{,}", "")


def crosses(golds: list[Gold], rng: Random, count: int) -> Iterator[Case]:
    """Pairs of golds that are not written alike; half of them share a length or a first sign, so that they look alike."""
    found = [g for g in golds if g.verifier == "math" and len(g.text) <= 120]
    near = sorted(found, key=lambda g: (len(squeezed(g.text)), squeezed(g.text)))
    alike = sorted(found, key=lambda g: re.sub(r"\d+", "0", squeezed(g.text)))
    for k in range(count if len(found) > 1 else 0):
        pool = (near, alike, found)[k % 3]
        at = rng.randrange(len(pool))
        other = pool[(at + rng.randint(1, 12)) % len(pool)] if k % 3 < 2 else rng.choice(pool)
        gold = pool[at]
        a, b = plain_number(gold.text), plain_number(other.text)
        if squeezed(gold.text) != squeezed(other.text) and (a is None or a != b):
            yield Case("crosses", gold.text, other.text)


def may_be_equal(gold: str, answer: str) -> bool:
    """Whether this reading takes two answers for the same."""
    a, b = squeezed(gold), squeezed(answer)
    if a == b or _thousands(a) == _thousands(b) or _letter(a) == _letter(b) != "":
        return True
    if relations_agree(a, b):
        return True
    (a, x), (b, y) = _without_unit(_bare(a)), _without_unit(_bare(b))
    if x and y and x != y:
        return False
    base, other = _BASE.match(a), _BASE.match(b)
    if base or other:
        return bool(base) and not other and base[1] == b
    a, b = _thousands(a), _thousands(b)
    if a == b or formulas_agree(a, b):
        return True
    if {x, y} == {"%", ""} and (formulas_agree(f"({a})/100", b) if x else formulas_agree(a, f"({b})/100")):
        return True
    if {x, y} == {"degree", ""} and formulas_agree(*((f"({a})*\\pi/180", b) if x else (a, f"({b})*\\pi/180"))):
        return True
    return _same_lists(a, b) or _rounds(a, b)


def _letter(text: str) -> str:
    """The letter of an option in brackets or as text; "" for anything else."""
    found = re.sub(r"\\(?:text|mathrm|mathbf|textbf)|[(){}\[\]]", "", text)
    return found if len(found) == 1 and found.isupper() else ""


def _bare(text: str) -> str:
    return text if text.count("=") != 1 else _NAME.sub("", text)


def _thousands(text: str) -> str:
    return text.replace(",", "") if re.fullmatch(r"\d{1,3}(?:,\d{3})+", text) else text


def _without_unit(text: str) -> tuple[str, str]:
    match = _UNIT.search(text)
    if match is None:
        return text, ""
    words, power, degree, scale, other_scale, percent, bare, bare_power = match.groups()
    if degree:
        unit = {"": "degree", "T": "degree"}.get(scale or other_scale or "", f"degree{scale or other_scale}")
    else:
        unit = "%" if percent else f"{(words or bare).strip().rstrip('s.')}{power or bare_power or ''}"
    if not words and bare and len(bare) == 1:
        return text, ""
    unit = unit.strip()
    return text[: match.start()], "degree" if unit in ("degree", "degrees") else unit


def _same_lists(a: str, b: str) -> bool:
    x, y = bracketed(a), bracketed(b)
    left, right = (split_top(held[1] if held else text) for held, text in ((x, a), (y, b)))
    if len(left) != len(right) or len(left) < 2:
        return False
    ends = [(held[0], held[2]) if held else None for held in (x, y)]
    if ends[0] and ends[1] and ends[0] != ends[1]:
        return False
    if all(formulas_agree(_bare(p), _bare(q)) or squeezed(p) == squeezed(q) for p, q in zip(left, right, strict=True)):
        return True
    rest = list(right)
    for item in left if all(e is None or e[0] == "\\{" for e in ends) else []:
        found = next((q for q in rest if formulas_agree(item, q) or item == q), None)
        if found is None:
            return False
        rest.remove(found)
    return not rest


def _rounds(gold: str, answer: str) -> bool:
    """A gold with three significant digits or more, and an endless value that rounds to it."""
    value = plain_number(gold)
    if value is None or "." not in gold or len(re.sub(r"\D", "", gold).lstrip("0")) < 3:
        return False
    exact = plain_number(answer)
    half = Fraction(1, 2 * 10 ** len(gold.partition(".")[2]))
    if exact is not None:
        return bool(10**12 % exact.denominator) and abs(value - exact) <= half
    low, high = value - half, value + half
    found = formulas_value(answer)
    return found is not None and float(low) <= found <= float(high)


def formulas_value(text: str) -> float | None:
    """The real number that a formula without letters is."""
    found = values(text)
    if found is None or abs(found[0].imag) > 1e-30 or len(set(found)) > 1:
        return None
    return float(found[0].real)
