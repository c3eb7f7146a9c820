"""Evaluation files -> the questions that training rows are compared with (contamination.py).

Any file that a reader understands, told by the fields of its first row, or "READER:FILE"; a folder stands for its
problems.jsonl. Answers do not matter: a row without one, or with one that cannot be read, still asks its question. What
cannot be read at all is counted as "unread" and told, since it is not compared with anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.contamination import Question, UInt64, picture_hash, stem
from lmm_r1.data.raw.locate import Pictures
from lmm_r1.data.raw.rows import Row, rows
from lmm_r1.data.raw.sources import SOURCES
from lmm_r1.errors import DataError, Fault, RecipeError
from lmm_r1.types import Image, Message, Problem, Text

#: The first reader whose fields a row has.
_FIELDS = (
    ("problems", ("messages", "verifier")),
    ("openai", ("messages",)),
    ("message", ("message",)),
    ("mathv360k", ("conversations",)),
    ("virl39k", ("question", "qid")),
    ("rows", ("question",)),
    ("geometry3k", ("problem", "images")),
    ("deepscaler", ("problem",)),
)
_NO_PICTURES: UInt64 = np.zeros((0, 16), np.uint64)


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """The questions of one file, and the number of rows that could not be read as one."""

    name: str
    questions: tuple[Question, ...]
    unread: int


def hashes_of(problem: Problem, images: ImageStore, known: dict[str, UInt64] | None = None) -> UInt64:
    """uint64[pictures, 16]; known: hashes by sha, which grows. Raises DataError for a file that has changed."""
    known = {} if known is None else known
    for image in problem.images:
        if image.sha not in known:
            known[image.sha] = picture_hash(images.get(image.sha))
    return np.stack([known[image.sha] for image in problem.images]) if problem.images else _NO_PICTURES


def questions_of(name: str, problems: Sequence[Problem], images: ImageStore) -> EvaluationFile:
    """Problems that are in memory, as an evaluation file of that name."""
    return EvaluationFile(name, tuple(Question(name, p.id, stem(p), hashes_of(p, images)) for p in problems), 0)


def merged(files: Sequence[EvaluationFile]) -> list[EvaluationFile]:
    """Files by name, those of the same name as one: the order in which they were given is forgotten."""
    by_name: dict[str, EvaluationFile] = {}
    for file in files:
        same = by_name.get(file.name, EvaluationFile(file.name, (), 0))
        by_name[file.name] = EvaluationFile(file.name, same.questions + file.questions, same.unread + file.unread)
    return [by_name[name] for name in sorted(by_name)]


def read_evaluation(where: str | Path, images: ImageStore) -> EvaluationFile:
    """Read "FILE", "READER:FILE" or a folder. Raises DataError when there is no such file or no question in it."""
    reader, path = _place(str(where))
    name = "/".join(path.resolve().parts[-2:])
    questions: list[Question] = []
    unread = 0
    with Pictures(images, path.parent) as put:
        for number, row in rows(path):
            if isinstance(row, Fault):
                unread += 1
                continue
            reader = reader or _reader_of(row)
            problem = _problem(row, number, reader, put)
            if problem is None:
                unread += 1
                continue
            questions.append(Question(name, f"{number} {problem.id}", stem(problem), hashes_of(problem, images)))
    if not questions:
        raise DataError(Fault("holds no question to compare with", file=str(path)))
    return EvaluationFile(name, tuple(questions), unread)


def _place(where: str) -> tuple[str, Path]:
    head, colon, tail = where.partition(":")
    if not Path(where).exists() and colon and tail:
        if head not in SOURCES:
            raise RecipeError(f"no data source '{head}' (there are: {', '.join(SOURCES)})")
        return head, Path(tail)
    path = Path(where)
    return "", path / "problems.jsonl" if path.is_dir() else path


def _reader_of(row: Row) -> str:
    return next((name for name, fields in _FIELDS if all(field in row for field in fields)), "rows")


def _problem(row: Row, number: int, reader: str, put: Pictures) -> Problem | None:
    for attempt in (row, {"id": str(number), **row, "answer": "1"}):
        try:
            return SOURCES[reader](attempt, number, put)
        except DataError:
            continue
    return _bare(row, number, put)


def _bare(row: Row, number: int, put: Pictures) -> Problem | None:
    """A row that its reader refuses, as a text and perhaps a picture; None when there is no such thing in it."""
    text = next((row[name] for name in ("question", "problem", "prompt") if isinstance(row.get(name), str)), None)
    shown = next((row[name] for name in ("image", "images", "decoded_image") if row.get(name)), None)
    if text is None or not text.strip():
        return None
    content: list[Text | Image] = [Text(text)]
    if shown is not None:
        if not isinstance(shown, str):
            return None
        try:
            content.append(put(shown))
        except DataError:
            return None
    return Problem(str(number), (Message("user", tuple(content)),), "")
