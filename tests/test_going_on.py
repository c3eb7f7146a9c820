"""Runs that go on with another recipe, tried end to end: what is computed anew, what stays to the byte, what is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmm_r1 import chain, cli
from lmm_r1.chain import run_recipe
from lmm_r1.errors import CheckpointError, LmmR1Error
from lmm_r1.recipes import load_recipe
from lmm_r1.runs.folder import RunFolder
from tests.tiny import tiny_recipe

ADDED = '{from="second",steps=1,data=[{domain="text"}],rollout={prompts=3,siblings=4,max_new_tokens=24,max_prompt_tokens=128}}'


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.toml and `run`, a finished run of its two stages of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    recipe, path = tiny_recipe(folder)
    run_recipe(recipe, path, folder / "run")
    return folder


def bits(run: Path, *stages: str) -> dict[Path, bytes]:
    """Weights, evaluations and metrics of finished work."""
    kinds = ("model/*.safetensors", "evaluations/*.json", "metrics.jsonl")
    return {p: p.read_bytes() for stage in stages for kind in kinds for p in (run / stage).glob(kind)}


def go_on(folder: Path, *changes: str) -> dict[str, Any]:
    path = folder / "tiny.toml"
    return run_recipe(load_recipe(path, changes), path, folder / "run")


def test_a_finished_run_goes_on(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an extension that computes finished work anew, one that is not done, and results that do not follow."""
    run = finished / "run"
    before = bits(run, "base", "first", "second")

    results = go_on(finished, 'evaluate.sets=["text","geometry","reading"]')
    assert set(results["arms"]["second"]) == {"text", "geometry", "reading"}
    assert {p: p.read_bytes() for p in before} == before, "a set more leaves the others alone"
    assert "evaluate.sets: ['text', 'geometry'] -> " in capsys.readouterr().out

    sets = 'evaluate.sets=["text"]'
    results = go_on(finished, sets, f"stage.third={ADDED}")
    assert set(results["arms"]) == {"base", "base_no_prompt", "first", "second", "third"}
    assert set(results["arms"]["third"]) == {"text"} and (run / "third" / "model" / "config.json").is_file()
    assert {p: p.read_bytes() for p in before} == before

    results = go_on(finished, sets, f"stage.third={ADDED}", "stage.third.steps=3")
    steps = [json.loads(line)["step"] for line in (run / "third" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3] and results["rollouts"]["third"] == 3 * 12 + results["rollouts"]["second"]
    assert "schedule over 1 steps" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in before} == before

    results = go_on(finished, sets, f"stage.third={ADDED}", "stage.third.steps=3", "evaluate.items=3")
    assert {arm: cell["text"]["n"] for arm, cell in results["arms"].items()} == dict.fromkeys(results["arms"], 3)
    assert len((run / "changes.jsonl").read_text().splitlines()) == 4
    page = (run / "report.html").read_text()
    assert (
        "Changed between sessions" in page
        and "stage.third.steps: 1 -&gt; 3" in page
        and "evaluate.items: 6 -&gt; 3" in page
    )
    again = go_on(finished, sets, f"stage.third={ADDED}", "stage.third.steps=3", "evaluate.items=3")
    assert again == results == json.loads((run / "results.json").read_text())


def test_more_steps_are_those_of_a_run_that_had_them_from_the_start(tmp_path: Path) -> None:
    """Catches an optimiser, a stream or a schedule that starts anew where a finished stage trains on."""
    _, path = tiny_recipe(tmp_path)
    asked = ["evaluate.sets=[]", "compare=[]", "stage.first.update.final_lr=1.0", "stage.first.update.warmup=0.0"]
    for out, steps in (("whole", 3), ("run", 2), ("run", 3)):
        run_recipe(load_recipe(path, [*asked, f"stage.first.steps={steps}"]), path, tmp_path / out, stage="first")
    shas = [
        [
            json.loads(line)["weights_sha256"]
            for line in (tmp_path / out / "first" / "metrics.jsonl").read_text().splitlines()
        ]
        for out in ("whole", "run")
    ]
    assert shas[0] == shas[1] and len(shas[0]) == 3


def test_a_killed_evaluation_goes_on_with_the_next_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an arm that is evaluated from its first set again, however often it is stopped in its second."""
    _, path = tiny_recipe(tmp_path)
    recipe, asked = load_recipe(path), []
    real = chain.evaluate_with

    def stopped(shop: Any, name: str, *rest: Any) -> Any:
        asked.append(name)
        if asked == ["text", "geometry"]:
            raise KeyboardInterrupt
        return real(shop, name, *rest)

    monkeypatch.setattr(chain, "evaluate_with", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, path, tmp_path / "run", stage="first")
    assert [p.name for p in (tmp_path / "run" / "base" / "evaluations").iterdir()] == ["text.json"]
    run_recipe(recipe, path, tmp_path / "run", stage="first")
    assert asked[2:4] == ["geometry", "text"], "the base's second set, then the arm without a prompt"


@pytest.mark.parametrize("text", ['{"set": "te', "[]", '{"set": "text", "summary": {}, "items": [1]}'])
def test_a_damaged_evaluation_is_named(text: str, tmp_path: Path) -> None:
    """Catches a traceback for half a file of results."""
    recipe, _ = tiny_recipe(tmp_path)
    folder = RunFolder(tmp_path / "run").stage("base")
    (folder.evaluations / "text.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"text\.json: is no result of an evaluation.*remove it"):
        chain.missing_sets(folder, recipe.evaluate)


def test_another_number_of_threads_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches digits that differ from an uninterrupted run's, and nobody knows why; the same number says nothing."""
    _, path = tiny_recipe(tmp_path)
    recipe = load_recipe(path, ["evaluate.sets=[]", "compare=[]", "stage.first.steps=1"])
    run_recipe(recipe, path, tmp_path / "run", stage="first")
    run_recipe(recipe, path, tmp_path / "run", stage="first")
    assert "threads" not in capsys.readouterr().out
    torch.set_num_threads(2)
    try:
        run_recipe(recipe, path, tmp_path / "run", stage="first")
    finally:
        torch.set_num_threads(1)
    assert "began with 1 CPU threads and goes on with 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (["model.base=./nowhere"], []),
        (["stage.first.reward.verifier=no_such_module:judge"], []),
        (["stage.second.data.0.source=problems", "stage.second.data.0.path=gone.jsonl"], ["seed=9"]),
    ],
)
def test_a_failed_start_does_not_lock_its_folder(wrong: list[str], right: list[str], tmp_path: Path) -> None:
    """Catches a folder that refuses the mended recipe, and one that a refused start leaves at all."""
    _, path = tiny_recipe(tmp_path)
    small = ["evaluate.sets=[]", "compare=[]", "stage.first.steps=1"]
    with pytest.raises(LmmR1Error):
        run_recipe(load_recipe(path, [*small, *wrong]), path, tmp_path / "run", stage=None)
    assert not (tmp_path / "run").exists()
    run_recipe(load_recipe(path, [*small, *right]), path, tmp_path / "run", stage="first")
    assert (tmp_path / "run" / "first" / "model").is_dir()


def test_a_start_that_fails_after_the_check_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches debris of what no check can see: weights that do not load, a signal during the base's evaluation."""
    _, path = tiny_recipe(tmp_path)
    for error in (CheckpointError("weights that do not load"), KeyboardInterrupt()):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(chain.Workshop, "loaded", fail)
        with pytest.raises(type(error)):
            run_recipe(load_recipe(path), path, tmp_path / "runs" / "x")
        assert not (tmp_path / "runs").exists()


def test_train_says_what_a_resumed_run_changed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a refusal by the command that differs from the run's, and no word of the way out."""
    arguments = [
        "train",
        str(finished / "tiny.toml"),
        "--out",
        str(finished / "run"),
        "--threads",
        "1",
        "--set",
        "seed=8",
    ]
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert "[seed]: this run was started with 3, the recipe now says 8" in told and "rm -r " in told and "--out" in told
