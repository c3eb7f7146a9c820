"""The `choice` verifier: option letters, a letter with its text, or the text of an option.

A letter beside a text must agree with it ("B. 48" when 48 is option C is wrong), a text that fits two
options is ambiguous, and several letters are right only as the gold's whole set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmm_r1.rewards.letters import concluded, doubts, letters, second_thought, unled, without_reason
from lmm_r1.rewards.math import RIGHT, WRONG, checked, judge
from lmm_r1.rewards.sentences import last_line
from lmm_r1.rewards.spelling import KRAM, MARK, tidy
from lmm_r1.rewards.text import words
from lmm_r1.types import Problem, Verdict

_BARE_LETTER_UNIT = re.compile(r"(.*\d)\s[mgslhL]")
_WITH_TEXT = re.compile(
    r"(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Za-z])(?:\s?[).:,]|\s?(?=\()|\s(?=[-\d]|(?:because|since)\s)))\s*(\S.*)",
    re.DOTALL,
)
_LETTER_A = re.compile(r"\W*A\s?[.:;,)\]]")
#: (A. 10)
_ENCLOSED = re.compile(r"[(\[]\s?([A-Za-z]\s?[.:,]\s?[^()\[\]]+)[)\]]")
#: A. 10, C. 14
_NEXT = re.compile(r"(?:\s?[,;]\s?(?:and\s)?|\sand\s|\s)(?=\(?[A-Z]\s?[).:]\s?\S)")
_SET = re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed|textit)\s?\{|[{}$*_]")
_EQUALS = re.compile(r"([A-J])\s?=\s?(\S.*)")  # C = 4 cm
_QUOTES = ("''", '""', "“”", "‘’", "``", "**")
_MARKS = "'′″\"*`’”~"
_MARK_BEHIND = re.compile(
    r"(?<![\w\\])([A-Za-z])\s?(?:\\[,;! ])?\s?(['′″\"*`’”]|\^?\s?\{?\s?\\prime|\^\s?\{?\s?[*'])[\s'′″\"*`’”)\]}.$\\]*$"
)
_MARK_AHEAD = re.compile(r"~\s?[(\[]?([A-Za-z])[)\]]?[.\s]*")
_BECAUSE = re.compile(r",?\s?(?:because|since|as|due to|weil|porque|car|parce que|因为|因為)(?![a-z])", re.IGNORECASE)
_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _bare(text: str) -> str:
    return " ".join(tidy(text).replace(MARK, " ").replace(KRAM, " ").split())


def _marked(answer: str, options: Sequence[str]) -> bool:
    """Whether a lone letter has a mark that makes it something else: C', ~B, A*. A letter in quotation marks has none."""
    found = _MARK_BEHIND.search(answer) or _MARK_AHEAD.fullmatch(answer.strip())
    if found is None or any(sign in option for option in options for sign in _MARKS):
        return False
    if found.re is _MARK_BEHIND and found.group(2)[0] in answer[: found.start(1)]:
        return False
    return letters(unled(_bare(_SET.sub("", answer[: found.start()]) + found.group(1)))) is not None


def _fits(option: str, text: str) -> bool:
    if _LETTER_A.match(text) and not _LETTER_A.match(option):
        return False  # the A of "A. 4" is no article
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
    wanted = letters(unled(_bare(gold))) if len(gold) <= 200 else None
    if wanted is None and options:
        found = _by_text(options, gold)
        wanted = frozenset(found) if len(found) == 1 else None
    if wanted is None or (options and any(ord(c) - 65 >= len(options) for c in wanted)):
        return Verdict(0.0, "error")
    answer = answer.strip()
    if answer[:1] + answer[-1:] in _QUOTES and len(answer) > 2:
        answer = answer[1:-1]
    text = _bare(last_line(answer))
    if answer.rstrip(" .!*\n").endswith(("?", "？")) and not any("?" in option for option in options):
        return Verdict(0.0, "ambiguous")
    if len(answer) < 200 and _marked(answer, options):
        return WRONG
    plain = _bare(answer)
    text = unled(text)
    if (inside := _ENCLOSED.fullmatch(text)) is not None:
        text = inside.group(1)
    said = letters(text)
    lower = said is not None and text.strip("().: ").islower()
    if lower and options and (same := _by_text(options, text)):
        return _decide(wanted, same)  # a lower-case letter may be an option's own text
    if said is not None and not (lower and len(plain) > 40):
        return RIGHT if said == wanted else WRONG
    if (
        options
        and 1 < len(pairs := _NEXT.split(text)) <= len(options)
        and (several := _with_texts(pairs, options)) is not None
    ):
        return RIGHT if several == wanted else WRONG
    match = _WITH_TEXT.fullmatch(text)
    if match:
        return _with_text(match, wanted, options)
    if (named := _EQUALS.fullmatch(text)) and options and not any("=" in option for option in options):
        return RIGHT if wanted == {named[1]} and _agrees(named[1], named[2], options) else WRONG
    if by_text := _by_text(options, text):
        return _decide(wanted, by_text)
    at_end = concluded(plain)
    return _decide(wanted, ()) if at_end is None else RIGHT if at_end == wanted else WRONG


def _with_text(match: re.Match[str], wanted: frozenset[str], options: Sequence[str]) -> Verdict:
    """A letter and a text behind it: they must agree."""
    letter = (match.group(1) or match.group(2)).upper()
    if not options:
        rest = (
            match.string[match.end(1) if match.group(1) else match.end(2) :]
            .lstrip(")] ")
            .removeprefix(".")
            .removeprefix(":")
        )
        if second_thought(rest) and not _is_reason(rest):
            return Verdict(0.0, "ambiguous")
        return RIGHT if wanted == {letter} else WRONG
    text = match.group(3).strip()
    if _only_reason(text, letter, options):
        return RIGHT if wanted == {letter} else WRONG
    return RIGHT if wanted == {letter} and text[:1] != "," and _agrees(letter, text, options) else WRONG


def _only_reason(text: str, letter: str, options: Sequence[str]) -> bool:
    """B, because 6 * 6 = 36: a reason that names no other option alone."""
    if not _BECAUSE.match(text) or doubts(text):
        return False
    named = {chr(65 + k) for k, option in enumerate(options) if _holds(text, option)}
    return not named or letter in named


def _holds(text: str, option: str) -> bool:
    at = text.casefold().find(option.strip().casefold())
    end = at + len(option.strip())
    return at >= 0 and not text[at - 1 : at].isalnum() and not text[end : end + 1].isalnum()


def _is_reason(rest: str) -> bool:
    r""" ", which is cold": what a comma behind the letter may open."""
    return bool(re.match(r"\s?,\s?(?:which|because|since)\s", rest)) and not second_thought(rest.lstrip(" ,"))


def _agrees(letter: str, rest: str, options: Sequence[str]) -> bool:
    """Whether a text is, or begins with, that of the option with this letter."""
    if ord(letter) - 65 >= len(options):
        return False
    rest = _unbracketed(rest)
    # A dash between the letter and its text, or the text's own minus sign?
    texts = [rest, _unbracketed(rest[1:].strip())] if rest[:1] == "-" else [rest]
    shorter = without_reason(rest)
    texts += [shorter] if shorter != rest else []
    return any(letter in _by_text(options, text) for text in texts if text)


def _with_texts(pairs: Sequence[str], options: Sequence[str]) -> frozenset[str] | None:
    """A. 10, C. 14: the letters, when each has its own text."""
    found = [_WITH_TEXT.fullmatch(pair.strip()) for pair in pairs]
    named = [((m.group(1) or m.group(2)).upper(), m.group(3).strip()) for m in found if m is not None]
    if len(named) != len(pairs) or not all(_agrees(letter, rest, options) for letter, rest in named):
        return None
    return frozenset(letter for letter, _ in named)


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
