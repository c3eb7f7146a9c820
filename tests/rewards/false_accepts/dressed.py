r"""Golds made of two numbers of a data set (measures, joined numbers, assignments, money, ratios), and wrong answers to them.

The public sets have few such golds, and the faults found so far stood in them. Each builder says why its answers differ:
totals are computed from tables of its own, orders and names are compared as strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from random import Random

from tests.rewards.false_accepts.cases import (
    WHOLE,
    Case,
    Gold,
    Mutation,
    other_number,
    plain_number,
    stripped,
    whole_number,
    written,
)

#: A pair of numbers as they are written, and a third that is neither; what yields (gold, wrong answer).
Builder = Callable[[int, int, Random], Iterator[tuple[str, str]]]


def _products(a: int, b: int) -> list[tuple[int, int]]:
    """Other pairs of whole numbers with the product a*b: what a reader that multiplies takes for the same."""
    product = a * b
    found = [(d, product // d) for d in range(1, min(product, 400) + 1) if product % d == 0]
    return [pair for pair in found if set(pair) != {a, b}][:6]


#: (larger unit, smaller unit, how many make one) in several spellings.
_COMPOUND = [
    ("h", "min", 60), ("hours", "minutes", 60), ("hr", "min", 60), ("hours and", "minutes", 60), ("min", "s", 60), ("minutes", "seconds", 60),
    ("ft", "in", 12), ("feet", "inches", 12), ("feet and", "inches", 12), ("'", '"', 12), ("m", "cm", 100), ("meters", "centimeters", 100),
    ("km", "m", 1000), ("kg", "g", 1000), ("lb", "oz", 16), ("pounds", "ounces", 16), ("d", "h", 24), ("days", "hours", 24), ("weeks", "days", 7),
    ("years", "months", 12), ("yd", "ft", 3), ("dollars and", "cents", 100), ("^\\circ", "'", 60), ("°", "′", 60), ("degrees", "minutes", 60),
    ("小时", "分钟", 60), ("米", "厘米", 100), ("gal", "qt", 4), ("Stunden", "Minuten", 60), ("horas y", "minutos", 60), ("元", "角", 10),
    ("\\text{ h }", "\\text{ min}", 60), ("\\text{ ft }", "\\text{ in}", 12), ("h", "m", 60), ("L", "mL", 1000), ("hours,", "minutes", 60),
]  # fmt: skip


def compound(a: int, b: int, rng: Random) -> Iterator[tuple[str, str]]:
    """2 h 30 min: numbers or units exchanged, another total, one part only, a decimal of the two."""
    for larger, smaller, size in rng.sample(_COMPOUND, 12):
        gap = "" if larger[0] in "'^°小米元\\" else " "

        def put(x: object, y: object, u: str = larger, v: str = smaller, gap: str = gap) -> str:
            return f"{x}{gap}{u} {y}{gap}{v}"

        first, total = put(a, b), a * size + b
        for x, y in [(b, a), (a, b + 1), (a + 1, b), (a - 1, b), *_products(a, b)[:3]]:
            if x * size + y != total:
                yield first, put(x, y)
        if a != b:
            yield first, f"{a}{gap}{smaller} {b}{gap}{larger}".replace(" and ", " ").replace(",", "")
        yield first, f"{a}{gap}{larger}".removesuffix(" and").removesuffix(",")
        yield first, f"{b}{gap}{smaller}"
        yield first, f"{a} {b}"
        yield first, f"{a + b}{gap}{smaller}"
        yield first, f"not {first}"
        yield first, f"{first} or {put(b, a + 1)}"
        yield first, f"{total + 1}{gap}{smaller}"
        if total != a * b:
            yield first, f"{a * b}{gap}{smaller}"
            yield first, f"{a * b}"


_ORDERED = ["to", "in", "out of", "R", "remainder", "for every", "per", "r", "then", "until", "through", "over", "from", "\\text{ to }", "到", "bis", "à", "以",
            "\\text{ remainder }", "minus", "above", "for each", "within", "余", "-", "after", "\\text{ in }"]  # fmt: skip
_UNORDERED = [
    "or",
    "and",
    "\\text{ or }",
    "\\text{ and }",
    "或",
    "和",
    "oder",
    "und",
    "o",
    "y",
    "ou",
    "et",
    ",",
    ";",
    "или",
    "、",
]


def joined(a: int, b: int, rng: Random) -> Iterator[tuple[str, str]]:
    """a WORD b: exchanged where the order counts, another pair with the same product or sum, one number only, denied."""
    if a == b:
        return
    for word in (*rng.sample(_ORDERED, 7), *rng.sample(_UNORDERED, 5)):
        ordered, first = word in _ORDERED, f"{a} {word} {b}"
        value = a - b if word in ("-", "minus") else None
        others = [*_products(a, b), (a + 1, b - 1), (a, b + 1), (a, a + b)]
        for x, y in others:
            same = (x, y) == (a, b) if ordered else {x, y} == {a, b}
            if not same and x >= 0 <= y and (value is None or x - y != value) and Fraction(x, y or 1) != Fraction(a, b):
                yield first, f"{x} {word} {y}"
        if ordered:
            yield first, f"{b} {word} {a}"
        yield first, f"{a}"
        if word not in ("-", "minus"):
            yield first, f"{a * b}"
            yield first, f"not {first}" if word not in ("in",) else f"maybe {first}"
            yield first, f"{first} {word} {a + b + 1}"
        yield f"{a}", first if value != a else f"not {a}"


def sized(a: int, b: int, rng: Random) -> Iterator[tuple[str, str]]:
    """a ft by b ft: another pair with the same product."""
    for x, y in _products(a, b):
        for unit in (" ft", " cm", ""):
            yield f"{a}{unit} by {b}{unit}", f"{x}{unit} by {y}{unit}"
    for month in rng.sample("January March May July December Mai".split(), 2):  # noqa: SIM905
        for x, y in _products(a, 1900 + b)[:3]:
            yield f"{a} {month} {1900 + b}", f"{x} {month} {y}"
        yield f"{month} {a}", f"{month} {a + 1}"
        yield f"{a} {month} {1900 + b}", f"{a} {'June' if month != 'June' else 'July'} {1900 + b}"
    for p, q in (("N", "E"), ("N", "W"), ("S", "E")):
        if a != b:
            yield f"{a} {p} {b} {q}", f"{b} {p} {a} {q}"
            yield f"{p} {a}^\\circ {q}", f"{p} {b}^\\circ {q}"
        yield f"{p} {a}^\\circ {q}", f"{'S' if p == 'N' else 'N'} {a}^\\circ {q}"
        yield f"{p} {a}^\\circ {q}", f"{p} {a}^\\circ {'W' if q == 'E' else 'E'}"
        yield f"{a}^\\circ {p}", f"{a}^\\circ {'S' if p == 'N' else 'N'}"
    if a != b:
        yield f"{a} up, {b} down", f"{a} down, {b} up"
    yield f"{a} north", f"{a} south"
    yield f"{a} km east", f"{a} km west"
    if a != b:
        yield f"{a} boys and {b} girls", f"{b} boys and {a} girls"
        yield f"{a} red, {b} blue", f"{b} red, {a} blue"
        yield f"{a} adults, {b} children", f"{b} adults, {a} children"
        yield f"{a} apples and {b} pears", f"{a} pears and {b} apples"
        yield f"Ann {a}, Bob {b}", f"Ann {b}, Bob {a}"


def assigned(a: int, b: int, rng: Random) -> Iterator[tuple[str, str]]:
    """x = a, y = b: names or values exchanged, a name replaced, a value left out or added."""
    if a == b:
        return
    p, q = rng.choice(
        [("x", "y"), ("a", "b"), ("m", "n"), ("r", "s"), ("A", "B"), ("p", "q"), ("x_1", "x_2"), ("u", "v")]
    )
    yield f"({p},{q})=({a},{b})", f"({q},{p})=({a},{b})"
    yield f"({p},{q})=({a},{b})", f"({p},{q})=({b},{a})"
    yield f"({p},{q})=({a},{b})", f"({b},{a})"
    yield f"({p}, {q}) = ({a}, {b})", f"{q}={a}, {p}={b}"
    for join in (", ", " and ", "; ", " \\text{ and } ", "，", " und ", " y ", "\\quad "):
        first = f"{p}={a}{join}{q}={b}"
        yield first, f"{p}={b}{join}{q}={a}"
        yield first, f"{q}={a}{join}{p}={b}"
        yield first, f"{q}={b}"
        yield first, f"{first}{join}z={a + b}"
        yield first, f"{p}={a}{join}{q}={b + 1}"
        yield first, f"{p}={a} or {q}={b + 1}"
    yield f"({a},{b})", f"{p}={a} or {q}={b}"
    yield f"({a},{b})", f"{p}={a} or {b}"
    yield f"f(x)={a}x+{b}", f"f(y)={a}x+{b}"
    yield f"f(x)={a}x+{b}", f"f(x)={a}y+{b}"
    yield f"{q}={a}, {p}={b}", f"{b}, {a}"
    if (p, q) != ("x", "y"):  # a pair in brackets is a point, whose order is x, y
        yield f"{q}={a}, {p}={b}", f"({b}, {a})"
    yield f"{p}={a}, {q}={b}", f"{b}, {a}"
    yield f"{p}={a}, {q}={b}", f"({b}, {a})"
    yield f"{p}:{q}={a}:{b}", f"{q}:{p}={a}:{b}"
    yield f"{p}:{q}={a}:{b}", f"{b}:{a}"
    yield f"{p}={a}", f"{q}={b}"
    yield f"f({a})={b}", f"f({b})={a}"
    yield f"{p} > {q}", f"{q} > {p}"
    yield f"{p}<{q}<z", f"{q}<{p}<z"
    yield f"{p}={a} or {p}={b}", f"{p}={a + b} or {p}={b}"
    yield f"{p}={a} or {p}={b}", f"{p}={a}"
    yield f"y={a}x+{b}", f"y={b}x+{a}"
    yield f"y={a}x+{b}", f"x={a}y+{b}"
    yield f"y'={a}", f"y={a}"
    yield f"\\angle A={a}^\\circ, \\angle B={b}^\\circ", f"\\angle A={b}^\\circ, \\angle B={a}^\\circ"
    yield f"AB={a}, BC={b}", f"AB={b}, BC={a}"
    yield f"minimum {a}, maximum {b}", f"minimum {b}, maximum {a}"
    yield f"mean {a}, median {b}", f"mean {b}, median {a}"


def ratios(a: int, b: int, rng: Random) -> Iterator[tuple[str, str]]:
    """a : b, times of the day, scores, powers of ten, percentages of each other."""
    if a != b:
        yield f"{a}:{b}", f"{b}:{a}"
        yield f"\\frac{{{a}}}{{{b}}}", f"{b}:{a}"
        yield f"{a}:{b}:{a + b}", f"{b}:{a}:{a + b}"
        yield f"{a}^{{{b}}}" if a > 1 and b > 1 and {a, b} != {2, 4} else f"{a}:{b}:1", f"{b}^{{{a}}}"
    yield f"{a}:{b}", f"{a + 1}:{b}" if a else f"{a}:{b}:1"
    hour, minute = 1 + a % 12, b % 60
    yield f"{hour}:{minute:02d} PM", f"{hour}:{minute:02d} AM"
    yield f"{hour}:{minute:02d}", f"{hour}:{(minute + 1) % 60:02d}"
    yield f"{hour}:{minute:02d} a.m.", f"{hour}:{minute:02d} p.m."
    yield f"{a} \\times 10^{{{b}}}", f"{a} \\times 10^{{{b + 1}}}"
    yield f"{a} \\times 10^{{{b}}}", f"{a} \\times 10^{{-{b}}}"
    yield f"{a} \\times 10^{{{b}}}", f"{a + 1} \\times 10^{{{b}}}"
    yield f"{a}e{b}", f"{a}e{b + 1}"
    yield f"{a} \\pm {b}", f"{a} + {b}"
    yield f"{a} \\pm {b}", f"{a} \\pm {b + 1}"
    yield f"{a}\\frac{{{b}}}{{{b + 1}}}", f"{a} \\cdot \\frac{{{b}}}{{{b + 1}}}"
    yield f"{a}\\frac{{{b}}}{{{b + 1}}}", f"{a + 1}\\frac{{{b}}}{{{b + 1}}}"
    yield f"{a} + {b}i", f"{a} - {b}i"
    yield f"{a} + {b}i", f"{b + 1} + {a}i"
    yield f"{a} + {b}\\sqrt{{2}}", f"{a} - {b}\\sqrt{{2}}"
    yield f"x^2 + {a}x + {b}", f"x^2 + {a}x - {b}"
    yield f"[{a}, {a + b}]", f"[{a}, {a + b})"
    yield f"({a}, {a + b})", f"[{a}, {a + b}]"
    yield f"{a} \\le x \\le {a + b}", f"{a} < x < {a + b}"
    yield f"x < {a} or x > {a + b}", f"x < {a} and x > {a + b}"
    yield f"x < {a} or x > {a + b}", f"{a} < x < {a + b}"
    yield f"{a}_{{7}}", f"{a}_{{8}}" if a >= 7 and set(str(a)) <= set("0123456") else f"{a + 1}"


def families(numbers: list[str]) -> dict[str, Mutation]:
    """The builders as mutations: the second number of a pair is drawn from the numbers of the set."""
    pool = [n for text in numbers if (n := whole_number(text)) and 1 < n < 400] or [4, 6, 12, 30]

    def mutation(kind: str, builder: Builder) -> Mutation:
        def mutate(gold: Gold, rng: Random) -> Iterator[Case]:
            number = whole_number(stripped(gold.text))
            if gold.verifier == "math" and number and 1 < number < 400:
                for built, answer in builder(number, rng.choice(pool), rng):
                    if "".join(built.split()) != "".join(answer.split()):
                        yield Case(kind, built, answer)

        return mutate

    builders = {
        "compound measures": compound,
        "joined numbers": joined,
        "sizes, dates, counts": sized,
        "assignments": assigned,
        "ratios, times, pairs": ratios,
    }
    return {kind: mutation(kind, builder) for kind, builder in builders.items()}


#: Units that no other of the list equals for the same number, in words, as text, and in other languages; marks among them.
_UNITS = ["cm", "mm", "km", "kg", "mg", "inches", "feet", "miles", "hours", "minutes", "seconds", "days", "weeks", "years", "grams", "pounds", "dollars",
          "cents", "euros", "yuan", "cm^2", "cm^3", "m^2", "km/h", "m/s", "mph", "degrees", "liters", "apples", "oranges", "students", "^\\circ", "\\%",
          "°C", "°F", "m", "N", "J", "W", "V", "Hz", "square feet", "cubic meters", "radians", "people"]  # fmt: skip
#: Units that nobody writes behind a box unless they belong to the answer.
_MEASURES = frozenset(_UNITS[:15]) | {"km/h", "m/s", "mph", "degrees", "liters"}
_UNIT_FORMS = [
    "{n} {u}",
    "{n} {u}",
    "{n}\\text{ {u}}",
    "{n}\\ \\mathrm{{u}}",
    "{n}{u}",
    "{n} \\text{ {u} }",
    "${n}$ {u}",
]
_MONEY = [
    "\\${n}",
    "€{n}",
    "£{n}",
    "¥{n}",
    "₹{n}",
    "{n} euros",
    "{n} yuan",
    "{n}€",
    "{n} pounds sterling",
    "{n} USD",
    "{n} EUR",
    "{n} rupees",
]
_SAME_MONEY = [
    {"\\${n}", "{n} USD"},
    {"€{n}", "{n} euros", "{n}€", "{n} EUR"},
    {"£{n}", "{n} pounds sterling"},
    {"¥{n}", "{n} yuan"},
    {"₹{n}", "{n} rupees"},
]
_MARKS = ["'", '"', "''", "^{\\prime}", "^{\\prime\\prime}", "′", "″", "^\\prime", " minutes", " seconds", " radians", " rad", " grad", " cm", "\\%", " \\text{ rad}", "'' ",
          "^\\circ C", " hours", "^{\\circ}\\mathrm{F}", " 度F"]  # fmt: skip


def units(gold: Gold, rng: Random) -> Iterator[Case]:
    """The same number with another unit, inside the answer or behind the box; the unit with another number."""
    text = stripped(gold.text)
    value = plain_number(text)
    if value is None or value == 0 or gold.verifier != "math":
        return
    for _ in range(6):
        unit, other = rng.sample(_UNITS, 2)
        if {unit, other} <= {"^\\circ", "degrees"}:
            continue
        first = rng.choice(_UNIT_FORMS).replace("{n}", text).replace("{u}", unit)
        second = rng.choice(_UNIT_FORMS[:5]).replace("{n}", text).replace("{u}", other)
        if "$" in first and "\\" in unit:
            continue
        if {unit, other} not in ({"^\\circ", "°C"}, {"^\\circ", "°F"}, {"degrees", "°C"}, {"degrees", "°F"}):
            yield Case("units", first, second)
            if other in _MEASURES:
                yield Case("units outside the box", first, f"\\boxed{{{text}}} {other}", form=WHOLE)
                yield Case("units outside the box", first, f"<answer>\\boxed{{{text}}} {other}</answer>", form=WHOLE)
        yield Case("units", first, first.replace(text, str(other_number(value, rng)), 1))
        yield Case("units", first, f"{text} or {other_number(value, rng)} {unit}")
        yield Case("units", first, f"not {first}")
    bare = "\\$" if "\\" in text else "$"  # a lone dollar sign before LaTeX may open a formula
    for first in rng.sample(_MONEY, 3):
        for second in rng.sample(_MONEY, 4):
            if first != second and not any({first, second} <= same for same in _SAME_MONEY):
                yield Case("money", first.replace("{n}", text), second.replace("{n}", text))
        yield Case("money", first.replace("{n}", text), f"{text} cm")
        if not any(first in same for same in _SAME_MONEY[:1]):
            yield Case("money", first.replace("{n}", text), f"{bare}{text}")
        for more in ("M", "k", "B", " million", " billion", " thousand", "K", "万", " cents", " Millionen"):
            yield Case("money", f"\\${text}", f"\\${text}{more}")
            if more.strip() in ("M", "million", "billion", "B"):
                yield Case("money", f"\\${text}{more}", f"\\${text}")
        for more in ("‰", " basis points", " permil", " per mille"):
            yield Case("money", f"{text}\\%", f"{text}{more}")
        yield Case("money", f"{text} {rng.choice(_UNITS[:10])}", f"{bare}{text}")
        yield Case("money", f"{text} {rng.choice(_UNITS[:10])}", f"\\${text}")


def marks(gold: Gold, rng: Random) -> Iterator[Case]:
    """Degrees answered with minutes, seconds, radians; a multiple of pi answered with a degree sign."""
    text = stripped(gold.text)
    value = plain_number(text)
    if value and gold.verifier == "math":
        for mark in _MARKS:
            yield Case("marks", f"{text}^\\circ", f"{text}{mark}")
        yield Case("marks", f"{text}'", f"{text}^\\circ")
        yield Case("marks", f'{text}"', f"{text}'")
        yield Case("marks", f"{text}\\pi", f"{text}\\pi^\\circ")
        yield Case(
            "marks",
            f"\\frac{{\\pi}}{{{abs(value.numerator) + 2}}}",
            f"\\frac{{\\pi}}{{{abs(value.numerator) + 2}}}^\\circ",
        )
        yield Case("marks", f"{text}\\pi", f"{text}\\pi°")
        yield Case("marks", f"{text}\\sqrt{{3}}", f"{text}\\sqrt{{3}} \\approx {other_number(value, rng)}.57")


def bases(gold: Gold, rng: Random) -> Iterator[Case]:
    """A whole number answered with the same digits in a base; two bases."""
    text = stripped(gold.text)
    if gold.verifier != "math" or (whole_number(text) or 0) < 10 or text[0] == "0":
        return
    fitting = [base for base in range(2, 10) if int(max(text)) < base] + [12, 16]
    for base in rng.sample(fitting, min(3, len(fitting))):
        if int(text) >= base:
            for form in (
                "{n}_{b}",
                "{n}_{{b}}",
                "{n} (base {b})",
                "{n} in base {b}",
                "({n})_{b}",
                "{n}_{\\text{base } {b}}",
                "{n} \\text{ (base } {b})",
                "{n} base {b}",
            ):
                yield Case("bases", text, form.replace("{n}", text).replace("{b}", str(base)))
            other = next(b for b in (13, 11) if b != base)
            yield Case("bases", f"{text}_{{{base}}}", f"{text}_{{{other}}}")


def roundings(gold: Gold, rng: Random) -> Iterator[Case]:
    """An exact gold answered with a rounding, a short decimal with an endless value that rounds to it, a long one with fewer digits."""
    text = stripped(gold.text)
    value = plain_number(text)
    if value is None or value == 0 or gold.verifier != "math":
        return
    for places in (1, 2, 3, 4):
        short = f"{float(value):.{places}f}"
        if Fraction(short) != value:
            yield Case("roundings", text, short)
            yield Case("roundings", text, f"\\approx {short}")
    if value.denominator == 1:
        for near in (
            f"{text}.4",
            f"{text}.01",
            f"{text}.000001",
            f"\\frac{{{3 * value.numerator + 1}}}{{3}}",
            f"{value.numerator - 1}.99",
        ):
            if plain_number(near) != value:
                yield Case("roundings", text, near)
    for _ in range(3):  # an endless value that a gold of one or two digits is a rounding of
        bottom = rng.choice([7, 11, 13, 17, 19, 23, 29, 31, 37, 43, 70, 79, 97, 700, 710])
        exact = Fraction(rng.randint(1, bottom - 1), bottom)
        for places in (1, 2, 3):
            short = f"{float(exact):.{places}f}"
            if Fraction(short) != 0 and 10**12 % exact.denominator and len(short.replace(".", "").lstrip("0")) <= 2:
                yield Case("roundings", short, written(exact))


MUTATIONS: dict[str, Mutation] = {"units": units, "marks": marks, "bases": bases, "roundings": roundings}
