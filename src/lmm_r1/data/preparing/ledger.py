"""The books of a preparation: what became of every row, in a few dozen bytes each, and what the report says of it.

A row is either unread (its faults say why) or one of N problems, which are numbered in the order of the file; reason 0
means kept so far. The first reason given to a row stays. Every row is counted once: kept + dropped = rows, which
`counts` asserts.
Left out: the rows themselves (prepare.py keeps them in a file). Axis legend: N = problems.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmm_r1.errors import Fault
from lmm_r1.places import OUTSIDE
from lmm_r1.types import Bool, Problem

#: What stands for a source where a row has none, or could not be read far enough to know it.
NO_SOURCE, UNREAD = "(no source)", "(not read)"
NOT_SAMPLED = "not sampled"
GOLD_OUTSIDE = "gold outside its picture"
WHY = {
    NOT_SAMPLED: "Good, but more rows are left than were asked for; the seed drew others.",
    GOLD_OUTSIDE: "The box or point does not lie in the picture: it belongs to another size of it, or counts something else.",
}


_PICTURE_FIELD = re.compile(r"(?:\w+\.)*(?:image|images|decoded_image)(?:\[\d+\])?|.*\.content\[\d+\]")


def fault_reason(fault: Fault) -> str:
    """Under which reason a row with this fault is counted: "bad " and the field it is in, but for golds outside."""
    if fault.message.startswith(OUTSIDE):
        return GOLD_OUTSIDE
    if _PICTURE_FIELD.fullmatch(fault.field) and not fault.message.startswith("must be"):
        return "bad image"
    return f"bad {re.split(r'[.[]', fault.field)[0] or 'row'}"


class Ledger:
    """Add problems and faults in the order of the file, then `seal`, then drop rows by mask."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._reasons, self._sources = [""], list[str]()
        self._reason_codes, self._source_codes = {"": 0}, dict[str, int]()
        self._number, self._lot = array("q"), array("Q")
        self._asked, self._gold = array("Q"), array("Q")
        self._source, self._reason, self._pictures = array("i"), array("h"), array("b")
        self.faults: Counter[str] = Counter()

    def fault(self, reason: str) -> None:
        """A row that could not be read."""
        self.faults[reason] += 1

    def add(self, problem: Problem, number: int, reason: str, keys: tuple[int, int]) -> int:
        """A problem, the row it was, why it is dropped (empty: it is not yet), and its hashes (duplicates.keys).

        Returns its index.
        """
        digest = hashlib.blake2b(f"{self._seed}\0{problem.id}".encode(errors="replace"), digest_size=8).digest()
        self._number.append(number)
        self._lot.append(int.from_bytes(digest, "big"))
        self._asked.append(keys[0])
        self._gold.append(keys[1])
        self._source.append(self._code(problem.source or NO_SOURCE, self._sources, self._source_codes))
        self._reason.append(self._code(reason, self._reasons, self._reason_codes))
        self._pictures.append(bool(problem.images))
        return len(self._number) - 1

    @staticmethod
    def _code(name: str, names: list[str], codes: dict[str, int]) -> int:
        if name not in codes:
            codes[name] = len(names)
            names.append(name)
        return codes[name]

    def seal(self) -> None:
        """No more rows; from here on the columns are arrays of N."""
        self.number: NDArray[np.int64] = np.array(self._number, np.int64)
        self.lot: NDArray[np.uint64] = np.array(self._lot, np.uint64)
        self.asked: NDArray[np.uint64] = np.array(self._asked, np.uint64)
        self.gold: NDArray[np.uint64] = np.array(self._gold, np.uint64)
        self.source: NDArray[np.int32] = np.array(self._source, np.int32)
        self.reason: NDArray[np.int16] = np.array(self._reason, np.int16)
        self.pictures: Bool = np.array(self._pictures, bool)
        del self._number, self._lot, self._asked, self._gold, self._source, self._reason, self._pictures

    @property
    def live(self) -> Bool:
        """bool[N]: kept so far."""
        return np.asarray(self.reason == 0)

    def drop(self, rows: Bool | int, reason: str) -> None:
        """Drop those of the rows (a mask or an index) that are still live."""
        mask = np.zeros(len(self.reason), bool)
        mask[rows] = True
        self.reason[mask & self.live] = self._code(reason, self._reasons, self._reason_codes)

    def reason_of(self, index: int) -> str:
        """Why a problem was dropped; empty when it is kept."""
        return self._reasons[self.reason[index]]

    def draw(self, count: int) -> None:
        """Leave `count` of the live rows: those whose hash of (seed, id) is smallest, so that neither the order of the
        rows nor anything else decides."""
        live = np.flatnonzero(self.live)
        if len(live) > count:
            lucky = live[np.lexsort((live, self.lot[live]))]
            mask = np.zeros(len(self.reason), bool)
            mask[lucky[count:]] = True
            self.drop(mask, NOT_SAMPLED)

    def shown(self, count: int) -> list[int]:
        """Some kept rows, drawn by seed and in the order of the file."""
        live = np.flatnonzero(self.live)
        return sorted(live[np.argsort(self.lot[live], kind="stable")[:count]].tolist())

    def counts(self) -> dict[str, Any]:
        """{"rows", "kept", "dropped": {reason: n}, "by_source": {source: {"kept": n, "dropped": {reason: n}}}}."""
        table: Counter[tuple[str, str]] = Counter()
        pairs, sizes = np.unique(np.stack([self.source, self.reason.astype(np.int32)]), axis=1, return_counts=True)
        for (source, reason), size in zip(pairs.T.tolist(), sizes.tolist(), strict=True):
            table[self._sources[source], self._reasons[reason]] = size
        for reason, size in self.faults.items():
            table[UNREAD, reason] = size
        by_source: dict[str, dict[str, Any]] = {}
        dropped: Counter[str] = Counter()
        kept = 0
        for (source, reason), size in sorted(table.items()):
            entry = by_source.setdefault(source, {"kept": 0, "dropped": {}})
            if reason:
                entry["dropped"][reason] = size
                dropped[reason] += size
            else:
                entry["kept"] = size
                kept += size
        rows = len(self.reason) + sum(self.faults.values())
        assert kept + sum(dropped.values()) == rows, (
            f"{kept} kept + {sum(dropped.values())} dropped are not {rows} rows"
        )
        return {"rows": rows, "kept": kept, "dropped": dict(sorted(dropped.items())), "by_source": by_source}


def beside_paper(counts: Mapping[str, Any], table: str, paper: Mapping[str, int]) -> dict[str, Any]:
    """Kept rows by source next to the paper's, and how many were verifiable before the draw."""
    by_source = counts["by_source"]
    names = sorted(set(paper) | set(by_source) - {UNREAD}, key=lambda name: (-paper.get(name, 0), name))
    sources = {}
    for name in names:
        entry = by_source.get(name, {"kept": 0, "dropped": {}})
        usable = entry["kept"] + entry["dropped"].get(NOT_SAMPLED, 0)
        sources[name] = {"kept": entry["kept"], "usable": usable, "paper": paper.get(name, 0)}
    total = {key: sum(entry[key] for entry in sources.values()) for key in ("kept", "usable", "paper")}
    return {"table": table, "sources": sources, "total": total}
