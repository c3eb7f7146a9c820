"""The rows of a problems.jsonl as a data source of bounded memory: where each line starts, and its 8-byte hash.

All rows and pictures are checked once, when the source is made; later a row is read from the disk whenever it is
asked for, and must then have the hash that was checked. A million rows cost 24 MB; besides, while it is made, the
ids of all rows for finding duplicates.

Files without lines to find (a JSON array, also inside of an object, parquet, UTF-16): `open_rows` holds their rows in
memory. Left out: what a row may hold (sources.py).
"""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmm_r1.data.fingerprint import HASH_BYTES, fingerprint, row_hash
from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw.fields import identity
from lmm_r1.data.raw.locate import Pictures
from lmm_r1.data.raw.rows import is_wrapped
from lmm_r1.data.raw.sources import Verifiers, problems_in, problems_jsonl, read_problems
from lmm_r1.data.stream import ListSource, Source
from lmm_r1.errors import DataError, Fault
from lmm_r1.types import Problem


def open_rows(path: Path, images: ImageStore, verifiers: Verifiers | None = None, domain: str | None = None) -> Source:
    """The rows of a prepared file, or those of one domain in it. Raises DataError naming every bad row."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    if head[:1] in (b"{", b"") and not is_wrapped(path):
        return JsonlSource(path, images, verifiers, domain)
    problems, faults = read_problems(path, images, verifiers)
    if faults:
        raise DataError(*faults)
    return ListSource([p for p in problems if domain in (None, p.domain)], str(path))


class JsonlSource:
    """The rows of one file, or those of one domain in it.

    verifiers: rewards.VERIFIERS; an answer that does not verify against itself is a fault. domain: None = all rows.
    """

    def __init__(
        self, path: Path, images: ImageStore, verifiers: Verifiers | None = None, domain: str | None = None
    ) -> None:
        """Raises DataError naming every bad row, or saying that the file holds no such rows."""
        self._path, self._put = path, Pictures(images, path.parent)
        self.name = str(path)
        for _ in images.put_files(_pictures(path), root=path.parent):
            pass  # in threads, and remembered by the store; faults come again below, with their rows
        faults: list[Fault] = []
        self._lines = array("q")  # numbers of the chosen lines, from 1
        hashes = bytearray()
        for number, found in problems_in(path, images, verifiers):
            if not isinstance(found, Problem):
                faults += found
            elif domain in (None, found.domain):
                self._lines.append(number)
                hashes += row_hash(found)
        if faults:
            raise DataError(*faults)
        if not self._lines:
            what = f'holds no problems of domain "{domain}"' if domain else "holds no problems"
            raise DataError(Fault(what, file=str(path)))
        self._hashes = bytes(hashes)
        self._starts = _starts(path, self._lines)
        self.fingerprint = fingerprint((self._hashes,))

    @property
    def size(self) -> int | None:
        """How many rows there are."""
        return len(self._lines)

    def at(self, index: int) -> Problem:
        """The row at an index, read from the disk; DataError when it is not the one that was checked."""
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline()
        number = self._lines[index]
        try:
            problem = problems_jsonl(_object(line), number, self._put)
        except DataError as error:
            raise DataError(*(replace(f, file=self.name, row=number) for f in error.faults)) from None
        if row_hash(problem) != self._hash(index):
            remedy = "start again: the run goes on from its last checkpoint if the old data are back"
            raise DataError(Fault("has changed while it was in use", self.name, number, remedy=remedy))
        return problem

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of each row, read from the disk."""
        with self._path.open("rb") as file:
            for index, start in enumerate(self._starts):
                file.seek(start)
                yield identity(_object(file.readline()), self._lines[index]), self._hash(index)

    def _hash(self, index: int) -> bytes:
        return self._hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def _object(line: bytes) -> dict[str, Any]:
    """A line as a row; DataError when it is none any more."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(Fault("has changed while it was in use"))
    return row


def _starts(path: Path, numbers: array[int]) -> array[int]:
    """The byte at which each of the lines starts; `numbers` count from 1 and rise."""
    starts, at, wanted = array("q"), 0, iter(numbers)
    number = next(wanted, 0)
    with path.open("rb") as file:
        for count, line in enumerate(file, start=1):
            if count == number:
                starts.append(at)
                number = next(wanted, 0)
            at += len(line)
    if len(starts) != len(numbers):
        raise DataError(Fault("has changed while it was read", str(path)))
    return starts


def _pictures(path: Path) -> Iterator[str]:
    """Names of all pictures in the messages of a file, good or bad rows alike."""
    with path.open("rb") as file:
        for line in file:
            if b'"image"' not in line:  # most rows of a set of text: not worth parsing twice
                continue
            try:
                messages = _object(line).get("messages")
            except DataError:  # said again, with its row, when the rows are checked
                continue
            for message in messages if isinstance(messages, list) else ():
                parts = message.get("content") if isinstance(message, dict) else None
                for part in parts if isinstance(parts, list) else ():
                    name = part.get("image") if isinstance(part, dict) else None
                    if isinstance(name, str):
                        yield name
