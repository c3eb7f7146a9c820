"""An endless, mixed, sharded, resumable stream of problems whose order is a pure function of (seed, epoch, cursor).

A finite source is read in a fresh shuffle each epoch; an endless one in order. A mixture deals its
sources by weight, as evenly as whole numbers allow, so every step has nearly the wanted shares. The
state is one cursor per source: nothing of the past is stored, and a resumed run reads on exactly.

Sharding: `shard(rank, ranks)` is the same stream, of which each `take(n)` returns this rank's part of the step's n
problems; the parts of all ranks, one after another, are the n problems that one rank alone would get. Cursors count
the problems of all ranks, so a run may resume on another number of them. Every rank must take the same numbers.

A state names the data by their fingerprints (fingerprint.py), and other data are refused row by row.
Left out: where rows lie (jsonl_source.py, synthetic.py) and orders by difficulty (curriculum.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lmm_r1.data.fingerprint import differences, fingerprint, keep_rows, row_hash
from lmm_r1.errors import CheckpointError, DataError, Fault
from lmm_r1.types import Message, Problem, Text


class Source(Protocol):
    """Where problems come from, by index."""

    @property
    def size(self) -> int | None:
        """How many problems there are; None = endless."""

    @property
    def name(self) -> str:
        """What a fault calls it, such as the path of its file."""

    @property
    def fingerprint(self) -> str:
        """Hex sha256 that changes with any row, or with the order of rows."""

    def at(self, index: int) -> Problem:
        """The problem at an index below `size`: always the same one."""

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, 8-byte hash) of each row in order; of an endless source the first ones."""


class ListSource:
    """Problems that are in memory."""

    def __init__(self, problems: Sequence[Problem], name: str = "") -> None:
        """Raises DataError without problems."""
        if not problems:
            raise DataError(Fault("a data source holds no problems", file=name))
        self._problems = tuple(problems)
        self.name = name
        self.fingerprint = fingerprint(row_hash(p) for p in self._problems)

    @property
    def size(self) -> int | None:
        """How many problems there are."""
        return len(self._problems)

    def at(self, index: int) -> Problem:
        """The problem at an index."""
        return self._problems[index]

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of each row."""
        return ((p.id, row_hash(p)) for p in self._problems)


class First:
    """The first `size` problems of an endless source, made anew at each access."""

    def __init__(self, source: Source, size: int) -> None:
        if size < 1:
            raise DataError(Fault("a data source holds no problems", file=source.name))
        self._source, self._size = source, size
        self.name = source.name
        self.fingerprint = fingerprint(digest for _, digest in self.rows())

    @property
    def size(self) -> int | None:
        """How many problems there are."""
        return self._size

    def at(self, index: int) -> Problem:
        """The problem at an index."""
        return self._source.at(index)

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of each row."""
        return ((p.id, row_hash(p)) for p in map(self._source.at, range(self._size)))


def with_system(problem: Problem, system: str) -> Problem:
    """The problem with a system message first, unless it has one or `system` is empty."""
    if not system or problem.messages[0].role == "system":
        return problem
    return replace(problem, messages=(Message("system", (Text(system),)), *problem.messages))


class ProblemStream:
    """Deals problems of several weighted sources.

    sources: (weight > 0, source). profile_system: system prompt of rows that have none; may be empty.
    """

    def __init__(self, sources: Sequence[tuple[float, Source]], seed: int, profile_system: str = "") -> None:
        if not sources or any(weight <= 0 for weight, _ in sources):
            raise DataError("a stream needs at least one source, and weights above 0")
        total = sum(weight for weight, _ in sources)
        self._weighted = tuple(sources)
        self._shares = [weight / total for weight, _ in sources]
        self._sources = [source for _, source in sources]
        self._seed, self._system = seed, profile_system
        self._cursors = [0] * len(sources)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._rank, self._ranks = 0, 1
        self._kept: Path | None = None

    def shard(self, rank: int, ranks: int) -> ProblemStream:
        """This stream, at its present position, as rank `rank` of `ranks` sees it."""
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} of {ranks} ranks")
        view = ProblemStream(self._weighted, self._seed, self._system)
        view._cursors, view._kept = list(self._cursors), self._kept
        view._rank, view._ranks = rank, ranks
        return view

    def take(self, n: int) -> list[Problem]:
        """The next n problems; of a shard, this rank's part of them (n problems in all, over all ranks)."""
        places = [self._deal() for _ in range(n)]
        mine = places[n * self._rank // self._ranks : n * (self._rank + 1) // self._ranks]
        return [with_system(self._at(which, cursor), self._system) for which, cursor in mine]

    def _deal(self) -> tuple[int, int]:
        """(source, cursor in it) of the next problem: the source that is furthest behind its share."""
        dealt = sum(self._cursors) + 1
        debts = [share * dealt - cursor for share, cursor in zip(self._shares, self._cursors, strict=True)]
        which = max(range(len(debts)), key=debts.__getitem__)
        self._cursors[which] += 1
        return which, self._cursors[which] - 1

    def _at(self, which: int, cursor: int) -> Problem:
        source = self._sources[which]
        if source.size is None:
            return source.at(cursor)
        epoch, position = divmod(cursor, source.size)
        return source.at(int(self._order(which, epoch, source.size)[position]))

    def _order(self, which: int, epoch: int, size: int) -> NDArray[np.int64]:
        """The shuffle of one source in one epoch; only the newest is kept."""
        known = self._orders.get(which)
        if known is None or known[0] != epoch:
            known = (epoch, np.random.default_rng([self._seed, which, epoch]).permutation(size))
            self._orders[which] = known
        return known[1]

    def keep_rows(self, folder: Path) -> None:
        """Write down below `folder` what the rows are, so that `restore` can name those that changed."""
        for source in self._sources:
            keep_rows(folder, source)
        self._kept = folder

    def state(self) -> dict[str, Any]:
        """JSON-able position over all ranks, with what must be the same on resume."""
        return {
            "seed": self._seed,
            "sizes": [source.size for source in self._sources],
            "fingerprints": [source.fingerprint for source in self._sources],
            "cursors": list(self._cursors),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`, on any number of ranks.

        Raises CheckpointError when the data have changed since, naming the rows that were added, removed or changed.
        """
        mine = self.state()
        if "fingerprints" not in state:
            raise CheckpointError(
                Fault(
                    "the checkpoint does not say which data it was trained on: an older version of lmm-r1 wrote it",
                    remedy="go on with the version that wrote it, or use another --out to start anew",
                )
            )
        if state["seed"] != mine["seed"]:
            raise CheckpointError(f"the checkpoint was made with another seed: {state['seed']}, now {mine['seed']}")
        before = state["fingerprints"]
        if len(before) != len(self._sources):
            raise CheckpointError(
                f"the checkpoint was made with other data: {len(before)} sources, now {len(self._sources)}"
            )
        faults: list[Fault] = []
        for old, source in zip(before, self._sources, strict=True):
            if old != source.fingerprint:
                faults += differences(self._kept, old, source)
        if faults:
            raise CheckpointError(Fault("the checkpoint was made with other data"), *faults)
        self._cursors = [int(cursor) for cursor in state["cursors"]]
