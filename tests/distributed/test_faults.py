"""Runs whose driver, ranks and engines are killed: they recover or stop with a message, resume, and learn the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.closeness import relative_of_all
from tests.distributed.support import required

required("ray")

from lmm_r1.chain import run_recipe  # noqa: E402
from lmm_r1.recipes import load_recipe  # noqa: E402
from lmm_r1.runs.live import LiveView  # noqa: E402

TOML = """
name = "struck"
seed = 3
[engine]
slots = 8
max_context = 256
[evaluate]
sets = []
[save]
every = 1
rollout_groups = 4
[stage.only]
from = "base"
steps = 3
data = [{ source = "synthetic", domain = "geometry" }, { source = "synthetic", domain = "text" }]
rollout = { prompts = 4, siblings = 4, max_new_tokens = 24, max_prompt_tokens = 128 }
update = { lr = 3e-4 }
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, folder of its run in one process)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = folder / "struck.toml"
    path.write_text(TOML)
    run_recipe(load_recipe(path), path, folder / "run", live=LiveView())
    return path, folder / "run"


def train(path: Path, run: Path, blows: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """`lmm-r1 train` on a cluster of this machine, struck."""
    options = [word for setting in ("cluster.address=local", *settings) for word in ("--set", setting)]
    command = [sys.executable, "-m", "tests.distributed.struck", blows, "train", str(path), "--out", str(run), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part or os.getcwd() for part in sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)


def groups(run: Path) -> list[list[tuple[str, int, tuple[int, ...]]]]:
    """Step by step what was learned from: problem, sibling and tokens of each rollout."""
    steps = sorted((run / "only" / "rollouts").glob("step_*.jsonl"))
    lines = [[json.loads(line) for line in step.read_text().splitlines()] for step in steps]
    return [[(line["problem_id"], line["sibling"], tuple(line["token_ids"])) for line in step] for step in lines]


def weights_gap(ours: Path, theirs: Path) -> float:
    """Relative L2 error over all weights of two runs."""
    return relative_of_all(*(load_file(run / "only" / "model" / "model.safetensors") for run in (ours, theirs)))


def test_a_killed_driver_goes_on_with_another_number_of_ranks(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    """1 -> 2 -> 1 ranks. Catches groups that are learned twice or never, another order of problems, and state that a
    sharded checkpoint forgets."""
    path, whole = undisturbed
    run = tmp_path / "run"
    for ranks, blow, code in ((1, "driver:save:1", -9), (2, "driver:save:1", -9), (1, "", 0)):
        done = train(path, run, blow, f"cluster.ranks={ranks}")
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    assert groups(run) == groups(whole) and len(groups(run)) == 3
    assert weights_gap(run, whole) < 1e-5


def test_lost_engines_and_ranks_are_replaced_until_restarts_run_out(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """Catches replies lost or given twice when an engine dies while it works, a failed rollout that counts as a wrong answer,
    a run that hangs or trains on without a rank, restarts without end, and a message that does not say what to do."""
    path, whole = undisturbed
    run, settings = tmp_path / "run", ("cluster.ranks=2", "cluster.engines=2", "cluster.restarts=1")
    done = train(path, run, "engine:submit:1,rank:update:2", *settings)
    said = done.stdout + done.stderr
    assert done.returncode == 7, said[-3000:]
    assert "engine 0" in said and "started anew" in said
    assert "rank 1" in said and "resumes from the last checkpoint" in said
    done = train(path, run, "rank:update:1", *settings)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "rank 1" in said and "ranks are started anew (0 restarts left)" in said
    assert groups(run) == groups(whole)
    assert weights_gap(run, whole) < 1e-5


def test_one_step_ahead_learns_from_the_same_problems_one_version_late(
    undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """Catches groups that are older than one step or not corrected for, a stream that loses the step which waited when the
    driver was killed, and an engine that gets new weights in the middle of a reply."""
    path, whole = undisturbed
    run, settings = tmp_path / "run", ("cluster.ahead=1", "cluster.layout=split")
    for blow, code in (("driver:save:2", -9), ("", 0)):
        done = train(path, run, blow, *settings)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    ours, theirs = groups(run), groups(whole)
    assert ours[0] == theirs[0]
    assert [[line[:2] for line in step] for step in ours] == [[line[:2] for line in step] for step in theirs]
    assert versions(run) == [
        {0},
        {0},
        {2},
    ]  # the third step was sampled anew, after the kill, with the weights of two steps
    assert versions(whole) == [{0}, {1}, {2}]
    lines = [json.loads(line) for line in (run / "only" / "metrics.jsonl").read_text().splitlines()]
    assert abs(lines[0]["importance/mean"] - 1) < 1e-4 < abs(lines[1]["importance/mean"] - 1)
    assert lines[1]["ratio_error/first"] < 1e-5  # the clipped ratio is against the present policy


def versions(run: Path) -> list[set[int]]:
    """Of the weights that each step's rollouts were sampled with."""
    steps = sorted((run / "only" / "rollouts").glob("step_*.jsonl"))
    lines = [[json.loads(line) for line in step.read_text().splitlines()] for step in steps]
    return [{version for line in step for _, version in line["versions"]} for step in lines]
