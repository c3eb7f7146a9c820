"""What a data set was when a run began: a hash for each row, one for all rows in order, and the difference to later.

A row's hash covers what training depends on: id, messages with the shas of their pictures, answer, verifier, game,
choices and the solution that a supervised stage imitates; not its source, domain or other notes. `keep_rows` writes the
hashes beside a run's checkpoints once, so that a checkpoint holds 64 characters per data set and a refusal still names
the rows that changed.

    <sha256>.rows      a line per row: 16 hex digits of its hash, a space, its id as JSON

Left out: when to compare (stream.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from lmm_r1.errors import Fault
from lmm_r1.places import BOXES
from lmm_r1.types import Problem, Text

#: Ids that a fault names; of the rest it gives the number.
NAMED = 3
#: Bytes of a row's hash: two rows of a million have the same one with a chance of 1 in 10^7.
HASH_BYTES = 8


def row_hash(problem: Problem) -> bytes:
    """8 bytes that change with anything a run would learn from the row."""
    said = [[m.role, [p.text if isinstance(p, Text) else [p.sha] for p in m.content]] for m in problem.messages]
    solution = problem.meta.get("solution")
    row: list[object] = [problem.id, said, problem.answer, problem.verifier, problem.env, problem.choices, solution]
    if problem.is_game or problem.verifier == BOXES:
        row.append(dict(problem.meta))  # what a game plays by stands there, and in what a place is measured
    text = json.dumps(row, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).digest()[:HASH_BYTES]


def fingerprint(hashes: Iterable[bytes]) -> str:
    """Hex sha256 over the hashes of all rows, in order."""
    digest = hashlib.sha256()
    for one in hashes:
        digest.update(one)
    return digest.hexdigest()


class Rows(Protocol):
    """The part of a data source (stream.Source) that is needed here."""

    @property
    def name(self) -> str:
        """What a fault calls it, such as the path of its file."""

    @property
    def fingerprint(self) -> str:
        """`fingerprint` of its rows."""

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """(id, hash) of each row, in order."""


def keep_rows(folder: Path, source: Rows) -> Path:
    """Write the hashes of a source below `folder`, unless they are there; returns the file."""
    target = folder / f"{source.fingerprint}.rows"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{target.name}.{os.getpid()}.tmp"
        with temporary.open("w", encoding="ascii") as out:
            out.writelines(f"{digest.hex()} {json.dumps(identity)}\n" for identity, digest in source.rows())
        os.replace(temporary, target)
    return target


def differences(folder: Path | None, before: str, source: Rows) -> list[Fault]:
    """What became of the rows whose fingerprint was `before`: added, removed, changed or in another order.

    folder: where `keep_rows` wrote them; without the file the fault can only say that something changed.
    """
    remedy = "put the old data back, or use another --out to train on the new ones"
    path = None if folder is None else folder / f"{before}.rows"
    if path is None or not path.is_file():
        what = f"the data have changed since the run began (fingerprint {before[:16]}, now {source.fingerprint[:16]})"
        return [Fault(what, file=source.name, remedy=remedy)]
    with path.open(encoding="ascii") as lines:
        old = {json.loads(line[2 * HASH_BYTES :]): bytes.fromhex(line[: 2 * HASH_BYTES]) for line in lines}
    added, changed = _Named(), _Named()
    kept = 0
    for identity, digest in source.rows():
        known = old.pop(identity, None)
        kept += known is not None
        if known is None:
            added.add(identity)
        elif known != digest:
            changed.add(identity)
    removed = _Named()
    for identity in old:
        removed.add(identity)
    found = [
        Fault(f"since the run began, {rows.said()} {what}", file=source.name, remedy=remedy)
        for rows, what in ((added, "added"), (removed, "removed"), (changed, "changed"))
        if rows.count
    ]
    order = Fault(f"since the run began, its {kept} rows were put into another order", file=source.name, remedy=remedy)
    return found or [order]


class _Named:
    """A number of rows, of which the first few are named."""

    def __init__(self) -> None:
        self.count, self.first = 0, list[str]()

    def add(self, identity: str) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(identity)

    def said(self) -> str:
        """Such as: 12 rows (a, b, c, ...) were."""
        more = ", ..." if self.count > NAMED else ""
        return f"{self.count} {'row' if self.count == 1 else 'rows'} ({', '.join(self.first)}{more}) {'was' if self.count == 1 else 'were'}"
