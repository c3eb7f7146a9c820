"""The run folder: the only contract between training and everything that comes after it.

    runs/<name>/recipe.toml provenance.json results.json report.html lock changes.jsonl
    runs/<name>/<stage>/metrics.jsonl data/ rollouts/ images/ evaluations/ checkpoints/ model/

One process at a time may write into it: `lock` is an flock, which the kernel frees when its holder dies,
so that a killed run never has to be unlocked by hand. The text in the file only serves the message.

Left out: what the files hold (runs/tracker.py, runs/checkpoint.py), which changes of a recipe a run may take (runs/changes.py). Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmm_r1.errors import CheckpointError, Fault, FolderInUseError, RecipeError
from lmm_r1.runs.changes import Change, Progress, Sorted, sort_changes
from lmm_r1.runs.jsonl import append_line, write_json, write_text

#: Name of a whole checkpoint (runs/checkpoint.py).
_STEP = re.compile(r"step_(\d{6,})")
#: Files that the start of a session writes before anything is computed.
_OF_A_START = frozenset({"recipe.toml", "provenance.json", "changes.jsonl", "lock", "start.json"})


@dataclass(frozen=True, slots=True)
class Kept:
    """fresh: nothing of the run was finished before. changes: what this session has changed of the recipe of a run that goes on."""

    fresh: bool
    changes: tuple[Change, ...]


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

    @property
    def exported(self) -> Path:
        """model.json: sha256 of each file of `model` and the digest of its weights, as they were handed over."""
        return self.path / "model.json"

    @property
    def began(self) -> Path:
        """start.json: sha256 of each file of the model that the stage began with; absent until it begins."""
        return self.path / "start.json"


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

    @property
    def changes(self) -> Path:
        """changes.jsonl: what of the recipe was changed between sessions, a line each time; absent without a change."""
        return self.path / "changes.jsonl"

    def progress(self) -> dict[str, Progress]:
        """What is there of each stage or arm that has any finished work."""
        found: dict[str, Progress] = {}
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else []:
            if path.is_dir() and not path.is_symlink():
                folder = StageFolder(path)
                steps = [int(name[1]) for p in _inside(folder.checkpoints) if (name := _STEP.fullmatch(p.name))]
                sets = tuple(sorted(p.stem for p in _inside(folder.evaluations) if p.suffix == ".json"))
                made = Progress(max(steps, default=0), folder.model.is_dir(), sets)
                if made.trained or made.sets:
                    found[path.name] = made
        return found

    def stored_recipe(self) -> dict[str, Any] | None:
        """The tables of recipe.toml, None without one. CheckpointError when it cannot be read."""
        if not self.recipe.exists():
            return None
        try:
            return tomllib.loads(self.recipe.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "put it back, or use another --out"
            raise CheckpointError(Fault(f"cannot be read: {error}", str(self.recipe), remedy=remedy)) from None

    def changes_to(self, text: str) -> Sorted:
        """What a recipe (TOML) would change of this run; nothing while it has no finished work. Raises CheckpointError."""
        progress, old = self.progress(), self.stored_recipe()
        if old is None or not progress:
            return Sorted((), (), ())
        return sort_changes(self.path, old, tomllib.loads(text), progress)

    def keep_recipe(self, text: str) -> Kept:
        """Store the effective recipe (TOML), or compare it with the stored one.

        A run without finished work takes any recipe. Later a change that leaves finished work as it is is taken and written down;
        RecipeError, with a fault for each field, for any other: a run that went on under it would be described by neither recipe.
        """
        found = self.changes_to(text)
        if found.refused:
            raise RecipeError(*found.refused)
        fresh = not self.recipe.exists() or not self.progress()
        for stage in found.reopened:
            self.reopen(stage)
        if found.taken:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            done = {name: made.step for name, made in self.progress().items() if made.step}
            append_line(self.changes, {"at": now, "steps": done, "changes": [asdict(change) for change in found.taken]})
        if fresh or found.taken:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.recipe, text)
        return Kept(fresh, found.taken)

    def reopen(self, stage: str) -> None:
        """Let a finished stage train on from its last checkpoint: what was made of its last weights goes, then they."""
        folder = StageFolder(self.path / stage)
        for path in folder.evaluations.glob("*.json"):
            path.unlink()
        folder.exported.unlink(missing_ok=True)
        hidden = folder.path / ".trash_model"
        shutil.rmtree(hidden, ignore_errors=True)
        if folder.model.exists():
            folder.model.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def faults(self, stages: Sequence[str]) -> list[Fault]:
        """What is in the way of a run with these stages: a file where a folder must be, or the reverse, and no permission."""
        folders = [self.path, self.path / "tensorboard", *(self.path / name for name in stages)]
        inner = ("rollouts", "images", "evaluations", "checkpoints", "data")
        folders += [self.path / name / part for name in stages for part in inner]
        files = [self.recipe, self.provenance, self.results, self.report, self.changes, self.path / "lock"]
        files += [self.path / name / "metrics.jsonl" for name in stages]
        found = [
            Fault("is a file, and the run needs a folder of that name", str(path), remedy="move it away")
            for path in folders
            if path.exists() and not path.is_dir()
        ]
        found += [
            Fault("is a folder, and the run writes a file of that name", str(path), remedy="move it away")
            for path in files
            if path.is_dir()
        ]
        if self.path.exists():
            closed = [p for p in folders if p.is_dir() and not os.access(p, os.W_OK | os.X_OK)]
        else:
            above = existing(self.path.parent)
            if not above.is_dir():
                found.append(Fault("is a file: no folder can be made in it", str(above), remedy="use another --out"))
            closed = [above] if above.is_dir() and not os.access(above, os.W_OK | os.X_OK) else []
        return found + [Fault("cannot be written into", str(path), remedy="use another --out") for path in closed]

    @contextmanager
    def leaving_no_debris(self) -> Iterator[None]:
        """A session that ends before it has made anything takes away what it has put into the folder, and the folder if it made it."""
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        before = set(_inside(self.path))
        try:
            yield
        finally:
            fresh = [p for p in _inside(self.path) if p not in before]
            nothing_made = not self.progress() and not self.results.exists()
            if nothing_made and all(_is_debris(path) for path in fresh):
                for path in fresh:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                for path in made:
                    if path.is_dir() and not _inside(path):
                        path.rmdir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder. Raises FolderInUseError naming host, process and time of whoever holds it.

        The text of a dead run's lock is overwritten without a word: the kernel freed it when the run died.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask, as every file
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


def existing(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, sorted; [] when there is no such folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_debris(path: Path) -> bool:
    """Whether this is what the start of a session leaves: its settings, and folders that hold nothing else."""
    if not path.is_dir():
        return path.name in _OF_A_START
    return path.name == "tensorboard" or all(p.name == "data" or _is_debris(p) for p in _inside(path))
