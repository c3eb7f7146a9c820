"""The same question twice: collapsed when the answers agree, gone when they do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm_r1.data.preparing.duplicates import disputed, keys, settle
from lmm_r1.types import Image, Message, Problem, Text

A, B = Image("a" * 64, 8, 8), Image("b" * 64, 8, 8)


def problem(
    *content: Text | Image | str, answer: str = "1", choices: tuple[str, ...] | None = None, system: str = ""
) -> Problem:
    parts = tuple(Text(c) if isinstance(c, str) else c for c in content)
    head = (Message("system", (Text(system),)),) if system else ()
    return Problem("p", (*head, Message("user", parts)), answer, choices=choices)


def decide(rows: Sequence[Problem], live: Sequence[bool] | None = None) -> list[str]:
    found = [keys(row) for row in rows]
    asked, gold = (np.array([pair[k] for pair in found], np.uint64) for k in (0, 1))
    mask = np.array(live if live is not None else [True] * len(rows))
    problems = {int(n): rows[n] for n in disputed(asked, gold, mask)}
    duplicate, conflicting = settle(
        asked, gold, mask, problems, lambda a, b: float(a.answer.replace("1/2", ".5")) == float(b.answer.replace("1/2", ".5"))
    )  # fmt: skip
    assert not (duplicate & conflicting).any()
    return ["duplicate" if d else "conflicting" if c else "" for d, c in zip(duplicate, conflicting, strict=True)]


def test_equal_rows_collapse_to_the_first() -> None:
    """Catches a second copy that is kept, or a first one that is not; spaces make no difference."""
    assert decide([problem("a?"), problem("b?"), problem(" a? "), problem("a?")]) == ["", "", "duplicate", "duplicate"]


def test_conflicting_golds_drop_all() -> None:
    """Catches one of two contradicting rows being trusted because it comes first or more often."""
    rows = [problem("a?"), problem("a?"), problem("a?", answer="2"), problem("b?", answer="2")]
    assert decide(rows) == ["conflicting"] * 3 + [""]


def test_equal_values_are_one_gold() -> None:
    """Catches 0.5 and 1/2 taken for a contradiction."""
    rows = [problem("a?", answer="0.5"), problem("a?", answer="1/2"), problem("a?", answer="0.5")]
    assert decide(rows) == ["", "duplicate", "duplicate"]
    assert decide([*rows, problem("a?", answer="3")]) == ["conflicting"] * 4


def test_what_makes_a_question_another_one() -> None:
    """Catches rows that are merged although a picture, its place, the options, the case or the system prompt differ."""
    rows = [
        problem(A, "x?"),
        problem(B, "x?"),
        problem("x?"),
        problem("x?", A),
        problem(A, B, "x?"),
        problem(B, A, "x?"),
        problem(A, "X?"),
        problem(A, "x?", choices=("1", "2")),
        problem(A, "x?", choices=("2", "1")),
        problem(A, "x?", system="Think."),
    ]
    assert decide(rows) == [""] * len(rows)


def test_dropped_rows_have_no_say() -> None:
    """Catches a row that is out already but still makes others duplicates or contradictions."""
    rows = [problem("a?"), problem("a?", answer="2"), problem("a?")]
    assert decide(rows, [True, False, True]) == ["", "", "duplicate"]
    assert decide(rows, [False, False, True]) == ["", "", ""]
    assert decide(rows, [False, False, False]) == ["", "", ""]
    assert decide([]) == []
