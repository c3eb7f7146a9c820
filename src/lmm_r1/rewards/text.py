"""The `text` verifier: short answers in words, as visual question answering has them.

Equal after Unicode normalisation, case folding, and dropping punctuation around words and articles.
No substring, no edit distance: "not red" is not "red".
"""

from __future__ import annotations

import unicodedata

from lmm_r1.rewards.extract import MAX_ANSWER
from lmm_r1.rewards.latex import KRAM, MARK, tidy
from lmm_r1.rewards.math import checked
from lmm_r1.types import Problem, Verdict

_ARTICLES = frozenset(("a", "an", "the"))
_EDGE = "".join(chr(c) for c in range(33, 127) if not chr(c).isalnum() and chr(c) not in "+-%<>=")


def words(text: str) -> tuple[str, ...]:
    """The words that are compared. A lone article is a word (an answer may be "A")."""
    plain = unicodedata.normalize("NFKC", tidy(text)).replace(MARK, " ").replace(KRAM, " ").casefold()
    found = tuple(stripped for word in plain.split() if (stripped := word.strip(_EDGE)))
    kept = tuple(word for word in found if word not in _ARTICLES)
    return kept or found


def judge_text(gold: str, answer: str) -> Verdict:
    """Compare two short texts."""
    wanted = words(gold) if len(gold) <= MAX_ANSWER else ()
    if not wanted:
        return Verdict(0.0, "error")
    if len(answer) > MAX_ANSWER:
        return Verdict(0.0, "too_big")
    found = words(answer)
    if not found:
        return Verdict(0.0, "unparsable_answer")
    return Verdict(1.0, "correct") if found == wanted else Verdict(0.0, "wrong")


def text_verdict(problem: Problem, reply: str) -> Verdict:
    """The `text` verifier."""
    return checked(judge_text, problem.answer, reply)
