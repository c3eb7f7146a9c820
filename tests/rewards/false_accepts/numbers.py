r"""Numbers written in words and in other notations: another number, or the same one denied, joined, multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random

from tests.rewards.false_accepts.cases import Case, Gold, Mutation, plain_number, stripped, whole_number

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()  # noqa: SIM905
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
_SPELLED = """not {t} | {t} or {u} | {t} and {u} | {t} hundred | {t} thousand | {t} million | minus {t} | negative {t} | maybe {t} | twice {t} | {t} to {u} | {t} dozen | at least {t}
    | {t} percent of {u} | {t} squared | half of {t} | {u} | {t} eighths | {t} point five | {t} and a half | {t} times {u} | {t} plus {u} | {t} or more | more than {t} | either {t} or {u}
    | anything but {t} | {t} is wrong | neither {t} nor {u} | {u}, not {t} | {t}-thirds | {t} over {u} | {t} out of {u} | one {t}th | a {t}th | {t} {u} | {t}, {u} | double {t}"""
_DIGITS = "零一二三四五六七八九十"


def spelled(number: int) -> str:
    """English words for 0 to 99."""
    return _ONES[number] if number < 20 else _TENS[number // 10 - 2] + (f"-{_ONES[number % 10]}" if number % 10 else "")


def in_words(gold: Gold, rng: Random) -> Iterator[Case]:
    """The gold in words, denied, joined, multiplied; another number in words, in English and Chinese."""
    text = stripped(gold.text)
    number = whole_number(text)
    if gold.verifier != "math" or number is None or not 3 <= number < 99:
        return
    other = rng.choice([n for n in range(2, 99) if n != number])
    for phrase in _SPELLED.split(" | "):
        yield Case(
            "in words", text, " ".join(phrase.split()).replace("{t}", spelled(number)).replace("{u}", spelled(other))
        )
    yield Case("in words", text, spelled(number).replace("-", " ") + " or not")
    if number <= 10:
        for phrase in (
            "不是{}",
            "{}百",
            "{}千",
            "{}万",
            "可能是{}",
            "{}或二十",
            "{}分之一",
            "{}点五",
            "负{}",
            "第{}个的一半",
            "{}到二十",
            "至少{}",
        ):
            yield Case("in words", text, phrase.replace("{}", _DIGITS[number]))
        yield Case("in words", text, _DIGITS[number - 1])


_SUPER = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_WIDE = str.maketrans("0123456789", "０１２３４５６７８９")


def notation(gold: Gold, rng: Random) -> Iterator[Case]:
    """Misplaced commas and points, exponents, roots, hexadecimal, full-width digits: each spells another number."""
    text = stripped(gold.text)
    value = plain_number(text)
    if (
        gold.verifier != "math"
        or value is None
        or value <= 1
        or whole_number(text.replace(".", "", 1)) is None
        or text[0] == "0"
    ):
        return
    wide = str(int(value) + 1).translate(_WIDE)
    found = [f"{text}²", f"√{text}", f"½ \\cdot {text}", f"−{text}", f"{text}⁻¹", f"∛{text}", f"1/{text}", f"{text}π", f"{text}e1", f"{text}e-1", f"{text}E2",
             f"{text} \\cdot 10^{{1}}", f"{text}×10²", f"0.{text.replace('.', '')}", f"{text}{text}", f"{text}.{text.replace('.', '')}1" if "." not in text else f"{text}1",
             wide, f"−{wide}", f"{text}i", f"√{{{text}}}", f"{text}°{text}′", f"{text}½", f"{text} 1/2", f"{text}\\frac{{1}}{{2}}", f"1{text}", f"{text}{rng.randint(1, 9)}"]  # fmt: skip
    if whole_number(text) is not None:
        found += [f"2{text.translate(_SUPER)}", f"{text}!" if value > 2 else f"{text}²", f"0x{text}" if value > 9 else f"0x1{text}", f"{text}.5", f"{text},5", f"{text}.000001",
                  f"0.{text}", f"{text}%{text}", f"{text}.\\overline{{3}}", f"{text}.\\dot{{3}}", f"{text}.(3)", f"{text}k", f"{text}M$", f"\\${text}k", f"{text},000", f"{text} 000",
                  f"{text}\\,000", f"{text}{{,}}000"]  # fmt: skip
        if value >= 1000:
            found += [
                f"{text[:-3]}.{text[-3:]}",
                f"{text[:-2]},{text[-2:]}",
                f"{text[:-1]},{text[-1]}",
                f"{text[:1]} {text[1:3]} {text[3:]}0",
                f"{text[:-2]}.{text[-2:]}",
            ]
    if value.denominator > 1:
        found += [f"{text.replace('.', ',')}5", text.replace(".", "")]
        first, rest = text.split(".")
        found.append(f"{first}.{rest[:-1]}\\overline{{{(int(rest[-1]) + 5) % 10}}}")
        found.append(f"{int(first) + 1}.{rest}")
    for answer in found:
        if plain_number(answer) != value:
            yield Case("notation", text, answer)


def repeating(gold: Gold, rng: Random) -> Iterator[Case]:
    """A fraction with an endless expansion answered with another repeating decimal."""
    value = plain_number(gold.text)
    if gold.verifier != "math" or value is None or not 0 < value < 1 or 10**12 % value.denominator == 0:
        return
    for period in {str(rng.randint(1, 998)) for _ in range(4)}:
        if Fraction(int(period), 10 ** len(period) - 1) != value:
            yield from (
                Case("repeating decimals", gold.text, form.replace("{}", period))
                for form in ("0.\\overline{{}}", "0.({})", "0.\\dot{{}}", "0.{}...")
            )


MUTATIONS: dict[str, Mutation] = {"in words": in_words, "notation": notation, "repeating decimals": repeating}
