"""Can a reply be paid for this gold? Asked of the verifier itself, by way of whole replies.

Two questions. Does it pay a reply that answers with the gold? And does it read the gold as a value of its kind: equal
text alone is not enough, since a gold that it does not understand ("He sells 4*5=20") pays nobody but a reply that
copies it word for word. The second one is asked by a reply of mere words: beside a value it is "unparsable_answer",
beside a gold that is only text it is another text, and "wrong".
Left out: what a verifier is (rewards/, passed in), and golds that pay too much (preparing/golds.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from lmm_r1.seams import Verifier
from lmm_r1.types import Problem

#: rewards.VERIFIERS, passed in: data may not import rewards.
Verifiers = Mapping[str, Verifier]

#: What a verifier might raise on a gold that no one foresaw: the gold is bad, the run goes on.
_FAILS = (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError)
#: Kinds of golds that are values; a text is what it is.
_VALUES = ("math", "numeric", "choice", "boxes")
_WORDS = "something else entirely"
_NOT_READ = ("wrong", "error", "too_big")
_BETWEEN = re.compile(r"[(\[{)\]},;]|\b(?:or|and)\b")
#: A word that is no name of a LaTeX command.
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")


def reply_of(answer: str) -> str:
    """A reply that is the answer and nothing else."""
    return f"<answer>{answer}</answer>"


def accepts(verifier: Verifier, problem: Problem, answer: str) -> bool:
    """Whether the verifier pays a reply that is `answer` and nothing else."""
    try:
        return verifier(problem, reply_of(answer)).value == 1.0
    except _FAILS:
        return False


def is_read(verifier: Verifier, problem: Problem) -> bool:
    """Whether the verifier reads the gold of a problem as a value of its kind, and so each part of it that holds words."""
    if problem.verifier not in _VALUES:
        return True
    parts = [problem.answer]
    if problem.verifier == "math":
        parts += [part for part in _parts(problem.answer) if _WORD.search(part)]
    try:
        asked = (verifier(replace(problem, answer=part), reply_of(_WORDS)) for part in parts)
        return all(verdict.reason not in _NOT_READ for verdict in asked)
    except _FAILS:
        return False


def payable(verifier: Verifier, problem: Problem) -> bool:
    """Whether a reply can be paid for the gold of a problem."""
    return accepts(verifier, problem, problem.answer) and is_read(verifier, problem)


def _parts(gold: str) -> list[str]:
    """The parts of a list outside of brackets: one that is words makes a list that no one else would write."""
    parts, depth, start = [], 0, 0
    for mark in _BETWEEN.finditer(gold):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(mark.group(), 0)
        if depth == 0 and mark.group()[-1] not in ")]}":
            parts.append(gold[start : mark.start()])
            start = mark.end()
    return [*parts, gold[start:]] if parts else []
