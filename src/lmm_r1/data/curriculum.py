"""Which rows of a source are trained on, and in what order, by how often a model solved them.

A difficulty file holds a line per row, {"id", "row", "pass_rate", ...}, as `lmm-r1 difficulty` writes it: `row` is the
hash of the row that was measured (fingerprint.py), so a row that was changed afterwards has no entry; a line without
`row` goes by its id. A pass rate of null (the prompt did not fit) counts as 0.

Orders are pure functions of (seed, cursor), so they resume like everything else in the stream:
* easy_to_hard: each pass goes from high pass rates to low, equal ones shuffled; when the stage takes fewer problems than
  there are rows, a pass is an even sample of them, so that it still ends with the hardest.
* window: the rows stand from easy to hard, and a window of a fixed share of them moves from the easiest to the hardest
  in at most 20 steps over the stage. At each stand its rows are dealt in a shuffle of their own, without repetition.
Both count in problems dealt: with dynamic sampling, which deals more, the end comes earlier and then stays.

Left out: orders driven by the reward, which a resumed run would have to relive; how pass rates are measured
(lmm_r1/difficulty.py). Source of the strict bounds: DAPO (arXiv 2503.14476), groups that are all right or all wrong teach
nothing.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmm_r1.config import Data
from lmm_r1.data.fingerprint import NAMED, fingerprint
from lmm_r1.data.stream import Source
from lmm_r1.errors import DataError, Fault
from lmm_r1.types import Problem

#: Share of the rows that are in a window, where a recipe names none.
WINDOW = 0.3
#: At most so many stands of a moving window.
STANDS = 20

Order = Literal["shuffle", "easy_to_hard", "window"]
#: By row hash or by id: the pass rate in [0, 1].
Rates = Mapping[bytes | str, float]


def graded(data: Data, source: Source, folder: Path, seed: int, span: int | None = None) -> Source:
    """The source as the recipe's `difficulty`, `keep_between`, `order` and `window` want it; itself without a difficulty.

    folder: of the recipe. span: problems the stage will deal of it; None = one pass.
    Raises DataError for a missing, broken or incomplete file, and when no row is left.
    """
    if not data.difficulty:
        return source
    path = folder / data.difficulty
    rates = rates_of(source, path)
    kept = np.arange(len(rates))
    if data.keep_between is not None:
        low, high = data.keep_between
        kept = np.flatnonzero((rates > low) & (rates < high))
        if not len(kept):
            what = f"no row of {source.name} has a pass rate between {low:g} and {high:g}"
            raise DataError(Fault(what, file=str(path), field="keep_between"))
    return Graded(source, kept, rates[kept], data.order, data.window or WINDOW, seed, span)


def rates_of(source: Source, path: Path) -> NDArray[np.float64]:
    """The pass rate of each row of a finite source, float64[size]; DataError naming the first rows without one."""
    measured = _read(path)
    found: list[float] = []
    missing: list[str] = []
    for identity, digest in source.rows():
        rate = measured.get(digest, measured.get(identity))
        found.append(math.nan if rate is None else rate)
        if rate is None:
            missing.append(identity)
    if missing:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        what = f"{len(missing)} of {len(found)} rows of {source.name} have no pass rate, or were changed since: {named}"
        remedy = (
            "lmm-r1 difficulty MODEL DATA --out FILE goes on where it stopped; rows that were changed need a new FILE"
        )
        raise DataError(Fault(what, file=str(path), field="difficulty", remedy=remedy))
    return np.array(found, np.float64)


def _read(path: Path) -> Rates:
    """All entries of a difficulty file. A torn last line is one that a kill left: its row has no entry."""
    if not path.is_file():
        remedy = "measure it: lmm-r1 difficulty MODEL DATA --out FILE"
        raise DataError(Fault("the pass rates are not here", file=str(path), field="difficulty", remedy=remedy))
    rates: dict[bytes | str, float] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            key, rate = _entry(line, path, number)
            rates[key] = rate
    return rates


def _entry(line: bytes, path: Path, number: int) -> tuple[bytes | str, float]:
    """(hash of the row, or its id; pass rate) of a line."""
    try:
        entry: Any = json.loads(line)
        rate = entry["pass_rate"]
        value = 0.0 if rate is None else float(rate)
        key = bytes.fromhex(entry["row"]) if "row" in entry else str(entry["id"])
    except (ValueError, KeyError, TypeError):
        raise DataError(Fault("is no line of pass rates", str(path), number)) from None
    if not 0.0 <= value <= 1.0:
        raise DataError(Fault(f"a pass rate is between 0 and 1, not {value}", str(path), number, "pass_rate"))
    return key, value


class Graded:
    """Rows of a finite source, chosen and ordered by their pass rates.

    rows: rising indices int64[n] into the source.  rates: their pass rates, float64[n]. A shuffled one is finite, and the
    stream shuffles it; the others are endless, `at(cursor)` being a pure function of their seed and the cursor.
    """

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        rates: NDArray[np.float64],
        order: Order,
        window: float,
        seed: int,
        span: int | None = None,
    ) -> None:
        self._source, self._rows, self._rates = source, rows, rates
        self._order, self._seed = order, seed
        self._span = span or len(rows)
        self._inside = max(1, round(window * len(rows)))
        self._stand = min(self._inside, math.ceil(self._span / STANDS))  # problems dealt before the window moves
        self._known: tuple[int, NDArray[np.int64]] | None = None
        self._window: tuple[int, NDArray[np.int64]] | None = None
        self.name = source.name
        way = f"{order} {window} {self._span}" if order != "shuffle" else order
        self.fingerprint = fingerprint((way.encode(), *(digest for _, digest in self.rows())))

    @property
    def size(self) -> int | None:
        """How many rows there are; None where the order is its own."""
        return len(self._rows) if self._order == "shuffle" else None

    def at(self, index: int) -> Problem:
        """The problem at a cursor."""
        if self._order == "easy_to_hard":
            index = self._easy_to_hard(index)
        elif self._order == "window":
            index = self._moving(index)
        return self._source.at(int(self._rows[index]))

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of each chosen row: the hash is of the row and of its pass rate."""
        chosen = zip(self._rows.tolist(), self._rates.tolist(), strict=True)
        wanted, rate = next(chosen)
        for index, (identity, digest) in enumerate(self._source.rows()):
            if index == wanted:
                yield identity, bytes.fromhex(fingerprint((digest, struct.pack("<d", rate))))[: len(digest)]
                wanted, rate = next(chosen, (-1, 0.0))

    def _easy_to_hard(self, cursor: int) -> int:
        """Position among the chosen rows: an even walk from the easiest to the hardest, once a pass."""
        n = len(self._rows)
        length = min(n, self._span)
        sweep, position = divmod(cursor, length)
        return int(self._sorted(sweep)[position * n // length])

    def _moving(self, cursor: int) -> int:
        """Position among the chosen rows: one out of the window at this cursor."""
        n = len(self._rows)
        stand, position = divmod(cursor, self._stand)
        if self._window is None or self._window[0] != stand:
            last = max(1, math.ceil(self._span / self._stand) - 1)
            start = round(min(1.0, stand / last) * (n - self._inside))
            order = np.random.default_rng([self._seed, 1, stand]).permutation(self._inside)
            self._window = (stand, self._sorted(0)[start + order])
        return int(self._window[1][position])

    def _sorted(self, sweep: int) -> NDArray[np.int64]:
        """Positions from high pass rates to low; equal ones are shuffled anew each sweep. Only the newest is kept."""
        if self._known is None or self._known[0] != sweep:
            ties = np.random.default_rng([self._seed, 0, sweep]).permutation(len(self._rows))
            self._known = (sweep, ties[np.argsort(-self._rates[ties], kind="stable")])
        return self._known[1]
