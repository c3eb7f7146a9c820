"""A recipe from its base to its report: each stage from its start weights, its weights handed over, every arm evaluated.

`run_recipe` is the main job. Every part of it is skipped when the run folder already holds its result, so the same call
resumes. Left out: the loop of a stage (train.py), and what any object is made of (build.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lmm_r1.ask import prompt_tokens
from lmm_r1.build import Workshop, adapters_seed, base_folder, device_of, evaluate_with, stage_run
from lmm_r1.check import require
from lmm_r1.config import PLAYERS, Evaluate, Recipe
from lmm_r1.data.images import ImageStore
from lmm_r1.errors import CheckpointError, Fault, RankLostError
from lmm_r1.evaluation.evaluate import SetResult, evaluate_player, result_from
from lmm_r1.evaluation.results import results_of
from lmm_r1.evaluation.suites import suite
from lmm_r1.exports import hand_off, keep_provenance, keep_start
from lmm_r1.origins import verify_export
from lmm_r1.recipes import PROMPTS, dump_recipe, system_prompt
from lmm_r1.reports.page import write_report
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.weights import SyncedEngine
from lmm_r1.runs.changes import Change
from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.jsonl import write_json
from lmm_r1.runs.live import LiveView
from lmm_r1.runs.provenance import threads_of
from lmm_r1.seams import ModelAdapter
from lmm_r1.settings import local_folder, settings_notes
from lmm_r1.train import Signals, StageRun, train_stage


def run_recipe(
    recipe: Recipe,
    recipe_path: Path,
    out_dir: Path,
    *,
    stage: str | None = None,
    live: LiveView | None = None,
    checked: bool = False,
) -> dict[str, Any]:
    """Run a recipe into a run folder, or what is left of it; returns the content of results.json.

    stage: only this stage and the ones it starts from. checked: `check.require` has passed for just this call, else it is called
    here. Raises LmmR1Error subclasses; the folder is locked while this runs, and the same call resumes after any of them.
    """
    if not checked:
        require(recipe, recipe_path, out=out_dir, stage=stage, count=prompt_tokens)
    run = RunFolder(out_dir)
    with (
        run.leaving_no_debris(),
        run.lock(),
        Signals().caught() as signals,
        live or LiveView(title=recipe.name) as view,
    ):
        text = dump_recipe(recipe)
        base = base_folder(recipe.model.base)
        kept = run.keep_recipe(text)
        if kept.fresh:  # what an earlier start came from, which has made nothing, binds nobody
            run.provenance.unlink(missing_ok=True)
        keep_provenance(run, recipe, text, kept.fresh, view.note)
        if not kept.fresh:
            tell_changes(run, kept.changes, view)
        folder = local_folder(recipe.model.base)
        for note in settings_notes(recipe, folder, PROMPTS) if folder is not None else []:
            view.note(note)
        device = device_of(recipe.model, elsewhere=recipe.cluster.address not in ("", "local"))
        shop = Workshop(recipe, recipe_path, run, view, signals, ImageStore(), device, recipe.model.dtype)
        results: dict[str, dict[str, SetResult]] = {}
        with closing(shop):
            if recipe.evaluate.sets:
                evaluate_base(shop, base, results)
                evaluate_players(shop, results)
            for name in recipe.wanted(stage):
                run_stage(shop, name, results)
        summary = results_of(recipe, results)
        run.write_json("results.json", summary)
        write_report(out_dir)
        return summary


def tell_changes(run: RunFolder, changes: Sequence[Change], view: LiveView) -> None:
    """Notes of a run that goes on: what its recipe has changed, and threads other than those it began with."""
    for change in changes:
        view.note(f"changed since the last session: {change}")
    began, now = threads_of(run.provenance), torch.get_num_threads()
    if began not in (None, now):
        view.note(
            f"this run began with {began} CPU threads and goes on with {now}: its numbers may differ in the last digits from "
            "those of a run that kept them"
        )


def evaluate_base(shop: Workshop, base: str, results: dict[str, dict[str, SetResult]]) -> None:
    """The arm "base", and "base_no_prompt" where asked (the paper evaluates its base without, C.2)."""
    knobs = shop.recipe.evaluate
    arms = [("base", knobs.prompt)] + ([("base_no_prompt", "none")] if knobs.also_without_prompt else [])
    missing = [arm for arm, _ in arms if missing_sets(shop.run.stage(arm), knobs)]
    engine, adapter, _ = shop.loaded(base) if missing else (None, None, "")
    for arm, profile in arms:
        results[arm] = evaluate_arm(shop, arm, profile, engine, adapter)


def evaluate_players(shop: Workshop, results: dict[str, dict[str, SetResult]]) -> None:
    """The arms "idle", "random" and "expert" on the sets that are games: what the figures beside them are worth."""
    games = [name for name in shop.recipe.evaluate.sets if suite(name).game]
    knobs = shop.recipe.evaluate.model_copy(update={"sets": tuple(games)})
    for player in PLAYERS if games else ():
        measure = partial(evaluate_player, n=knobs.items, player=player, images=shop.images)
        results[player] = _measured(shop, player, knobs, measure)
    shop.images.forget(())


def evaluate_arm(
    shop: Workshop, arm: str, profile: str, engine: SyncedEngine | None, adapter: ModelAdapter | None
) -> dict[str, SetResult]:
    """Results of an arm on every set: read back when stored, else sampled from the engine's weights."""

    def measure(name: str) -> SetResult:
        assert engine is not None and adapter is not None, "an arm without stored results needs an engine"
        return evaluate_with(shop, name, engine, adapter, system_prompt(shop.recipe, profile))

    return _measured(shop, arm, shop.recipe.evaluate, measure)


def _measured(shop: Workshop, arm: str, knobs: Evaluate, measure: Callable[[str], SetResult]) -> dict[str, SetResult]:
    """Results of an arm on the sets of `knobs`: each is read back when stored, else measured and stored."""
    folder = shop.run.stage(arm)
    found = {}
    for name in knobs.sets:
        result = stored_result(folder, name, knobs)
        if result is None:
            result = measure(name)
            write_json(folder.evaluations / f"{name}.json", {**result.record(), "asked": {"blind": knobs.blind}})
        found[name] = result
        shop.live.evaluation(arm, name, result.summary())
    return found


def missing_sets(folder: StageFolder, knobs: Evaluate) -> list[str]:
    """Sets that an arm has no results of, as they are asked for now."""
    return [name for name in knobs.sets if stored_result(folder, name, knobs) is None]


def stored_result(folder: StageFolder, name: str, knobs: Evaluate) -> SetResult | None:
    """The result of an earlier session on a set, when it has the same items, version and blind check.

    CheckpointError when its file is damaged.
    """
    path = folder.evaluations / f"{name}.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        result = result_from(record)
        blind = int(record.get("asked", {}).get("blind", len(result.blind) or knobs.blind))
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        remedy = "remove it: the set is then measured anew"
        raise CheckpointError(Fault(f"is no result of an evaluation: {error}", str(path), remedy=remedy)) from None
    same = (len(result.items), result.version, blind) == (knobs.items, suite(name).version, knobs.blind)
    return result if same else None


def run_stage(shop: Workshop, name: str, results: dict[str, dict[str, SetResult]]) -> None:
    """Train one stage, export it, prove the hand-off, evaluate it; each only when not done before."""
    recipe, stage = shop.recipe, shop.recipe.stage[name]
    folder = shop.run.stage(name)
    finished = folder.model.is_dir()
    if finished:
        verify_export(folder, shop.live.note)
    if stage.start != "base":
        verify_export(shop.run.stage(stage.start), shop.live.note)
    start = base_folder(recipe.model.base) if stage.start == "base" else str(shop.run.stage(stage.start).model)
    keep_start(folder, start, finished or any(folder.checkpoints.iterdir()))
    if finished and not missing_sets(folder, recipe.evaluate):
        results[name] = evaluate_arm(shop, name, recipe.evaluate.prompt, None, None)
        return
    if finished:
        engine, adapter, _ = shop.loaded(str(folder.model))
    else:
        # The scorer first: a verifier that cannot be imported stops the run before any weights are read.
        with closing(make_scorer(stage.reward)) as scorer:
            model = shop.model(start, stage.lora, adapters_seed(recipe, name))
            adapter = shop.adapter(start)
            engine = shop.engine(model.config, adapter, start)
            _trained(
                shop,
                lambda: stage_run(shop, name, stage, folder, model, adapter, engine, scorer, start),
                lambda run: hand_off(shop, stage, run, model, start),
            )
    if recipe.evaluate.sets:
        results[name] = evaluate_arm(shop, name, recipe.evaluate.prompt, engine, adapter)


def _trained(shop: Workshop, assemble: Callable[[], StageRun], finish: Callable[[StageRun], None]) -> None:
    """Run a stage to its end and finish it; with new ranks, from the last checkpoint, as often as ranks may be lost."""
    while True:
        run = None
        try:
            run = assemble()
            train_stage(run)
            finish(run)
            return
        except RankLostError as lost:
            shop.start_anew(lost)
        finally:
            if run is not None:
                run.tracker.close()
