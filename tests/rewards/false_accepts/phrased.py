r"""Golds that are phrases themselves (bounds, dates, conversions, names made of letters), and golds in a dress, in words, or in a list.

Two bounds differ because they stand in different groups of one table; two dates, names or chemical formulas because their signs stand in
another order; two converted measures because an exact factor says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.rewards.false_accepts.cases import (
    Case,
    Gold,
    Mutation,
    other_number,
    plain_number,
    stripped,
    whole_number,
    written,
)
from tests.rewards.false_accepts.reading import bracketed, split_top
from tests.rewards.false_accepts.words import ANY, LARGE, TABLES, phrases

#: Phrases of one row say the same of {n}; phrases of two rows do not.
_BOUNDS = [
    ["at least {n}", "{n} or more", "x \\ge {n}", "\\geq {n}", "no less than {n}", "[{n}, \\infty)"],
    ["at most {n}", "{n} or less", "x \\le {n}", "\\leq {n}", "no more than {n}", "(-\\infty, {n}]"],
    ["more than {n}", "greater than {n}", "x > {n}", "> {n}", "({n}, \\infty)"],
    ["less than {n}", "x < {n}", "< {n}", "(-\\infty, {n})"],
    ["{n}", "exactly {n}", "x = {n}", "\\boxed{{n}}"],
    ["not {n}", "x \\ne {n}", "\\neq {n}"],
    ["between {n} and {m}", "from {n} to {m}"],
    ["{n} or {m}", "either {n} or {m}"],
    ["{n} \\pm {m}"],
    ["\\pm {n}"],
    ["-{n}", "minus {n}"],
    ["{n}, {n}, {m}"],
]


def bounds(gold: Gold, rng: Random) -> Iterator[Case]:
    """At least, at most, more, less, exactly, not, between: each answered with another one, and with another number."""
    number = whole_number(stripped(gold.text))
    if gold.verifier != "math" or not number:
        return
    put = {"{n}": str(number), "{m}": str(number + other_number(plain_number("0") or 0, rng))}

    def filled(phrase: str) -> str:
        return phrase.replace("{n}", put["{n}"]).replace("{m}", put["{m}"])

    for _ in range(8):
        one, other = rng.sample(_BOUNDS, 2)
        first = filled(rng.choice(one))
        yield Case("bounds", first, filled(rng.choice(other)))
        changed = first.replace(put["{n}"], str(number + 1000), 1)
        yield Case("bounds", first, changed)


#: (unit, smaller unit, how many)
_CONVERSIONS = [("km", "m", 1000), ("m", "cm", 100), ("kg", "g", 1000), ("hours", "minutes", 60), ("minutes", "seconds", 60), ("feet", "inches", 12), ("h", "min", 60),
                ("days", "hours", 24), ("weeks", "days", 7), ("years", "months", 12), ("dollars", "cents", 100), ("L", "mL", 1000), ("m^2", "cm^2", 10000), ("yd", "ft", 3),
                ("lb", "oz", 16), ("cm", "mm", 10), ("m", "mm", 1000), ("小时", "分钟", 60), ("米", "厘米", 100), ("ft", "in", 12), ("g", "mg", 1000), ("m^3", "L", 1000)]  # fmt: skip


def conversions(gold: Gold, rng: Random) -> Iterator[Case]:
    """A measure converted by a wrong factor or with a slip; degrees answered with another angle in radians."""
    value = plain_number(stripped(gold.text))
    if gold.verifier != "math" or value is None or value <= 0:
        return
    text = written(value)
    for unit, smaller, size in rng.sample(_CONVERSIONS, 6):
        for wrong in (value * size * 10, value * size + 1, value, value / size, value * size / 10, value * size * size):
            yield Case("conversions", f"{text} {unit}", f"{written(wrong)} {smaller}")
        yield Case("conversions", f"{written(value * size)} {smaller}", f"{written(value * size)} {unit}")
        yield Case("conversions", f"{text} {unit}", f"{text} {unit} or {text} {smaller}")
        yield Case("conversions", f"{text} {unit}", f"not {written(value * size)} {smaller}")
    for other in (value + 15, value * 2, 360 - value):
        if other != value:
            yield Case("conversions", f"{text}^\\circ", f"\\frac{{{written(other)}\\pi}}{{180}}")
            yield Case("conversions", f"{text}^\\circ", f"\\frac{{{written(other)}\\pi}}{{180}} \\text{{ radians}}")


_MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905


def dates(gold: Gold, rng: Random) -> Iterator[Case]:
    """Days, months, scores, times and numbers of versions: the same numbers in another order or with another sign between them."""
    number = whole_number(stripped(gold.text))
    if gold.verifier != "math" or not number:
        return
    day, month, year = 1 + number % 12, 1 + rng.randrange(12), 1900 + number % 120
    day, month = (day % 11 + 2, month % 11 + 2) if 1 in (day, month) else (day, month)
    if day == month:
        month = 2 + (month - 1) % 11
    one, other = _MONTHS[day - 1], _MONTHS[month - 1]
    a, b = f"{day:02d}", f"{month:02d}"
    for first, second in [
        (f"{year}-{a}-{b}", f"{year}-{b}-{a}"), (f"{a}/{b}/{year}", f"{b}/{a}/{year}"), (f"{a}.{b}.{year}", f"{b}.{a}.{year}"), (f"{one} {month}, {year}", f"{other} {day}, {year}"),
        (f"{day} {other} {year}", f"{month} {other} {year}"), (f"{one} {month}", f"{one} {month + 1}"), (f"{day}-{month}", f"{month}-{day}"), (f"{day}:{b}", f"{month}:{a}"),
        (f"{day} am", f"{day} pm"), (f"{day}:{b}:{number % 60:02d}", f"{month}:{a}:{number % 60:02d}"), (f"{one} {year}", f"{other} {year}"), (f"{year} BC", f"{year} AD"),
        (f"{day} a.m.", f"{day} p.m."), (f"{day}:00 to {month}:00", f"{month}:00 to {day}:00"), (f"{year}年{day}月{month}日", f"{year}年{month}月{day}日"),
        (f"version {day}.{month}", f"version {month}.{day}"), (f"{day} o'clock", f"{month} o'clock"), (f"{one} {year}", f"{one} {year + 1}"),
        (f"{day} miles in {month} hours", f"{month} miles in {day} hours"), (f"{day} dollars for {month} pounds", f"{month} dollars for {day} pounds"),
        (f"quotient {day}, remainder {month}", f"quotient {month}, remainder {day}"), (f"{day} rows of {month}", f"{day} rows of {month + 1}"),
        (f"A({day},{month}), B({month},{day})", f"A({month},{day}), B({day},{month})"), (f"{day} by {month} by {number + 2}", f"1 by {day * month} by {number + 2}"),
        (f"{day}, {month} and {number + 12}", f"1, {day * month} and {number + 12}"), (f"{day} wins, {month} losses", f"{month} wins, {day} losses"),
        (f"x = {day + 1} or x = {month + 1}", f"x = 1 or x = {(day + 1) * (month + 1)}"), (f"level {day} of {month + 12}", f"level {month + 12} of {day}"),
        (f"{day} tens and {month} ones", f"{month} tens and {day} ones"), (f"row {day}, column {month}", f"row {month}, column {day}"),
    ]:  # fmt: skip
        if "".join(first.split()) != "".join(second.split()):
            yield Case("dates and labels", first, second)


_ORDERED_SIGNS = [("eat", "tea"), ("dog", "god"), ("on", "no"), ("listen", "silent"), ("IV", "VI"), ("IX", "XI"), ("CO_2", "C_2O"), ("H_2O", "HO_2"), ("H_2O", "H_2O_2"), ("NaCl", "ClNa_2"),
                  ("\\angle ABC", "\\angle BAC"), ("\\overrightarrow{AB}", "\\overrightarrow{BA}"), ("\\vec{AB}", "\\vec{BA}"), ("\\overline{AB}", "\\overline{AC}"), ("\\triangle ABC", "\\triangle ABD"),
                  ("AB", "AC"), ("even", "odd"), ("even", "not even"), ("neither", "either"), ("increasing", "decreasing"), ("true", "false"), ("yes", "no"), ("no solution", "one solution"),
                  ("no solution", "infinitely many solutions"), ("no", "not no"), ("prime", "not prime"), ("\\infty", "-\\infty"), ("left", "right"), ("win", "loss"), ("red", "not red"),
                  ("Monday", "not Monday"), ("Alice", "Alice or Bob"), ("Bob", "not Bob"), ("circle", "no circle"), ("ellipse", "parabola"), ("\\text{odd}", "\\text{even}"), ("acute", "not acute"),
                  ("rhombus", "rhombus or square"), ("north", "south"), ("up", "down"), ("converges", "diverges"), ("converges", "does not converge"), ("unique", "not unique"), ("WW", "WL"),
                  ("\\text{(A)}", "\\text{not (A)}"), ("a<b<c", "c<b<a"), ("A>B>C", "A>C>B"), ("p \\land q", "p \\lor q"), ("p \\to q", "q \\to p"), ("A \\cap B", "A \\cup B"),
                  ("A \\subset B", "B \\subset A"), ("a \\mid b", "b \\mid a"), ("\\parallel", "\\perp"), ("AB \\parallel CD", "AB \\perp CD"), ("AAB", "ABA"), ("CAB", "ABC"), ("2D", "D2"),
                  ("HTH", "HHT"), ("BCD", "DCB or BCD"), ("Tom", "Tim"), ("stop", "pots"), ("one", "two"), ("Na^+", "Na^-"), ("abc", "cba and not abc"), ("SE", "ES or NW"), ("LRL", "LLR")]  # fmt: skip


def signs_in_order(gold: Gold, rng: Random) -> Iterator[Case]:
    """Words, names, codes and formulas: another order of letters, the opposite, a denial."""
    if plain_number(gold.text) is None:
        return
    for first, second in rng.sample(_ORDERED_SIGNS, 6):
        yield Case("words and names", first, second)
        if "\\" not in first + second and first.isalpha() and second.replace(" ", "").isalpha():
            yield Case("words and names", f"\\text{{{first}}}", f"\\text{{{second}}}")
            yield Case("words and names", first, f"\\text{{{second}}}")
            yield Case("words and names", first, second, "text")


_DRESSES = [
    "{n}^\\circ",
    "{n}\\%",
    "{n} cm",
    "{n}\\text{ km}",
    "\\${n}",
    "{n} hours",
    "{n} apples",
    "{n}\\pi",
    "{n}\\sqrt{3}",
    "{n}x",
    "{n} \\mathrm{~m}^2",
    "{n}i",
    "{n}米",
    "{n} dollars",
]
_JOINING = [
    kind for kind, (condition, _) in TABLES.items() if condition not in (ANY, LARGE) and kind != "inside a name"
]


def dressed_words(gold: Gold, rng: Random) -> Iterator[Case]:
    """The phrases of the tables around a measure, a percentage, a multiple of pi or of a letter; the second number wears the same dress."""
    text = stripped(gold.text)
    value = plain_number(text)
    if gold.verifier != "math" or value is None or value <= 0 or "\\" in text or "/" in text:
        return
    for dress in rng.sample(_DRESSES, 4):
        first, other = dress.replace("{n}", text), dress.replace("{n}", str(other_number(value, rng)))
        for phrase in rng.sample([p for kind in _JOINING for p in phrases(kind)], 12):
            if "{{" not in phrase and "_{" not in phrase and "({w})" not in phrase:
                yield Case("words around a measure", first, phrase.replace("{g}", first).replace("{w}", other))


def items_in_words(gold: Gold, rng: Random) -> Iterator[Case]:
    """One item of a tuple, a list or a set made a choice, a range, a denial, a hedge."""
    text = stripped(gold.text)
    held = bracketed(text)
    opened, inside, closed = held or ("", text, "")
    parts = split_top(inside)
    if gold.verifier != "math" or not 2 <= len(parts) <= 8 or any(plain_number(part) is None for part in parts):
        return
    for k, part in enumerate(parts):
        for phrase in ("{g} or 79", "not {g}", "maybe {g}", "{g} to 79", "79 or {g}", "{g} and 79", "-({g}) + 1000", "{g} or not", "{g} \\text{ or } 79", "at least {g}", "{g}或79", "{g} oder 79",
                       "{g} fails", "{g} million", "\\neq {g}", "> {g}", "{g}?79", "{g} probably", "no es {g}", "不是{g}"):  # fmt: skip
            if phrase != "{g} million" or plain_number(part) != 0:
                changed = [*parts[:k], phrase.replace("{g}", part), *parts[k + 1 :]]
                yield Case("items in words", gold.text, f"{opened}{', '.join(changed)}{closed}")


MUTATIONS: dict[str, Mutation] = {"bounds": bounds, "conversions": conversions, "dates and labels": dates, "words and names": signs_in_order, "words around a measure": dressed_words,
                                  "items in words": items_in_words}  # fmt: skip
