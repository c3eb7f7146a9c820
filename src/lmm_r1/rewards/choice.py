"""The `choice` verifier: option letters, a letter with its text, or the text of an option.

A letter beside a text must agree with it ("B. 48" when 48 is option C is wrong), a text that fits two
options is ambiguous, and several letters are right only as the gold's whole set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmm_r1.rewards.math import RIGHT, WRONG, checked, judge
from lmm_r1.rewards.spelling import KRAM, MARK, tidy
from lmm_r1.rewards.text import words
from lmm_r1.types import Problem, Verdict

_CHINESE = re.compile(r"^(?:故|所以)?(?:答案(?:是|为)?|选项?)\s?[:：]?\s?")
_BARE_LETTER_UNIT = re.compile(r"(.*\d)\s[mgslhL]")
_LETTER = re.compile(r"\(?\s?([A-Za-z])\s?[).:]?")
_LETTERS = re.compile(r"\(?[A-Z]\)?(?:\s?(?:,|and|&|;)\s?\(?[A-Z]\)?){1,9}")
_WITH_TEXT = re.compile(r"(?:\(\s?([A-Za-z])\s?\)|([A-Za-z])(?:\s?[).:,]|\s?(?=\()|\s(?=[-\d])))\s*(\S.*)", re.DOTALL)
_OPTION = re.compile(r"^(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?\s+", re.IGNORECASE)
_ALL_IN_ONE = re.compile(r"[A-J]{2,8}")
#: In a text behind a letter, where there are no options to compare it with: perhaps a second answer, or a denial.
_SECOND_THOUGHT = re.compile(
    r"(?<![a-zA-Z])[A-Z](?![a-zA-Z])|\b(?:or|and|not|no|nor|maybe|perhaps|either)\b", re.IGNORECASE
)
_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _bare(text: str) -> str:
    text = _CHINESE.sub("", text.strip())
    return _OPTION.sub("", " ".join(tidy(text).replace(MARK, " ").replace(KRAM, " ").split()))


def letters(text: str) -> frozenset[str] | None:
    """The option letters that a bare answer consists of, or None when it is something else."""
    single = _LETTER.fullmatch(text)
    if single:
        return frozenset(single.group(1).upper())
    if _LETTERS.fullmatch(text) or (_ALL_IN_ONE.fullmatch(text) and list(text) == sorted(set(text))):
        return frozenset(c for c in text if "A" <= c <= "Z")
    return None


def _fits(option: str, text: str) -> bool:
    if words(option) == words(text) != () or judge(option, text).value == 1.0:
        return True
    length = _BARE_LETTER_UNIT.fullmatch(option.strip())  # beside "5 cm" the option "5 m" is no product
    return length is not None and judge(length.group(1), text).value == 1.0


def _by_text(choices: Sequence[str], text: str) -> list[str]:
    """Letters of the options that a text is, or else of those that it means."""
    spelled = [chr(65 + k) for k, option in enumerate(choices) if _bare(option) == _bare(text)]
    if len(spelled) == 1:
        return spelled
    return [chr(65 + k) for k, option in enumerate(choices) if _fits(option, text)]


def judge_choice(gold: str, answer: str, choices: Sequence[str] | None) -> Verdict:
    """Compare an extracted answer with the gold letter (or letters, or option text)."""
    options = tuple(choices or ())[:26]
    if gold in _CAPITALS and answer in _CAPITALS and (not options or ord(gold) - 65 < len(options)):
        return RIGHT if gold == answer else WRONG
    wanted = letters(_bare(gold)) if len(gold) <= 200 else None
    if wanted is None and options:
        found = _by_text(options, gold)
        wanted = frozenset(found) if len(found) == 1 else None
    if wanted is None or (options and any(ord(c) - 65 >= len(options) for c in wanted)):
        return Verdict(0.0, "error")
    text = _bare(answer)
    said = letters(text)
    # A lower-case letter may be an option's own text.
    if said is not None and options and text.strip("().: ").islower() and (same := _by_text(options, text)):
        return _decide(wanted, same)
    if said is not None:
        return RIGHT if said == wanted else WRONG
    match = _WITH_TEXT.fullmatch(text)
    if match:
        letter = (match.group(1) or match.group(2)).upper()
        number = ord(letter) - 65
        rest = match.group(3).strip()
        rest = _unbracketed(rest) if options else rest
        # A dash between the letter and its text, or the text's own minus sign?
        texts = (rest, _unbracketed(rest[1:].strip())) if rest[:1] == "-" else (rest,)
        if options and not (number < len(options) and any(letter in _by_text(options, t) for t in texts if t)):
            return WRONG
        if not options and _SECOND_THOUGHT.search(rest):
            return Verdict(0.0, "ambiguous")
        return RIGHT if wanted == {letter} else WRONG
    return _decide(wanted, _by_text(options, text))


def _unbracketed(text: str) -> str:
    return text[1:-1] if text[:1] == "(" and text[-1:] == ")" and text.count("(") == 1 else text


def _decide(wanted: frozenset[str], found: Sequence[str]) -> Verdict:
    if not found:
        return Verdict(0.0, "unparsable_answer")
    if len(found) > 1:
        return Verdict(0.0, "ambiguous")
    return RIGHT if wanted == set(found) else WRONG


def choice_verdict(problem: Problem, reply: str) -> Verdict:
    """The `choice` verifier."""
    return checked(lambda gold, answer: judge_choice(gold, answer, problem.choices), problem.answer, reply)
