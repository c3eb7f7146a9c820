"""One reader per data set: raw row -> Problem; and `read_problems`, which names every bad row.

A row is untrusted: whatever is wrong with it becomes a Fault with file, row and field, never a crash and
never a silently shifted picture. Nothing is downloaded; pictures lie below the folder of their file.

Formats: "problems" is the project's own (docs/architecture.md); "unified" is {id, source, question,
choices, answer, image}; "deepscaler" is agentica-org/DeepScaleR-Preview-Dataset (problem, answer);
"geometry3k" is hiyouga/geometry3k as JSON lines (images, problem with <image>, answer).
Left out: filters (filters.py) and parquet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lmm_r1.data.images import ImageStore
from lmm_r1.errors import DataError, Fault
from lmm_r1.seams import Verifier
from lmm_r1.types import Image, Message, Problem, Role, Text

Row = Mapping[str, Any]
#: Takes the path of a picture, relative to the data file.
Put = Callable[[str], Image]
Reader = Callable[[Row, int, Put], Problem]
#: rewards.VERIFIERS, passed in: data may not import rewards.
Verifiers = Mapping[str, Verifier]

MAX_LINE = 16 * 1024 * 1024
_MARKER = re.compile(r"<image\d*>")
_LETTER = re.compile(r"[A-J]")


def fault(field: str, message: str) -> DataError:
    """A fault of one field; `read_problems` adds file and row."""
    return DataError(Fault(message, field=field))


def _string(row: Row, name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise fault(name, "is missing" if value is None else f"must be text, not {type(value).__name__}")
    return value


def _answer(row: Row, name: str = "answer") -> str:
    """The gold answer as text; a bare JSON number is one too."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = repr(value)
    if not isinstance(value, str):
        raise fault(name, "is missing" if value is None else f"must be text, not {type(value).__name__}")
    if not value.strip():
        raise fault(name, "is empty")
    return value.strip()


def _choices(row: Row) -> tuple[str, ...] | None:
    value = row.get("choices")
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(c, str) for c in value):
        raise fault("choices", "must be null or a list of texts")
    return tuple(value) if len(value) <= 26 else _refuse_choices(len(value))


def _refuse_choices(count: int) -> tuple[str, ...]:
    raise fault("choices", f"holds {count} options; at most 26 have letters")


def place(text: str, pictures: Sequence[Image], field: str) -> tuple[Text | Image, ...]:
    """Text with <image> markers and the pictures that belong there; without a marker one picture comes first."""
    pieces = _MARKER.split(text)
    markers = len(pieces) - 1
    if markers == 0 and len(pictures) == 1:
        pieces = ["", text]
    elif markers != len(pictures):
        raise fault(field, f"holds {markers} <image> markers for {len(pictures)} pictures")
    content: list[Text | Image] = []
    for number, piece in enumerate(pieces):
        if number:
            content.append(pictures[number - 1])
        if piece.strip():
            content.append(Text(piece.strip()))
    return tuple(content)


def _paths(row: Row, name: str) -> list[str]:
    """Paths of pictures: null, one path, or a list of paths or of {"path": ...}."""
    value = row.get(name)
    items = [] if value is None else value if isinstance(value, list) else [value]
    paths = [item.get("path") if isinstance(item, dict) else item for item in items]
    if not all(isinstance(p, str) and p for p in paths):
        raise fault(name, "must be null, a path or a list of paths")
    return [str(p) for p in paths]


def _put_all(paths: Sequence[str], put: Put, field: str) -> list[Image]:
    return [_put(path, put, field) for path in paths]


def _put(path: str, put: Put, field: str) -> Image:
    try:
        return put(path)
    except DataError as error:
        raise fault(field, f"{path[:200]}: {error.faults[0].message}") from None


def problems_jsonl(row: Row, number: int, put: Put) -> Problem:
    """The project's own format, as `row_of` writes it."""
    identity = _string(row, "id")
    if not identity:
        raise fault("id", "is empty")
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise fault("meta", "must be an object")
    messages = _messages(row, put)
    problem = Problem(
        id=identity,
        messages=messages,
        answer=_answer(row),
        verifier=_string(row, "verifier", "math"),
        env=_string(row, "env", "single_turn"),
        source=_string(row, "source", ""),
        choices=_choices(row),
        domain=_string(row, "domain", ""),
        meta=meta,
    )
    named = row.get("image_sha")
    if named is not None and named != [image.sha for image in problem.images]:
        raise fault("image_sha", "does not name the pictures of the messages: they have changed, or some are missing")
    return problem


def _messages(row: Row, put: Put) -> tuple[Message, ...]:
    value = row.get("messages")
    if not isinstance(value, list) or not value:
        raise fault("messages", "must be a list of at least one message")
    messages = tuple(_message(item, f"messages[{n}]", put) for n, item in enumerate(value))
    if messages[-1].role != "user":
        raise fault("messages", f"must end with the user's message, not the {messages[-1].role}'s")
    if any(message.role == "system" for message in messages[1:]):
        raise fault("messages", "may hold a system message only at the beginning")
    return messages


def _message(item: Any, field: str, put: Put) -> Message:
    if not isinstance(item, dict) or item.get("role") not in get_args(Role):
        raise fault(f"{field}.role", f"must be one of {', '.join(get_args(Role))}")
    parts = item.get("content")
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    if not isinstance(parts, list) or not parts:
        raise fault(f"{field}.content", "must be a text or a list of at least one part")
    content: list[Text | Image] = []
    for n, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if kind in ("text", "image") else None
        if not isinstance(value, str):
            raise fault(
                f"{field}.content[{n}]", 'must be {"type": "text", "text": ...} or {"type": "image", "image": path}'
            )
        content.append(Text(value) if kind == "text" else _put(value, put, f"{field}.content[{n}]"))
    return Message(item["role"], _marked(content, f"{field}.content"))


def _marked(content: list[Text | Image], field: str) -> tuple[Text | Image, ...]:
    """Content with literal <image> markers: as many as pictures, which then stand at their markers."""
    texts = [p.text for p in content if isinstance(p, Text)]
    if not any(_MARKER.search(text) for text in texts):
        return tuple(content)
    pictures = [p for p in content if isinstance(p, Image)]
    return place("\n".join(texts), pictures, field)


def unified(row: Row, number: int, put: Put) -> Problem:
    """{id, source, question, choices, answer, image}: several public sets under one set of names."""
    choices = _choices(row)
    answer = _answer(row)
    question = _string(row, "question").strip()
    if not question:
        raise fault("question", "is empty")
    pictures = _put_all(_paths(row, "image"), put, "image")
    if choices:
        question += "".join(f"\n{chr(65 + n)}. {text}" for n, text in enumerate(choices))
    source = _string(row, "source", "")
    geometric = any(word in source.casefold() for word in ("geo", "unigeo"))
    return Problem(
        id=_string(row, "id"),
        messages=(Message("user", place(question, pictures, "question")),),
        answer=answer,
        verifier="choice" if choices or _LETTER.fullmatch(answer) else "math",
        source=source,
        choices=choices,
        domain="text" if not pictures else "geometry" if geometric else "perception",
        meta={k: row[k] for k in ("licence", "split", "level", "subject") if isinstance(row.get(k), str | int)},
    )


def deepscaler(row: Row, number: int, put: Put) -> Problem:
    """agentica-org/DeepScaleR-Preview-Dataset: {problem, answer, solution}."""
    question = _string(row, "problem").strip()
    if not question:
        raise fault("problem", "is empty")
    return Problem(
        id=f"deepscaler-{number}",
        messages=(Message("user", (Text(question),)),),
        answer=_answer(row),
        source="DeepScaleR-Preview",
        domain="text",
        meta={"solution": row["solution"]} if isinstance(row.get("solution"), str) and row["solution"].strip() else {},
    )


def geometry3k(row: Row, number: int, put: Put) -> Problem:
    """hiyouga/geometry3k as JSON lines: {images, problem with <image>, answer}."""
    pictures = _put_all(_paths(row, "images"), put, "images")
    return Problem(
        id=f"geometry3k-{row.get('id', number)}",
        messages=(Message("user", place(_string(row, "problem"), pictures, "problem")),),
        answer=_answer(row),
        source="hiyouga/geometry3k",
        domain="geometry",
    )


SOURCES: dict[str, Reader] = {
    "problems": problems_jsonl,
    "unified": unified,
    "deepscaler": deepscaler,
    "geometry3k": geometry3k,
}


def rows(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    """(row number from 1, row or the fault that stands in its place) of a JSON-lines file or a JSON array.

    Raises DataError when there is no such file.
    """
    try:
        with path.open("rb") as file:
            array = file.read(64).lstrip()[:1] == b"["
            file.seek(0)
            if array:
                yield from enumerate(_array(path, file.read()), start=1)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _row(line, path, number)
    except OSError as error:
        raise DataError(Fault(f"cannot be read: {error.strerror}", file=str(path))) from None


def _array(path: Path, data: bytes) -> list[Row | Fault]:
    try:
        items = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(Fault(f"is not JSON: {error}", file=str(path))) from None
    return [x if isinstance(x, dict) else Fault("is not an object", str(path), n) for n, x in enumerate(items, start=1)]


def _row(line: bytes, path: Path, number: int) -> Row | Fault:
    if len(line) > MAX_LINE:
        return Fault(f"a line of {len(line)} bytes is too long (limit: {MAX_LINE})", str(path), number)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Fault(f"is not JSON: {error}", str(path), number)
    return row if isinstance(row, dict) else Fault("is not an object", str(path), number)


def read_problems(
    path: str | Path,
    images: ImageStore,
    verifiers: Verifiers | None = None,
    *,
    strict: bool = False,
    reader: Reader = problems_jsonl,
) -> tuple[list[Problem], list[Fault]]:
    """All good rows as Problems, and a Fault (file, row, field) for every bad one: `problems_in`, held in memory.

    Raises DataError when the file cannot be read; with `strict`, for any fault, and for a file without rows.
    """
    problems: list[Problem] = []
    faults: list[Fault] = []
    for _, found in problems_in(path, images, verifiers, reader):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            faults += found
    if strict and faults:
        raise DataError(*faults)
    if strict and not problems:
        raise DataError(Fault("holds no problems", file=str(path)))
    return problems, faults


def problems_in(
    path: str | Path, images: ImageStore, verifiers: Verifiers | None = None, reader: Reader = problems_jsonl
) -> Iterator[tuple[int, Problem | tuple[Fault, ...]]]:
    """Row by row: its number from 1, and the Problem or everything that is wrong with it (file, row, field).

    verifiers: when given, an unknown verifier is a fault, and an answer that does not verify against itself.
    Raises DataError when the file cannot be read.
    """
    file = Path(path)
    first: dict[str, int] = {}

    def put(name: str) -> Image:
        return images.put_file(name, root=file.parent)

    for number, row in rows(file):
        if isinstance(row, Fault):
            yield number, (row,)
            continue
        try:
            problem = reader(row, number, put)
            _check(problem, first, verifiers)
        except DataError as error:
            yield number, tuple(replace(f, file=str(file), row=number) for f in error.faults)
            continue
        first[problem.id] = number
        yield number, problem


def _check(problem: Problem, first: Mapping[str, int], verifiers: Verifiers | None) -> None:
    if problem.id in first:
        raise fault("id", f"'{problem.id}' was used in row {first[problem.id]} already")
    if verifiers is None:
        return
    if problem.verifier not in verifiers:
        raise fault("verifier", f"'{problem.verifier}' is unknown (there are: {', '.join(sorted(verifiers))})")
    # The box keeps an answer that looks like a sentence or holds a tag in one piece.
    if verifiers[problem.verifier](problem, f"<answer>\\boxed{{{problem.answer}}}</answer>").value != 1.0:
        shown = problem.answer if len(problem.answer) <= 60 else problem.answer[:57] + "..."
        raise fault("answer", f"does not verify against itself as {problem.verifier}: {shown!r}")


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
    return row if problem.env == "single_turn" else row | {"env": problem.env}
