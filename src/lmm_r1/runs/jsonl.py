"""Durable text on disk: whole files replaced in one rename, and JSONL files that survive a kill.

A JSONL file is appended to one whole line per write. A process that dies in the middle leaves at most
one torn last line; readers drop it, and `repair` cuts it off before the next append. Nothing written by a
model reaches a file raw: every string is JSON-escaped, and every line is ASCII.

Left out: locking (runs/folder.py holds the run's lock) and reading of problems.jsonl (data/raw/sources.py),
where a bad line is the user's fault and is reported rather than dropped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmm_r1.disk import fsync
from lmm_r1.errors import CheckpointError, Fault


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` in one step: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
    fsync(path.parent)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numpy scalars and arrays become Python ones, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy's types one by one
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by `value` as indented JSON, in one step."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def line_of(record: Mapping[str, Any]) -> str:
    """One JSONL line, newline included; strict JSON (no NaN), ASCII only."""
    return json.dumps(plain(record), allow_nan=False) + "\n"


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line in one write, and wait until it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line_of(record).encode("ascii"))
        os.fsync(handle)
    finally:
        os.close(handle)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file at `path` by one line per record, in one step."""
    write_text(path, "".join(line_of(record) for record in records))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSONL file; [] when it is absent. A torn last line is dropped.

    Raises CheckpointError naming file and row when a line before the last one is no JSON object.
    """
    if not path.exists():
        return []
    *whole, _torn = path.read_bytes().split(b"\n")  # what follows the last newline is empty, or was torn by a kill
    records = []
    for row, line in enumerate(whole, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise CheckpointError(
                Fault(
                    "the line is no JSON object", file=str(path), row=row, remedy="restore the file, or delete the line"
                )
            )
        records.append(record)
    return records


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl in step order; of a step that was replayed the last line counts."""
    by_step = {int(record["step"]): record for record in read_lines(path)}
    return [by_step[step] for step in sorted(by_step)]


def repair(path: Path) -> None:
    """Cut off a torn last line, so that the next append starts a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
