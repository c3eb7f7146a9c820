"""A run over two Ray nodes, started by deploy/slurm.sbatch: two hosts as far as the network goes, each with a rank."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmm_r1.chain import run_recipe
from lmm_r1.recipes import load_recipe
from lmm_r1.runs.live import LiveView
from tests.distributed.support import required
from tests.tiny import tiny_recipe

required("ray")

ROOT = Path(__file__).resolve().parents[2]
#: Namespaces of our own: mounts, network, and processes, which all end with the first of them.
UNSHARE = (
    *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
)


def two_hosts_work() -> bool:
    """Whether this machine lets us make network namespaces."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    trial = "mount -t tmpfs none /run && ip netns add trial && ip netns exec trial unshare --uts hostname trial"
    return subprocess.run([*UNSHARE, "sh", "-c", trial], capture_output=True).returncode == 0


def grad_norms(run: Path) -> list[float]:
    files = [run / stage / "metrics.jsonl" for stage in ("first", "second")]
    return [json.loads(line)["grad_norm"] for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("layout", "weights"), [("colocated", "shared"), ("split", "broadcast")])
def test_ranks_on_two_hosts_give_the_gradients_of_one_process(tmp_path: Path, layout: str, weights: str) -> None:
    """Would catch ranks, or ranks and engines, that meet on an interface or under a host name that other hosts do not reach; workers, weights or
    checkpoints that only work on the driver's host, or in the folder where it was started; actors or reservations that stay in
    a cluster which is not ours; and a script for Slurm that starts another cluster than the run joins, or leaves its token."""
    if not two_hosts_work():
        pytest.skip("needs Linux, `unshare` and `ip`, and the right to make network namespaces")
    _, path = tiny_recipe(tmp_path, steps=1)
    path.write_text(path.read_text().replace('sets = ["text", "geometry"]', "sets = []\nalso_without_prompt = false"))
    run_recipe(load_recipe(path), path, tmp_path / "one", live=LiveView())
    run = tmp_path / "run"
    arguments = [path.name, "--out", run.name, "--set", "cluster.lost_s=120"]
    arguments += ["--set", f"cluster.layout={layout}", "--set", f"cluster.weights={weights}"]
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.distributed.two_hosts", str(tmp_path), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(part or os.getcwd() for part in sys.path)},
        capture_output=True, text=True, timeout=500, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["here"] == "alpha" and len(report["ranks"]) == len(report["engines"]) == 2
    for ranks, engines in zip(report["ranks"], report["engines"], strict=True):  # of both stages
        if layout == "colocated":
            assert ranks == engines and len(set(ranks)) == 2, report  # one of each on each host
        else:
            assert len({*ranks, *engines}) == 2, report
    assert report["left"] == {"actors": 0, "groups": 0, "cores": 0.0}
    ours, theirs = grad_norms(tmp_path / "one"), grad_norms(run)
    assert len(ours) == 2 and theirs == pytest.approx(ours, rel=2e-5)
    assert list((run / "second" / "checkpoints").glob("step_*")), "no checkpoint of two ranks"
    assert not list((run / "workers").iterdir()), "files for stacks that nobody wrote"
    assert not list(tmp_path.glob(".ray-token*")), "the job's token outlives it"
