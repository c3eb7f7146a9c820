r"""What stands right beside a box: words that deny it, signs that make it part of something larger, its unit.

`spoiled` and `unit_of_box` see at most 60 characters on either side. Left out: words further away; a box commits, so that
"I think that it is \boxed{7}" and "at least \boxed{7} socks" answer 7.
"""

from __future__ import annotations

import re

_OPENS = r"\s{0,3}(?:\$|\\\(|\\\[|\*|[(:]|\\text\s?\{){0,4}\s?\\boxed\s{0,4}\{$"
_UNIT = re.compile(
    r"\s?(?:\$|\\\)|\\\])?((?:\s|~|\\[,; ])*(?:\\(?:text|mathrm|rm|textrm)\s?\{[^{}]{1,30}\}|\\?%|°|\^\s?\{?\\circ\}?|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{1,7}|[a-zA-Z]{1,12}(?: per [a-z]{1,10})?)(?:/[a-z]{1,6})?(?:\^\{?\d\}?|[²³])?)\s?(?=[.,;!$)。，；！]|\\\)|\\\]|\n|$)"
)
#: A unit before other words, in brackets, or behind mark-up: **\boxed{5}** m, \boxed{5} (m), \boxed{5} square cm each.
_UNIT_BEFORE_WORDS = re.compile(
    r"(?:\$|\\\)|\\\]|\*){0,4}\s?(?:[(\[]\s?(?:in\s)?([a-zA-Z]{1,12})\s?[)\]]|(?:in\s)?((?:(?:square|cubic|sq\.?|cu\.?)\s)?(?!in\s|at\s|am\s|pm\s)[a-zA-Z]{2,12})(?![a-zA-Z])|([a-zA-Z])(?=[.,;!]?\s*$))"
)
#: 8 thousand is not 8, whether the word stands in the box or behind it.
_SCALE = re.compile(
    r"(?:\$|\\\)|\\\]|\*){0,4}(?:\s|~|\\[,; ]){0,3}(?:\\(?:text|mathrm)\s?\{\s?)?(thousand|million|billion|trillion|dozen|hundred|万|萬|亿|億)s?(?![a-z])"
)
_SIGNS = {"\\$": "dollars", "€": "euros", "£": "sterling", "¥": "yenyuan"}
_MONEY_BEFORE = re.compile(r"(\\\$|[€£¥])\s?\$?\s?\\boxed\s{0,4}\{$")
_DENIED_BEFORE = re.compile(
    r"(?:(?<![a-zA-Zа-яё])(?:not|isn't|can't|can't be|cannot be|can not be|couldn't be|won't be|never|neither|nor|nicht|pas|no es|не|not be|maybe|perhaps|possibly|probably|vielleicht|peut-être|quizás|"
    r"(?:I\s)?guess(?:ing)?(?:\sthat)?(?:\sit'?s)?|doubt(?:\sthat)?(?:\sit'?s|\sit\sis)?|could be|might be|may be|less than|more than|greater than|fewer than|larger than|smaller than|"
    r"(?:wrong|incorrect|false)\s(?:answer|result|value|option|choice)(?:\sis|\swould be|\s?:)?)(?:\s(?:equal to|the|be))?"
    r"|\\n(?:e|eq)(?![a-z])|≠|(?<=[\w)}$] )[<>≤≥]|\\(?:le|ge|leq|geq|lt|gt)(?![a-z])|不是|并非|不等于|可能是|也许是|大于|小于|\}\s?\$?\s?(?:or|oder|ou|或|或者))"
    + _OPENS,
    re.IGNORECASE,
)
#: -\boxed{8}, 2\boxed{8}, \sqrt{\boxed{8}}: the box is a part of what is meant.
_JOINED_BEFORE = re.compile(
    r"(?:(?<![+-])[-+]|[/^\d]|\\(?:sqrt(?:\[\w\])?|[xb]?cancel|sout|overline|bar|neg|lnot|not)\s?\{?|\\[dt]?frac\s?\{[^{}]{0,30}\}\s?\{|\\[dt]?frac\s?\{)\$?\\boxed\s{0,4}\{$"
)
_DENIED_BEHIND = re.compile(
    r"\s?(?:\$|\\\)|\\\]|\*){0,4}[\s,;:—–(-]{0,4}(?:(?:or|oder|ou|或|或者)(?![a-zA-Z])|(?:(?:which|that|it|this)\s)?(?:is|are|was)\s(?:not|wrong|incorrect|false|impossible|a mistake)(?![a-zA-Z])|isn't|cannot be|"
    r"(?:is )?(?:wrong|incorrect|maybe|perhaps|probably|rejected|extraneous)(?![a-zA-Z])|no,|wait(?![a-z])|not\s(?:sure|certain|right|correct|quite)(?![a-z])|不对|不是|错|是错|ではな|じゃな|[이가]\s아니|ist falsch|est faux|es incorrect)"
    r"|(?:\$|\\\)|\\\]|\*){0,4}\s?[)}]?\s?[?？]",
    re.IGNORECASE,
)
#: \boxed{8}0, \boxed{8}.5, \boxed{8}^2, \boxed{8} + 1
_JOINED_BEHIND = re.compile(
    r"\}?\$?(?:\d|\.\d| ?\^ ?\{?(?:[-\d(a-z]|\\frac))| ?\$? ?(?:[+*/·×÷]|-|\\(?:times|cdot|div|pm|mp)(?![a-z])|[±]) ?\$? ?(?:[-+(]?\d|\\(?:frac|sqrt|boxed|pi))"
)
_PRIMED = re.compile(r"\s?(?:['′]|\^\s?\{?\s?(?:\\prime|'))(?!\w)")


def spoiled(before: str, inside: str, behind: str) -> bool:
    """Whether what stands right beside a box denies it, doubts it, names another answer or goes on with it."""
    if _DENIED_BEFORE.search(before) or _JOINED_BEFORE.search(before):
        return True
    if not behind:
        return False
    if _DENIED_BEHIND.match(behind):
        return True
    joined = _JOINED_BEHIND.match(behind)
    if joined and "=" not in behind[joined.end() : joined.end() + 20]:
        return True  # 5 + \boxed{3} = 8 fills a gap
    return inside.strip().isalpha() and _PRIMED.match(behind) is not None


def unit_of_box(before: str, behind: str) -> tuple[str, str]:
    """(what stands right behind a box and may be its unit, what may be one among other words, or its scale)."""
    money = _MONEY_BEFORE.search(before)
    if money:
        return _SIGNS[money.group(1)], ""
    if not behind:
        return "", ""
    if scale := _SCALE.match(behind):
        return "", scale.group(1)
    unit = _UNIT.match(behind)
    if unit:
        return unit.group(1).strip(), ""
    more = _UNIT_BEFORE_WORDS.match(behind)
    return "", (more.group(1) or more.group(2) or more.group(3)) if more else ""
