r"""Units behind a number: finding them, one spelling for each, and which of them measure the same thing.

    12\text{ cm}^2  ->  ("12", "cm2");   60 miles per hour  ->  ("60", "mile/h");   1.5 hours  =  90 minutes

A unit is any word that does not change what the number says ("apples" is one, "dozen" is not). Only units of the
table below are converted; two others are equal when they are spelled alike. Factors are exact by definition
(international yard and pound, 1959). Symbols keep their case: mW is not MW.

Left out: prefixes and currencies beyond the table; degrees, which equality.py compares with multiples of pi.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from lmm_r1.rewards.foreign import is_foreign_unit
from lmm_r1.rewards.spelling import KRAM, MARK
from lmm_r1.rewards.words import DENYING

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = (
    {word: n for n, word in enumerate(_ONES.split())}
    | {word: 20 + 10 * n for n, word in enumerate(_TENS.split())}
    | {"hundred": 100, "one hundred": 100}
)
#: Characters at the end of a text that could be a unit.
MAX_UNIT = 160
_POWER = r"(?:\s?\^\s?\{?\s?-?\d\s?\}?)?"
_ATOM = rf"(?:{MARK}[a-zA-Z'µΩ][^{MARK}{KRAM}\d=<>+^]{{0,60}}(?:\^\{{?-?\d\}}?[^{MARK}{KRAM}\d=<>+^]{{0,20}}){{0,3}}{KRAM}|[a-zA-Zµ]+(?![a-zA-Zµ])){_POWER}"
#: Everything behind the last digit or bracket that could be a unit; at most eight words.
_REGION = re.compile(rf"(?<![a-zA-Z\\_{MARK}])(?<!\\[,; ]){_ATOM}(?:\s?(?:/|\\cdot|\*)?\s?{_ATOM}){{0,7}}$")
_ATOMS = re.compile(_ATOM)
_FRACTION_UNIT = re.compile(
    rf"\\frac\s?\{{\s?{MARK}?\s?([a-zA-Z]{{1,10}})\s?{KRAM}?\s?\}}\s?\{{\s?{MARK}?\s?([a-zA-Z]{{1,10}})\s?{KRAM}?\s?(?:\^\s?\{{?([23])\}}?)?\s?\}}$"
)
_TOKEN = re.compile(r"(?P<word>[^\W\d_][\w'’-]*\.?|'{1,2})|\^\s?\{?\s?(?P<power>-?\d)\s?\}?|(?P<over>/)|\*|\\cdot")
_PLAIN_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)? ")
#: One letter behind a number and a space, as people write measures; glued to it, it may be a variable.
_LETTERS = frozenset("mghslLNJWV")
#: Words that change what a number says; "5 or more" is not 5.
_CHANGING_WORDS = (
    "and at about only when right true mod pi is are was be been by to in zero minus plus times divided choose through out of for with "
    "squared cubed factorial root power percent pct percentage half halves third thirds quarter quarters fourth fourths fifth fifths "
    "sixth sixths seventh eighths eighth ninth ninths tenth tenths hundredth hundredths thousandth thousandths dozen dozens "
    "tens doubled tripled halved double triple twice thrice negative subtracted reversed imaginary score gross remainder "
    "approximately roughly around et y o und e a to per lakh lakhs crore crores myriad myriads hundert tausend million millionen milliarde milliarden "
    "dutzend mille milliard milliards mil millón millon millones milhões cien ciento cientos docena docenas dúzia dúzias douzaine douzaines centaine "
    "centaines billón billones тысяч тысяча миллион миллионов squares cubes powers roots reciprocal reciprocals inverse inverses complement negatives opposites factorials "
    "contradicts diverges converges varies depends applies works holds counts exists means equals exceeds remains seems looks appears divides leaves makes gives becomes results belongs satisfies violates vanishes suffices contains includes happens occurs says claims yields guesses always sideways anyways besides unless thus yes das des les dos "
    "fails excludes denies misses differs errs loses falls remains was needs has does plus-minus radicals logs "
    "hundred hundreds thousand thousands million millions billion billions trillion trillions infinity"
)
_NO_UNIT = frozenset(_CHANGING_WORDS.split()) | frozenset(_NUMBER_WORDS) | DENYING
_FRACTIONS = re.compile(r"(?:\w{1,6}illion|\w{0,8}thousand|\w{0,8}hundred|eleven|twelf|\w{2,6}teen|\w{2,5}tie)ths?")
#: Nouns that are not written with an s; a word that is neither these, nor a unit of the table, nor a plural, is no unit.
_NOUN_LIST = (
    "total altogether overall exactly bps pts people men women children person man woman child feet fish sheep deer mice geese oxen teeth units unit piece data water sugar flour milk paper rice money "
    "students yuan yen won euro sterling rupee pence won krona kroner peso real franc baht dong rand lira zloty cal kcal mol eV kWh K C ohm rad degree degreeF degreeC"
)
_NOUNS = frozenset(_NOUN_LIST.split())
_PREPOSITIONS = frozenset(("of", "in", "for", "at", "with", "by"))

_F = Fraction
_Size = tuple[dict[str, int], Fraction]


def _of(size: Fraction | int, **powers: int) -> _Size:
    return powers, Fraction(size)


#: unit -> (powers of what it measures, how many of the first unit of that it is): metre, gram, second, ampere, dollar.
_MEASURES: dict[str, _Size] = {
    "m": _of(1, length=1), "mm": _of(_F(1, 1000), length=1), "cm": _of(_F(1, 100), length=1), "dm": _of(_F(1, 10), length=1),
    "km": _of(1000, length=1), "um": _of(_F(1, 10**6), length=1), "nm": _of(_F(1, 10**9), length=1), "in": _of(_F(127, 5000), length=1),
    "ft": _of(_F(381, 1250), length=1), "yd": _of(_F(1143, 1250), length=1), "mile": _of(_F(201168, 125), length=1),
    "g": _of(1, mass=1), "mg": _of(_F(1, 1000), mass=1), "kg": _of(1000, mass=1), "tonne": _of(10**6, mass=1),
    "lb": _of(_F(45359237, 100000), mass=1), "pound": _of(_F(45359237, 100000), mass=1), "oz": _of(_F(45359237, 1600000), mass=1),
    "s": _of(1, time=1), "ms": _of(_F(1, 1000), time=1), "min": _of(60, time=1), "h": _of(3600, time=1), "day": _of(86400, time=1),
    "week": _of(604800, time=1), "month": _of(1, months=1), "year": _of(12, months=1), "decade": _of(120, months=1),
    "century": _of(1200, months=1), "dollar": _of(1, money=1), "cent": _of(_F(1, 100), money=1), "sterling": _of(1, sterling=1), "euro": _of(1, euro=1), "yuan": _of(1, yuan=1), "yen": _of(1, yen=1), "yenyuan": _of(1, yenyuan=1), "rupee": _of(1, rupee=1), "won": _of(1, won=1),
    "pence": _of(_F(1, 100), sterling=1), "l": _of(_F(1, 1000), length=3), "ml": _of(_F(1, 10**6), length=3), "cl": _of(_F(1, 10**5), length=3),
    "dl": _of(_F(1, 10**4), length=3), "kl": _of(1, length=3), "gallon": _of(_F(473176473, 125 * 10**9), length=3),
    "quart": _of(_F(473176473, 5 * 10**11), length=3), "pint": _of(_F(473176473, 10**12), length=3), "hectare": _of(10**4, length=2),
    "acre": _of(_F(40468564224, 10**7), length=2), "N": _of(1000, mass=1, length=1, time=-2), "kN": _of(10**6, mass=1, length=1, time=-2),
    "J": _of(1000, mass=1, length=2, time=-2), "kJ": _of(10**6, mass=1, length=2, time=-2), "MJ": _of(10**9, mass=1, length=2, time=-2),
    "W": _of(1000, mass=1, length=2, time=-3), "kW": _of(10**6, mass=1, length=2, time=-3), "MW": _of(10**9, mass=1, length=2, time=-3),
    "mW": _of(1, mass=1, length=2, time=-3), "Pa": _of(1000, mass=1, length=-1, time=-2), "hPa": _of(10**5, mass=1, length=-1, time=-2),
    "kPa": _of(10**6, mass=1, length=-1, time=-2), "MPa": _of(10**9, mass=1, length=-1, time=-2), "Hz": _of(1, time=-1), "kHz": _of(1000, time=-1),
    "MHz": _of(10**6, time=-1), "GHz": _of(10**9, time=-1), "A": _of(1, current=1), "mA": _of(_F(1, 1000), current=1),
    "V": _of(1000, mass=1, length=2, time=-3, current=-1), "mV": _of(1, mass=1, length=2, time=-3, current=-1),
    "kV": _of(10**6, mass=1, length=2, time=-3, current=-1), "ohm": _of(1000, mass=1, length=2, time=-3, current=-2),
    "degree": _of(1, angle=1), "arcmin": _of(_F(1, 60), angle=1), "arcsec": _of(_F(1, 3600), angle=1),
}  # fmt: skip
#: Symbols whose case counts, beside the keys above.
_SYMBOLS = dict.fromkeys(_MEASURES) | {
    "K": None,
    "C": None,
    "mol": None,
    "cal": None,
    "kcal": None,
    "eV": None,
    "kWh": None,
}
_ALIASES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km", "decimeter": "dm", "decimetre": "dm",
    "millimeter": "mm", "millimetre": "mm", "micrometer": "um", "µm": "um", "nanometer": "nm", "inch": "in", "inche": "in", "foot": "ft",
    "feet": "ft", "yard": "yd", "mi": "mile", "kilogram": "kg", "kilo": "kg", "gram": "g", "gramme": "g", "milligram": "mg",
    "lbs": "lb", "ounce": "oz", "cents": "cent", "hour": "h", "hr": "h", "hrs": "h", "minute": "min", "mins": "min", "second": "s", "sec": "s",
    "secs": "s", "liter": "l", "litre": "l", "milliliter": "ml", "millilitre": "ml", "centiliter": "cl", "ton": "ton", "tonne": "tonne",
    "gal": "gallon", "usd": "dollar", "buck": "dollar", "eur": "euro", "gbp": "sterling", "penny": "cent", "newton": "N", "joule": "J", "watt": "W",
    "kilowatt": "kW", "volt": "V", "ampere": "A", "amp": "A", "pascal": "Pa", "hertz": "Hz", "kilojoule": "kJ", "centurie": "century",
    "days": "day", "rmb": "yuan", "cny": "yuan", "jpy": "yen", "km": "km", "kg": "kg", "cm": "cm", "mm": "mm", "ml": "ml", "ft": "ft", "hz": "Hz",
    "lb": "lb", "oz": "oz", "min": "min", "yd": "yd", "kpa": "kPa", "ha": "hectare", "l": "l", "ohm": "ohm", "'": "ft", "''": "in", "fahrenheit": "degreeF",
    "celsiu": "degreeC", "celsius": "degreeC", "radian": "rad", "rad": "rad", "litro": "l", "metro": "m", "stunde": "h", "minuten": "min", "stunden": "h",
    "heure": "h", "hora": "h", "minuto": "min", "segundo": "s", "sekunde": "s", "sekunden": "s", "seconde": "s", "centimetro": "cm", "tage": "day", "jour": "day", "kilometro": "km",
}  # fmt: skip
_NOUNS_BY_ALIAS = frozenset(_ALIASES.values())
_QUOTIENTS = {"mph": "mile/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h", "cc": "cm3", "fps": "ft/s", "mps": "m/s"}
_SHORT_NAMES = "mm cm dm km in ft yd mi kg mg lb oz ml mL cl cL kL ms min hr hrs day days gal usd USD lbs sec secs mins cc Hz kHz MHz GHz mV kV mA ohm Pa kPa hPa MPa kJ MJ kW MW mW kN mph kmh kph cal mol eV kWh sq cu bps pts EUR GBP RMB CNY JPY rad KM Km CM Cm KG Kg MM Mm µm fps"
_SHORT = frozenset(_SHORT_NAMES.split())


def spelled(word: str) -> int | None:
    """seven, twenty one: the number that words spell, up to a hundred."""
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word]
    tens, _, ones = word.partition(" ")
    a, b = _NUMBER_WORDS.get(tens, 0), _NUMBER_WORDS.get(ones, 0)
    return a + b if 20 <= a < 100 and 1 <= b <= 9 else None


def without_unit(text: str) -> tuple[str, str]:
    """(what stands before a trailing unit, the unit in one spelling); ("text", "") when there is none."""
    quotient = _FRACTION_UNIT.search(text)
    if quotient and text[: quotient.start()].strip():
        top, bottom, power = quotient.groups()
        unit = unit_of(f"{top}/{bottom}^{power or 1}")
        if measure(unit) is not None:
            return text[: quotient.start()].strip(), unit
    region = _REGION.search(text, max(0, len(text) - MAX_UNIT))
    if region is None:
        return text, ""
    for atom in _ATOMS.finditer(text, region.start()):
        before, written = text[: atom.start()], text[atom.start() :]
        if not before.strip():
            continue
        unit = unit_of(written.replace(MARK, " ").replace(KRAM, " "))
        if not unit:
            return text, ""
        if _is_written_as_unit(before, written, unit):
            return before.strip().rstrip("/*").strip(), unit
    return text, ""


def _is_written_as_unit(before: str, written: str, unit: str) -> bool:
    r"""Whether words are no product of variables: all marked by \text, or long, known, or a quotient such as m/s."""
    bare = [m.group() for m in re.finditer(rf"{MARK}[^{KRAM}]*{KRAM}|[a-zA-Zµ]+", written) if m.group()[0] != MARK]
    if before[-1:].isalpha() or before.rstrip()[-1:] in ("/", "^", "_", "*"):
        return False
    if all(word in _SHORT or len(word) >= 4 or (word in ("per", "of", "for") and len(bare) > 1) for word in bare):
        return True
    if len(unit) > 1 and measure(unit) is not None and ("/" in unit or "*" in unit):
        return True
    return len(bare) == 1 and unit in {_symbol(letter) for letter in _LETTERS} and bool(_PLAIN_NUMBER.fullmatch(before))


def changes_number(word: str) -> bool:
    """Whether a word behind a number changes what it says: 5 squared, 5 of six, 5 to the third."""
    return (
        word in _NO_UNIT
        and word not in _PREPOSITIONS
        and word not in ("to", "a", "and", "is", "are", "was", "be", "only", "out", "y", "o", "e")
    )


def _symbol(word: str) -> str:
    """One spelling of a unit's name."""
    word = word.rstrip(".")
    if word in _SYMBOLS:
        return word
    if word in ("L", "mL", "cL", "dL", "kL"):
        return word.lower()
    if len(word) == 1 and word.isalpha():
        return word  # M and S are no metre and no second
    low = word.lower()
    if low in _ALIASES:
        return _ALIASES[low]
    low = low[:-1] if len(low) > 3 and low.endswith("s") and not low.endswith("ss") else low
    return _ALIASES.get(low, low)


@lru_cache(maxsize=1024)
def unit_of(written: str) -> str:
    r"""One spelling of a unit: "m s^{-2}", "metres per second squared" and "m/s^2" are "m/s2"; "" for no unit."""
    sign, power_before = 1, 1
    parts: list[tuple[str, int]] = []
    for token in _TOKEN.finditer(written):
        word, power = token.group("word"), token.group("power")
        if token.group("over") or (word and word.lower() in ("per", "pro", "por", "par") and parts):
            sign = -1
        elif power is not None:
            if not parts:
                return ""
            name, old = parts[-1]
            parts[-1] = (name, (1 if old > 0 else -1) * int(power))
        elif word:
            low = word.lower().rstrip(".")
            if low in ("square", "sq"):
                power_before = 2
            elif low in ("cubic", "cu"):
                power_before = 3
            elif low in ("squared", "cubed") and parts and _symbol(parts[-1][0]) in _MEASURES:
                name, old = parts[-1]
                parts[-1] = (name, (1 if old > 0 else -1) * (2 if low == "squared" else 3))
            elif low == "sterling" and parts and _symbol(parts[-1][0]) in ("lb", "pound"):
                parts[-1] = ("sterling", parts[-1][1])
            elif (
                low in _NO_UNIT and word.rstrip(".") not in _SHORT and not (low in _PREPOSITIONS and parts)
            ) or low.endswith("n't"):
                return ""
            else:
                parts.append((word, sign * power_before))
                power_before = 1
    return _joined(parts) if all(map(_is_noun, _last_words(parts))) else ""


def _last_words(parts: list[tuple[str, int]]) -> list[str]:
    """The words that say what is counted: the last above and the last below the line."""
    above, below = ([word for word, power in parts if (power > 0) == side] for side in (True, False))
    return [words[-1] for words in (above, below) if words]


def _is_noun(word: str) -> bool:
    """Whether a word can be what is counted; adverbs, verbs and multipliers of any language are left out by this."""
    low = word.lower().rstrip(".")
    name = _symbol(word)
    if name in _SYMBOLS or name in _NOUNS or low in _QUOTIENTS or low in _NOUNS or name in _NOUNS_BY_ALIAS:
        return True
    return (
        len(low) > 3
        and low.endswith("s")
        and not low.endswith(("ss", "us", "is", "wards"))
        and not _FRACTIONS.fullmatch(low)
    )


def _joined(parts: list[tuple[str, int]]) -> str:
    """km/h, m/s2, kg*m2; names that are no known units stand together as they are written."""
    named: list[tuple[str, int]] = []
    plain = False
    for word, power in parts:
        name = _QUOTIENTS.get(word.lower(), "") or _symbol(word)
        known = name in _SYMBOLS or "/" in name
        if named and plain and not known and (power > 0) == (named[-1][1] > 0):
            named[-1] = (f"{named[-1][0]} {name}", power)
        else:
            named.append((name, power))
        plain = not known
    if len(named) == 1 and named[0][0] in _QUOTIENTS.values():
        return named[0][0] if named[0][1] == 1 else ""
    over = [f"{n}{p if p > 1 else ''}" for n, p in named if p > 0]
    under = [f"{n}{-p if p < -1 else ''}" for n, p in named if p < 0]
    return "*".join(over) + "".join(f"/{u}" for u in under)


@lru_cache(maxsize=1024)
def measure(unit: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | None:
    """((quantity, power) sorted, the factor to its first unit); None for a unit that is not converted.

    measure("km/h") is ((("length", 1), ("time", -1)), 5/18).
    """
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for k, part in enumerate(unit.split("/")):
        for piece in part.split("*"):
            match = re.fullmatch(r"([a-zA-Z]+)([1-9]?)", piece)
            if match is None or match.group(1) not in _MEASURES:
                return None
            power = int(match.group(2) or 1) * (-1 if k else 1)
            quantities, size = _MEASURES[match.group(1)]
            factor *= size**power
            for quantity, count in quantities.items():
                powers[quantity] = powers.get(quantity, 0) + count * power
    return tuple(sorted((q, p) for q, p in powers.items() if p)), factor


def conversion(unit: str, other: str) -> Fraction | None:
    """How many `other` one `unit` is; None when they do not measure the same thing, or are not in the table."""
    a, b = measure(unit), measure(other)
    return a[1] / b[1] if a is not None and b is not None and a[0] == b[0] else None


def is_measure(written: str) -> bool:
    """Whether a word is a unit of the table, a percent sign or one of degree: what may stand behind a box and belong to it."""
    if is_foreign_unit(written.strip()):
        return True
    bare = _WRAPPED.sub(r"\1", written.strip().lstrip("~").strip())
    bare = re.sub(r"^(?:\\[,; ]|\s)+", "", bare)
    return (
        bare in ("%", "\\%", "°", "^\\circ", "^{\\circ}", "percent", "degrees", "radians", "rad")
        or measure(unit_of(bare.replace("²", "^2").replace("³", "^3"))) is not None
    )


def is_scale(word: str) -> bool:
    """Whether a word multiplies the number before it."""
    return word in _SCALES


_SCALES = frozenset("thousand million billion trillion dozen hundred 万 萬 亿 億".split())  # noqa: SIM905
_WRAPPED = re.compile(r"\\(?:text|mathrm|rm|textrm)\s?\{\s?([^{}]*?)\s?\}")
