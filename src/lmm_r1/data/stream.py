"""An endless, mixed, resumable stream of problems whose order is a pure function of (seed, position).

A finite source is read in a fresh shuffle each epoch; an endless one in order. A mixture deals its
sources by weight, as evenly as whole numbers allow, so every step has nearly the wanted shares. The
state is one cursor per source: nothing of the past is stored, and a resumed run reads on exactly.
Left out: sharding over readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lmm_r1.errors import CheckpointError, DataError
from lmm_r1.types import Message, Problem, Text


class Source(Protocol):
    """Where problems come from, by index."""

    @property
    def size(self) -> int | None:
        """How many problems there are; None = endless."""

    def at(self, index: int) -> Problem:
        """The problem at an index below `size`: always the same one."""


class ListSource:
    """Problems that are in memory, such as the rows of a problems.jsonl."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Raises DataError without problems."""
        if not problems:
            raise DataError("a data source holds no problems")
        self._problems = tuple(problems)

    @property
    def size(self) -> int | None:
        """How many problems there are."""
        return len(self._problems)

    def at(self, index: int) -> Problem:
        """The problem at an index."""
        return self._problems[index]


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
        self._shares = [weight / total for weight, _ in sources]
        self._sources = [source for _, source in sources]
        self._seed, self._system = seed, profile_system
        self._cursors = [0] * len(sources)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def take(self, n: int) -> list[Problem]:
        """The next n problems."""
        return [with_system(self._next(), self._system) for _ in range(n)]

    def _next(self) -> Problem:
        dealt = sum(self._cursors) + 1
        debts = [share * dealt - cursor for share, cursor in zip(self._shares, self._cursors, strict=True)]
        which = max(range(len(debts)), key=debts.__getitem__)
        cursor = self._cursors[which]
        self._cursors[which] += 1
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

    def state(self) -> dict[str, Any]:
        """JSON-able position, with what must be the same on resume."""
        return {"seed": self._seed, "sizes": [source.size for source in self._sources], "cursors": list(self._cursors)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; raises CheckpointError when the data have changed since."""
        mine = self.state()
        for name in ("seed", "sizes"):
            if state.get(name) != mine[name]:
                raise CheckpointError(
                    f"the checkpoint was made with other data: its {name} are {state.get(name)}, now {mine[name]}"
                )
        self._cursors = [int(cursor) for cursor in state["cursors"]]
