"""CSV and TSV -> rows: a header, then records; an empty cell is None, every other one text.

The separator is the comma (in .tsv a tab). Where that leaves a header of one column, and exactly one of semicolon, tab
and comma cuts it into several, it is this one, as spreadsheets of half of Europe write. A first line "sep=;" says it too.
Who separates by semicolons often writes 0,5 for 0.5: such an answer is a fault of its row, for it could also be two numbers.
The number of a row is the line of the file where its record begins, as an editor shows it: the header is line 1.
Left out: which field means what. Format: RFC 4180.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmm_r1.data.raw import encodings
from lmm_r1.errors import DataError, Fault

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_DECIMAL_COMMA = re.compile(r"\s*[-+−]?\d+,\d+\s*")
_LONGEST = 8 * 1024 * 1024  # characters of a line


def rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Fault]]:
    """(line where the record begins, the record under the names of the header, or what is wrong with it).

    DataError for a header that cannot be read: of equal or empty names, or of one column that hides another separator.
    """
    with encodings.opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        first = text.readline(_LONGEST)
        if first.lstrip().startswith(("{", "[")):
            what = f"holds no columns but JSON: it begins with {first.strip()[:40]!r}"
            raise DataError(Fault(what, file=str(path), remedy="name it .jsonl or .json"))
        said = first.rstrip("\r\n").removeprefix("sep=") if first.startswith("sep=") else ""
        skipped = int(said in SEPARATORS)
        if skipped:
            first = text.readline(_LONGEST)
        separator = said if skipped else _separator(first, "\t" if path.suffix.lower() == ".tsv" else ",")
        following = iter(lambda: text.readline(_LONGEST), "")
        found = _records(csv.reader(_lines(first, following), delimiter=separator), path, skipped)
        yield from (_one_number(path, *row) for row in found) if separator == ";" else found


def _one_number(path: Path, number: int, row: Mapping[str, Any] | Fault) -> tuple[int, Mapping[str, Any] | Fault]:
    """The row, or a fault where its answer has a comma between two runs of digits."""
    answer = "" if isinstance(row, Fault) else row.get("answer") or ""
    if not _DECIMAL_COMMA.fullmatch(answer):
        return number, row
    what = f"{answer.strip()!r} in a file with semicolons may be one number or two"
    remedy = f"write {answer.strip().replace(',', '.')} for one, ({answer.strip().replace(',', ', ')}) for two"
    return number, Fault(what, str(path), number, "answer", remedy)


def _lines(first: str, following: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
        yield from following


def _columns(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _separator(header: str, usual: str) -> str:
    """What stands between the names of the header."""
    others = [mark for mark in SEPARATORS if mark != usual and len(_columns(header, mark)) > 1]
    return others[0] if len(_columns(header, usual)) <= 1 and len(others) == 1 else usual


def _records(reader: Any, path: Path, skipped: int) -> Iterator[tuple[int, Mapping[str, Any] | Fault]]:
    header = _header(reader, path)
    while header:
        number = reader.line_num + 1 + skipped
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, Fault(f"is not CSV: {error}", str(path), number)
            continue
        if cells is None:
            return
        if len(cells) == len(header):
            yield number, {name: cell or None for name, cell in zip(header, cells, strict=True)}
        elif cells:
            yield number, Fault(f"holds {len(cells)} columns, the header {len(header)}", str(path), number)


def _header(reader: Any, path: Path) -> list[str]:
    """The names of the columns; empty for an empty file."""
    try:
        header = next(reader, None)
        while header == []:  # empty lines in front
            header = next(reader, None)
    except csv.Error as error:
        raise DataError(Fault(f"the header cannot be read: {error}", file=str(path))) from None
    if header is None:
        return []
    if len(set(header)) < len(header) or not all(name.strip() for name in header):
        raise DataError(Fault(f"needs a header of different names, not {', '.join(header)[:200]!r}", file=str(path)))
    hidden = next((mark for mark in ";\t|:," if mark in header[0]), "")
    if len(header) == 1 and hidden:
        what = f"the header is one column, {header[0][:80]!r}: is the separator {hidden!r}?"
        remedy = f"columns are separated by {', '.join(SEPARATORS.values())}"
        raise DataError(Fault(what, file=str(path), remedy=remedy))
    return [str(name).strip() for name in header]
