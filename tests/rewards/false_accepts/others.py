"""Wrong answers for the verifiers `choice`, `numeric`, `text` and `boxes`."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
)
from tests.rewards.false_accepts.words import LARGE, TABLES, answers

#: {A} is the gold's letter, {B} another one, {a} and {b} the texts of their options.
_LETTER_DENIED = r"""not {A} | {A} is wrong | {A} is incorrect | ({A}) is incorrect | {A}. is wrong | ({A}) cannot be right | {A} cannot be right | {A} is not correct
    | {A}? No | {A} is false | anything but {A} | all but {A} | not ({A}) | {A}' | \bar{{A}} | {A}, no | {A} is not the answer | the answer is not {A} | {A} is excluded | never {A}
    | ({A}) is wrong | {A}: wrong | {A} - incorrect | {A}) is ruled out | ({A}) does not hold | {A}. does not work | {A}. Incorrect | ({A}) wrong
    | option {A} is wrong | Option {A} is incorrect | option ({A}) is not correct | it is not {A} | it can't be {A} | {A} is eliminated | ({A}) fails | {A} (rejected)
    | I reject {A} | except {A} | other than {A} | {A} isn't right | the correct answer isn't {A} | {A}. can be ruled out | \text{not } {A} | \neq {A} | \text{({A}) is wrong}
    | {A} must be wrong | ({A}) is impossible | ({A}) is not true | choose anything except {A} | rule out {A} | {A} is the wrong answer | the wrong answer is {A}
    | {A}. This is incorrect | ({A}) — incorrect | {A} ✗ | {A} × | eliminate {A} | we can rule out {A} | ({A}) Wrong! | {A}. That cannot be | none of them, not {A}
    | 不是{A} | 不选{A} | {A}不对 | {A} 错误 | {A}是错的 | 答案不是{A} | {A}选项错误 | 排除{A} | {A}不正确 | 除了{A} | nicht {A} | {A} ist falsch | no es {A} | {A} es incorrecta
    | {A} es falso | pas {A} | {A} est faux | {A} est incorrect | не {A} | {A} неверно | {A}ではない | {A}は間違い | la respuesta no es {A} | {A}. ist falsch | ({A}) es incorrecta
    | ({A}) 错误 | {A}. 不对 | {A}. est fausse | {A}がちがう | non {A} | {A} è sbagliata | não é {A}"""
_LETTER_HEDGED = r"""maybe {A} | {A} maybe | perhaps {A} | possibly {A} | {A} or {B} | {B} or {A} | {A} and {B} | {A}, {B} | ({A}) or ({B}) | either {A} or {B} | {A}/{B} | ({A}), ({B})
    | {A} or none | {A} but maybe {B} | {A}? or {B} | {A}, maybe | probably {A} | {A} might be right | could be {A} | {A} if not {B} | {A} unless {B} | {A} or not | ({A}) maybe
    | {B}, not {A} | {B} rather than {A} | {B} instead of {A} | not {A} but {B} | {A} is wrong, {B} is right | {B} is right, {A} is wrong | {B} beats {A} | {A} und {B}
    | {A} oder {B} | {A} o {B} | {A} y {B} | {A} ou {B} | {A}或{B} | {A}和{B} | 可能是{A} | 也许{A} | vielleicht {A} | tal vez {A} | peut-être {A} | {A}、{B} | {A} или {B} | {A}またはは{B}
    | {A} {B} | ({A})({B}) | {A}; {B} | {A}\n{B} | {A} & {B} | {A} + {B} | {A} to {B} | {A}-{B} | {A} and not {B} or both | {A} over {B}? | both {A} and {B} | neither {A} nor {B}
    | ({A}) or perhaps ({B}) | {A}. or {B}. | ({A}), (97) | {A}. I am not sure | ({A}) I doubt it | {A}, though it may be {B} | {A} then {B} | first {A}, then {B} | {A} → {B}
    | {B} ({A}) | {A} = {B} | {A}, but {B} is better | I think {B}, not {A} | {A} seems right but it is {B} | {B} | ({B}) | {B}. | option {B} | The answer is {B} | 选{B} | 答案是{B}
    | \text{{B}} | \textbf{({B})} | {B}) | [{B}] | {B} is correct | 答案选{B} | Respuesta: {B} | Antwort: {B}"""
_LETTER_WITH_TEXT = (
    "{A}. {b} | ({A}) {b} | {B}. {a} | ({B}) {a} | {A}: {b} | {A}) {b} | {b} | {a} or {b} | not {a} | {A} {b} | {b} ({A}) | {a}, {b} | option {B}: {a} | {A}. not {a}"
    " | {A}. {a} is wrong | {b}, not {a} | maybe {a} | either {a} or {b} | {a} and {b} | {a} is incorrect | {A}. {a} or {B}. {b}"
)


def _plain(text: str) -> str:
    return "".join(text.replace("$", "").casefold().split())


def _split(table: str) -> list[str]:
    return [" ".join(part.split()) for part in table.split(" | ")]


def _apart(a: str, b: str) -> bool:
    """Whether two option texts surely say different things: other words without numbers, or two plain numbers."""
    x, y = plain_number(a), plain_number(b)
    if x is not None and y is not None:
        return x != y
    return (
        (x is None) == (y is None)
        and x is None
        and _plain(a) != _plain(b)
        and _plain(a).isalpha()
        and _plain(b).isalpha()
    )


def choices(gold: Gold, rng: Random) -> Iterator[Case]:
    """An option letter denied, hedged, or joined with another."""
    letter = stripped(gold.text).strip("()")
    if gold.verifier != "choice" or len(letter) != 1 or not "A" <= letter <= "H":
        return
    count = len(gold.choices) if gold.choices else 5
    others = [c for c in "ABCDEFGH"[:count] if c != letter]
    if not others or letter not in "ABCDEFGH"[:count]:
        return
    for kind, table in (("choice, denial", _LETTER_DENIED), ("choice, other or both", _LETTER_HEDGED)):
        for phrase in _split(table):
            answer = phrase.replace("{A}", letter).replace("{B}", rng.choice(others)).replace("\\n{", "\n{")
            yield Case(f"{kind}, without options", gold.text, answer, "choice")
            if gold.choices:
                yield Case(kind, gold.text, answer, "choice", gold.choices)


def choice_texts(gold: Gold, _: Random) -> Iterator[Case]:
    """An option letter with the text of another option: two claims."""
    letter = stripped(gold.text).strip("()")
    if gold.verifier != "choice" or not gold.choices or len(letter) != 1:
        return
    count = min(len(gold.choices), 8)
    if letter not in "ABCDEFGH"[:count]:
        return
    others = [c for c in "ABCDEFGH"[:count] if c != letter]
    here = gold.choices[ord(letter) - 65]
    for other in others:
        text = gold.choices[ord(other) - 65]
        if (
            not _apart(here, text)
            or (len(_plain(text)) == 1 and text.isalpha())
            or not all(_apart(here, t) for t in gold.choices if t != here)
        ):
            continue
        for phrase in _split(_LETTER_WITH_TEXT):
            answer = phrase.replace("{A}", letter).replace("{B}", other).replace("{a}", here).replace("{b}", text)
            yield Case("choice, texts", gold.text, answer, "choice", gold.choices)


def numeric(gold: Gold, rng: Random) -> Iterator[Case]:
    """A reading denied, hedged, joined; beyond its own last digit, and beyond a stated tolerance."""
    text = stripped(gold.text)
    value = plain_number(text)
    if value is None or "\\" in text or "/" in text:
        return
    for kind, (condition, _) in TABLES.items():
        found = answers(kind, text, rng) if condition != LARGE else []
        for answer in rng.sample(found, min(4, len(found))):
            if "approx" not in answer:  # a reading may say that it is one
                yield Case(f"numeric, {kind}", text, answer, "numeric")
    unit = Fraction(1, 10 ** len(text.partition(".")[2])) if "." in text else Fraction(0)
    for steps in (Fraction(3, 5), Fraction(1), Fraction(-3, 5), Fraction(7)):
        beyond = value + (steps * unit or steps)
        yield Case("numeric, beyond the last digit", text, f"{float(beyond):.15g}", "numeric")
    for tolerance in (0.01, 0.05, 0.1):
        for sign in (1, -1):
            beyond = value * (1 + sign * Fraction(str(tolerance)) * Fraction(11, 10))
            if abs(beyond - value) > unit and 10**6 > abs(value) > Fraction(1, 100):
                yield Case(
                    "numeric, beyond the tolerance",
                    text,
                    f"{float(beyond):.15g}",
                    "numeric",
                    meta={"tolerance": tolerance},
                )
                if tolerance >= 0.05:
                    relaxed = {"metric": "relaxed"}
                    yield Case("numeric, beyond the tolerance", text, f"{float(beyond):.15g}", "text", meta=relaxed)
    if value:
        yield Case(
            "numeric, beyond the tolerance", text, f"-{text}".replace("--", ""), "numeric", meta={"tolerance": 0.1}
        )
        for first, second in (
            ("cm", "m"),
            ("kg", "cm"),
            ("\\%", "cm"),
            ("hours", "minutes"),
            ("km/h", "m/s"),
            ("^\\circ", "cm"),
        ):
            yield Case("numeric, units", f"{text} {first}", f"{text} {second}", "numeric", meta={"tolerance": 0.05})


_WORDS = ["red", "blue", "dog", "New York", "left", "triangle", "two dogs", "a red car", "Monday", "open", "stop sign", "tennis", "north", "H2O", "increasing", "Paris",
          "on the table", "black and white", "baseball bat", "rhombus", "true", "false", "up", "isosceles triangle", "Germany", "winter", "bar chart", "10 apples"]  # fmt: skip
_SAID = r"""not {t} | {t} is wrong | maybe {t} | {t} or {u} | {u} | {t} and {u} | no {t} | un{t} | {t} not | never {t} | {u}, not {t} | {t}? no | isn't {t} | {t} {u} | {u} {t}
    | anything but {t} | {t}, {u} | either {t} or {u} | perhaps {t} | non-{t} | {t} is incorrect | it is not {t} | possibly {t} | nicht {t} | no es {t} | pas {t} | 不是{t} | {t}或{u}
    | {t} {t} | {t}s not | {t}less | not a {t} | opposite of {t} | {t}, no, {u} | {t} / {u} | almost {t} | {t} except {u} | {u} rather than {t} | {t}x | x{t}"""
_YES = r"""{n} | {n}. | {n}, it is | {n}, it is not | {n}! | {y} and {n} | {y} or {n} | {y}/{n} | not {y} | {y} is wrong | maybe {y} | {y}, but {n} | {n}, not {y} | {y}, no, {n} | {y}? {n}
    | {y}... {n} | perhaps {y} | {y}, maybe | {y}, I doubt it | {n}: {y} is wrong | {y} is incorrect | it is not {y} | {y} {n} | {y}, or {n} | {y}, perhaps not | unsure, {y}
    | {y} is not the answer | {y}, however not | 不是 | {y} would be wrong | {n}, the answer is not {y} | neither {y} nor {n} | {y}, that is false | {y}, this is incorrect | {y}, wrong | {y}, possibly | {y}, hardly | {y}, never | {y}, nope | {y}, nah
    | {y}, it isn't | {y}, unless it rains | {y}, that is untrue | {y}, perhaps | {y}, probably | {y}, I guess, but {n}"""


#: Behind a "no" these say no once more.
_AFFIRMS_NO = re.compile(r"\{y\}[,.].*(?:false|incorrect|wrong|not|n't|never|hardly|nope|nah|untrue)")


def texts(gold: Gold, rng: Random) -> Iterator[Case]:
    """Words denied, hedged, joined, reversed; yes and no exchanged or both. Which words: by the gold's own place in the set."""
    word = gold.text if gold.verifier == "text" else rng.choice(_WORDS)
    if word.casefold() not in ("yes", "no"):
        other = rng.choice([w for w in _WORDS if w != word])
        for phrase in rng.sample(_split(_SAID), 8):
            yield Case("text, words", word, phrase.replace("{t}", word).replace("{u}", other), "text")
        if len(word.split()) > 1 and "and" not in word.split():
            yield Case("text, words", word, " ".join(word.split()[::-1]), "text")
            if word.split()[0] != "a":
                yield Case("text, words", word, " ".join(word.split()[1:]), "text")
    yes, no = rng.choice([("yes", "no"), ("no", "yes"), ("Yes", "No"), ("No", "Yes")])
    for phrase in rng.sample(_split(_YES), 8):
        if yes.casefold() == "no" and _AFFIRMS_NO.match(phrase):
            continue
        yield Case("text, yes or no", yes, phrase.replace("{y}", yes.casefold()).replace("{n}", no.casefold()), "text")


def boxes(gold: Gold, rng: Random) -> Iterator[Case]:
    """A box with exchanged, moved, scaled or missing coordinates whose overlap, computed here, is too small; points outside."""
    if plain_number(gold.text) is None:
        return
    x, y = rng.randint(0, 300), rng.randint(0, 300)
    wide, tall = rng.randint(20, 200), rng.randint(20, 200)
    box = [x, y, x + wide, y + tall]
    first = str(box)
    turned = [
        [box[1], box[0], box[3], box[2]], [box[2], box[3], box[0], box[1]], [x, x + wide, y, y + tall], [x, y, wide, tall], [2 * n for n in box],
        [n / 1000 for n in box], [n // 2 for n in box], [x + wide, y, x + 2 * wide, y + tall], [-n - 1 for n in box], box[::-1], [x, y + tall, x + wide, y],
        [x, y, x + wide, y + tall * 3], [x, y, x + wide // 3, y + tall], [n + 1000 for n in box], [0, 0, 1000, 1000],
    ]  # fmt: skip
    for other in turned:
        if _overlap(box, other) < Fraction(49, 100):
            yield Case("boxes", first, str(other), "boxes")
            yield Case("boxes", first, str(other), "boxes", meta={"iou": 0.75})
    for text in (f"not {first}", f"{first} or {[n + 1 for n in box]}", str(box[:3]), str([*box, 7]), f"maybe {first}", f"{first} is wrong",
                 f"either {first}", f"{x}, {y} or {x + wide}, {y + tall}", f"不是{first}"):  # fmt: skip
        yield Case("boxes", first, text, "boxes")
    for point in ((x - 1, y - 1), (x + wide + 1, y), (x, y + tall + 1), (y + 1000, x), (-x - 1, -y - 1)):
        yield Case("boxes", first, f"({point[0]}, {point[1]})", "boxes")
    yield Case("boxes", f"[{x}, {y}]", f"({x}, {y + 6})", "boxes", meta={"radius": 5})
    if abs(x - y) > 5:
        yield Case("boxes", f"[{x}, {y}]", f"({y}, {x})", "boxes", meta={"radius": 5})
    yield Case("boxes", f"[{x}, {y}]", first, "boxes", meta={"radius": 5})


def _overlap(a: list[int], b: list[float]) -> Fraction:
    """Intersection over union with exact fractions; 0 for a box without an area."""
    c = [Fraction(n) for n in b]
    if not (c[0] < c[2] and c[1] < c[3]):
        return Fraction(0)
    shared = max(Fraction(0), min(a[2], c[2]) - max(a[0], c[0])) * max(Fraction(0), min(a[3], c[3]) - max(a[1], c[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (c[2] - c[0]) * (c[3] - c[1]) - shared)


#: What stands right beside a box and makes it no answer, or another one: [] is the box, {w} another number.
_BESIDE = r"""not [] | it cannot be [] | it can't be [] | maybe [] | perhaps [] | I doubt that [] | I guess [] | the wrong answer is [] | less than [] | more than [] | n < [] | n \ne [] | nicht [] | no es [] | не [] | 不是[]
    | [] is wrong | [] is not right | [] (incorrect) | [], which is false | [] or {w} | [] or [{w}] | [{w}] or [] | [] — wait, {w} | []? | Is it []? | []ではない | []是错的 | []이 아니다
    | \sqrt{[]} | \cancel{[]} | \frac{1}{[]} | 3[] | []7 | [].5 | []^2 | []/{w} | [] + {w} | [] \times {w} | [] thousand | [] million people | [] dozen | []万"""


def beside(gold: Gold, rng: Random) -> Iterator[Case]:
    """The gold in a box, and beside it what denies it or goes on with it: no part of a whole number of two or more is the whole."""
    value = whole_number(stripped(gold.text))
    if gold.verifier != "math" or value is None or value < 2:
        return
    for phrase in _split(_BESIDE):
        other = str(other_number(Fraction(value), rng))
        text = phrase.replace("[{w}]", f"\\boxed{{{other}}}").replace("{w}", other).replace("[]", f"\\boxed{{{value}}}")
        for form in ("<answer>{}</answer>", "<think>t</think>So {}", "<answer>$ {}$</answer>"):
            if form == "<answer>{}</answer>" or phrase[0] == "[":
                yield Case("beside the box", gold.text, form.replace("{}", text), form=WHOLE)


MUTATIONS: dict[str, Mutation] = {
    "choices": choices,
    "choice texts": choice_texts,
    "numeric": numeric,
    "texts": texts,
    "beside": beside,
    "boxes": boxes,
}
