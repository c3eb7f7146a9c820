"""What deploy/ holds: that it parses, fits the package, and that every command line in it means what the package understands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from packaging.requirements import Requirement

from lmm_r1.build import device_of
from lmm_r1.cli import app
from lmm_r1.config import Model, Recipe
from lmm_r1.errors import RecipeError
from lmm_r1.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SCRIPTS = ("slurm.sbatch", "kuberay.yaml", "skypilot.yaml", "Dockerfile")
#: Shell variables of the scripts, with a value that each may have.
VALUES = {"ip": "10.0.0.1", "port": "6379", "address": "10.0.0.1:6379", "workers": "16", "PWD": "/here", "@": ""}
#: Top-level fields of a task, https://docs.skypilot.co/en/latest/reference/yaml-spec.html
SKYPILOT = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "volumes", "setup", "run", "config"}  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    """A file's commands: the text with comment marks and continued lines undone; of a manifest, what it runs."""
    text = (DEPLOY / name).read_text() if name in SCRIPTS else (ROOT / "docs" / name).read_text()
    if name == "kuberay.yaml":
        return str(yaml.safe_load(text)["spec"]["entrypoint"])
    return re.sub(r"[ \t]*\\\n#?\s*", " ", re.sub(r"^#   ", "", text, flags=re.MULTILINE))


def command_lines(name: str) -> Iterator[list[str]]:
    """Arguments of each `lmm-r1` in a file, variables filled in; those of the script for Slurm are of `train`."""
    values = dict(VALUES)
    if name == "skypilot.yaml":
        values |= yaml.safe_load((DEPLOY / name).read_text())["envs"]
    for line in plain(name).splitlines():
        found = re.search(r"(?:^|\s)(?:(lmm-r1)(?= [a-z]+ )|sbatch deploy/slurm\.sbatch) (.+)$", line)
        if not found or line.lstrip().startswith(("#", "*", "|")):
            continue
        text = re.sub(r"\$\{?(\w+|@)\}?", lambda m: values[m[1]], found[2])
        words = shlex.split(re.sub(r"(?<!\S)&$", "", text.strip()), comments=True)
        yield [word for word in words if word] if found[1] else ["train", *words]


def recipe_of(arguments: list[str]) -> Recipe:
    """The recipe that a command line of `train` or `plan` means: parsed as the command does, read as a run does."""
    verb, *rest = arguments
    group: Any = typer.main.get_command(app)
    params = group.commands[verb].make_context(verb, rest).params
    here = [ROOT / re.sub(r"^/app/", "", str(path)) for path in (params["recipe"], *(params["overlays"] or ()))]
    return load_recipe(here[0], params["overrides"] or (), here[1:])


@pytest.mark.parametrize("name", [*SCRIPTS, "scale.md"])
def test_every_command_line_is_one(name: str) -> None:
    """Catches a recipe, an overlay, an option or a field that was renamed while a script still names it."""
    lines = [line for line in command_lines(name) if line[0] in ("train", "plan")]
    assert len(lines) >= (1 if name in SCRIPTS else 5)
    if name == "slurm.sbatch":  # the script adds to the user's arguments, and these do not make a command
        own = next(line for line in lines if "cluster.ranks=16" in line)
        lines.remove(own)
        lines = [[*line, *own[1:]] for line in lines]
        assert lines
    for line in lines:
        recipe = recipe_of(line)
        if name in SCRIPTS:
            assert recipe.cluster.address and recipe.engine.kind == "vllm"


@pytest.mark.parametrize("changed", ["--set cluster.rank=2", "--with recipes/absent.toml", "--sett a=b"])
def test_a_command_line_that_is_none_is_noticed(changed: str) -> None:
    """Catches a check of command lines that lets everything pass."""
    line = next(line for line in command_lines("Dockerfile") if line[0] == "train")
    assert recipe_of(line).cluster.ranks == 8
    with pytest.raises(Exception, match=r"cluster\.rank|absent|sett") as caught:
        recipe_of([*line, *changed.split()])
    assert isinstance(caught.value, RecipeError) or "NoSuchOption" in type(caught.value).__name__


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_scripts_are_bash() -> None:
    """Catches a loop that is not closed, a quote that is not."""
    sky, job = (yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()) for name in ("skypilot", "kuberay"))
    texts = [(DEPLOY / "slurm.sbatch").read_text(), sky["setup"], sky["run"], job["spec"]["entrypoint"]]
    for text in texts:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert not done.returncode and not done.stderr, done.stderr


def test_workers_fill_the_machines_that_are_asked_for() -> None:
    """Catches GPUs that are paid for and stay idle, or workers that wait for a place for ever."""
    spec = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]
    cluster = recipe_of(next(iter(command_lines("kuberay.yaml")))).cluster
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    assert worker["resources"]["requests"] == limits
    assert cluster.ranks == cluster.engines == group["replicas"] * int(limits["nvidia.com/gpu"])
    assert int(limits["cpu"]) >= 2 * int(limits["nvidia.com/gpu"])  # a colocated bundle has two cores
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    assert set(task) <= SKYPILOT
    assert task["resources"]["accelerators"].endswith(":8") and "ports" not in task["resources"]


def test_nothing_is_open_or_secret() -> None:
    """Catches a cluster without a token, a token that lies in the repository, and a container of root's."""
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    assert job["authOptions"] == {"mode": "token", "secretName": "lmm-r1-token"}
    for group in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}
    for text in (task["run"], (DEPLOY / "slurm.sbatch").read_text()):
        before_ray = text.split("ray start")[0]
        assert "RAY_AUTH_MODE=token" in before_ray and "RAY_worker_niceness=0" in before_ray
        assert "--include-dashboard=false" in text


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) in order."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_made_from_the_checkout_for_one_user() -> None:
    """Catches a file that the image wants and the checkout lacks, root at the end, and another command than ours."""
    steps = dockerfile()
    last = dict(steps)  # of each instruction the last one
    assert last["USER"] not in ("root", "0") and last["HEALTHCHECK"] == "NONE"
    assert json.loads(last["ENTRYPOINT"]) == ["lmm-r1"] and "lmm-r1" in PROJECT["scripts"]
    assert last["FROM"] == "${BASE}" and re.fullmatch(r"BASE=[\w/.]+:[\w.-]+", last["ARG"]), "a base without a version"
    sources = [word for kind, text in steps if kind == "COPY" for word in text.split()[1:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    needed = {"pyproject.toml", PROJECT["readme"], "src", "recipes"}
    assert needed <= set(sources)


@pytest.mark.parametrize("name", ["Dockerfile", "skypilot.yaml"])
def test_pins_and_extras_fit_the_package(name: str) -> None:
    """Catches a pin outside the package's bounds, two files that install other versions, and an extra that is no more."""
    text = (DEPLOY / name).read_text()
    extras = PROJECT["optional-dependencies"]
    wanted = [
        Requirement(line) for line in (*PROJECT["dependencies"], *extras["ray"], *extras["vllm"], *extras["lora"])
    ]
    bounds = {requirement.name: requirement.specifier for requirement in wanted}
    pins = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', text))
    assert {"torch", "vllm", "transformers", "ray"} <= set(pins)
    for package, version in pins.items():
        assert bounds[package].contains(version), f"{package} {version} is not {bounds[package]}"
    assert pins == dict(re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', (DEPLOY / "Dockerfile").read_text()))
    (asked,) = re.findall(r'"[./\w-]*\[([\w,]+)\]"$', re.sub(r'" && .*', '"', text), flags=re.MULTILINE)
    assert set(asked.split(",")) <= set(extras)
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    assert job["rayVersion"] == pins["ray"]
    assert f"ray=={pins['ray']}" in (ROOT / "tests" / "distributed" / "requirements.txt").read_text()


def test_a_loop_without_a_gpu_may_drive_workers_that_have_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a head without a GPU (deploy/kuberay.yaml) that is refused, or that makes all its workers use the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(Model(device="cuda"), elsewhere=True) == "cuda"
    with pytest.raises(RecipeError, match="no CUDA device"):
        device_of(Model(device="cuda"))


#: Stand-ins for what the script for Slurm calls. Steps note their process and stay until they are ended; the run saves itself
#: upon SIGTERM, which takes it a moment.
STAND_INS = {
    "scontrol": "printf '%s\\n' first second",
    "srun": 'echo "$$ $*" >> steps; [ ! -e broken ] || exit 3; exec sleep 600',
    "ray": "[ ! -e broken ]",
    "lmm-r1": "trap 'sleep 0.5; touch saved; exit 143' TERM; echo \"$*\" > .run; mv .run run; while :; do sleep 0.1; done",
}


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Path]:
    """A folder with stand-ins in which the script can run."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    yield tmp_path
    left = [pid for pid in map(int, re.findall(r"^\d+", (tmp_path / "steps").read_text(), re.MULTILINE)) if waits(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "steps are left"


def waits(pid: int) -> bool:
    """Whether a step still is there, and not another process under its number."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    except OSError:
        return False


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script in such a folder, as a job of two machines with eight GPUs each."""
    environment = {
        "PATH": os.pathsep.join((str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "two", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8",
        "HEAD_IP": "10.0.0.1",
    }  # fmt: skip
    script = ["bash", str(DEPLOY / "slurm.sbatch"), *arguments]
    return subprocess.Popen(script, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_end_of_a_slurm_job_lets_the_run_save_itself(slurm: Path) -> None:
    """Catches a script that goes before its run has saved itself, hides how it ended, counts the machines wrongly, or leaves
    Ray nodes or its token behind."""
    user = ["recipes/lmm_r1_3b/mgt_geo.toml", "--with", "recipes/lmm_r1_3b/hardware/eight_80gb.toml", "--out", "a b"]
    with started(slurm, *user) as job:
        while not (slurm / "run").exists() or len((slurm / "steps").read_text().splitlines()) < 2:
            assert job.poll() is None, job.stderr and job.stderr.read()
            time.sleep(0.05)
        assert (slurm / ".ray-token-7").stat().st_mode & 0o777 == 0o600
        assert len((slurm / ".ray-token-7").read_text()) == 64
        job.terminate()
        assert job.wait(60) == 143
    assert (slurm / "saved").exists() and not (slurm / ".ray-token-7").exists()
    said = (slurm / "run").read_text().split()
    assert said[0] == "train" and said[-2:] == ["a", "b"]
    cluster = recipe_of(said[:-1]).cluster
    assert (cluster.address, cluster.ranks, cluster.engines) == ("10.0.0.1:6379", 16, 16)
    head, others = sorted((slurm / "steps").read_text().splitlines(), key=lambda line: "--head" not in line)
    assert "--nodelist=first ray start --head" in head and "--node-ip-address=10.0.0.1" in head
    assert "--ntasks=1 --exclude=first ray start --address 10.0.0.1:6379" in others


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_slurm_job_whose_ray_does_not_start_ends(slurm: Path) -> None:
    """Catches machines that wait for three days for a Ray that has failed."""
    (slurm / "broken").touch()
    with started(slurm, "recipes/quickstart.toml") as job:
        assert job.wait(60) not in (0, 143)
    assert not (slurm / "run").exists() and not (slurm / ".ray-token-7").exists()
