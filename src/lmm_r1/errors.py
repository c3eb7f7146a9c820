"""Every fault a user can meet, as one line: what is wrong, where (file, row, field), and the remedy.

The exit codes are part of the command's interface: 2 usage or recipe, 3 data, 4 checkpoint or disk,
5 numeric guard, 6 folder in use, 7 engine or worker lost; 130 and 143 after a saved SIGINT, SIGTERM.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path

#: Longest message of foreign code that a line repeats, characters.
MAX_SAID = 300
_OURS = os.path.join(str(Path(__file__).resolve().parent), "")
_PYTHON = tuple(os.path.join(sysconfig.get_path(kind), "") for kind in ("stdlib", "platstdlib"))
_PACKAGES = tuple(os.path.join(sysconfig.get_path(kind), "") for kind in ("purelib", "platlib"))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, as shown on a line of the terminal and in the JSON of `lmm-r1 check`."""

    message: str
    file: str = ""
    row: int | None = None  # from 1: line of a JSONL or CSV file, position in an array or a table
    field: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.row is not None:
            place += f":{self.row}"
        if self.field:
            place += f" [{self.field}]" if place else f"[{self.field}]"
        line = f"{place}: {self.message}" if place else self.message
        return f"{line} ({self.remedy})" if self.remedy else line


class LmmR1Error(Exception):
    """A fault the user can act on. `exit_code` becomes the exit code of the command."""

    exit_code = 1

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(f if isinstance(f, Fault) else Fault(f) for f in faults)
        super().__init__("\n".join(str(f) for f in self.faults))


class RecipeError(LmmR1Error):
    """Usage or recipe."""

    exit_code = 2


class DataError(LmmR1Error):
    """A row, a picture or a data file."""

    exit_code = 3


class CheckpointError(LmmR1Error):
    """A checkpoint, a model folder or the disk."""

    exit_code = 4


class NumericError(LmmR1Error):
    """A number that must not be used: not finite, or sampler and trainer disagree."""

    exit_code = 5


class FolderInUseError(LmmR1Error):
    """Another process holds the run folder."""

    exit_code = 6


class EngineError(LmmR1Error):
    """An engine or a worker is lost, or broke its contract."""

    exit_code = 7


class RankLostError(EngineError):
    """A rank of a trainer is lost, and its part of the weights with it: the stage can go on from its last checkpoint."""


class Interrupted(LmmR1Error):
    """SIGINT or SIGTERM arrived and the run was saved; exit_code is 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped by signal {signal_number}; the run is saved and resumes with the same command")


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def raised(error: BaseException, called: object = None) -> str:
    """What a user's own code raised, as one line: type, message, and the innermost line of the user's own file.

    called: the function that was called; its first line is named when no line of a user's file was reached. What cannot
    be printed is replaced, and the message is cut: it may quote a reply.
    """
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  a user's exception may fail to say anything
        said = "its message cannot be read"
    said = printable(f"{type(error).__name__}: {said}" if said else type(error).__name__)
    if len(said) > MAX_SAID:
        said = said[: MAX_SAID - 1] + "…"
    place = _line_of(error) or defined_at(called)
    return f"{said} ({place})" if place else said


def defined_at(called: object) -> str:
    """file:line where a function begins, "" when that is not known."""
    code = getattr(called, "__code__", None)
    return f"{_shown(code.co_filename)}:{code.co_firstlineno}" if code is not None else ""


def printable(text: str) -> str:
    """`text` on one line, with a mark for each character that a terminal would obey or hide."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _line_of(error: BaseException) -> str:
    """file:line of the innermost frame in a user's file; in an installed package when there is none; "" without both."""
    packaged = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = os.path.realpath(frame.filename)
        if name.startswith(_PACKAGES):
            packaged = packaged or f"{_shown(frame.filename)}:{frame.lineno}"
        elif not name.startswith((_OURS, *_PYTHON)) and not frame.filename.startswith("<"):
            return f"{_shown(frame.filename)}:{frame.lineno}"
    return packaged


def _shown(filename: str) -> str:
    """A path relative to the present folder when it lies in it."""
    inside = os.path.join(os.getcwd(), "")
    return printable(filename.removeprefix(inside))
