"""A study: a grid of runs of one recipe over the product of its axes and seeds, resumable, summarised as it grows.

    name = "study_length"                     base = "micro_rl.toml": the recipe of every run, relative to this file
    seeds = [1, 2]                            stage: the one that is measured; needed when the recipe has several
    [[axis]]
    name = "algorithm"
    [axis.values]                             label -> `--set` overrides
    grpo = ["stage.train.algorithm.name=grpo"]

    <study>/<labels joined by ->/seed_<n>/    an ordinary run folder; stopped.json in it: why a guard stopped that run
    <study>/study.json study.md study.svg     rewritten after each run; the figure at the end

Left out: what the runs show (reports/studies.py), and what only training can tell of a recipe: data and weights are for
`lmm-r1 check` on the base.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from rich.console import Console

from lmm_r1.ask import prompt_tokens
from lmm_r1.chain import run_recipe
from lmm_r1.check import examine
from lmm_r1.config import Knobs, Recipe
from lmm_r1.errors import Fault, NumericError, RecipeError
from lmm_r1.judging import explain
from lmm_r1.recipes import dump_recipe, load_recipe, read_recipe, read_toml
from lmm_r1.reports.studies import HOW, MEASURE, Row, cells_of, effects, read_run, study_page
from lmm_r1.reports.study_figure import length_curves
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import plain, write_json, write_text
from lmm_r1.runs.live import LiveView
from lmm_r1.stage_checks import Findings, Tried

#: Labels become folder names, joined by "-", so they have none themselves; no dot, so they cannot be a path or hide.
LABEL = r"^[A-Za-z0-9][A-Za-z0-9_]{0,59}$"
Label = Annotated[str, Field(pattern=LABEL)]
#: File of a run folder that a guard has stopped; without it the run is tried again.
STOPPED = "stopped.json"


class Axis(Knobs):
    """One thing that is varied."""

    name: Label = Field(..., description="in the tables")
    values: dict[Label, tuple[str, ...]] = Field(..., min_length=1, description="label -> overrides, a.b=c each")


class StudyFile(Knobs):
    """The content of a study file."""

    name: str = Field(..., pattern=r"^[A-Za-z0-9_.-]+$", description="of the study, and of its folder under runs/")
    description: str = Field("", description="one line for the summary")
    base: str = Field(..., min_length=1, description="the recipe, relative to the study file")
    stage: str = Field("", description="the stage that is measured; stages that it does not build on are not run")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(..., min_length=1, description="each cell runs with each")
    axis: tuple[Axis, ...] = Field(
        ..., min_length=1, description="the cells are the product of these, the last fastest"
    )

    @model_validator(mode="after")
    def _distinct(self) -> StudyFile:
        """Two names that some disks take for one would be two runs in one folder."""
        named = {"axis names": [axis.name for axis in self.axis], "seeds": [str(seed) for seed in self.seeds]}
        named |= {f"labels of axis {axis.name}": list(axis.values) for axis in self.axis}
        for what, names in named.items():
            if len({name.casefold() for name in names}) < len(names):
                raise ValueError(f"the {what} are not distinct: {', '.join(names)}")
        return self


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the grid. labels: axis -> value. overrides: all that its recipe has beside the base."""

    labels: Mapping[str, str]
    seed: int
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Relative to the study's folder."""
        return f"{_cell(self.labels)}/seed_{self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """A checked study: every run has its recipe."""

    file: StudyFile
    base: Path
    stage: str
    runs: tuple[Run, ...]

    @property
    def axes(self) -> dict[str, list[str]]:
        """Axis -> its labels, in the order of the file."""
        return {axis.name: list(axis.values) for axis in self.file.axis}


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study and check the recipe of every run, without running any.

    overrides: `a.b=c` each, for all runs; an axis wins nothing from them, and they nothing from it: both for one field is
    a fault. Raises RecipeError with every fault, each naming the cells that have it.
    """
    file = _read(Path(path))
    base = Path(path).parent / file.base
    read = read_recipe(base, overrides)
    recipe = read.recipe
    if read.faults or recipe is None:
        found = Findings()
        found.add(RecipeError.exit_code, read.faults)
        if recipe is not None:
            examine(recipe, base, found, count=prompt_tokens, mended=read.touched)
        found.require()
    assert recipe is not None, "a recipe without a fault"
    if file.stage and file.stage not in recipe.stage:
        raise RecipeError(Fault(f'no stage "{file.stage}" in {base}', str(path), field="stage"))
    if not file.stage and len(recipe.stage) > 1:
        remedy = f"one of {', '.join(recipe.stage)}"
        raise RecipeError(Fault("must name the stage that is measured", str(path), field="stage", remedy=remedy))
    runs: list[Run] = []
    faults: dict[Fault, list[str]] = {}
    for labels, changes in cells(file.axis):
        for seed in file.seeds:
            name = f"{file.name}-{_cell(labels)}-seed_{seed}"
            asked = (*overrides, *changes, f'name="{name}"', f"seed={seed}")
            try:
                runs.append(Run(labels, seed, asked, _checked(base, asked)))
            except RecipeError as error:
                for fault in error.faults:
                    faults.setdefault(fault, []).append(_cell(labels))
    if faults:
        raise RecipeError(*(replace(f, message=f"{_named(where)}: {f.message}") for f, where in faults.items()))
    return Study(file, base, file.stage or next(iter(recipe.stage)), tuple(runs))


def cells(axes: Sequence[Axis]) -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """(labels by axis, overrides) of every cell: the product of the axes, the last one fastest."""
    for combination in product(*(axis.values.items() for axis in axes)):
        labels = {axis.name: label for axis, (label, _) in zip(axes, combination, strict=True)}
        yield labels, tuple(change for _, changes in combination for change in changes)


def run_study(study: Study, out: Path, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Run what is left of a study into a folder; returns the content of study.json.

    tell: gets a line per run. A run that a numeric guard stops is a result, and the study goes on. Raises RecipeError
    before any run when a run folder holds another recipe, and whatever else stops a run: the same call resumes.
    """
    refuse_changed(study, out)
    require_runs(study, out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    summary: dict[str, Any] = {}
    for run in study.runs:
        started = time.perf_counter()
        fresh = run_once(study, run, out / run.folder)
        rows.append(_row(study, run, out / run.folder))
        summary = summarise(study, rows)
        write_json(out / "study.json", summary)
        write_text(out / "study.md", study_page(summary))
        note = f"{time.perf_counter() - started:.0f} s" if fresh else "done before"
        tell(f"{len(rows)}/{len(study.runs)} {line_of(rows[-1])}, {note}")
    write_text(out / "study.svg", length_curves(out, study.stage, [row for row in rows if not row.stopped], study.axes))
    return summary


def require_runs(study: Study, out: Path) -> None:
    """Raise everything that would stop one of the runs that are left, each fault once, before any of them begins."""
    found, tried = Findings(), Tried()
    for run in study.runs:
        if not finished(out / run.folder):
            at = out / run.folder
            examine(run.recipe, study.base, found, count=prompt_tokens, out=at, stage=study.stage, tried=tried)
    found.require()


def refuse_changed(study: Study, out: Path) -> None:
    """Raises RecipeError with every field in which a run that was started differs from the study, and may not."""
    changes = (RunFolder(out / run.folder).changes_to(dump_recipe(run.recipe)) for run in study.runs)
    faults = [fault for change in changes for fault in change.refused]
    if faults:
        raise RecipeError(*faults)


def finished(folder: Path) -> bool:
    """Whether a run has its results, or was stopped by a guard."""
    return RunFolder(folder).results.is_file() or (folder / STOPPED).is_file()


def run_once(study: Study, run: Run, folder: Path) -> bool:
    """Make a run's results.json or its stopped.json; False when one of them was there."""
    if finished(folder) and not RunFolder(folder).changes_to(dump_recipe(run.recipe)).taken:
        return False
    (folder / STOPPED).unlink(missing_ok=True)  # what it was stopped for may have been changed
    resumed = any((folder / study.stage / "checkpoints").glob("step_*"))
    try:
        # Lines of single steps are for one run; they stand in its metrics.jsonl.
        view = LiveView(Console(quiet=True, force_terminal=False))
        run_recipe(run.recipe, study.base, folder, stage=study.stage, live=view, checked=True)
    except NumericError as error:
        if resumed:  # what stops a session that began in the middle need not be the run's own doing
            raise
        # Its seed fixes a run: it would stop again at the same step.
        reason = "; ".join(str(fault) for fault in error.faults)
        RunFolder(folder).write_json(STOPPED, {"reason": reason, "exit_code": error.exit_code})
    return True


def _row(study: Study, run: Run, folder: Path) -> Row:
    """What a finished or stopped run folder shows."""
    row = Row(run.labels, run.seed, run.folder)
    if (folder / STOPPED).is_file():
        return replace(row, stopped=json.loads((folder / STOPPED).read_text(encoding="utf-8"))["reason"])
    return replace(row, measures=read_run(folder, study.stage))


def summarise(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """The content of study.json, as far as its runs are there: plain JSON, the same for the same runs."""
    return plain(
        {
            "name": study.file.name,
            "description": study.file.description,
            "base": study.file.base,
            "stage": study.stage,
            "seeds": study.file.seeds,
            "axes": {axis.name: axis.values for axis in study.file.axis},
            "total": len(study.runs),
            "done": len(rows),
            "cells": cells_of(rows),
            "effects": effects(rows, study.axes),
            "how": HOW,
        }
    )


def line_of(row: Row) -> str:
    """A run in a line."""
    if row.stopped:
        return f"{row.cell} seed {row.seed}: stopped: {row.stopped}"
    first, last, change = (row.measures.get(name, math.nan) for name in ("length/first", "length/last", MEASURE))
    right = (100 * row.measures.get(name, math.nan) for name in ("accuracy/first", "accuracy/last"))
    shares = " -> ".join(f"{share:.0f} %" for share in right)
    return f"{row.cell} seed {row.seed}: length {first:.1f} -> {last:.1f} ({change:+.1f}), accuracy {shares}"


def _read(path: Path) -> StudyFile:
    """The file, checked by itself."""
    raw, _ = read_toml(path, "study")
    if isinstance(raw.get("stage"), dict) and "axis" not in raw:
        remedy = f"lmm-r1 train {path}; a study names a recipe as its base, and varies it"
        raise RecipeError(Fault("this is a recipe, not a study", file=str(path), remedy=remedy))
    try:
        # As JSON, strict checking still takes an array for a tuple, yet never a string for a number.
        return StudyFile.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(*(f for found in error.errors(include_url=False) for f in _faults(path, found))) from None


def _faults(path: Path, error: Mapping[str, Any]) -> list[Fault]:
    """One pydantic error as faults."""
    if error["type"] == "string_pattern_mismatch":
        field = ".".join(str(part) for part in error["loc"] if part != "[key]")
        remedy = "letters, digits and _ (a study's own name also . and -), a letter or digit first"
        return [Fault(f"{error['input']!r} cannot be a name", file=str(path), field=field, remedy=remedy)]
    return [Fault(message, str(path), None, field, remedy) for field, message, remedy in explain(error, StudyFile)]


def _checked(base: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run. Raises RecipeError."""
    hidden = _hidden(overrides)
    if hidden:
        raise RecipeError(*hidden)
    return load_recipe(base, overrides)


def _hidden(overrides: Sequence[str]) -> list[Fault]:
    """Overrides that a later one takes back: the run would not be what its label, or the command, says."""
    paths = [re.sub(r"\s", "", override.partition("=")[0]) for override in overrides]
    return [
        Fault(f"is taken back by {overrides[later]}", file=f"--set {overrides[at]}", remedy="name each field once")
        for later, path in enumerate(paths)
        for at, earlier in enumerate(paths[:later])
        if earlier == path or earlier.startswith(f"{path}.") or path.startswith(f"{earlier}.")
    ]


def _cell(labels: Mapping[str, str]) -> str:
    """Name of a cell."""
    return "-".join(labels.values())


def _named(where: Sequence[str]) -> str:
    """The cells of a fault: it is the same in each, so one line will do."""
    distinct = list(dict.fromkeys(where))
    more = f" and {len(distinct) - 6} more" if len(distinct) > 6 else ""
    return f"cell{'s' if len(distinct) > 1 else ''} {', '.join(distinct[:6])}{more}"
