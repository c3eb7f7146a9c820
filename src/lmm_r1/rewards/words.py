"""Words that decide what an answer says: those that deny or weaken it, in the languages that models write.

A closed list on purpose: a sentence with one of these words names no answer, and behind a number it is no unit.
Left out: reading a sentence for its meaning (sentences.py takes sentences of a few shapes only).
"""

from __future__ import annotations

import re

_ENGLISH = (
    "not never no nope nah none nor neither cannot can't isn't aren't wasn't weren't doesn't don't didn't won't wouldn't couldn't shouldn't cant isnt "
    "less more fewer greater than least most or if unless except but between undefined unknown wrong incorrect incorrectly "
    "wrongly false untrue maybe may perhaps possibly probably presumably supposedly might could either any likely unlikely unsure uncertain "
    "guess guessing guessed assume assuming suppose hopefully doubt doubtful impossible invalid mistake mistaken excluded "
    "excluding rejected reject rejecting fails failed fail discarded removed without alternatively otherwise instead versus vs opposite contrary "
    "unclear unsolvable indeterminate above below under over exceeds exceeding within whether rather however although though yet still negated "
    "denied lambda return wait hmm actually almost nearly barely hardly seems seem appears "
    "sometimes usually typically cannot else ruled eliminate eliminated question another additional extra too few many off short away"
)
_OTHERS = (
    # German
    "nicht kein keine keinen keiner keinesfalls niemals nie oder vielleicht falsch vermutlich wahrscheinlich möglicherweise eventuell weder noch "
    "unmöglich unsicher inkorrekt ohne ausser außer mindestens höchstens weniger mehr "
    # French
    "pas non ou jamais aucun aucune faux fausse peut-être peut-etre probablement possiblement soit ni incorrecte impossible sauf "
    "environ-ou plutôt plutot moins "
    # Spanish, Portuguese, Italian
    "ningún ninguno ninguna ni nunca jamás quizás quizá quizas quiza tal-vez tal vez incorrecto incorrecta falso falsa posiblemente "
    "probablemente acaso imposible excepto menos sino não nao nem talvez errado errada forse sbagliato oppure mai né "
    # Swedish, Dutch, Polish, Turkish
    "inte kanske eller ej misschien niet geen wellicht nie może lub albo belki değil veya "
    # Russian
    "не нет или ни возможно наверное неверно неправильно"
)
DENYING = frozenset((_ENGLISH + " " + _OTHERS).split()) - {"vez", "tal", "still", "rule", "question"}
#: Of these, the words that may well stand in the name of a value: "the least distance between A and B is 5".
_IN_NAMES = (
    "less more fewer greater than least most between above below under over within any if possible another additional too few many off short "
    "away each mehr weniger plus moins question whether extra"
)
#: Words of a reason why not: "No, the sides are not equal".
NEGATIONS = frozenset(
    [
        "not",
        "never",
        "no",
        "none",
        "nor",
        "neither",
        "cannot",
        "can't",
        "isn't",
        "aren't",
        "wasn't",
        "weren't",
        "doesn't",
        "don't",
        "didn't",
        "won't",
        "wouldn't",
        "couldn't",
        "without",
        "impossible",
        "invalid",
        "less",
        "more",
        "fails",
        "fail",
        "failed",
        "excluded",
        "except",
        "under",
        "below",
        "above",
        "over",
        "wrong",
        "question",
    ]
)
STRONG = DENYING - frozenset(_IN_NAMES.split())

#: The same in writing without spaces.
_CJK_DENIAL = re.compile(
    "ليس|لا|ربما|不|非|没|沒|未|或|可能|也许|也許|大概|错|錯|误|誤|否|除|大于|小于|大於|小於|超过|超過|以上|以下|以外|至少|至多|最多|最少|之间|之間|恐怕|猜|"
    "ない|なく|ません|または|もしくは|かもしれ|たぶん|おそらく|違|でしょうか|아니|않|또는|혹은|아마|틀린|틀렸|못"
)
_LETTER = "a-zA-ZÀ-ɏа-яА-ЯёЁ"
_WORD = re.compile(rf"[{_LETTER}]+(?:['’-][{_LETTER}]+)*")
#: A question, or an answer that is crossed out.
_MARKS = re.compile(r"[?？]|\\(?:cancel|sout|xcancel|bcancel|st)(?![a-zA-Z])|~~")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def denies(text: str) -> bool:
    """Whether a text denies, weakens or leaves open what it names."""
    if _CJK_DENIAL.search(text) or _MARKS.search(text):
        return True
    return not DENYING.isdisjoint(words_of(text))


_SENTENCE_END = re.compile(r"[.!?:;,\n]")


def denied_ahead(before: str) -> bool:
    """Whether the words right before "answer:" deny it: "the wrong answer: 5"."""
    return not STRONG.isdisjoint(words_of(_SENTENCE_END.split(before[-80:])[-1]))
