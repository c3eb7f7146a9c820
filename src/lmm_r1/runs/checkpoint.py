"""Checkpoints that a kill, a full disk or a flipped bit cannot take away.

Order of a save: temporary folder, write every file, flush and fsync each, manifest with sizes and sha256,
fsync, rename to its name, fsync the parent; only then are older ones removed, each renamed out of sight
first. So at every instant the newest folder named step_* is whole, and a reader proves it by its hashes.

    checkpoints/step_000012/manifest.json model.safetensors optimizer.safetensors state.json
    checkpoints/step_000012/manifest.json shard-00001-*.safetensors shard-00002-*.safetensors ... state.json

The second is what the ranks of a sharded trainer write, each its own shards (trainers/shards.py). step counts finished steps: step_000012 holds the weights after 12 steps. Only safetensors and JSON are read;
a pickle placed in the folder is never opened. A bad checkpoint is named and the next older one is used;
when all are bad the run stops: it never silently starts from scratch.

Left out: what the state means (train.py). Design: the commit protocols of orbax and
torchtitan, and the failures listed for overwrite-in-place savers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmm_r1.disk import follow_umask, fsync, sha256_of
from lmm_r1.errors import CheckpointError, Fault

#: A checkpoint's name; `.old_` marks one that was moved aside while a save replaced it.
_NAME = re.compile(r"(\.old_)?step_(\d{6,})")
_LEFT_BEHIND = re.compile(r"\.(tmp|trash)_step_\d+")
MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose hashes were verified. `skipped` names what was wrong with newer ones: tell the user."""

    path: Path
    step: int
    skipped: tuple[Fault, ...] = ()

    def state(self) -> dict[str, Any]:
        """What `save_checkpoint` was given as its state, with the writer's scalars under "trainer". Raises CheckpointError."""
        try:
            state: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(Fault(f"cannot be read: {error}", str(self.path))) from error
        return state


def save_checkpoint(
    folder: Path, step: int, write: Callable[[Path], Mapping[str, Any]], state: Mapping[str, Any], keep: int
) -> Path:
    """Save one checkpoint under `folder`, then keep the newest `keep`; returns its path.

    write(folder): puts the tensors' files there and returns JSON-able scalars (seams.Trainer.save). state: JSON-able
    (tuples come back as lists; NaN is refused, as it would not come back exactly in strict JSON). Raises CheckpointError
    when the disk is too full or refuses, or the state is not JSON; older checkpoints are then untouched.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: the checkpoint just written must stay")
    final = folder / f"step_{step:06d}"
    temporary = folder / f".tmp_{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary.mkdir()
        whole = {**state, "trainer": write(temporary)}
        text = json.dumps(whole, default=lambda value: value.tolist(), allow_nan=False, indent=1)  # numpy has tolist
        (temporary / STATE).write_text(text, encoding="utf-8")
        _seal(temporary, step)
        if final.exists():  # a step that is saved again after a fallback to an older one
            _discard(folder / f".old_{final.name}")
            os.rename(final, folder / f".old_{final.name}")
        os.rename(temporary, final)
        fsync(folder)
        _prune(folder, step, keep)
    except CheckpointError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            Fault(
                f"the checkpoint of step {step} could not be saved: {error}",
                str(folder),
                remedy="older checkpoints are untouched",
            )
        ) from error
    return final


def write_tensors(folder: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Write {"model": {name: tensor}, "optimizer": {...}, ...} into a folder, one safetensors file a key.

    Tensors of one key must not share memory. Raises CheckpointError when the disk cannot hold them.
    """
    require_space(folder, sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values()))
    for name, group in tensors.items():
        save_file(
            {key: tensor.detach().contiguous().cpu() for key, tensor in group.items()}, folder / f"{name}.safetensors"
        )


def read_tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What `write_tensors` wrote into a checkpoint, exactly, on the CPU. Raises CheckpointError."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        names = [name for name in listed if name.endswith(".safetensors")]
        return {name.removesuffix(".safetensors"): load_file(folder / name) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(Fault(f"cannot be read: {error}", str(folder))) from error


def _seal(temporary: Path, step: int) -> None:
    """Put every file on the disk, then the manifest that names their sizes and hashes, then the folder."""
    follow_umask(temporary)
    files = {}
    for path in sorted(temporary.iterdir()):
        fsync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = temporary / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "step": step, "files": files}, indent=1), encoding="utf-8")
    fsync(manifest)
    fsync(temporary)


def require_space(folder: Path, tensor_bytes: int) -> None:
    """Raise CheckpointError when the disk cannot hold one more checkpoint (1 MiB is added for state and headers)."""
    needed, free = tensor_bytes + (1 << 20), free_bytes(folder)
    if free < needed:
        raise CheckpointError(
            Fault(
                f"the disk has {free / 1e6:.0f} MB free, a checkpoint needs {needed / 1e6:.0f} MB",
                file=str(folder.parent),
                remedy="free some space, lower save.keep, or use another --out; older checkpoints are untouched",
            )
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _sweep(folder: Path) -> None:
    """Remove what killed saves left behind."""
    for path in folder.iterdir():
        if _LEFT_BEHIND.fullmatch(path.name):
            shutil.rmtree(path)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Keep `step` and the newest before it. Newer ones go as well: the run that just saved `step` has left them
    behind (they were bad, or it was resumed from before them), and they must not come back as the newest."""
    found = _candidates(folder)
    older = [path for at, path in found if at < step and not path.name.startswith(".old_")][: keep - 1]
    for _, path in found:
        if path != folder / f"step_{step:06d}" and path not in older:
            _discard(path)


def _discard(path: Path) -> None:
    """Remove a checkpoint if it is there. Renamed out of sight first: half of one must never look like a bad one."""
    if path.exists():
        trash = path.parent / f".trash_step_{_step_of(path):06d}"
        os.rename(path, trash)
        fsync(path.parent)
        shutil.rmtree(trash)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[2]) if match else -1


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything named like a checkpoint, newest first; one moved aside comes after its successor."""
    if not folder.is_dir():
        return []
    found = [(_step_of(path), path) for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda item: (-item[0], item[1].name.startswith(".old_")))


def newest_good(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files all have the size and sha256 of their manifest; None when there is none at all.

    Raises CheckpointError, naming every fault, when there are checkpoints and none is good.
    """
    skipped: list[Fault] = []
    for step, path in _candidates(folder):
        fault = verify(path, step)
        if fault is None:
            return Checkpoint(path, step, tuple(skipped))
        skipped.append(fault)
    if skipped:
        last = Fault("no checkpoint is good", str(folder), remedy="restore one, or use another --out to start anew")
        raise CheckpointError(*skipped, last)
    return None


def verify(path: Path, step: int) -> Fault | None:
    """What is wrong with a checkpoint: a file missing, of another size, of another hash; None when nothing is."""
    manifest = path / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        stated = int(content["step"])
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    except FileNotFoundError:
        return Fault("missing, so the checkpoint is not whole", str(manifest))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Fault(f"not a manifest: {error}", str(manifest))
    if stated != step:
        return Fault(f"says step {stated}, its folder says {step}", str(manifest))
    if STATE not in files or any(Path(name).name != name for name in files):
        return Fault("does not list the files of a checkpoint", str(manifest))
    for name, (size, digest) in files.items():
        file = path / name
        if not file.is_file():
            return Fault("missing, though the manifest lists it", str(file))
        if file.stat().st_size != size:
            return Fault(f"{file.stat().st_size} bytes, expected {size}", str(file))
        actual = sha256_of(file)
        if actual != digest:
            return Fault(f"sha256 is {actual}, expected {digest}", str(file))
    return None
