"""The whole path at its smallest: recipe -> stages -> run folder, and what a resume must reproduce."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmm_r1.ask import sample_model
from lmm_r1.chain import run_recipe
from lmm_r1.errors import FolderInUseError, NumericError
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.runs.folder import RunFolder
from tests.tiny import tiny_model, tiny_recipe

METRICS = {
    "step", "stage", "reward/mean", "reward/format", "reward/accuracy", "length/mean", "length/max", "truncated_share",
    "entropy", "kl_ref", "clip_share", "zero_advantage_share", "logprob_gap/mean", "logprob_gap/max", "grad_norm", "lr",
    "tokens", "seconds/collect", "seconds/anchor", "seconds/update", "seconds/sync", "seconds/evaluate", "weights_sha256",
}  # fmt: skip
ROLLOUT = {
    "problem_id", "episode", "segment", "sibling", "prompt", "replies", "images", "token_ids", "trainable", "logprobs",
    "reward", "parts", "verdicts", "advantage", "stop", "versions",
}  # fmt: skip


def lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def final_weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run / stage / "model" / "model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads is part of what fixes the bits: the killed runs, in processes of their own, have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder with recipe and base, run folder) of an uninterrupted two-stage run of three steps each."""
    folder = tmp_path_factory.mktemp("finished")
    recipe, path = tiny_recipe(folder, steps=3)
    run_recipe(recipe, path, folder / "run")
    return folder, folder / "run"


def test_the_run_folder_keeps_its_promises(finished: tuple[Path, Path]) -> None:
    """Catches a file or field that reports and outside checks rely on going missing."""
    _, run = finished
    for name in ("recipe.toml", "provenance.json", "results.json", "report.html", "lock"):
        assert (run / name).is_file(), name
    for stage in ("first", "second"):
        metrics = lines(run / stage / "metrics.jsonl")
        assert [m["step"] for m in metrics] == [1, 2, 3]
        assert set(metrics[0]) >= METRICS, METRICS - set(metrics[0])
        assert metrics[0]["kl_ref"] == pytest.approx(0.0, abs=1e-6), "KL to the stage's start model is 0 at its start"
        assert metrics[0]["logprob_gap/max"] < 1e-4
        assert len({m["weights_sha256"] for m in metrics}) == 3, "the weights moved at every step"
        rollouts = lines(run / stage / "rollouts" / "step_000002.jsonl")
        assert set(rollouts[0]) >= ROLLOUT, ROLLOUT - set(rollouts[0])
        checkpoint = run / stage / "checkpoints" / "step_000003"
        assert {p.name for p in checkpoint.iterdir()} == {
            "manifest.json",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
        }
        assert (run / stage / "model" / "preprocessor_config.json").is_file()
    pictures = [r for r in lines(run / "second" / "rollouts" / "step_000001.jsonl") if r["images"]]
    assert pictures and all(
        (run / "second" / "images" / f"{sha}.png").is_file() for r in pictures for sha in r["images"]
    )
    results = json.loads((run / "results.json").read_text())
    assert set(results["arms"]) == {"base", "base_no_prompt", "first", "second"}
    cell = results["arms"]["second"]["geometry"]
    assert cell["n"] == 6 and cell["low"] <= cell["accuracy"] <= cell["high"]
    assert results["rollouts"] == {"base": 0, "base_no_prompt": 0, "first": 36, "second": 72}
    assert {(d["a"], d["b"], d["set"]) for d in results["differences"]} >= {
        ("second", "first", "text"),
        ("first", "base", "geometry"),
    }


def test_a_stage_starts_from_the_exported_weights_of_the_one_before(finished: tuple[Path, Path]) -> None:
    """Catches a second stage that starts from the base, or from a lossy export."""
    _, run = finished
    checkpoint = load_file(run / "first" / "checkpoints" / "step_000003" / "model.safetensors")
    exported = final_weights(run, "first")
    assert all(torch.equal(exported[name], tensor) for name, tensor in checkpoint.items() if name in exported)
    base = load_file(MICRO_DIR / "model.safetensors")
    assert any(not torch.equal(base[name], exported[name]) for name in base)


def test_running_again_changes_nothing(finished: tuple[Path, Path]) -> None:
    """Catches a finished run that trains or samples again."""
    folder, run = finished
    recipe, path = tiny_recipe(folder, steps=3)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    results = json.loads((run / "results.json").read_text())
    assert run_recipe(recipe, path, run) == results
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == before


@pytest.mark.parametrize("kills", [(("first", 1),), (("first", 2), ("second", 1))])
def test_a_killed_run_resumes_to_bit_identical_weights(
    finished: tuple[Path, Path], tmp_path: Path, kills: tuple[tuple[str, int], ...]
) -> None:
    """Catches any state that a checkpoint forgets: SIGKILL after these steps, then resume."""
    folder, whole = finished
    _, path = tiny_recipe(folder, steps=3)
    program = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "import lmm_r1.train as train\n"
        "from lmm_r1.chain import run_recipe\n"
        "from lmm_r1.recipes import load_recipe\n"
        "stage, step = sys.argv[3], int(sys.argv[4])\n"
        "real = train.save\n"
        "def save(run, done, at):\n"
        "    real(run, done, at)\n"
        "    if (run.name, done) == (stage, step): os.kill(os.getpid(), signal.SIGKILL)\n"
        "train.save = save\n"
        "run_recipe(load_recipe(sys.argv[1]), Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    run = tmp_path / "run"
    for stage, step in (*kills, ("none", 0)):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path), str(run), stage, str(step)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == (0 if stage == "none" else -signal.SIGKILL), done.stderr[-2000:]
    for stage in ("first", "second"):
        ours, theirs = final_weights(run, stage), final_weights(whole, stage)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), stage
        keep = lambda m: {k: v for k, v in m.items() if not k.startswith("seconds/")}  # noqa: E731
        assert list(map(keep, lines(run / stage / "metrics.jsonl"))) == list(
            map(keep, lines(whole / stage / "metrics.jsonl"))
        )
        for file in (whole / stage / "rollouts").iterdir():
            assert (run / stage / "rollouts" / file.name).read_bytes() == file.read_bytes()
    assert json.loads((run / "results.json").read_text()) == json.loads((whole / "results.json").read_text())


def test_sigterm_saves_and_says_so(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Catches a polite stop that loses work: exit 143, a checkpoint of the finished step, and a resume."""
    folder, _ = finished
    _, path = tiny_recipe(folder, steps=3)
    program = (
        "import os, signal, sys\n"
        "import lmm_r1.train as train\n"
        "from lmm_r1.cli import main\n"
        "real = train.learn\n"
        "def learn(run, groups, step, *rest, **more):\n"
        "    if step == 1: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return real(run, groups, step, *rest, **more)\n"
        "train.learn = learn\n"
        "sys.argv = ['lmm-r1', 'train', sys.argv[1], '--out', sys.argv[2], '--set', 'save.every=0', '--threads', '1']\n"
        "sys.exit(main())\n"
    )
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(run)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 143, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "resume" in done.stderr
    assert (run / "first" / "checkpoints" / "step_000002").is_dir()
    assert [m["step"] for m in lines(run / "first" / "metrics.jsonl")] == [1, 2]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Catches two runs writing into one folder."""
    recipe, path = tiny_recipe(tmp_path)
    with RunFolder(tmp_path / "run").lock(), pytest.raises(FolderInUseError, match=str(os.getpid())):
        run_recipe(recipe, path, tmp_path / "run")
    assert not (tmp_path / "run" / "first").exists()


def test_a_sampler_that_disagrees_with_the_trainer_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a guard that only warns: replies claimed at other log-probs must never be learned from."""
    import lmm_r1.train as train

    recipe, path = tiny_recipe(tmp_path)
    real = train.collect

    def off(*args, **kwargs):  # type: ignore[no-untyped-def]
        collected = real(*args, **kwargs)
        for group in collected.groups:
            for rollout in group.rollouts:
                rollout.logprobs.setflags(write=True)
                rollout.logprobs[rollout.trainable] += 0.2
        return collected

    monkeypatch.setattr(train, "collect", off)
    with pytest.raises(NumericError, match=r"sampler and trainer differ by 0\.2"):
        run_recipe(recipe, path, tmp_path / "run")


def test_the_other_algorithm_and_several_updates_run_too(tmp_path: Path) -> None:
    """Catches an algorithm that only its unit test can run."""
    recipe, path = tiny_recipe(tmp_path, minibatches=2, algorithm="reinforce_pp_baseline")
    run_recipe(recipe, path, tmp_path / "run", stage="first")
    metrics = lines(tmp_path / "run" / "first" / "metrics.jsonl")
    assert len(metrics) == 2 and metrics[1]["grad_norm"] > 0
    assert not (tmp_path / "run" / "second" / "model").exists()


def test_samples_are_reproducible_and_carry_their_log_probs(tmp_path: Path) -> None:
    """Catches samples that depend on their batch mates or on anything but the seed."""
    model = str(tiny_model(tmp_path / "m"))
    two = sample_model(model, "Compute 3 + 4.", n=2, seed=5, max_new_tokens=6)
    four = sample_model(model, "Compute 3 + 4.", n=4, seed=5, max_new_tokens=6)
    for ours, theirs in zip(two["samples"], four["samples"], strict=False):
        assert ours["token_ids"] == theirs["token_ids"]
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-5)
    assert four["samples"][0]["token_ids"] != four["samples"][1]["token_ids"]
    assert all(len(s["token_ids"]) == len(s["logprobs"]) and max(s["logprobs"]) <= 0 for s in four["samples"])
    assert sample_model(model, "Compute 3 + 4.", n=1, seed=6, max_new_tokens=6)["samples"][0] != two["samples"][0]
