"""The table of data sources, and a data file -> Problems or what is wrong with each row.

A row is untrusted: whatever is wrong with it becomes a Fault with file, row and field, never a crash and never a
silently shifted picture. Nothing is downloaded but a data set of the hub that is named as one (hub.py).

A row goes: rows.py (or hub.py) -> a reader of this table -> fields.py checks its parts, locate.py finds its pictures ->
Problem -> its id is new and its gold verifies against itself.
Formats: "problems" is the project's own (docs/architecture.md), written by `row_of`; the others are in published.py.
Left out: filters (filters.py) and what a file as a whole should hold (prepare.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw.fields import (
    Put,
    Reader,
    answer,
    choices,
    conversation,
    fault,
    identity,
    notes,
    place_gold,
    string,
)
from lmm_r1.data.raw.locate import Pictures, Prefix
from lmm_r1.data.raw.mathv360k import mathv360k
from lmm_r1.data.raw.payable import Verifiers, payable
from lmm_r1.data.raw.published import (
    deepscaler,
    geometry3k,
    geoqa_r1v,
    message,
    mmk12,
    open_r1_8k,
    openai,
    unified,
    virl39k,
)
from lmm_r1.data.raw.rows import Input, Row, open_file, rows
from lmm_r1.errors import DataError, Fault
from lmm_r1.places import BOXES, place_fault
from lmm_r1.types import SINGLE_TURN, Image, Problem, Text

__all__ = [
    "SOURCES",
    "Input",
    "Prefix",
    "Put",
    "Reader",
    "Row",
    "Verifiers",
    "problems_in",
    "read_problems",
    "row_of",
    "rows",
]


def problems_jsonl(row: Row, number: int, put: Put) -> Problem:
    """The project's own format, as `row_of` writes it."""
    meta = notes(row)
    messages = conversation(row.get("messages"), put)
    verifier = string(row, "verifier", "math")
    problem = Problem(
        id=identity(row, number),
        messages=messages,
        answer=place_gold(row) if verifier == BOXES else answer(row),
        verifier=verifier,
        env=string(row, "env", SINGLE_TURN),
        source=string(row, "source", ""),
        choices=choices(row),
        domain=string(row, "domain", ""),
        meta=meta,
    )
    named = row.get("image_sha")
    if named is not None and named != [image.sha for image in problem.images]:
        raise fault("image_sha", "does not name the pictures of the messages: they have changed, or some are missing")
    return problem


SOURCES: dict[str, Reader] = {
    "problems": problems_jsonl,
    "rows": unified,
    "unified": unified,
    "deepscaler": deepscaler,
    "message": message,
    "mathv360k": mathv360k,
    "geometry3k": geometry3k,
    "mmk12": mmk12,
    "virl39k": virl39k,
    "geoqa_r1v": geoqa_r1v,
    "open_r1_8k": open_r1_8k,
    "openai": openai,
}


def read_problems(
    path: str | Path | Input,
    images: ImageStore,
    verifiers: Verifiers | None = None,
    *,
    strict: bool = False,
    reader: Reader = problems_jsonl,
    images_from: str | Path | None = None,
    prefixes: Sequence[Prefix] = (),
) -> tuple[list[Problem], list[Fault]]:
    """All good rows as Problems, and a Fault (file, row, field) for every bad one: `problems_in`, held in memory.

    Raises DataError when the file cannot be read; with `strict`, for any fault, and for a file without rows.
    """
    problems: list[Problem] = []
    faults: list[Fault] = []
    for _, found in problems_in(path, images, verifiers, reader, images_from, prefixes):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            faults += found
    if strict and faults:
        raise DataError(*faults)
    if strict and not problems:
        raise DataError(Fault("holds no problems", file=path.name if isinstance(path, Input) else str(path)))
    return problems, faults


def problems_in(
    path: str | Path | Input,
    images: ImageStore,
    verifiers: Verifiers | None = None,
    reader: Reader = problems_jsonl,
    images_from: str | Path | None = None,
    prefixes: Sequence[Prefix] = (),
) -> Iterator[tuple[int, Problem | tuple[Fault, ...]]]:
    """Row by row: its number from 1, and the Problem or everything that is wrong with it (file, row, field).

    path: a data file, or rows that are open already (hub.open_input). verifiers: when given, an unknown verifier is a
    fault, and an answer for which no reply could be paid (payable.py). images_from: the folder, .zip, .tar or .tar.gz that paths
    of pictures are relative to; by default the data file's folder. prefixes: (old, new) beginnings of such paths.
    Raises DataError when the file or the archive cannot be read. Only ids are kept of the rows that have passed.
    """
    source = path if isinstance(path, Input) else open_file(path)
    first: dict[str, int] = {}
    with Pictures(images, source.root, images_from, prefixes) as put:
        for number, row in source.rows:
            if isinstance(row, Fault):
                yield number, (row,)
                continue
            try:
                problem = reader(row, number, put)
                _check(problem, first, verifiers)
            except DataError as error:
                yield number, tuple(replace(f, file=source.name, row=number) for f in error.faults)
                continue
            first[problem.id] = number
            yield number, problem


def _check(problem: Problem, first: Mapping[str, int], verifiers: Verifiers | None) -> None:
    if problem.id in first:
        raise fault("id", f"'{problem.id}' was used in row {first[problem.id]} already")
    if (wrong := place_fault(problem)) is not None:
        raise DataError(wrong)
    if verifiers is None:
        return
    if problem.verifier not in verifiers:
        raise fault("verifier", f"'{problem.verifier}' is unknown (there are: {', '.join(sorted(verifiers))})")
    if not payable(verifiers[problem.verifier], problem):
        shown = problem.answer if len(problem.answer) <= 60 else problem.answer[:57] + "..."
        remedy = 'no reply could be paid: give a short value, or words with the verifier "text"'
        what = f"does not verify against itself as {problem.verifier}: {shown!r}"
        raise DataError(Fault(what, field="answer", remedy=remedy))


def row_of(problem: Problem, path_of: Callable[[Image], str]) -> dict[str, Any]:
    """The line of problems.jsonl for a problem; path_of gives a picture's path relative to that file."""

    def part(piece: Text | Image) -> dict[str, str]:
        if isinstance(piece, Text):
            return {"type": "text", "text": piece.text}
        return {"type": "image", "image": path_of(piece)}

    row: dict[str, Any] = {
        "id": problem.id,
        "source": problem.source,
        "messages": [{"role": m.role, "content": [part(p) for p in m.content]} for m in problem.messages],
        "answer": problem.answer,
        "verifier": problem.verifier,
        "choices": list(problem.choices) if problem.choices is not None else None,
        "domain": problem.domain,
        "image_sha": [image.sha for image in problem.images],
        "meta": dict(problem.meta),
    }
    return row | {"env": problem.env} if problem.is_game else row
