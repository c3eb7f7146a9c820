"""The `math` verifier: are two answers the same mathematical object?

Numbers, fractions, radicals, polynomials and units are compared exactly; lists, sets, tuples and
intervals item by item; what cannot be read exactly, as normalised strings. Decisions that need one:

* A unit or a percent sign may be left out by one side; two different units are two different answers, and one
  beside the box is read. A base may be left out by the answer alone.
* "x = 3" answers 3. In a list of assignments the names count.
* An unfinished computation (27+36-33 for 30, 9*8*7 for 504) is not an answer, unless the gold is one:
  else copying the question pays. A form in which answers are written (8/2, 2^10, 5!) is one.
* A decimal answers an exact gold when it has six right digits after the point; an exact answer, a gold
  that is itself a rounding (three significant digits or more), when it rounds to it.
* A word between numbers is a word. What denies, hedges or is not understood equals nothing.

A verdict never raises, whatever the strings. Reading: answers.py; comparing: equality.py. Source of the cases: the published
checkers' known faults; nothing of them is used here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from lmm_r1.rewards.answers import read
from lmm_r1.rewards.equality import same
from lmm_r1.rewards.exact import TooBig
from lmm_r1.rewards.extract import MAX_ANSWER, extract
from lmm_r1.rewards.objects import Answer, Opaque, Several
from lmm_r1.rewards.phrases import unframed, without_tail
from lmm_r1.rewards.sentences import last_line, stated
from lmm_r1.rewards.spelling import canonical, join_thousands, tidy
from lmm_r1.rewards.units import is_measure, is_scale
from lmm_r1.types import Problem, Verdict

_ZEROS = re.compile(r",0\d\d(?!\d)")
RIGHT, WRONG = Verdict(1.0, "correct"), Verdict(0.0, "wrong")


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str, Answer | None, Answer | None] | None:
    """(tidy text, reading with thousands joined, reading without); None for a gold that cannot pay.

    A gold over the limits has no readings: it pays what is written like it.
    """
    if not gold.strip() or len(gold) > MAX_ANSWER:
        return None
    text = without_tail(tidy(gold))
    if not canonical(text):
        return None
    try:
        return (text, *_readings(text))
    except TooBig:
        return text, None, None


@lru_cache(maxsize=256)
def _readings(text: str) -> tuple[Answer, Answer]:
    """12,345 may be a number or a list: both readings; 1,000 is no list. Inside brackets it is always a list."""
    joined = text if any(b in text for b in ("(", "[", "\\{")) else join_thousands(text)
    first = read(joined)
    return first, first if joined == text or _ZEROS.search(text) else read(text)


_INTEGER = re.compile(r"-?\d{1,18}")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d{1,9})\}\{([1-9]\d{0,8})\}|(-?)(\d{1,9})/([1-9]\d{0,8})")


def _quick(gold: str, answer: str) -> Verdict | None:
    """The verdict on whole numbers and fractions written plainly; None for anything else."""
    a, b = _plain_fraction(gold), _plain_fraction(answer)
    if a is None or b is None:
        return None
    return RIGHT if a[0] * b[1] == b[0] * a[1] else WRONG


def _plain_fraction(text: str) -> tuple[int, int] | None:
    """(numerator, denominator) of an integer or a plain fraction."""
    if _INTEGER.fullmatch(text):
        return int(text), 1
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom = match.groups()[:3] if match.group(3) else match.groups()[3:]
    return (-int(top) if sign else int(top)), int(bottom)


def judge(gold: str, answer: str) -> Verdict:
    """Compare an extracted answer with the gold answer. A gold that cannot be read pays nothing: "error"."""
    quick = _quick(gold, answer)
    if quick is not None:
        return quick
    wanted = _read_gold(gold)
    if wanted is None:
        return Verdict(0.0, "error")
    if len(answer) > MAX_ANSWER:
        return Verdict(0.0, "too_big")
    gold_text, *read_golds = wanted
    golds = [reading for reading in read_golds if reading is not None]
    answer = last_line(answer)
    tidied = tidy(answer)
    if "\\times" in tidied and any(isinstance(g, Several) and g.kind == "by" for g in golds):
        tidied = tidied.replace("\\times", " by ")  # beside a size 4 by 6, 4 x 6 is one
    text = unframed(tidied)
    try:
        if canonical(text) == canonical(gold_text):
            return RIGHT
        if not golds:
            return Verdict(0.0, "error")
        readings = _readings(text)
        if any(same(g, a) for g, a in zip(golds, readings, strict=True)):
            return RIGHT
        if not _words_left(readings[0]):
            return WRONG
        for said in stated(tidied):
            readings = _readings(unframed(said))
            if _words_left(readings[0]):
                continue
            right = any(same(g, a) for g, a in zip(golds, readings, strict=True))
            return RIGHT if right else WRONG
    except TooBig:
        return Verdict(0.0, "too_big")
    unread = isinstance(readings[0], Opaque) and not any(isinstance(g, Opaque) for g in golds)
    return Verdict(0.0, "unparsable_answer" if unread else "wrong")


def _words_left(answer: Answer) -> bool:
    """Whether something in an answer could only be read as a string."""
    if isinstance(answer, Several):
        return any(_words_left(item) for item in answer.items)
    return isinstance(answer, Opaque)


def checked(compare: Callable[[str, str], Verdict], gold: str, reply: str) -> Verdict:
    """Extract the answer of a reply and compare it; the reason says where it failed."""
    found = extract(reply)
    return Verdict(0.0, found.reason) if found.reason else compare(gold, found.answer)


def checked_with_unit(compare: Callable[[str, str], Verdict], gold: str, reply: str) -> Verdict:
    """As `checked`; a unit behind the box belongs to the answer: \\boxed{5} m is not 5 cm."""
    found = extract(reply)
    if found.reason:
        return Verdict(0.0, found.reason)
    verdict = compare(gold, found.answer)
    if found.unit and found.answer[-1:] in "0123456789})" and (is_measure(found.unit) or is_scale(found.unit)):
        told = compare(gold, f"{found.answer} {found.unit}")
        if is_scale(found.unit):
            return told
        return told if told.reason in ("correct", "wrong") else verdict
    return verdict


def math_verdict(problem: Problem, reply: str) -> Verdict:
    """The `math` verifier."""
    return checked_with_unit(judge, problem.answer, reply)
