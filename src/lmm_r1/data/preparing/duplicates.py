"""The same question twice: rows that are equal collapse to the first, and rows that disagree about the answer all go.

Two rows ask the same when their pictures (by sha), the text of their messages (spaces collapsed) and their options are
the same, in the same order. If their golds are the same too, or the verifier takes each for the other (0.5 and 1/2), all
but the first are "duplicate". If not, nobody knows which gold is right, and all are "conflicting gold".

Per row two 64-bit hashes are kept: among a million rows two different ones meet with a chance of 3 in 10^8.
Left out: questions that are nearly the same (they are different problems, unless they are an evaluation's).
Axis legend: N = rows, in the order of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lmm_r1.types import Bool, Problem, Text

UInt64 = NDArray[np.uint64]

DUPLICATE = "duplicate"
CONFLICTING = "conflicting gold"
WHY = {
    DUPLICATE: "The same pictures, question and answer stand in an earlier row.",
    CONFLICTING: "Other rows ask the same of the same pictures and give another answer; all of them go.",
}


def keys(problem: Problem) -> tuple[int, int]:
    """64-bit hashes of (what is asked, the gold)."""
    asked = hashlib.blake2b(digest_size=8)
    for message in problem.messages:
        asked.update(f"\x1d{message.role}".encode())
        for part in message.content:
            piece = "\x1e" + " ".join(part.text.split()) if isinstance(part, Text) else "\x1f" + part.sha
            asked.update(piece.encode(errors="replace"))
    for option in problem.choices or ():
        asked.update(("\x1c" + " ".join(option.split())).encode(errors="replace"))
    gold = hashlib.blake2b(" ".join(problem.answer.split()).encode(errors="replace"), digest_size=8)
    return int.from_bytes(asked.digest(), "big"), int.from_bytes(gold.digest(), "big")


def disputed(asked: UInt64, gold: UInt64, live: Bool) -> NDArray[np.int64]:
    """Rows int64[<=N] whose question comes with more than one spelling of the answer, ascending."""
    rows = np.flatnonzero(live)
    order = rows[np.lexsort((gold[rows], asked[rows]))]
    if len(order) == 0:
        return order
    new = np.flatnonzero(np.append(True, asked[order][1:] != asked[order][:-1]))
    differs = np.append(False, (gold[order][1:] != gold[order][:-1]) & (asked[order][1:] == asked[order][:-1]))
    mixed = np.add.reduceat(differs, new) > 0
    sizes = np.diff(np.append(new, len(order)))
    return np.sort(order[np.repeat(mixed, sizes)])


def settle(
    asked: UInt64, gold: UInt64, live: Bool, problems: Mapping[int, Problem], same: Callable[[Problem, Problem], bool]
) -> tuple[Bool, Bool]:
    """(duplicate bool[N], conflicting bool[N]) among the live rows.

    problems: at least the `disputed` rows, by row. same: whether the golds of two problems are one answer.
    """
    duplicate, conflicting = np.zeros(len(asked), bool), np.zeros(len(asked), bool)
    rows = np.flatnonzero(live)
    order = rows[np.argsort(asked[rows], kind="stable")]
    duplicate[order[1:][asked[order][1:] == asked[order][:-1]]] = True
    groups: dict[int, list[int]] = {}
    for row in disputed(asked, gold, live).tolist():
        groups.setdefault(int(asked[row]), []).append(row)
    for group in groups.values():
        spelled = {int(gold[row]): row for row in reversed(group)}  # the first row of each spelling
        first, *others = sorted(spelled.values())
        if not all(same(problems[first], problems[other]) for other in others):
            duplicate[group], conflicting[group] = False, True
    return duplicate, conflicting
