"""Studies: the grid and its faults, what is run again and what is not, and figures worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mpmath
import pytest

from lmm_r1 import cli, study
from lmm_r1.config import Recipe
from lmm_r1.errors import EngineError, Fault, NumericError, RecipeError
from lmm_r1.recipes import dump_recipe
from lmm_r1.reports.studies import (
    Row,
    cells_of,
    effects,
    measure,
    split,
    spread,
    study_page,
    t_quantile,
    tally,
)
from lmm_r1.reports.study_figure import curve
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import write_json, write_lines
from lmm_r1.study import Study, load_study, run_study

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
BASE = """
name = "base"
[evaluate]
sets = ["text"]
items = 2
also_without_prompt = false
max_new_tokens = 8
[engine]
slots = 8
max_context = 256
[stage.train]
steps = 1
data = [{ source = "synthetic", domain = "text" }]
rollout = { prompts = 2, siblings = 2, max_new_tokens = 8, max_prompt_tokens = 128 }
update = { lr = 1e-3 }
"""
GRID = """
name = "small"
base = "base.toml"
seeds = [1, 2]
[[axis]]
name = "algorithm"
[axis.values]
grpo = ["stage.train.algorithm.name=grpo"]
rloo = ["stage.train.algorithm.name=rloo", "stage.train.update.lr=2e-3"]
[[axis]]
name = "data"
[axis.values]
text = ["stage.train.data.0.domain=text"]
pictures = ["stage.train.data.0.domain=geometry"]
"""
#: Change of the length by algorithm and data that the pretended runs show.
CHANGES = {("grpo", "text"): -1.0, ("grpo", "geometry"): -3.0, ("rloo", "text"): -2.0, ("rloo", "geometry"): -6.0}


def write(folder: Path, grid: str = GRID, base: str = BASE) -> Path:
    (folder / "base.toml").write_text(base, encoding="utf-8")
    (folder / "grid.toml").write_text(grid, encoding="utf-8")
    return folder / "grid.toml"


def faults(path: Path, *overrides: str) -> list[Fault]:
    with pytest.raises(RecipeError) as caught:
        load_study(path, overrides)
    return list(caught.value.faults)


class Pretend:
    """In place of run_recipe: writes what a run of ten steps leaves; `stop_at` maps a run's number to what it raises."""

    def __init__(self, stop_at: dict[int, BaseException] | None = None) -> None:
        self.ran: list[str] = []
        self.stop_at = stop_at or {}

    def __call__(self, recipe: Recipe, recipe_path: Path, out_dir: Path, *, stage: str, **_: Any) -> dict[str, Any]:
        self.ran.append(recipe.name)
        run = RunFolder(out_dir)
        run.keep_recipe(dump_recipe(recipe))
        if len(self.ran) in self.stop_at:
            raise self.stop_at[len(self.ran)]
        train = recipe.stage[stage]
        change = CHANGES[train.algorithm.name, str(train.data[0].domain)] + (0.5 if recipe.seed == 2 else 0.0)
        files = run.stage(stage)
        lengths = [20.0] * 5 + [20.0 + change] * 5
        (files.checkpoints / "step_000010").mkdir()
        write_lines(files.metrics, ({"step": i + 1, "length/mean": length} for i, length in enumerate(lengths)))
        results = {"arms": {stage: {"text": {"accuracy": 0.5, "mean_length": 18.0}}}}
        run.write_json("results.json", results)
        return results


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    stand_in = Pretend()
    monkeypatch.setattr(study, "run_recipe", stand_in)
    return stand_in


def test_the_cells_are_the_product_in_order(tmp_path: Path) -> None:
    """Catches a cell that is left out, stands under another's label, or does not get its own overrides and seed."""
    runs = load_study(write(tmp_path), ["stage.train.steps=4"]).runs
    assert [run.folder for run in runs] == [
        f"{cell}/seed_{seed}"
        for cell in ("grpo-text", "grpo-pictures", "rloo-text", "rloo-pictures")
        for seed in (1, 2)
    ]
    last = runs[-1]
    assert last.labels == {"algorithm": "rloo", "data": "pictures"}
    train = last.recipe.stage["train"]
    assert (train.algorithm.name, train.update.lr, train.data[0].domain) == ("rloo", 2e-3, "geometry")
    assert (last.recipe.seed, last.recipe.name, train.steps) == (2, "small-rloo-pictures-seed_2", 4)


def test_the_shipped_study_is_32_checked_runs() -> None:
    """Catches a shipped study that does not ask its question, or names what the package does not know."""
    shipped = load_study(RECIPES / "study_length.toml")
    assert len(shipped.runs) == 32
    assert shipped.axes == {
        "algorithm": ["ppo", "reinforce_pp_baseline", "grpo", "dr_grpo"],
        "reduction": ["token", "sequence"],
        "data": ["text", "pictures"],
    }
    for run in shipped.runs:
        train = run.recipe.stage["train"]
        assert (train.algorithm.name, train.algorithm.reduction) == (run.labels["algorithm"], run.labels["reduction"])
        assert train.data[0].domain == {"text": "text", "pictures": "geometry"}[run.labels["data"]]
        assert train.algorithm.kl_coef == 1e-3, "another KL term would be a second difference"
    others = {dump_recipe(run.recipe.model_copy(update={"name": "", "seed": 0})) for run in shipped.runs}
    assert len(others) == 16


def test_faults_of_all_cells_come_at_once(tmp_path: Path) -> None:
    """Catches a study that runs for an hour before its last cell turns out to be misspelt."""
    grid = GRID.replace("update.lr=2e-3", "update.lrr=2e-3").replace("domain=geometry", "domain=geometri")
    found = faults(write(tmp_path, grid))
    assert {f.field for f in found} == {"stage.train.update.lrr", "stage.train.data.0.domain"}
    (misspelt,) = (f for f in found if f.field.endswith("lrr"))
    assert misspelt.message == "cells rloo-text, rloo-pictures: unknown key"
    (unknown,) = (f for f in found if f.field.endswith("domain"))
    assert unknown.message.startswith("cells grpo-pictures, rloo-pictures: ") and "geometri" in unknown.message


def test_values_that_do_not_go_together_are_found_before_the_first_run(tmp_path: Path) -> None:
    """Catches a fault that only the making of the algorithm finds, cells later."""
    grid = GRID.replace('"stage.train.update.lr=2e-3"', '"stage.train.algorithm.dual_clip=3.0"')
    assert [f.message.partition(":")[0] for f in faults(write(tmp_path, grid))] == ["cells rloo-text, rloo-pictures"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("grpo =", '"../grpo" =', "'../grpo' cannot be a name"),
        ("grpo =", "a-b =", "'a-b' cannot be a name"),
        ("grpo =", '".hidden" =', "'.hidden' cannot be a name"),
        ("grpo =", '"study.json" =', "'study.json' cannot be a name"),
        ("grpo =", '"" =', "'' cannot be a name"),
        ('name = "data"', 'name = "d/a"', "[axis.1.name]: 'd/a' cannot be a name"),
        ('name = "small"', 'name = "a/b"', "[name]: 'a/b' cannot be a name"),
        ("grpo =", "RLOO =", "not distinct: RLOO, rloo"),
        ('name = "data"', 'name = "algorithm"', "not distinct: algorithm, algorithm"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "not distinct: 1, 1"),
        ("seeds = [1, 2]", "seeds = []", "[seeds]"),
        ("seeds = [1, 2]", "seeds = [true]", "[seeds.0]"),
        ("seeds = [1, 2]", "sedes = [1, 2]", "[sedes]"),
        ("seeds = [1, 2]", "seeds = [1", "not valid TOML"),
        ("base.toml", "absent.toml", "absent.toml: cannot read the recipe"),
        ('base = "base.toml"', 'base = "base.toml"\nstage = "trian"', 'no stage "trian"'),
    ],
)
def test_what_a_study_cannot_be_is_refused(before: str, after: str, said: str, tmp_path: Path) -> None:
    """Catches a label that leaves or hides in the study's folder, two runs in one folder, and a grid of nothing."""
    assert before in GRID
    found = [str(f) for f in faults(write(tmp_path, GRID.replace(before, after)))]
    assert any(said in line for line in found), found


def test_a_study_that_is_not_there_is_one_fault(tmp_path: Path) -> None:
    """Catches a traceback for a misspelt path."""
    assert [f.message for f in faults(tmp_path / "absent.toml")] == ["cannot read the study: No such file or directory"]


def test_a_recipe_of_several_stages_needs_one_to_measure(tmp_path: Path) -> None:
    """Catches the length of some stage or other being measured."""
    two = (
        BASE
        + '[stage.second]\nfrom = "train"\nsteps = 1\ndata = [{ domain = "text" }]\nrollout = { max_new_tokens = 8, max_prompt_tokens = 99 }\n'
    )
    assert [f.field for f in faults(write(tmp_path, base=two))] == ["stage"]


@pytest.mark.parametrize(
    "override", ["seed=4", "name=x", "stage.train.algorithm.name=dapo", "stage.train.data.0.domain=text"]
)
def test_an_override_that_the_grid_takes_back_is_refused(override: str, tmp_path: Path) -> None:
    """Catches a --set without any effect: every cell sets the field itself."""
    found = faults(write(tmp_path), override)
    assert all("is taken back by" in f.message for f in found) and found


def test_a_killed_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches finished runs that run again, and a summary that depends on where the study was killed."""
    whole, loaded = Pretend(), load_study(write(tmp_path))
    monkeypatch.setattr(study, "run_recipe", whole)
    expected = run_study(loaded, tmp_path / "whole", lambda _: None)
    killed = Pretend({4: KeyboardInterrupt()})
    monkeypatch.setattr(study, "run_recipe", killed)
    with pytest.raises(KeyboardInterrupt):
        run_study(loaded, tmp_path / "out", lambda _: None)
    assert json.loads((tmp_path / "out" / "study.json").read_text())["done"] == 3
    told: list[str] = []
    assert run_study(loaded, tmp_path / "out", told.append) == expected
    assert killed.ran == whole.ran[:4] + whole.ran[3:], "the run that was killed, and those after it"
    assert [line.endswith("done before") for line in told] == [True] * 3 + [False] * 5
    for name in ("study.json", "study.md", "study.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_changed_recipe_is_refused_before_anything_runs(tmp_path: Path, pretend: Pretend) -> None:
    """Catches old runs under new labels: every changed run is named, finished or not."""
    run_study(load_study(write(tmp_path)), tmp_path / "out", lambda _: None)
    before = len(pretend.ran)
    changed = load_study(write(tmp_path, GRID.replace("lr=2e-3", "lr=3e-3")))
    with pytest.raises(RecipeError) as caught:
        run_study(changed, tmp_path / "out", lambda _: None)
    assert [f.field for f in caught.value.faults] == ["stage.train.update.lr"] * 4
    assert len(pretend.ran) == before


def test_another_value_of_an_axis_only_adds_runs(tmp_path: Path, pretend: Pretend) -> None:
    """Catches a study that cannot grow."""
    run_study(load_study(write(tmp_path, GRID.replace('rloo = ["stage.train', '#"'))), tmp_path / "out", lambda _: None)
    assert len(pretend.ran) == 4
    run_study(load_study(write(tmp_path)), tmp_path / "out", lambda _: None)
    assert len(pretend.ran) == 8


def test_a_run_that_a_guard_stops_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a study that ends with one bad cell, one that tries it for ever, and its numbers in the means."""
    stopping = Pretend({2: NumericError("the loss is nan")})
    monkeypatch.setattr(study, "run_recipe", stopping)
    told: list[str] = []
    summary = run_study(load_study(write(tmp_path)), tmp_path / "out", told.append)
    assert len(stopping.ran) == 8
    assert "stopped: the loss is nan" in told[1]
    first = summary["cells"][0]
    assert first["runs"][1] == {"seed": 2, "folder": "grpo-text/seed_2", "stopped": "the loss is nan"}
    assert first["measures"]["length/change"] == {"mean": -1.0, "low": -1.0, "high": -1.0, "n": 1}
    assert [e["n"] for e in summary["effects"]] == [3, 3], "a pair without its partner is none"
    assert "- grpo-text, seed 2: the loss is nan" in (tmp_path / "out" / "study.md").read_text()
    run_study(load_study(write(tmp_path)), tmp_path / "out", lambda _: None)
    assert len(stopping.ran) == 8


def test_any_other_fault_stops_the_study_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a lost worker or a full disk that is taken for what an algorithm does."""
    monkeypatch.setattr(study, "run_recipe", Pretend({2: EngineError("a worker is lost")}))
    arguments = ["study", str(write(tmp_path)), "--out", str(tmp_path / "out"), "--threads", "1"]
    assert cli.run(arguments) == 7
    monkeypatch.setattr(study, "run_recipe", Pretend())
    assert cli.run([*arguments, "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads((tmp_path / "out" / "study.json").read_text())
    shown = capsys.readouterr()
    assert "a worker is lost" in shown.err
    assert "8/8 rloo-pictures seed 2: length 20.0 -> 14.5 (-5.5)" in shown.out and "| rloo-pictures" in shown.out
    assert cli.run([*arguments, "--set", "seed=3"]) == 2


def reply(tokens: int, accuracy: float, segment: int = 0) -> dict[str, Any]:
    return {"trainable": [False, *[True] * tokens], "parts": {"accuracy": accuracy, "format": 1.0}, "segment": segment}


def test_replies_are_counted_by_verdict_and_episode() -> None:
    """Catches prompt tokens in a reply's length, and the segments of one episode counted as replies."""
    lines = [reply(4, 1.0), reply(10, 0.0), reply(3, 1.0), reply(5, 1.0, segment=1)]
    assert tally(lines) == {"right": 2, "right_tokens": 12, "wrong": 1, "wrong_tokens": 10}


def test_a_run_is_measured_by_its_ends() -> None:
    """Catches the middle of a run in its ends, replies weighed by step, and a part of the split that is missing.

    Twenty-five steps: five are a fifth. First: 10 right replies of 60 tokens together and 30 wrong ones of 600;
    last: 30 right of 120 and 10 wrong of 150. So p goes from 1/4 to 3/4, R from 6 to 4, W from 20 to 15.
    """
    records = [
        {"step": step, "length/mean": {0: 16.5, 4: 6.75}.get((step - 1) // 5, 1000.0), "reward/accuracy": step / 25}
        for step in range(1, 26)
    ]
    unlike = {"right": 9, "right_tokens": 9000, "wrong": 9, "wrong_tokens": 9000}
    kept = dict.fromkeys(range(6, 21), unlike)
    kept |= {1: {"right": 10, "right_tokens": 60, "wrong": 0, "wrong_tokens": 0}}
    kept |= {2: {"right": 0, "right_tokens": 0, "wrong": 30, "wrong_tokens": 600}}
    kept |= {25: {"right": 30, "right_tokens": 120, "wrong": 10, "wrong_tokens": 150}}
    found = measure(records, kept, {"text": {"accuracy": 0.25, "mean_length": 9.0}})
    assert (found["length/first"], found["length/last"], found["length/change"]) == (16.5, 6.75, -9.75)
    assert (found["right/first"], found["right/last"]) == pytest.approx((6.0, 4.0))
    assert (found["wrong/first"], found["wrong/last"]) == pytest.approx((20.0, 15.0))
    assert found["accuracy/first"] == pytest.approx(0.12) and found["accuracy/last"] == pytest.approx(0.92)
    # 1/2 (4 - 6), 1/2 (15 - 20), (3/4 - 1/4) (5 - 17.5)
    assert found["split/right"] == pytest.approx(-1.0)
    assert found["split/wrong"] == pytest.approx(-2.5)
    assert found["split/mix"] == pytest.approx(-6.25)
    assert (found["evaluate/text/accuracy"], found["evaluate/text/length"]) == (0.25, 9.0)
    assert math.isnan(found["entropy/last"]), "what was not measured is not 0"


def test_the_split_adds_up() -> None:
    """Catches a remainder that belongs to none of the three parts."""
    parts = split(0.3, 0.9, 11.0, 7.0, 25.0, 31.0)
    assert sum(parts.values()) == pytest.approx((0.9 * 7 + 0.1 * 31) - (0.3 * 11 + 0.7 * 25))


def test_no_right_replies_is_no_number() -> None:
    """Catches a division by zero, and a length of 0 where nobody was right."""
    found = measure([{"step": 1}], {1: tally([reply(4, 0.0)])}, {})
    assert math.isnan(found["right/first"]) and math.isnan(found["split/mix"]) and found["wrong/first"] == 4.0


def rows(changes: dict[tuple[str, str, int], float]) -> list[Row]:
    return [
        Row({"algorithm": a, "data": d}, seed, f"{a}-{d}/seed_{seed}", {"length/change": change})
        for (a, d, seed), change in changes.items()
    ]


def test_cells_have_the_mean_and_the_spread_over_seeds() -> None:
    """Catches seeds of two cells in one mean, and a NaN that makes a mean NaN."""
    found = cells_of(rows({("x", "t", 1): -2.0, ("x", "t", 2): -5.0, ("y", "t", 1): 1.0, ("y", "t", 2): math.nan}))
    assert [c["cell"] for c in found] == ["x-t", "y-t"]
    assert found[0]["measures"]["length/change"] == {"mean": -3.5, "low": -5.0, "high": -2.0, "n": 2}
    assert found[1]["measures"]["length/change"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert spread([math.nan])["n"] == 0


def test_effects_are_paired_over_the_other_axes_and_seeds() -> None:
    """Catches pairs across data or seeds, a wrong sign, the normal quantile for four pairs, and a bold verdict.

    x minus y: -4, -6, -5, -5: mean -5, s = sqrt(2/3), t(3) = 3.182: ± 3.182 * sqrt(2/3) / 2 = 1.2991.
    t minus p: 10, -6, 9, -5: mean 2, s = sqrt(226/3): ± 3.182 * sqrt(226/3) / 2 = 13.8091, which includes 0.
    """
    values = {("x", "t", 1): 6.0, ("x", "t", 2): -2.0, ("x", "p", 1): -4.0, ("x", "p", 2): 4.0}
    values |= {("y", "t", 1): 10.0, ("y", "t", 2): 4.0, ("y", "p", 1): 1.0, ("y", "p", 2): 9.0}
    algorithm, data = effects(rows(values), {"algorithm": ["x", "y"], "data": ["t", "p"]})
    assert (algorithm["a"], algorithm["b"], algorithm["n"], algorithm["verdict"]) == ("x", "y", 4, "x below y")
    assert (algorithm["mean"], algorithm["low"], algorithm["high"]) == pytest.approx((-5, -6.2991, -3.7009), abs=1e-3)
    assert (data["mean"], data["low"], data["high"]) == pytest.approx((2, -11.8091, 15.8091), abs=1e-3)
    assert (data["a"], data["n"], data["verdict"]) == ("t", 4, "undecided")


def test_three_values_make_three_pairs_and_what_is_missing_makes_none() -> None:
    """Catches a comparison that is left out, and an interval from a single pair."""
    values = {("x", "t", 1): 1.0, ("y", "t", 1): 2.0, ("z", "t", 2): 3.0}
    found = effects(rows(values), {"algorithm": ["x", "y", "z"]})
    assert [(e["a"], e["b"], e["n"]) for e in found] == [("x", "y", 1), ("x", "z", 0), ("y", "z", 0)]
    assert found[0]["mean"] == -1.0 and math.isnan(found[0]["low"])
    assert {e["verdict"] for e in found} == {"undecided"}


@pytest.mark.parametrize("degrees", [1, 2, 7, 15, 30, 40, 60, 120])
def test_t_quantiles(degrees: int) -> None:
    """Catches a slip in the table, by the distribution itself: 5 % lie outside."""
    t = t_quantile(degrees)
    outside = mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True)
    assert float(outside) == pytest.approx(0.05, abs=1e-4)
    assert t_quantile(35) == t_quantile(30) and t_quantile(10**6) == 1.980


def test_the_page_shows_what_is_there() -> None:
    """Catches a table that breaks on a measure that no run has."""
    summary = {"name": "n", "description": "", "seeds": [1], "done": 1, "total": 2, "effects": []}
    page = study_page({**summary, "cells": cells_of(rows({("x", "t", 1): -2.0}))})
    assert "1 of 2 runs" in page and "| x-t" in page and "-2.0" in page and "nan" not in page


def test_a_curve_is_the_mean_of_the_seeds() -> None:
    """Catches a curve whose end is that of the longer run alone."""
    assert curve([{1: 2.0, 2: 4.0, 3: 9.0}, {1: 4.0, 2: 8.0}]) == ([1, 2], [3.0, 6.0])
    assert curve([]) == ([], [])


def test_a_real_study_of_two_cells(tmp_path: Path) -> None:
    """Catches a study that reads what runs do not write: two real runs of one step."""
    grid = GRID[: GRID.index('[[axis]]\nname = "data"')].replace("seeds = [1, 2]", "seeds = [1]")
    path = write(tmp_path, grid)
    loaded: Study = load_study(path)
    summary = run_study(loaded, tmp_path / "out", lambda _: None)
    for cell in summary["cells"]:
        measures = cell["measures"]
        assert measures["length/change"]["mean"] == 0.0, "one step is both ends"
        assert measures["length/first"]["mean"] > 0 and measures["wrong/first"]["mean"] > 0
        assert 0 <= measures["evaluate/text/accuracy"]["mean"] <= 1 and measures["kl_ref/last"]["n"] == 1
        run = tmp_path / "out" / cell["runs"][0]["folder"]
        assert (run / "report.html").is_file() and (run / "recipe.toml").is_file()
    assert (tmp_path / "out" / "study.svg").read_text().startswith("<?xml")
    write_json(tmp_path / "again.json", run_study(loaded, tmp_path / "out", lambda _: None))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "out" / "study.json").read_bytes()
