"""Checkpoints under kill -9 at every file operation of a save, bit flips, truncation, a full disk.

A child process saves, and kills itself at its k-th file operation (audit hook for opens, renames, removals;
wrapped fsync and safetensors write); k runs until a save gets through. After each kill the parent must find
a whole, newest checkpoint with the right content, and the next save must work.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmm_r1.errors import CheckpointError
from lmm_r1.runs import checkpoint as checkpoints
from lmm_r1.runs.checkpoint import newest_good, read_tensors, save_checkpoint, write_tensors


def _tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    weights = torch.arange(40, dtype=torch.float32).reshape(8, 5) + step
    return {
        "model": {"a.weight": weights.t(), "a.bias": weights[0].to(torch.bfloat16)},
        "optimizer": {"a.weight.exp_avg": weights * 2, "a.weight.step": torch.tensor(float(step))},
    }


def _save(folder: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(folder, step, _writer(_tensors(step)), {"step": step, "x": 0.1 + 0.2}, keep)


def _writer(tensors: dict[str, dict[str, torch.Tensor]]) -> Callable[[Path], dict[str, int]]:
    def write(folder: Path) -> dict[str, int]:
        write_tensors(folder, tensors)
        return {"updates": 3}

    return write


def _check(folder: Path, steps: set[int]) -> int:
    """The newest good checkpoint is one of `steps` and holds exactly what was saved; returns its step."""
    found = newest_good(folder)
    assert found is not None and found.step in steps
    tensors = read_tensors(found.path)
    assert found.state() == {"step": found.step, "x": 0.1 + 0.2, "trainer": {"updates": 3}}
    for part, group in _tensors(found.step).items():
        assert set(tensors[part]) == set(group)
        for name, tensor in group.items():
            assert tensors[part][name].dtype == tensor.dtype and torch.equal(tensors[part][name], tensor)
    return found.step


# The child keeps one interpreter for the whole sweep: it forks once per kill point, because importing
# torch a hundred times would take minutes.
SWEEP = """
import os, sys, signal
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from test_checkpoint import _save
from lmm_r1.runs import checkpoint
root, scenario = Path(sys.argv[1]), sys.argv[2]

def saves(folder, armed):
    if scenario == "third":            # a new step; the oldest of three is pruned
        for step in (1, 2): _save(folder, step)
        armed(); _save(folder, 3)
    elif scenario == "same":           # a step that exists is replaced
        for step in (1, 2): _save(folder, step)
        armed(); _save(folder, 2)
    elif scenario == "keep_one":       # the old one may go only when the new one is whole
        _save(folder, 1, keep=1)
        armed(); _save(folder, 2, keep=1)

def child(folder, k):
    count, on = 0, False
    def tick():
        nonlocal count
        if on:
            count += 1
            if count == k: os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, args):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            if event != "open" or str(args[0]).startswith(str(root)): tick()
    sys.addaudithook(hook)
    fsync, save_file = os.fsync, checkpoint.save_file
    def slow_fsync(handle): tick(); fsync(handle); tick()
    def torn_save(tensors, path):
        tick(); Path(path).write_bytes(b"half"); tick(); save_file(tensors, path); tick()
    os.fsync, checkpoint.save_file = slow_fsync, torn_save
    def armed():
        nonlocal on
        on = True
    saves(folder, armed)
    os._exit(0)

for k in range(1, 400):
    pid = os.fork()
    if pid == 0:
        child(root / f"kill_{k:03d}", k)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    assert os.WTERMSIG(status) == signal.SIGKILL
"""


@pytest.mark.parametrize(("scenario", "newest"), [("third", {2, 3}), ("same", {2}), ("keep_one", {1, 2})])
def test_kill_at_each_file_operation_loses_nothing(tmp_path: Path, scenario: str, newest: set[int]) -> None:
    """Catches a save that has an instant without a whole newest checkpoint: in-place writing, deleting first,
    renaming before fsync order, pruning half a folder, or a temporary folder that blocks the next save."""
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(tmp_path), scenario, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 30, "the sweep must reach the operations of a save"
    for folder in folders:
        step = _check(folder, newest)
        _save(folder, step + 1)  # what was left behind must not stand in the way
        assert _check(folder, {step + 1})
        assert not [p.name for p in folder.iterdir() if p.name.startswith(".")], "a later save cleans up"


def test_save_and_load_are_exact_and_keep_prunes(tmp_path: Path) -> None:
    """Catches lost dtypes, transposed tensors, floats that went through text badly, and a folder that grows."""
    assert newest_good(tmp_path / "none") is None
    for step in range(1, 5):
        _save(tmp_path, step)
        _check(tmp_path, {step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000003", "step_000004"]
    names = {p.name for p in (tmp_path / "step_000004").iterdir()}
    assert names == {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"}


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [_flip, _truncate, Path.unlink])
def test_damage_is_named_and_the_older_one_is_used(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    """Catches one flipped bit, one lost byte or one lost file that is loaded, or that ends the run."""
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    damage(tmp_path / "step_000002" / name)
    found = newest_good(tmp_path)
    assert found is not None and found.step == 1
    (fault,) = found.skipped
    assert fault.file == str(tmp_path / "step_000002" / name)
    if damage is _flip and name != "manifest.json":
        assert "sha256 is" in fault.message and "expected" in fault.message


def test_all_bad_stops_the_run(tmp_path: Path) -> None:
    """Catches the silent start from scratch when every checkpoint is damaged."""
    for step in (1, 2):
        _flip(_save(tmp_path, step) / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        newest_good(tmp_path)
    text = str(caught.value)
    assert "step_000001" in text and "step_000002" in text and caught.value.exit_code == 4


def test_step_saved_after_a_fallback_becomes_the_newest(tmp_path: Path) -> None:
    """Catches a bad newer checkpoint that survives pruning in place of the good one just written."""
    for step in (4, 6):
        _save(tmp_path, step)
    _flip(tmp_path / "step_000006" / "model.safetensors")
    assert _check(tmp_path, {4}) == 4
    _save(tmp_path, 5, keep=1)
    found = newest_good(tmp_path)
    assert found is not None and found.step == 5 and not found.skipped


def test_planted_pickle_is_never_opened(tmp_path: Path) -> None:
    """Catches a loader that takes whatever file lies in the folder: a pickle would run code."""

    marker = tmp_path / "boom"
    path = _save(tmp_path / "c", 1)
    (path / "model.pt").write_bytes(b"no safetensors")
    _check(tmp_path / "c", {1})
    manifest = json.loads((path / "manifest.json").read_text())  # even one that the manifest vouches for
    bomb = path / "extra.pt"
    bomb.write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    manifest["files"]["extra.pt"] = {"size": bomb.stat().st_size, "sha256": checkpoints.sha256_of(bomb)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    _check(tmp_path / "c", {1})
    assert not marker.exists()


def test_manifest_cannot_point_outside(tmp_path: Path) -> None:
    """Catches a manifest whose file names leave the checkpoint's folder."""
    path = _save(tmp_path, 1)
    (tmp_path / "other").write_bytes(b"x")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../other"] = {"size": 1, "sha256": checkpoints.sha256_of(tmp_path / "other")}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not list the files of a checkpoint"):
        newest_good(tmp_path)


def test_too_little_space_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a save that fills the disk first and complains afterwards."""
    _save(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "free_bytes", lambda folder: 1000)
    with pytest.raises(CheckpointError, match="MB free, a checkpoint needs"):
        _save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]


def test_disk_that_fills_up_meanwhile_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches ENOSPC in the middle of a save that leaves half a checkpoint, or harms the older one."""
    _save(tmp_path, 1)
    calls = iter(range(100))

    def full(handle: int) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        _save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000001"]
    assert _check(tmp_path, {1}) == 1


def test_state_that_would_not_come_back_is_refused(tmp_path: Path) -> None:
    """Catches NaN or an object silently changed on its way through JSON."""
    for state in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(CheckpointError):
            save_checkpoint(tmp_path, 1, _writer(_tensors(1)), state, 1)
    assert list(tmp_path.iterdir()) == []


def test_two_names_of_one_memory_are_refused(tmp_path: Path) -> None:
    """Catches tied tensors that would come back as two."""
    weight = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_checkpoint(tmp_path, 1, _writer({"model": {"a": weight, "b": weight}}), {}, 1)
    assert newest_good(tmp_path) is None
