"""Which readable problems are worth training on: one predicate per rule, each returns a reason or None.

A reason is the key under which the drop is counted in the report. Faults of a row (unreadable picture,
empty or unverifiable answer) are found earlier, by sources.py.
Left out: contamination against benchmarks, and filters by pass rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lmm_r1.types import Problem, Text

Filter = Callable[[Problem], str | None]

MAX_ANSWER_CHARACTERS = 200
_PROOF = re.compile(r"^\s*(?:prove|show) that\b", re.IGNORECASE)
_PARTS = re.compile(r"\(\s?(?:1|a|i)\s?\).*\(\s?(?:2|b|ii)\s?\)", re.DOTALL)


def question(problem: Problem) -> str:
    """All text of the user's messages."""
    return "\n".join(p.text for m in problem.messages if m.role == "user" for p in m.content if isinstance(p, Text))


def short_answer(problem: Problem) -> str | None:
    """A long answer is an essay, which no rule can check."""
    return "long answer" if len(problem.answer) > MAX_ANSWER_CHARACTERS else None


def no_proof(problem: Problem) -> str | None:
    """A proof has no short answer, whatever the answer field says."""
    return "proof" if _PROOF.match(question(problem)) or problem.answer.casefold() in ("proof", "notfound") else None


def single_part(problem: Problem) -> str | None:
    """An answer of several numbered parts is checked only by luck."""
    return "several parts" if _PARTS.search(problem.answer) else None


def distinct_choices(problem: Problem) -> str | None:
    """Two equal options make the letter a coin toss."""
    options = [" ".join(c.split()).casefold() for c in problem.choices or ()]
    return "equal choices" if len(set(options)) < len(options) else None


FILTERS: tuple[Filter, ...] = (short_answer, no_proof, single_part, distinct_choices)


def reason_to_drop(problem: Problem, filters: tuple[Filter, ...] = FILTERS) -> str | None:
    """The first reason to drop a problem, or None to keep it."""
    return next((reason for rule in filters if (reason := rule(problem)) is not None), None)
