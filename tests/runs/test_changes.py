"""Changes of a recipe between two sessions: which are taken, which are refused, and whether the way out is one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lmm_r1.errors import CheckpointError, RecipeError
from lmm_r1.recipes import dump_recipe, load_recipe
from lmm_r1.runs.folder import RunFolder

TOML = """
name = "changing"
[evaluate]
sets = ["text"]
items = 2
[stage.a]
steps = 4
data = [{ source = "synthetic", domain = "text" }]
[stage."b.2"]
from = "a"
steps = 4
data = [{ source = "synthetic", domain = "text" }]
[stage.c]
steps = 4
prompt = "agent"
data = [{ source = "synthetic", domain = "text" }]
"""
STAGE = '{steps=1,data=[{domain="text"}]}'


def recipe(folder: Path, *changes: str) -> str:
    (folder / "r.toml").write_text(TOML)
    return dump_recipe(load_recipe(folder / "r.toml", changes))


def run_of(folder: Path, progress: Mapping[str, tuple[int, bool, bool]], *changes: str) -> RunFolder:
    """A run folder; progress: stage or arm -> (step of its newest checkpoint, exported, evaluated)."""
    run = RunFolder(folder / "run")
    run.keep_recipe(recipe(folder, *changes))
    for name, (step, exported, evaluated) in progress.items():
        stage = run.stage(name)
        if step:
            (stage.checkpoints / f"step_{step:06d}").mkdir()
        if exported:
            stage.model.mkdir()
            (stage.model / "config.json").write_text("{}")
        if evaluated:
            (stage.evaluations / "text.json").write_text("{}")
    return run


#: a is finished and b.2 starts from it; b.2 has begun; c has not.
PROGRESS = {"base": (0, False, True), "a": (4, True, True), "b.2": (2, False, False)}


@pytest.mark.parametrize(
    "change",
    [
        "description=other", "name=other", "save.every=1", "save.keep=5", "guards.max_skipped_share=0.5", 'compare=[["a","base"]]',
        'evaluate.sets=["text","geometry"]', 'evaluate.sets=["geometry"]', "evaluate.items=3", "evaluate.blind=1",
        "evaluate.every=2", "evaluate.also_without_prompt=false", "engine.slots=7", "model.gradient_checkpointing=true",
        "stage.b\\u002e2.steps=6", "stage.b\\u002e2.steps=2", "stage.b\\u002e2.update.micro_tokens=512", f"stage.d={STAGE}",
        "stage.c.steps=9", "stage.c.update.lr=1e-3", "stage.c.from=a", "prompts.mine=hello", "stage.c.prompt=think",
        "stage.b\\u002e2.reward.workers=4",
    ],
)  # fmt: skip
def test_what_leaves_finished_work_alone_is_taken_and_written_down(change: str, tmp_path: Path) -> None:
    """Catches a run that cannot be extended, and a change that nobody can find afterwards."""
    run = run_of(tmp_path, PROGRESS)
    before = sorted(run.path.rglob("*"))
    field, _, value = change.partition("=")
    raw = _changed(tmp_path, field.replace("\\u002e", "\\."), value)
    kept = run.keep_recipe(raw)
    assert not kept.fresh and kept.changes and run.recipe.read_text() == raw
    (line,) = map(json.loads, run.changes.read_text().splitlines())
    assert [c["field"] for c in line["changes"]] == [c.field for c in kept.changes] and line["steps"] == {
        "a": 4,
        "b.2": 2,
    }
    assert all(c["was"] != c["now"] for c in line["changes"])
    assert sorted(run.path.rglob("*")) == sorted([*before, run.changes])
    assert run.keep_recipe(raw).changes == (), "the next session finds the recipe as it is"


def _changed(folder: Path, field: str, value: str) -> str:
    """The recipe with one field changed; "\\." is a dot inside a name."""
    parts = [part.replace("\0", ".") for part in field.replace("\\.", "\0").split(".")]
    if "b.2" not in parts:
        return recipe(folder, f"{field}={value}")
    text = TOML.replace('"b.2"', "b_2")
    (folder / "o.toml").write_text(text)
    dumped = dump_recipe(load_recipe(folder / "o.toml", [f"{'.'.join(parts).replace('b.2', 'b_2')}={value}"]))
    return re.sub(r"\bb_2\b", '"b.2"', dumped).replace('""b.2""', '"b.2"')


@pytest.mark.parametrize(
    ("change", "would", "remove"),
    [
        ("seed=5", "all that is finished", [""]),
        ("model.max_pixels=15680", "all that is finished", [""]),
        ("engine.max_context=2048", "all that is finished", [""]),
        ("evaluate.temperature=0.5", "figures of finished evaluations", ["a/evaluations", "base/evaluations"]),
        ("evaluate.prompt=agent", "figures of finished evaluations", ["a/evaluations", "base/evaluations"]),
        ("stage.a.update.lr=1e-3", "the finished stage a, and b.2 after it", ["a", "b.2"]),
        ("stage.a.data.0.domain=geometry", "the finished stage a, and b.2 after it", ["a", "b.2"]),
        ("stage.a.steps=8", "what b.2 started from", ["b.2"]),
        ("stage.a.steps=3", "the model of the finished stage a", ["a", "b.2"]),
    ],
)
def test_what_would_change_finished_work_is_refused_with_a_way_out(
    change: str, would: str, remove: list[str], tmp_path: Path
) -> None:
    """Catches a refusal without its reason, a way out that is none, and a folder that a refusal has changed."""
    run = run_of(tmp_path, PROGRESS)
    before = run.recipe.read_text()
    with pytest.raises(RecipeError) as caught:
        run.keep_recipe(recipe(tmp_path, change))
    (fault,) = caught.value.faults
    assert would in fault.message and "was started with" in fault.message and run.recipe.read_text() == before
    assert "another --out" in fault.remedy and not run.changes.exists()
    words = shlex.split(fault.remedy.rpartition("rm -r ")[2])
    assert words == [str(run.path / path) if path else str(run.path) for path in remove]
    for word in words:
        shutil.rmtree(word)
    run.keep_recipe(recipe(tmp_path, change))  # exactly that was in the way


def test_a_stage_is_not_taken_away_with_its_work(tmp_path: Path) -> None:
    """Catches results that lose an arm without a word; a stage without work may go."""
    run = run_of(tmp_path, PROGRESS)
    short = TOML[: TOML.index("[stage.c]")]
    (tmp_path / "s.toml").write_text(short)
    assert [c.now for c in run.keep_recipe(dump_recipe(load_recipe(tmp_path / "s.toml"))).changes] == ["nothing"]
    (tmp_path / "s.toml").write_text(short[: short.index('[stage."b.2"]')])
    with pytest.raises(RecipeError, match="would change the results") as caught:
        run.keep_recipe(dump_recipe(load_recipe(tmp_path / "s.toml")))
    assert "--stage NAME" in caught.value.faults[0].remedy


def test_a_finished_stage_trains_on_from_its_last_checkpoint_or_says_why_not(tmp_path: Path) -> None:
    """Catches a stage that is taken for finished with fewer steps than it has, and figures of weights that are gone."""
    run = run_of(tmp_path, {"a": (4, True, True), "c": (0, True, True)})
    kept = run.keep_recipe(recipe(tmp_path, "stage.a.steps=6"))
    assert "schedule over 4 steps" in kept.changes[0].effect and "over 6" in kept.changes[0].effect
    assert not run.stage("a").model.exists() and not list(run.stage("a").evaluations.iterdir())
    assert (run.stage("a").checkpoints / "step_000004").is_dir() and run.stage("c").model.is_dir()
    with pytest.raises(RecipeError, match="its last checkpoint is gone") as caught:
        run.keep_recipe(recipe(tmp_path, "stage.a.steps=6", "stage.c.steps=9"))
    assert f'model.base = "{run.path / "c" / "model"}" with another --out' in caught.value.faults[0].remedy


def test_fewer_steps_than_are_done_are_refused_and_fewer_than_planned_taken(tmp_path: Path) -> None:
    """Catches steps that are undone in the recipe and stand in the weights."""
    run = run_of(tmp_path, {"c": (3, False, False)})
    with pytest.raises(RecipeError, match="the 3 finished steps of c"):
        run.keep_recipe(recipe(tmp_path, "stage.c.steps=2"))
    assert run.keep_recipe(recipe(tmp_path, "stage.c.steps=3")).changes
    constant = ["stage.c.steps=5", "stage.c.update.final_lr=1.0", "stage.c.update.warmup=0.0"]
    other = run_of(tmp_path / "run", {"c": (3, False, False)}, *constant[1:])
    assert other.keep_recipe(recipe(tmp_path, *constant)).changes[0].effect == "the learning rate is constant"


def test_a_prompt_may_change_until_somebody_used_it(tmp_path: Path) -> None:
    """Catches another text under the name that a finished stage learned with."""
    run = run_of(tmp_path, {"c": (2, False, False)}, "prompts.mine=one", "stage.c.prompt=mine", "prompts.free=one")
    same = ["prompts.mine=one", "stage.c.prompt=mine"]
    run.keep_recipe(recipe(tmp_path, *same, "prompts.free=two"))
    with pytest.raises(RecipeError, match="what c learned from"):
        run.keep_recipe(recipe(tmp_path, "prompts.mine=two", same[1], "prompts.free=two"))


def test_a_run_without_finished_work_takes_any_recipe(tmp_path: Path) -> None:
    """Catches a failed start that locks its folder: nothing of it is worth keeping."""
    run = run_of(tmp_path, {})
    (run.stage("a").path / "metrics.jsonl").write_text('{"step": 1}\n')  # a step without a checkpoint is done again
    for change in ("model.base=elsewhere", "seed=9", "stage.a.steps=1", f"stage.d={STAGE}"):
        kept = run.keep_recipe(recipe(tmp_path, change))
        assert kept.fresh and not kept.changes and not run.changes.exists()
        assert run.recipe.read_text() == recipe(tmp_path, change)


@pytest.mark.parametrize("text", ["name = ", "\x00", 'name = "a"\nname = "b"'])
def test_a_damaged_recipe_is_one_line(text: str, tmp_path: Path) -> None:
    """Catches a traceback for half a recipe.toml."""
    run = run_of(tmp_path, PROGRESS)
    run.recipe.write_text(text)
    with pytest.raises(CheckpointError, match=r"recipe\.toml: cannot be read"):
        run.keep_recipe(recipe(tmp_path))


def leave(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "stays"),
    [
        (["recipe.toml", "provenance.json", "lock"], False),
        (["recipe.toml", "tensorboard/events.1", "a/data/f.rows"], False),
        (["recipe.toml", "workers/stacks.txt"], True),
        (["recipe.toml", "a/rollouts/step_000001.jsonl"], True),
        (["base/evaluations/text.json", "recipe.toml"], True),
        (["a/checkpoints/step_000001/state.json"], True),
    ],
)
def test_a_session_that_made_nothing_leaves_nothing(names: list[str], stays: bool, tmp_path: Path) -> None:
    """Catches a folder for each failed start, and one whose content a person may need that is taken away."""
    run = RunFolder(tmp_path / "runs" / "x")

    def session() -> Any:
        with run.leaving_no_debris():
            leave(run.path, *names)
            raise RecipeError("refused")

    with pytest.raises(RecipeError):
        session()
    assert run.path.exists() == stays and (tmp_path / "runs").exists() == stays
    own = tmp_path / "own"
    leave(own, "notes.txt")
    run = RunFolder(own)
    with pytest.raises(RecipeError):
        session()
    assert (own / "notes.txt").is_file() and len(list(own.iterdir())) == (
        1 if not stays else 1 + len({n.split("/")[0] for n in names})
    )


def test_the_record_of_changes_outlives_the_next_session(tmp_path: Path) -> None:
    """Catches a record that is taken for debris of the session that wrote it."""
    run = run_of(tmp_path, PROGRESS)
    for number, change in enumerate(("evaluate.items=3", "evaluate.items=4"), start=1):
        with run.leaving_no_debris():
            run.keep_recipe(recipe(tmp_path, change))
        assert len(run.changes.read_text().splitlines()) == number
