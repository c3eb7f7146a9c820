"""What deploy/ holds: that it parses, fits the package, and that every command line in it means what the package understands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
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
    here = [ROOT / re.sub(r"^/work/", "", str(path)) for path in (params["recipe"], *(params["overlays"] or ()))]
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
