"""The `text` verifier: short answers in words, as visual question answering has them.

`meta["metric"]` of a problem says how they are compared:

* "exact" (default): equal after Unicode normalisation, case folding, and dropping punctuation around words and
  articles. No substring, no edit distance: "not red" is not "red". A gold of yes or no is answered by a sentence
  that begins with it and does not hold the other. A formula may be set (H_2O), a number grouped (1,000).
* "anls": 1 - normalised edit distance when that is below 0.5, else 0 (documents: arXiv 1905.13648, section 4).
* "relaxed": numbers within 5 % of the gold, other words exactly (charts: arXiv 2203.10244, section 5.1).

`meta["golds"]`, a list of strings, adds further right answers; the best one counts.
"""

from __future__ import annotations

import re
import unicodedata

from lmm_r1.rewards.extract import MAX_ANSWER
from lmm_r1.rewards.math import checked
from lmm_r1.rewards.numeric import judge_number
from lmm_r1.rewards.spelling import KRAM, MARK, tidy
from lmm_r1.rewards.words import NEGATIONS, STRONG
from lmm_r1.types import Problem, Verdict

ANLS_THRESHOLD = 0.5
MAX_EDITED = 500  # characters whose edit distance is computed
RELAXED = 0.05

_ARTICLES = frozenset(("a", "an", "the"))
#: Two-letter words whose case says nothing; other two letters may be symbols (Co and CO, Tt and tt).
_SHORT = frozenset("no on in up go he we us me my is am an as at be by do if it of or so to".split())  # noqa: SIM905
_SAID = re.compile(r"\s*(yes|no)(?:\s*[,.;:!]|\s-\s)", re.IGNORECASE)
_TAKEN_BACK = frozenset(
    (
        "but",
        "however",
        "doubt",
        "incorrect",
        "wrong",
        "false",
        "maybe",
        "wait",
        "actually",
        "perhaps",
        "unsure",
        "sure",
        "rather",
        "if",
        "back",
    )
)
#: A chemical formula: H_2O, SO_4^{2-}, Ca(OH)_2.
_FORMULA = re.compile(r"(?:\(?[A-Z][a-z]?\)?(?:_?\s?\{?\d{1,3}\}?)?){1,12}(?:\^\{?\d?[+-]\}?)?")
_SET_LETTERS = re.compile(r"\\(?:text|mathrm|mathsf|textrm)\s?\{\s?([A-Za-z()]{1,12})\s?\}(?=\s?[_^A-Z(\\])")
_SET_DIGITS = re.compile(r"\$([_^]\{?[\d+-]{1,3}\}?)\$")  # Fe$_2$O$_3$
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?%?")
_YES_NO = frozenset(("yes", "no"))
_EDGE = "".join(chr(c) for c in range(33, 127) if not chr(c).isalnum() and chr(c) not in "+-%<>=")


def words(text: str) -> tuple[str, ...]:
    """The words that are compared. A lone article is a word (an answer may be "A")."""
    text = _SET_LETTERS.sub(r"\1", _SET_DIGITS.sub(r"\1", text))
    plain = unicodedata.normalize("NFKC", tidy(text)).replace(MARK, " ").replace(KRAM, " ")
    found = tuple(stripped for word in plain.split() if (stripped := _bare(_one_form(word))))
    kept = tuple(word for word in found[:-1] if word not in _ARTICLES) + found[-1:]
    return kept or found


def _one_form(word: str) -> str:
    """A formula without the marks that set it (H_2O), a number without those that group it (1,000)."""
    inner = word.rstrip(".,;:!?")
    if _GROUPED.fullmatch(inner):
        return inner.replace(",", "")
    return re.sub(r"[_{}^]", "", inner) if ("_" in inner or "^" in inner) and _FORMULA.fullmatch(inner) else word


def _bare(word: str) -> str:
    """A word without punctuation around it: not the point of .5, nor the mark of 5!. Tt and CO keep their case."""
    end = word.rstrip(_EDGE)
    end += "!" if word[len(end) :].startswith("!") and end[-1:].isdigit() else ""
    start = end.lstrip(_EDGE)
    start = "." + start if start[:1].isdigit() and end[: len(end) - len(start)].endswith(".") else start
    return start if len(start) == 2 and start.isalpha() and start.casefold() not in _SHORT else start.casefold()


def judge_text(gold: str, answer: str, metric: str = "exact") -> Verdict:
    """Compare two short texts; an unknown metric is an "error" and pays nothing."""
    wanted = words(gold) if len(gold) <= MAX_ANSWER else ()
    if not wanted or metric not in ("exact", "anls", "relaxed"):
        return Verdict(0.0, "error")
    if len(answer) > MAX_ANSWER:
        return Verdict(0.0, "too_big")
    found = words(answer)
    if not found:
        return Verdict(0.0, "unparsable_answer")
    if answer.rstrip(" .!*\n").endswith(("?", "？")) and not gold.rstrip().endswith("?"):
        return Verdict(0.0, "wrong")  # a question is no answer
    if found == wanted:
        return Verdict(1.0, "correct")
    if metric == "anls":
        return _anls(" ".join(wanted), " ".join(found))
    if metric == "relaxed" and judge_number(gold, answer, RELAXED).value == 1.0:
        return Verdict(1.0, "correct")
    said = _SAID.match(tidy(answer)) if wanted[0] in _YES_NO and len(wanted) == 1 else None
    if (
        said
        and said.group(1).casefold() == wanted[0]
        and len(_YES_NO & set(found)) == 1
        and not _TAKEN_BACK & set(found)
        and not (STRONG - (NEGATIONS if wanted[0] == "no" else frozenset(wanted))) & set(found[1:])
    ):
        return Verdict(1.0, "correct")
    return Verdict(0.0, "wrong")


def _anls(gold: str, answer: str) -> Verdict:
    if max(len(gold), len(answer)) > MAX_EDITED:
        return Verdict(0.0, "too_big")
    distance = edit_distance(gold, answer) / max(len(gold), len(answer))
    value = 1.0 - distance if distance < ANLS_THRESHOLD else 0.0
    return Verdict(value, "correct" if value == 1.0 else "wrong")


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions of characters that turn a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def text_verdict(problem: Problem, reply: str) -> Verdict:
    """The `text` verifier."""
    metric = str(problem.meta.get("metric", "exact"))
    more = problem.meta.get("golds")
    golds = [problem.answer, *(map(str, more) if isinstance(more, list | tuple) else ())]

    def best(_: str, answer: str) -> Verdict:
        return max((judge_text(gold, answer, metric) for gold in golds[:50]), key=lambda verdict: verdict.value)

    return checked(best, problem.answer, reply)
