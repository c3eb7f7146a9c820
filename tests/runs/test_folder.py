"""The run folder: its lock, its recipe, its atomic files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmm_r1.errors import FolderInUseError, RecipeError
from lmm_r1.runs.changes import changed_fields
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import append_line, read_lines, read_steps, repair, write_json

HOLD = """
import sys, time
from lmm_r1.runs.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    """Catches two runs that write into one folder, and a message without host, pid and time."""
    process = _holder(tmp_path)
    try:
        with pytest.raises(FolderInUseError) as caught, RunFolder(tmp_path).lock():
            pass
        assert f"pid {process.pid} since 20" in str(caught.value) and "host " in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    finally:
        process.kill()
        process.wait()


def test_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    """Catches a lock file that outlives kill -9 and has to be removed by hand."""
    process = _holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RunFolder(tmp_path).lock():
        assert f"pid {os.getpid()} " in (tmp_path / "lock").read_text()
    with RunFolder(tmp_path).lock():  # and it is free again after a clean end
        pass


def test_orphaned_worker_is_named_as_such(tmp_path: Path) -> None:
    """Catches advice to stop a process that is long gone, when a forked worker inherited its lock."""
    code = HOLD.replace(
        'print("held", flush=True)',
        "import os\n    if os.fork(): os._exit(0)\n    print('held', os.getpid(), flush=True)",
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline().split()[1])
    process.wait()
    try:
        with (
            pytest.raises(FolderInUseError, match="is gone, but one that it started still runs"),
            RunFolder(tmp_path).lock(),
        ):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_same_process_cannot_take_the_lock_twice(tmp_path: Path) -> None:
    """Catches a lock that one process may hold twice (POSIX record locks would allow it)."""
    with RunFolder(tmp_path).lock(), pytest.raises(FolderInUseError), RunFolder(tmp_path).lock():
        pass


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", ".."])
def test_stage_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Catches a recipe whose stage name writes outside of the run folder."""
    with pytest.raises(RecipeError):
        RunFolder(tmp_path / "run").stage(name)


def test_changed_recipe_is_refused_field_by_field(tmp_path: Path) -> None:
    """Catches a resume under another recipe, and a message that does not name what changed."""
    run = RunFolder(tmp_path / "run")
    recipe = 'name = "a"\nseed = 0\n[stage.fre]\nsteps = 4\n[[stage.fre.data]]\ndomain = "text"\n'
    assert run.keep_recipe(recipe).fresh
    (run.stage("fre").checkpoints / "step_000002").mkdir()
    assert not run.keep_recipe(recipe).fresh
    changed = recipe.replace("seed = 0", "seed = 1").replace('"text"', '"geometry"') + "extra = true\n"
    with pytest.raises(RecipeError) as caught:
        run.keep_recipe(changed)
    assert [fault.field for fault in caught.value.faults] == [
        "seed",
        "stage.fre.data[0].domain",
        "stage.fre.data[0].extra",
    ]
    assert "started with 0, the recipe now says 1" in str(caught.value)
    assert run.recipe.read_text() == recipe, "the stored recipe must not change with a refused one"


def test_description_may_change(tmp_path: Path) -> None:
    """Catches a run that cannot be resumed because a comment-like field was edited."""
    run = RunFolder(tmp_path)
    run.keep_recipe('description = "one"\n[save]\nkeep = 2\n')
    (run.stage("fre").checkpoints / "step_000002").mkdir()
    assert not run.keep_recipe('description = "two"\n[save]\nkeep = 3\n').fresh
    assert "two" in run.recipe.read_text()


def test_changed_fields_tells_types_and_lengths_apart() -> None:
    """Catches 1 == True and a longer list slipping through the comparison."""
    assert changed_fields({"a": 1}, {"a": True}) == [("a", "1", "True")]
    assert changed_fields({"a": [1]}, {"a": [1, 2]}) == [("a", "[1]", "[1, 2]")]
    assert changed_fields({"a": {"b": 1}}, {}) == [("a", "{'b': 1}", "nothing")]


def test_json_is_replaced_not_rewritten(tmp_path: Path) -> None:
    """Catches a writer that opens the old file for writing: a reader that holds it would see a part of the new one."""
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with open(path) as reader:
        write_json(path, {"a": float("nan"), "b": "é"})
        assert reader.read() == '{\n  "a": 1\n}\n'
    assert path.read_text() == '{\n  "a": null,\n  "b": "\\u00e9"\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"], "no temporary file stays behind"


def test_torn_last_line_is_dropped_and_cut_off(tmp_path: Path) -> None:
    """Catches a metrics file that a kill made unreadable, or whose next line is glued to the torn one."""
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"step": 1})
    with open(path, "a") as out:
        out.write('{"step": 2, "rew')
    assert read_lines(path) == [{"step": 1}]
    repair(path)
    append_line(path, {"step": 2})
    append_line(path, {"step": 2, "again": 1})
    assert read_steps(path) == [{"step": 1}, {"step": 2, "again": 1}]


def test_spoilt_line_in_the_middle_is_named(tmp_path: Path) -> None:
    """Catches a reader that silently skips damage which no kill can explain."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(Exception, match=r"metrics\.jsonl:2"):
        read_lines(path)
