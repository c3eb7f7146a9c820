"""`compat = "paper"`: the released LMM-R1 rules, their holes included, so that a run can be compared with the paper's.

Source: arXiv 2503.07536, section 3.2, and what the released math_verifier.py does (sokoban_verifier.py: envs/sokoban/game.py). Never
the default: this rule reads the whole reply, thoughts first; pays every reply when the gold cannot be read; and
knows no words. The comparison itself is ours (the release calls math-verify 0.5.2), after the release's extraction.
"""

from __future__ import annotations

import re

from lmm_r1.rewards.answers import read
from lmm_r1.rewards.exact import TooBig
from lmm_r1.rewards.math import judge
from lmm_r1.rewards.objects import Opaque
from lmm_r1.rewards.spelling import tidy
from lmm_r1.types import Problem, Verdict

_BOX = re.compile(r"\\boxed\s{0,4}\{")
_DOLLARS = re.compile(r"\$\$?([^$]{1,2000})\$")
_WORD = re.compile(r"\\text|[a-zA-Z]{2,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+|(?<![a-zA-Z])(?:cm|mm|km|m|kg|g|ft|in|sin|cos|tan|log|ln|sqrt|pi)(?![a-zA-Z])")
MAX_REPLY = 200_000


def first_box(text: str) -> str | None:
    """The inside of the first \\boxed{...} whose braces balance."""
    for match in _BOX.finditer(text):
        depth = 1
        for at in range(match.end(), min(len(text), match.end() + 2_000)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                return text[match.end() : at]
    return None


def paper_answer(reply: str) -> str | None:
    """What the release reads: the first box anywhere, else the last $...$; None without either."""
    boxed = first_box(reply[:MAX_REPLY])
    if boxed is not None:
        return boxed
    found = _DOLLARS.findall(reply[-MAX_REPLY:])
    return found[-1] if found else None


def _is_words(text: str) -> bool:
    return _WORD.search(_COMMAND.sub(" ", text.replace("\\text{ ", "{").replace("\\text{", "{"))) is not None


def _readable(gold: str) -> bool:
    try:
        return bool(gold.strip(" $")) and not isinstance(read(tidy(gold)), Opaque)
    except TooBig:
        return False


def paper_verdict(problem: Problem, reply: str) -> Verdict:
    """The released accuracy rule: 1.0 for every reply when the gold cannot be read."""
    gold = problem.answer
    if not _readable(gold) and not re.fullmatch(r"\s*\$?[A-Za-z]+\$?\s*", gold):
        return Verdict(1.0, "correct")
    answer = paper_answer(reply)
    if answer is None:
        return Verdict(0.0, "no_answer")
    if "\\text{" in answer and _is_words(answer):
        return Verdict(0.0, "unparsable_answer")
    return judge(gold.strip().strip("$"), answer)
