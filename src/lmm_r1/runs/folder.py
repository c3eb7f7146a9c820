"""The run folder: the only contract between training and everything that comes after it.

    runs/<name>/recipe.toml provenance.json results.json report.html lock
    runs/<name>/<stage>/metrics.jsonl data/ rollouts/ images/ evaluations/ checkpoints/ model/

One process at a time may write into it: `lock` is an flock, which the kernel frees when its holder dies,
so that a killed run never has to be unlocked by hand. The text in the file only serves the message.

Left out: what the files hold (runs/tracker.py, runs/checkpoint.py). Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmm_r1.errors import Fault, FolderInUseError, RecipeError
from lmm_r1.runs.jsonl import write_json, write_text

#: Fields that may change between two sessions of one run: they alter no weight and no number, or, as the processes of a
#: cluster do, none beyond rounding: a run goes on with as many as there are.
FREE_FIELDS = (
    "description",
    "compare",
    "save.keep",
    "save.rollout_groups",
    "guards",
    "cluster.address",
    "cluster.ranks",
    "cluster.engines",
    "cluster.layout",
    "cluster.sequence",
    "cluster.offload",
    "cluster.lost_s",
    "cluster.stacks_s",
    "cluster.restarts",
)


@dataclass(frozen=True, slots=True)
class StageFolder:
    """The paths of one stage; `rollouts`, `images`, `evaluations` and `checkpoints` exist, the others may not yet."""

    path: Path

    @property
    def metrics(self) -> Path:
        """metrics.jsonl: one line a step."""
        return self.path / "metrics.jsonl"

    @property
    def failures(self) -> Path:
        """verifier_failures.jsonl: replies that a verifier failed to judge; absent when there was none."""
        return self.path / "verifier_failures.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder of step_000012.jsonl files."""
        return self.path / "rollouts"

    @property
    def images(self) -> Path:
        """Folder of <sha>.png files: the canonical pictures of the kept rollouts."""
        return self.path / "images"

    @property
    def evaluations(self) -> Path:
        """Folder of evaluation records, one JSON file each."""
        return self.path / "evaluations"

    @property
    def checkpoints(self) -> Path:
        """Folder of step_000012 checkpoints."""
        return self.path / "checkpoints"

    @property
    def data(self) -> Path:
        """Folder of <fingerprint>.rows files: what the rows of the stage's data were; absent until the stage begins."""
        return self.path / "data"

    @property
    def model(self) -> Path:
        """The stage's final weights in Hugging Face layout; absent until the stage is done."""
        return self.path / "model"


class RunFolder:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def recipe(self) -> Path:
        """The effective recipe of the run."""
        return self.path / "recipe.toml"

    @property
    def provenance(self) -> Path:
        """Where the run's versions, hashes and command stand."""
        return self.path / "provenance.json"

    @property
    def results(self) -> Path:
        """results.json: the arms and their paired differences."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """report.html."""
        return self.path / "report.html"

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage (or of the arm "base"); made if absent.

        Raises RecipeError when the name could leave the run folder or hide in it.
        """
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise RecipeError(
                Fault(f"{name!r} cannot be the name of a stage", field="stage", remedy="use letters, digits, _ . and -")
            )
        folder = StageFolder(self.path / name)
        for part in (folder.rollouts, folder.images, folder.evaluations, folder.checkpoints):
            part.mkdir(parents=True, exist_ok=True)
        return folder

    def stages(self) -> list[str]:
        """Names of the sub-folders that hold metrics or evaluations, sorted."""
        return sorted(p.parent.name for p in self.path.glob("*/rollouts")) if self.path.is_dir() else []

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of the run in one step; returns its path."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / name, value)
        return self.path / name

    def keep_recipe(self, text: str, free: Sequence[str] = FREE_FIELDS) -> bool:
        """Store the effective recipe (TOML), or compare it with the stored one; True when the run is new.

        Raises RecipeError with one fault per changed field: a run that went on under another recipe would
        be described by neither. Fields in `free` may change, and are then stored anew.
        """
        if not self.recipe.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.recipe, text)
            return True
        old, new = tomllib.loads(self.recipe.read_text(encoding="utf-8")), tomllib.loads(text)
        changes = changed_fields(old, new)
        refused = [(name, before, after) for name, before, after in changes if not _under(name, free)]
        if refused:
            remedy = "use another --out for the changed recipe, or take the change back"
            raise RecipeError(
                *(
                    Fault(
                        f"this run was started with {before}, the recipe now says {after}",
                        str(self.recipe),
                        None,
                        name,
                        remedy,
                    )
                    for name, before, after in refused
                )
            )
        if changes:
            write_text(self.recipe, text)
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder. Raises FolderInUseError naming host, process and time of whoever holds it.

        The text of a dead run's lock is overwritten without a word: the kernel freed it when the run died.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FolderInUseError(_in_use(path, error)) from error
            now = datetime.now(UTC).isoformat(timespec="seconds")
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"host {socket.gethostname()} pid {os.getpid()} since {now}\n".encode(), 0)
            yield
            os.ftruncate(handle, 0)  # the file itself stays: removing it would race with the next holder
        finally:
            os.close(handle)


def _in_use(path: Path, error: OSError) -> Fault:
    """What to say when the lock cannot be had."""
    if error.errno not in (errno.EAGAIN, errno.EACCES):
        return Fault(
            f"the file system cannot lock it: {error.strerror}", file=str(path), remedy="use --out on a local disk"
        )
    holder = path.read_text(encoding="utf-8", errors="replace").strip() or "a process that has not said who it is"
    match = re.fullmatch(r"host (\S+) pid (\d+) since \S+", holder)
    remedy = "wait for it, stop it, or use another --out"
    if match and match[1] == socket.gethostname() and not _alive(int(match[2])):
        remedy = "that process is gone, but one that it started still runs: stop it"
    return Fault(f"the run folder is in use by {holder}", file=str(path.parent), remedy=remedy)


def _alive(pid: int) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _under(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted field name is one of `prefixes` or lies inside one."""
    return any(name == prefix or name.startswith((f"{prefix}.", f"{prefix}[")) for prefix in prefixes)


def changed_fields(old: Any, new: Any, at: str = "") -> list[tuple[str, str, str]]:
    """(dotted field, before, after) of every leaf that differs between two nested dicts; "nothing" = absent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            found += changed_fields(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{at}.{key}" if at else str(key))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            change
            for i, pair in enumerate(zip(old, new, strict=True))
            for change in changed_fields(*pair, f"{at}[{i}]")
        ]
    return [] if old == new and type(old) is type(new) else [(at, _shown(old), _shown(new))]


_ABSENT = object()


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
