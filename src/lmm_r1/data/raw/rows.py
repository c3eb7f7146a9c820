"""A data file -> its rows, one at a time: JSON lines, one JSON array, CSV (csv_rows.py), parquet or arrow (columnar.py).

A file is untrusted and may be larger than memory: what cannot be read becomes a Fault with its row number (and field)
in the place of the row, and the rows behind it are read. A byte order mark and CRLF change nothing and pass; NUL
characters, bytes that are not UTF-8 and half surrogate pairs are faults, since what is written from them cannot be read.
UTF-16 with its mark is read (encodings.py). An array may stand in an object under "data" or "rows".
The kind of a file is told by its first bytes, CSV by its name. A pattern ("train-*.parquet") is several files in the
order of their names, with row numbers that go on.

Left out: what a row means (sources.py, published.py), data sets on the hub (hub.py), compressed files.
Formats: JSON, RFC 8259; JSON lines, https://jsonlines.org; CSV, RFC 4180.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmm_r1.data.raw import columnar, csv_rows, encodings
from lmm_r1.errors import DataError, Fault

Row = Mapping[str, Any]
#: A row's number, from 1, and the row or what is wrong with it.
Rows = Iterator[tuple[int, "Row | Fault"]]

#: In bytes of a line, and characters of an array's element. Rows with text, or with paths of pictures, are far below.
MAX_LINE = 8 * 1024 * 1024
_CHUNK = 256 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
_NEXT_OBJECT = re.compile(r",[ \t\r\n]*(?=\{)")
#: Names under which one object may hold the list of rows.
WRAPPERS = ("data", "rows")
#: A row has one of these in front of anything else: its object holds no other rows.
_OF_ROWS = frozenset(("id", "question", "problem", "messages", "message", "conversations", "answer"))
_TRIES = 1000  # places behind a broken element where the next row might begin
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstandard",
}


@dataclass(frozen=True, slots=True)
class Input:
    """Rows and where they come from: the name that faults show, the hub's commit (empty for a file), and the folder
    that paths of pictures are relative to (None: there is none)."""

    name: str
    rows: Rows
    revision: str = ""
    root: Path | None = None


def open_file(path: str | Path) -> Input:
    """The rows of a local file. Nothing is opened before the first row is asked for."""
    file = Path(path)
    return Input(str(file), rows(file), root=file.parent)


def rows(path: Path) -> Rows:
    """(row number from 1, row or the fault that stands in its place).

    The number is the line of the file in JSON lines and CSV (where a record begins; the header is line 1), the position
    in an array or a table. Raises DataError when the file cannot be opened, is compressed, or needs a library that is
    not installed.
    """
    several = "*" in path.name and not path.exists()
    files = sorted(path.parent.glob(path.name)) if several else [path]
    if not files:
        raise DataError(Fault("no file has a name like this", file=str(path)))
    before = number = 0
    for file in files:
        for number, row in _file_rows(file):
            if isinstance(row, Fault):
                yield before + number, replace(row, file=str(path), row=before + number)
                continue
            try:
                bad = unwritable(row)
            except RecursionError:
                bad = "", "is nested too deeply"
            remedy = "save the file as UTF-8" if bad and "UTF-8" in bad[1] else ""
            yield before + number, _fault(bad[1], path, before + number, bad[0], remedy) if bad else row
        before, number = before + number, 0


def unwritable(value: object, name: str = "") -> tuple[str, str] | None:
    """(field, reason) of the first text that holds a NUL or cannot be written as UTF-8, or None."""
    if isinstance(value, str):
        if "\0" in value:
            return name, "holds a NUL character"
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return name, "holds bytes that are not UTF-8, or half a surrogate pair"
        return None
    if isinstance(value, Mapping):
        inside = ((f"{name}.{key}" if name else str(key), item) for key, item in value.items())
        wrong_key = next((found for key in value if (found := unwritable(key, name))), None)
        return wrong_key or next((found for key, item in inside if (found := unwritable(item, key))), None)
    if isinstance(value, list):
        return next((found for n, item in enumerate(value) if (found := unwritable(item, f"{name}[{n}]"))), None)
    return None


def _file_rows(path: Path) -> Rows:
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if (kind := columnar.kind_of(head)) is not None:
            yield from columnar.rows(path, kind)
            return
        packed = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), "")
        if path.suffix.lower() in _SPREADSHEETS:
            raise DataError(Fault("is a spreadsheet, not its text", file=str(path), remedy="save it as CSV, in UTF-8"))
        if packed:
            raise DataError(Fault(f"is compressed ({packed})", file=str(path), remedy="unpack it first"))
        if head and path.suffix.lower() in columnar.SUFFIXES:
            shown = head[:40].decode("ascii", "replace").partition("\n")[0].strip()
            what = f"is no {path.suffix[1:].lower()} file: it begins with {shown!r}"
            raise DataError(Fault(what, file=str(path), remedy="name it by what it holds: .csv, .tsv or .jsonl"))
        if path.suffix.lower() in (".csv", ".tsv"):
            yield from csv_rows.rows(path)
            return
        wrapped = is_wrapped(path)
        with encodings.opened(path) as file:
            if wrapped or file.peek(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
                yield from _Array(file, path).rows(wrapped)
            else:
                yield from _lines(file, path)
    except OSError as error:
        raise DataError(Fault(f"cannot be read: {error.strerror or error}", file=str(path))) from None


def is_wrapped(path: Path) -> bool:
    """Whether the file is one object that holds the rows under a name of WRAPPERS.

    DataError when it is one object that holds no rows under such a name: each of its lines would be a bad row.
    """
    with encodings.opened(path) as file:
        if not file.peek(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            return False
        first = file.readline(MAX_LINE + 1)
        while first and not first.strip():
            first = file.readline(MAX_LINE + 1)
        row = _row(first.removeprefix(codecs.BOM_UTF8), path, 1)
        alone = isinstance(row, Mapping)
        if alone and any(line.strip() for line in iter(lambda: file.readline(_CHUNK), b"")):
            return False  # lines
    with encodings.opened(path) as file:
        keys, found, whole = _Array(file, path).enter()
    inside = isinstance(row, Mapping) and any(
        isinstance(v, list) and v and isinstance(v[0], dict) for v in row.values()
    )
    if whole and not found and (inside or not alone) and not (alone and _OF_ROWS.intersection(keys)):
        shown = ", ".join(repr(key)[:40] for key in keys[:6])
        remedy = f"rows are read from a list under {' or '.join(map(repr, WRAPPERS))}, one array, or one object a line"
        kind = "is one object" if alone else "begins with an object over several lines"
        raise DataError(Fault(f"{kind}, not with rows; it holds {shown}", file=str(path), remedy=remedy))
    return found


def _fault(message: str, path: Path, number: int, field: str = "", remedy: str = "") -> Fault:
    return Fault(" ".join(message.split()), str(path), number, field, remedy)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


_JSON = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


# ---- JSON lines


def _lines(file: io.BufferedReader, path: Path) -> Rows:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        length = len(line)
        if length > MAX_LINE:
            while not line.endswith(b"\n") and (line := file.readline(_CHUNK)):
                length += len(line)
            yield number, _fault(f"a line of {length} bytes is too long (limit: {MAX_LINE})", path, number)
        elif line.strip():
            yield number, _row(line, path, number)


def _row(line: bytes, path: Path, number: int) -> Row | Fault:
    try:
        # Bytes that are not UTF-8 become half surrogate pairs, which `rows` finds: so the fault can name their field.
        row = _JSON.decode(line.decode(errors="surrogateescape").strip())
    except (ValueError, RecursionError) as error:
        table = number == 1 and line[:1] not in b"{[" and any(mark in line for mark in b",;\t")
        return _fault(
            f"is not JSON: {error}", path, number, remedy="a CSV file is told by its name, .csv" if table else ""
        )
    return row if isinstance(row, dict) else _fault("is not an object", path, number)


# ---- one JSON array


class _Array:
    """The elements of a JSON array, read through a window of a few megabytes."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self._file, self._path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape").decode
        self._text, self._at, self._more = "", 0, True
        self._closed = False  # whether the array was read to its end
        self._keys: frozenset[str] = frozenset()  # of the first good row: what a row looks like

    def enter(self) -> tuple[list[str], bool, bool]:
        """(names in the object that begins here, whether the window stands at the list of rows in it, whether the object
        was read to its end)."""
        names: list[str] = []
        self._next()
        self._at += 1
        while self._next() == '"':
            name = self._value()
            if isinstance(name, str) or self._next() != ":":
                break
            self._at += 1
            names.append(name[0])
            if self._next() == "[" and name[0] in WRAPPERS and not _OF_ROWS.intersection(names):
                return names, True, False
            if isinstance(self._value(), str) or self._next() not in (",", "}"):
                break
            self._at += 1
            if self._text[self._at - 1] == "}":
                return names, False, True
        return names, False, False

    def rows(self, wrapped: bool = False) -> Rows:
        """Element by element; a broken one is a fault, and so is what stands between or behind them.

        wrapped: the array stands in an object. Rows of the hub's server, {"row_idx", "row"}, are taken out of theirs.
        """
        if wrapped:
            self.enter()
            for number, row in self._elements():
                inner = row.get("row") if isinstance(row, dict) and "row_idx" in row else None
                yield number, inner if isinstance(inner, dict) else row
            return
        number = 0
        for number, row in self._elements():
            yield number, row
        if self._closed and self._next():
            yield number + 1, self._wrong("something stands behind the array", number + 1)

    def _elements(self) -> Rows:
        self._next()
        self._at += 1  # the bracket
        number, behind = 0, self._next()
        while behind != "]" or number:
            number += 1
            if (here := self._next()) in ("", "]"):
                yield (
                    number,
                    self._wrong("ends after a comma" if here else "is not JSON: the array is not closed", number),
                )
                break
            value = self._value()
            if isinstance(value, str):
                again = self._found_next()
                rest = "" if again else "; no row can be found behind it, the rest of the file is not read"
                yield number, self._wrong(value + rest, number)
                if not again:
                    return
                continue
            yield number, value[0] if isinstance(value[0], dict) else self._wrong("is not an object", number)
            if isinstance(value[0], dict):
                self._keys = self._keys or frozenset(value[0])
            behind = self._next()
            if behind == "]":
                break
            if behind == ",":
                self._at += 1
                continue
            number += 1
            what = f"a comma is missing in front of {behind!r}" if behind else "the array is not closed"
            yield number, self._wrong(f"is not JSON: {what}", number)
            if not behind or (behind != "{" and not self._found_next()):
                return
        self._at += 1
        self._closed = True

    def _wrong(self, message: str, number: int) -> Fault:
        return _fault(message, self._path, number)

    def _fill(self) -> bool:
        """Another chunk into the window; False at the end of the file."""
        chunk = self._file.read(_CHUNK)
        self._more = bool(chunk)
        self._text = self._text[self._at :] + self._decode(chunk, not chunk)
        self._at = 0
        return self._more

    def _next(self) -> str:
        """The next character that is no space, which stays in the window; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _value(self) -> tuple[Any] | str:
        """The value that begins here, or what is wrong with it; the window stands behind it, or at its start."""
        wanted = _CHUNK
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._at)
                if end - self._at > MAX_LINE:
                    self._at = end
                    return f"a row of more than {MAX_LINE} characters is too long"
                # A number at the very end of the window may go on.
                if end < len(self._text) or not self._more:
                    self._at = end
                    return (value,)
                error = "ends too early"
            except (ValueError, RecursionError) as caught:
                error = str(caught)  # the exception itself holds the whole window, and a cycle with this frame
            room = len(self._text) - self._at
            if room > MAX_LINE or not self._more:
                return f"is not JSON: {error}"
            while self._more and len(self._text) - self._at < room + wanted:
                self._fill()
            wanted *= 2  # or a long row would be tried again for every chunk

    def _found_next(self) -> bool:
        """Whether the window was moved to the next row behind a broken one."""
        while len(self._text) - self._at <= MAX_LINE and self._fill():
            pass
        for comma in itertools.islice(_NEXT_OBJECT.finditer(self._text, self._at), _TRIES):
            try:
                value, end = _JSON.raw_decode(self._text, comma.end())
            except (ValueError, RecursionError):
                continue
            behind = _SPACE.match(self._text, end)
            follows = self._text[behind.end() : behind.end() + 1] if behind else ""
            # An object inside of the broken row has other keys than a row.
            if follows in (",", "]", "") and isinstance(value, dict) and (not self._keys or self._keys & value.keys()):
                self._at = comma.end()
                return True
        return False
