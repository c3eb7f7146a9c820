r"""Words around an answer: "Thus, the area is 24", "2^k for some integer k", "6\sqrt{3} (approximately 10.39)".

`unframed` takes off what says nothing about the answer itself; a word that denies or weakens stops it. Works on tidy text
(spelling.py) with closed patterns of bounded length. Left out: reading a sentence for its meaning.
"""

from __future__ import annotations

import re

from lmm_r1.rewards.spelling import KRAM, MARK

#: A frame with one of these is no frame: "the area is not 5", "x is less than 5".
_DENY = (
    "not|never|no|none|nor|neither|cannot|can't|isn't|less|more|fewer|greater|least|most|than|about|around|approximately|nearly|almost|"
    "or|if|unless|except|but|between|undefined|unknown|wrong|incorrect|maybe|perhaps|possibly|probably|might|could|either|any"
)
_WORD = rf"(?!(?:{_DENY})(?![a-z']))[a-zA-Z'-]{{1,20}}"
_HERE = rf"(?!(?:{_DENY})(?![a-z'])(?! (?:real )?solutions?))(?=.)"
_OPENING = re.compile(
    rf"^{MARK}?\s?(?:(?:so|thus|hence|therefore|then|finally|and),? )?(?:"
    rf"(?:the|its|this|that)(?: {MARK}?{_WORD}{KRAM}?){{1,8}} (?:is|are|equals|was)"
    r"|(?:it|this|that) (?:is|equals)|we (?:get|have|find|obtain|conclude)(?: that)?|there (?:is|are)|[A-Z]{2} (?:is|equals)"
    rf")(?: equal to)?\s?[:=]?\s?{KRAM}?\s?{_HERE}",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    rf"^{MARK}?\s?(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?(?:answer|result)(?: is)?\s?[:=]?\s?{KRAM}?\s?(?=.)",
    re.IGNORECASE,
)
_ONLY_SIGN = re.compile(
    rf"^(?:#{{2,4}}\s|\\(?:therefore|Rightarrow|implies|Longrightarrow)(?![a-zA-Z])|{MARK}?(?:so|thus|hence|therefore){KRAM}?,)\s?(?=.)",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    r"^(?:因此|所以|故|综上|綜上)?,?\s?(?:(?:最终|最終|正确|正確)?(?:的)?(?:答案|结果|結果|回答|答え|正解)(?:是|为|為|は)?|选项?|選項?|为|為|等于|等於)\s?[:：]?\s?(?=.)"
)
_ABOUT_WORD = re.compile(
    rf"^{MARK}?\s?(?:about|approximately|approx\.?|around|roughly|circa|exactly|precisely|simply|just|only|a total of|in total|ungefähr|etwa|environ|aproximadamente|约|約|大约|大約|およそ|"
    rf"equal to|equals|es gibt|il y a|hay|há|the (?:point|ordered pair|interval|set|vector|coordinates))\s?{KRAM}?\s?(?=[-+\\\d.$(\[{{]|{MARK}\d)",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(
    rf"^{MARK}?(?:negative|minus|moins|menos|负|負|マイナス)\s?{KRAM}?\s?(?=[\d.]|\\(?:frac|sqrt|pi)(?![a-z]))",
    re.IGNORECASE,
)
_APPROXIMATION = re.compile(
    rf"\s?\(\s?{MARK}?\s?(?:approximately|approx\.?|about|or|i\.?e\.?,?|\\approx)\s?{KRAM}?\s?([^()]{{1,60}}?)\s?{KRAM}?\)$"
)
_TAIL = re.compile(
    rf"\s?,?\s?{MARK}?\s?for (?:all|any|every|each|some) [a-zA-Z ]{{0,40}}{KRAM}?\s?[a-z]?(?:\s?\\in\s?\\mathbb\s?\{{?[RZNQC]\}}?)?{KRAM}?$",
    re.IGNORECASE,
)
_MEMBERSHIP = re.compile(
    r"(?<=[^\s,;])\s?[,;]?\s?\(?\s?[a-z]\s?\\in\s?\\mathbb\s?\{?[ZR]\}?(?:_?\^?\{?[+*]\}?)?\s?\)?$"
)


def unframed(text: str) -> str:
    """An answer without its lead-in and its tail; what denies or hedges stays, and is then no value."""
    text = _CHINESE.sub("", _ONLY_SIGN.sub("", text, count=1), count=1)
    for opening in (_ANSWER, _OPENING):
        text = opening.sub("", text, count=1)
    text = _NEGATIVE.sub("-", _ABOUT_WORD.sub("", text, count=1), count=1)
    return without_tail(_APPROXIMATION.sub(r" \\approx \1", text, count=1)).strip()


def without_tail(text: str) -> str:
    r"""2^k, k \in \mathbb{Z}, or 2^k for some integer k, without what says where k comes from. Golds have such tails too."""
    shorter = _MEMBERSHIP.sub("", _TAIL.sub("", text, count=1), count=1).strip()
    return shorter.rstrip(",;") or text
