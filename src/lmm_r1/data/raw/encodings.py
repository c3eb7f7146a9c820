"""The bytes of a text file as UTF-8, whatever of UTF-8 and UTF-16 it is in by its byte order mark.

UTF-16, which spreadsheets write as "Unicode text", is recoded while it is read; what cannot be decoded becomes bytes that
are not UTF-8, which rows.py finds with their row and field. Other encodings are named and refused: without a mark nobody
knows for certain what they are.
Left out: which rows the text holds (rows.py).
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmm_r1.errors import DataError, Fault

_CHUNK = 256 * 1024
_SAVE = "save it as UTF-8"
#: Longer marks first: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, ""),
    (codecs.BOM_UTF32_BE, ""),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The file, its text in UTF-8. DataError for UTF-32, and for UTF-16 without its mark; OSError as from `open`."""
    with path.open("rb") as file:
        head = file.read(64)
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        if encoding == "":
            raise DataError(Fault("is in the encoding UTF-32", file=str(path), remedy=_SAVE))
        if encoding is None and (guess := _without_mark(head)):
            what = f"looks like {guess} without a byte order mark"
            raise DataError(Fault(what, file=str(path), remedy=_SAVE))
        if encoding is None:
            file.seek(0)
            yield file
            return
        file.seek(2)
        yield io.BufferedReader(_Recoded(file, encoding), _CHUNK)


def _without_mark(head: bytes) -> str:
    """The kind of UTF-16 that plain letters with a NUL beside each look like."""
    pairs = head[: len(head) // 2 * 2]
    for at, name in ((1, "UTF-16 (little-endian)"), (0, "UTF-16 (big-endian)")):
        letters = pairs[1 - at :: 2]
        if len(pairs) >= 8 and not any(pairs[at::2]) and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in letters):
            return name
    return ""


class _Recoded(io.RawIOBase):
    """UTF-16 as UTF-8, a chunk at a time."""

    def __init__(self, file: io.BufferedReader, encoding: str) -> None:
        self._file, self._left, self._ended = file, b"", False
        self._decode = codecs.getincrementaldecoder(encoding)(errors="surrogatepass").decode

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer; 0 at the end of the file."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._left and not self._ended:
            chunk = self._file.read(_CHUNK)
            self._ended = not chunk
            self._left = self._decoded(chunk).encode("utf-8", "surrogatepass")
        taken = self._left[: len(view)]
        view[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)

    def _decoded(self, chunk: bytes) -> str:
        try:
            return self._decode(chunk, not chunk)
        except UnicodeDecodeError:  # half a character at the end of the file
            return "\ud800"
