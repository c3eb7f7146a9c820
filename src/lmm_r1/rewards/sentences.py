r"""A value at the end of a sentence: "Luca needs $1.45 to buy a candy", "Therefore x \ge 5 is the solution", "面积为5".

Only sentences of a few shapes, with one value and no word that denies or weakens it. `last_line` works on what was
written, `stated` on tidy text (spelling.py). Left out: every other sentence; it is no answer.
"""

from __future__ import annotations

import re

from lmm_r1.rewards.spelling import KRAM, MARK
from lmm_r1.rewards.units import changes_number
from lmm_r1.rewards.words import STRONG, denied_ahead, denies, words_of

_HEADING = re.compile(
    r"^\s*(?:#{1,6}\s+.{0,60}|\*\*\s?(?:the )?(?:final )?(?:answer|result|solution)\s?:?\s?\*\*\s?:?)\s*$",
    re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"(?:(?<![a-z])(?:final\s+)?(?:answer|result)\**\s*(?:is|:|=|：)\**\s*:?|(?:答案|回答|答え|正解|正确答案|正確答案|정답|답)\s*(?:是|为|為|は|은|는)?\s*[:：]?|"
    r"(?<![а-я])ответ\s*[:：]|(?<![a-z])(?:respuesta|réponse|antwort|resposta|risposta)\s*(?:est|es|ist|é|:|：))\s*",
    re.IGNORECASE,
)
_APPROXIMATELY = (
    r"(?:exactly|precisely|simply|just|only|about|approximately|approx\.?|around|roughly|equal to|given by|a total of|then|therefore|now|also|thus|"
    r"ungefähr|etwa|environ|aproximadamente)"
)
_LINK = (
    r"(?:is|are|was|were|equals|be|becomes?|has|have|had|needs?|costs?|gives?|gets?|got|takes?|took|makes?|made|contains?|travels?|earns?|earned|pays?|paid|saves?|"
    r"saved|weighs?|measures?|reaches|yields?|find|finds|found|obtain|conclude|scores?|uses?|used|buys?|bought|sells?|sold|reads?|walks?|runs?|drives?|"
    r"spends?|spent|ran|drove|walked|totals?|shows?|displays?|indicates?|comes to|that|es|ist|est|beträgt|vaut|é|равен|равна|равно)"
)
_BEGIN = r"(?=[-+([\\|\d.√]|[a-zA-Z]\s?(?:[=<>^_]|\\[gl]e|\\ne))"
_MAY_CONCLUDE = re.compile(r"(?i:nswer|esult|respuesta|antwort|ponse|resposta|risposta|ответ)|[答답]|解\s?[:：]")
_SENTENCE = re.compile(
    rf"^(?P<lead>[^\d=<>:;]{{1,160}}?[\s}}])(?P<link>{_LINK})(?![^\W\d_])(?:,?\s{_APPROXIMATELY}){{0,3}}\s?:?\s?{_BEGIN}(?P<value>.{{1,300}})$",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    rf"^(?:so|thus|hence|therefore|then|finally|we (?:find|get|have|obtain|conclude|see)(?: that)?)[\s,:]+{_BEGIN}(?P<value>.{{1,300}})$",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"^(?P<lead>[^\W\d_][^\d=<>:;,]{2,80}):\s?(?P<value>\S.{0,300})$")
_IS_ANSWER = re.compile(
    r"\s(?:is|are)\s(?:the|our|my|a|one)(?:\s(?:final|correct|only|required))?\s(?:answers?|solutions?|results?|values?)$",
    re.IGNORECASE,
)
_TRAIL = re.compile(
    r"\s(?:to|in|for|of|at|on|from|with|altogether|total|left|each|when|after|before|during|remaining|overall)(?=\s|$)[^\d=<>\\]*$",
    re.IGNORECASE,
)
_CJK = re.compile(
    r"^(?:因此|所以|故|于是|於是|综上|綜上|从而|即|则|則|解|答|よって|したがって|ゆえに|따라서|그러므로)?[,，:.\s]*"
    r"(?P<lead>[^\d=<>]{0,30}?(?:为|為|是|等于|等於|有|共|得|即|は|が|은|는|이|需要|需|要|：|:))?\s?(?:大约|大約|约|約)?[:：]?\s?(?=[-+(\[\\|\d.]|[a-zA-Z]\s?(?:[=<>_^]|\\[gln]e))"
)
_CJK_TAIL = re.compile(r"\s?(?:です|である|だ|となる|になります|입니다|이다|。|了)+\s?[.]?$")
_HAS_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")


def last_line(answer: str) -> str:
    """What a longer text commits itself to: what stands behind its last "answer:", or below its heading; else all of it."""
    if "\n" in answer:
        kept = [line for line in answer.splitlines() if line.strip() and not _HEADING.match(line)]
        answer = "\n".join(kept)
        if len(kept) > 1 and kept[-2].rstrip().endswith((":", "：")) and not denies(kept[-2]):
            return kept[-1]
    if not _MAY_CONCLUDE.search(answer):
        return answer
    marks = list(_ANSWER_IS.finditer(answer[-2_000:]))
    if marks and marks[-1].start() > 0 and not denied_ahead(answer[-2_000:][: marks[-1].start()]):
        rest = answer[-2_000:][marks[-1].end() :].strip().strip("*").strip()
        if 0 < len(rest) <= 300 and rest.count("{") == rest.count("}"):
            return rest
    return answer


def stated(text: str) -> list[str]:
    """What a tidy text may state, the whole remainder first; empty when it is no such sentence."""
    plain = " ".join(text.replace(MARK, " ").replace(KRAM, " ").split())
    if not any(character.isalpha() for character in plain):
        return []
    if _HAS_CJK.search(plain):
        found = _CJK.match(plain)
        shorter = _CJK_TAIL.sub("", plain[found.end() :] if found else plain)
        return [shorter] if shorter != plain and not denies(plain) else []
    answer = _IS_ANSWER.search(plain)
    body = plain[: answer.start()] if answer else plain
    match = _SENTENCE.match(body) or _CONCLUSION.match(body) or _LABELLED.match(body)
    if match is None:
        return [body] if answer and not denies(body) else []
    lead, value = match.groupdict().get("lead") or "", match.group("value").strip()
    if STRONG & set(words_of(lead)) or denies(value):
        return []
    shorter = _IS_ANSWER.sub("", value)
    cut = _TRAIL.search(shorter)
    found_values = [value, shorter]
    if cut and not any(changes_number(word) for word in words_of(cut.group())):
        found_values.append(shorter[: cut.start()])
    return list(dict.fromkeys(found_values))
