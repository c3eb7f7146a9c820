"""Verbs that make runs and read them: quickstart, train, study, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmm_r1.check import examine_file, folder_of
from lmm_r1.config import Recipe
from lmm_r1.recipes import recipes_folder
from lmm_r1.runs.diagnose import notes_of
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.sanitise import sanitise
from lmm_r1.terminal import show_results, write_json
from lmm_r1.verbs import loading
from lmm_r1.verbs.options import (
    Json,
    Out,
    Overlays,
    Overrides,
    RecipeFile,
    RecipeSeed,
    Threads,
    require_threads,
    use_threads,
)


def quickstart(
    overrides: Overrides = None,
    out: Out = None,
    seed: RecipeSeed = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """The main job at micro size: base -> FRE-Text -> MGT-Geo next to the control arms."""
    train(recipes_folder() / "quickstart.toml", None, overrides, None, out, seed, threads, json_out)


def train(
    recipe: RecipeFile,
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage and those it starts from.")] = None,
    overrides: Overrides = None,
    overlays: Overlays = None,
    out: Out = None,
    seed: RecipeSeed = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Run a recipe, or what is left of it: an existing run folder resumes by itself."""
    require_threads(threads)
    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    loaded, folder = ready(recipe, changes, overlays or [], out, stage)
    use_threads(threads)
    typer.echo(f"{loaded.name}: {loaded.description or recipe} (into {folder})")
    try:
        results = loading.work("chain").run_recipe(loaded, recipe, folder, stage=stage, checked=True)
        write_json(json_out, results)
        show_results(results)
    finally:  # a run that a guard stopped needs them most
        for note in notes_of(RunFolder(folder)):
            typer.echo(sanitise(f"note: {note}"))
    typer.echo(f"results: {folder / 'results.json'}\nreport:  {folder / 'report.html'}")


def ready(
    recipe: Path, overrides: list[str], overlays: list[Path], out: Path | None, stage: str | None
) -> tuple[Recipe, Path]:
    """(the recipe, the run's folder) when nothing stands in the way of a run; what does is raised before torch is loaded."""
    loaded, found = examine_file(recipe, overrides, loading.count_tokens, overlays, out=out, stage=stage)
    found.require()
    assert loaded is not None, "a recipe without a fault"
    return loaded, out or folder_of(loaded)


def study(
    grid: Annotated[Path, typer.Argument(help="A study (TOML): a recipe, axes and seeds.")],
    overrides: Overrides = None,
    out: Out = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Run a grid of runs of one recipe, or what is left of it, and say what each axis does."""
    require_threads(threads)
    use_threads(threads)
    loaded = loading.work("study").load_study(grid, overrides or [])
    folder = out or Path("runs") / loaded.file.name
    typer.echo(f"{loaded.file.name}: {len(loaded.runs)} runs of {loaded.base} (into {folder})")
    write_json(json_out, loading.work("study").run_study(loaded, folder, lambda line: typer.echo(sanitise(line))))
    typer.echo(sanitise((folder / "study.md").read_text(encoding="utf-8")))
    typer.echo(f"summary: {folder / 'study.json'}\nfigure:  {folder / 'study.svg'}")


def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html of a run, finished or not."""
    typer.echo(loading.work("page").write_report(run))
