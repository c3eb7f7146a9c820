"""Option letters in what people write: "B", "(B)", "A, B, and D", "B is correct", "I choose B", "答案选B", "정답: A".

A letter that is denied, doubted or followed by another value is no choice. Works on tidy text without marks.
"""

from __future__ import annotations

import re

from lmm_r1.rewards.words import denied_ahead, denies

_ONE = r"[(\[{<]{0,2}\s?([A-Za-z])\s?[)\]}>]{0,2}[.:]?"
_CAPITAL = r"[(\[]?[A-Z][)\]]?"
_SINGLE = re.compile(_ONE)
_SEVERAL = re.compile(
    rf"(?:both\s)?{_CAPITAL}(?:\s?(?:,\s?(?:and|&)|,|and|&|;|\+|、|和|与|與|及|y|et|und|と)\s?{_CAPITAL}){{1,9}}\.?",
    re.IGNORECASE,
)
_ALL_IN_ONE = re.compile(r"[A-J]{2,8}")
_NOUN = (
    r"(?:(?:final|correct|right|best|my|our|the)\s)*(?:answers?|options?|choices?|solutions?|letter|response|selection|pick)|respuesta(?:\scorrecta)?|"
    r"(?:la\s)?opción(?:\scorrecta)?|réponse|bonne réponse|antwort|(?:die\s)?richtige antwort|resposta(?:\scorreta)?|risposta|(?:правильный\s)?ответ|вариант|"
    r"(?:正确|正確|最终|最終)?(?:的)?(?:答案|选项|選項|選択肢|答え|正解|解答)|정답|답"
)
_LINK = r"(?:\s?(?:is|are|would be|should be|must be|es|est|ist|é|è|是|为|為|选|選|は|은|는|:|：|=)\s?:?|\s)?\s?(?:option\s|choice\s|letter\s|选项?|選項?)?"
_LEADS = (
    re.compile(
        rf"^(?:(?:so|thus|hence|therefore|finally),?\s)?(?:the\s|la\s|die\s|le\s|a\s)?(?:{_NOUN}){_LINK}(?=[^\s\w]?\s?(?:[A-Za-z]|(?-i:[A-J]{{2,8}}))(?![a-zA-Z]))",
        re.IGNORECASE,
    ),
    re.compile(
        r"^(?:(?:so|thus|hence|therefore),?\s)?(?:I(?:'d|'ll|'m|\sam|\swould|\swill)?\s)?(?:choose|chose|pick|select|go\swith|going\swith|think(?:\sthat)?\s(?:it'?s|it\sis|the\s(?:correct\s)?answer\sis)|"
        r"believe(?:\sthat)?\s(?:it'?s|the\s(?:correct\s)?answer\sis)|it'?s|it\sis|that\sis|this\sis)\s(?:option\s|choice\s|letter\s|answer\s)?(?=[^\s\w]?\s?[A-Z](?![a-zA-Z]))",
        re.IGNORECASE,
    ),
    re.compile(
        r"^(?:综上|綜上|因此|所以|故|于是|於是|由此|我)?(?:[,，]\s?)?(?:应|應|应该|應該|本题|本題)?(?:我?(?:选择|選擇)|选项?|選項?)(?:是|为|為)?\s?[:：]?\s?(?=[(（]?\s?[A-Z])"
    ),
    re.compile(r"^(?:综上|綜上|因此|所以|故|于是|於是|よって|したがって|따라서),?\s?(?=\S)"),
)
_TAILS = re.compile(
    r"\s?(?:(?:is|are)\s(?:the|our|my|a)?\s?(?:(?:final|correct|right|best|only)\s?)*(?:answers?|options?|choices?|one|ones)?|选项|選項|项|項|(?:项|項)?(?:正确|正確|是正确答案|是正確答案)|です|입니다|이다|だ)[.。!]?$",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"\s(?:is|are)\s(?:(?:the|our|my|a|all|both)\s)?(?:(?:final|correct|right|best|only|true)\s?)*(?:answers?|options?|choices?|one|ones|true)?[.!]?$",
    re.IGNORECASE,
)
_MARKER = re.compile(
    rf"(?:(?<![a-zA-Z])(?:{_NOUN})(?:\s?(?:is|are|would be|should be|must be|[:：=]|是|为|為|選|选|は|은|는|es|est|ist)\s?:?\s?)(?:option\s|choice\s)?|(?:故选|故選|应选|應選|所以选|所以選|因此选|因此選)\s?[:：]?\s?)"
    r"(?=[(\[\"']?\s?[A-Z](?![a-zA-Z]))",
    re.IGNORECASE,
)
_BEHIND = re.compile(r"([(\[\"']?\s?[A-Z]\s?[)\]\"']?)(?![a-zA-Z])(.*)", re.DOTALL)
_REASON = re.compile(
    r"\s?[,.;:(]?\s?(?:because|since|as|due to|which|that is|i\.e\.|因为|因為|porque|weil|car)(?![a-z]).*",
    re.IGNORECASE | re.DOTALL,
)
_VERB = re.compile(
    r"(?:is|are|was|were|isn't|aren't|cannot|can't|can|does|doesn't|do|did|would|might|may|could|should|must|will|won't|has|or|and|nor|not|no|but|maybe|perhaps|"
    r"probably|possibly|seems|looks|if|unless|except|then|vs|wrong|incorrect|false|n't|ist|nicht|est|n'est|es|no\ses|не|или|不|错|錯|是错|或)(?![a-zA-Z'])"
)
_HEDGE = re.compile(
    r"(?<![a-zA-Z])(?:incorrect|wrong|maybe|perhaps|instead|either|probably|possibly|not\s(?:right|correct|true|sure|the|a|it|an?\soption)|unsure|i\sguess|wait|or|(?:that|this|it)\s(?:is|cannot|can't|isn't|may|might)|cannot\sbe(?:\s(?:right|correct|true|it|so))?$)(?![a-zA-Z])|^(?:false|wrong|no|not|nope)\.?$",
    re.IGNORECASE,
)
_OTHER_LETTER = re.compile(
    r"(?<![a-zA-Z'’\\])[B-J](?![a-zA-Z'’(_^])|(?<![a-zA-Z'’\\])\(?A\)(?![a-zA-Z])|(?<![a-zA-Z'’\\])A$"
)
_OTHER_VALUE = re.compile(r"^[,;/|&+]\s?\S|^\(?[-\d]+\)?\s?(?:,|or|and)")


def letters(text: str) -> frozenset[str] | None:
    """The option letters that a bare answer consists of, or None when it is something else."""
    single = _SINGLE.fullmatch(text)
    if single:
        return frozenset(single.group(1).upper())
    bare = re.sub(r"^both\s", "", text, flags=re.IGNORECASE).rstrip(".")
    if _SEVERAL.fullmatch(text) and not any(c.islower() for c in re.sub(r"and|und|et|y", "", bare)):
        return frozenset(c for c in bare if "A" <= c <= "Z")
    if _ALL_IN_ONE.fullmatch(bare) and list(bare) == sorted(set(bare)):
        return frozenset(bare)
    return None


def unled(text: str) -> str:
    """The text without what leads to a letter ("I choose", "答案选") and without "is correct" behind it."""
    for _ in range(2):
        for lead in _LEADS:
            text = lead.sub("", text, count=1)
    shorter = _TAILS.sub("", text, count=1)
    return shorter if letters(shorter) is not None else text


def concluded(text: str) -> frozenset[str] | None:
    """The letters behind the last "the answer is" of a longer text; None when nothing but a reason stands behind them."""
    marks = list(_MARKER.finditer(text))
    if not marks or denied_ahead(text[: marks[-1].start()]):
        return None
    rest = unled(text[marks[-1].end() :].strip())
    if (found := letters(rest)) is not None:
        return None if rest.strip("([\"' ).]").islower() else found
    behind = _BEHIND.fullmatch(rest)
    if (
        behind
        and behind.group(1).strip("([\"' )]").isupper()
        and _REASON.fullmatch(behind.group(2))
        and not second_thought(behind.group(2))
    ):
        return letters(behind.group(1).strip())
    return None


def second_thought(rest: str) -> bool:
    """Whether a text behind a letter, without options to compare it with, denies the letter or names something else."""
    rest = rest.strip()
    rest = rest.lower() if rest.isupper() and len(rest) > 3 and " " in rest else rest
    if _OTHER_VALUE.match(rest) or _OTHER_LETTER.search(rest) or _HEDGE.search(rest) or "?" in rest:
        return True
    if rest[:1].isupper() or not rest[:1].isalpha():
        return denies(rest) and rest[:1] not in "\\$" and not rest[:1].isupper()
    return _VERB.match(rest) is not None or denies(rest)


def doubts(reason: str) -> bool:
    """Whether a reason behind a letter denies something or names another letter."""
    return denies(reason) or _OTHER_LETTER.search(reason) is not None


def without_reason(text: str) -> str:
    """An option's text without "because ..." behind it."""
    return _REASON.sub("", text, count=1).strip(" ,.;")
