"""Parquet and arrow files -> rows as Python objects, a batch at a time; the library pyarrow does the reading.

Pictures stay what the hub stores: {"bytes": ..., "path": ...}, one or a list. A part of a file that cannot be read is a
Fault with the numbers of its rows; the parts behind it are read, as far as the format lets them be found.
Left out: writing, and what a row means.
Formats: https://parquet.apache.org/docs/file-format/, https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmm_r1.errors import DataError, Fault

try:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet
except ImportError:  # an extra: the project's own format does not need it
    pyarrow = None

#: Rows read at once: pictures of a megabyte each still fit.
_BATCH = 64
_BUFFER = 1024 * 1024  # bytes; without one a whole column of a row group is in memory
_KINDS = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow stream"}
#: Names of files that hold nothing else.
SUFFIXES = (".parquet", ".arrow", ".feather")
#: What pyarrow raises on a broken file; its own exceptions derive from these, but for a few.
_BROKEN: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError)
if pyarrow is not None:
    _BROKEN = (*_BROKEN, pyarrow.ArrowException)


def kind_of(head: bytes) -> str | None:
    """The kind of file that begins with these bytes: parquet, arrow, arrow stream, or None for another."""
    return next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), None)


def rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """(row number from 1, row or fault). Raises DataError without pyarrow, or when the file cannot be opened."""
    if pyarrow is None:
        raise DataError(
            Fault(f"{kind} files need the library pyarrow", file=str(path), remedy='pip install "lmm-r1[data]"')
        )
    number = 1
    for batch, lost in _parquet(path) if kind == "parquet" else _arrow(path, kind):
        if isinstance(batch, str):
            yield number, Fault(f"{_so_many(number, lost)} cannot be read: {batch}", str(path), number)
            number += lost
            continue
        for row in _objects(batch):
            yield number, Fault(row[1], str(path), number, row[0]) if isinstance(row, tuple) else row
            number += 1


def _so_many(number: int, lost: int) -> str:
    return f"rows {number} to {number + lost - 1}" if lost > 1 else "the row" if lost else "the rest of the file"


def _parquet(path: Path) -> Iterator[tuple[Any, int]]:
    """(batch, its rows), or (what is wrong, rows lost). A row group that breaks costs its own rows only."""
    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER)
    except _BROKEN as error:
        raise DataError(Fault(f"is not parquet: {_one_line(error)}", file=str(path))) from None
    with file:
        for group in range(file.metadata.num_row_groups):
            left = file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_BATCH, row_groups=[group], use_threads=False):
                    yield batch, len(batch)
                    left -= len(batch)
            except _BROKEN as error:
                yield _one_line(error), left


def _arrow(path: Path, kind: str) -> Iterator[tuple[Any, int]]:
    with pyarrow.memory_map(str(path)) as file:
        try:
            if kind == "arrow":
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                batches = iter(pyarrow.ipc.open_stream(file))
        except _BROKEN as error:
            raise DataError(Fault(f"is not arrow: {_one_line(error)}", file=str(path))) from None
        try:
            for whole in batches:
                for start in range(0, len(whole), _BATCH):
                    batch = whole.slice(start, _BATCH)
                    yield batch, len(batch)
        except _BROKEN as error:
            yield _one_line(error), 0


def _objects(batch: Any) -> Iterator[dict[str, Any] | tuple[str, str]]:
    """Rows of a batch; (field, reason) for one whose values cannot be made, such as text that is not UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except _BROKEN:
        pass
    for n in range(len(batch)):
        row: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[name] = column[n].as_py()
            except _BROKEN as error:
                yield name, f"cannot be read: {_one_line(error)}"
                break
        else:
            yield row


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
