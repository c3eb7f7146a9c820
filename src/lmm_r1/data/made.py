"""A source whose problems are made by a function, endless or the first so many: the episodes of a game.

Leaves out: the games (envs/), which this part must not know, and the synthetic questions (synthetic/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lmm_r1.data.fingerprint import fingerprint, row_hash
from lmm_r1.types import Problem

#: Problems that a fingerprint looks at.
LOOKED_AT = 4


class MadeSource:
    """Implements data.stream.Source; `make(index)` must be a pure function. size: None = endless."""

    def __init__(self, name: str, make: Callable[[int], Problem], size: int | None = None) -> None:
        self.name, self._make, self._size = name, make, size
        self._fingerprint = ""

    @property
    def size(self) -> int | None:
        """How many problems there are; None = endless."""
        return self._size

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of the first problems and the size: another seed, other options or a changed game shows. All of them
        are not made for it: their pictures would fill the memory before the first step."""
        digests = (digest for _, digest in self.rows())
        self._fingerprint = self._fingerprint or fingerprint([*digests, str(self._size).encode()])
        return self._fingerprint

    def at(self, index: int) -> Problem:
        """The problem at an index; its pictures are put into the image store."""
        return self._make(index)

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of the first problems."""
        count = LOOKED_AT if self._size is None else min(LOOKED_AT, self._size)
        return ((p.id, row_hash(p)) for p in map(self._make, range(count)))
