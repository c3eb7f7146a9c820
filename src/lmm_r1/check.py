"""Whether a recipe can run: everything that can be known without training, asked by `lmm-r1 check` and by every run before it starts.

The recipe, the model folder's files and its chat template, every row of prepared data and its pass rate, the length of every
prompt, own verifiers and games, tried; the device, memory and disk of this machine; the run folder. All faults of all of these
come at once. What is merely not here (hub weights, data that says how to obtain it, a verifier's server, a device) is pending:
nothing is wrong with the recipe, but a run would refuse it here, unless it fetches what is missing by itself.
Leaves out loading weights. Counting prompt tokens needs an adapter, so the counter comes from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmm_r1.config import Engine, Model, Recipe, Reward, Stage
from lmm_r1.errors import CheckpointError, EngineError, Fault, RecipeError
from lmm_r1.evaluation.suites import SUITES
from lmm_r1.judging import nearest
from lmm_r1.models.folder_files import folder_faults, without_text
from lmm_r1.models.reply_opening import reply_opening
from lmm_r1.origins import origin_faults
from lmm_r1.planning.here import disk_fault, missing_here, this_machine
from lmm_r1.recipes import PROMPTS, dump_recipe, read_recipe
from lmm_r1.rewards.format import format_can_be_right
from lmm_r1.rewards.score import make_scorer
from lmm_r1.runs.folder import RunFolder
from lmm_r1.settings import local_folder, settings_notes
from lmm_r1.stage_checks import CountTokens, Findings, Tried, check_stage, first_row
from lmm_r1.types import FAILED_VERDICTS, Problem, Turn


def check(
    path: str | Path,
    overrides: Sequence[str] = (),
    count: CountTokens | None = None,
    overlays: Sequence[str | Path] = (),
    *,
    out: Path | None = None,
    stage: str | None = None,
) -> dict[str, Any]:
    """{"ok", "ready", "errors": [{file, row, field, message, remedy}], "pending", "notes": [the same], "exit_code"}; never raises
    for a fault. See `examine`."""
    return examine_file(path, overrides, count, overlays, out=out, stage=stage)[1].report()


def examine_file(
    path: str | Path,
    overrides: Sequence[str] = (),
    count: CountTokens | None = None,
    overlays: Sequence[str | Path] = (),
    *,
    out: Path | None = None,
    stage: str | None = None,
) -> tuple[Recipe | None, Findings]:
    """(the recipe, what was found in it and behind it); the recipe is for running only when nothing was found."""
    read = read_recipe(path, overrides, overlays)
    found = Findings()
    found.add(RecipeError.exit_code, read.faults)
    if read.recipe is not None:
        folder = out or folder_of(read.recipe)
        examine(read.recipe, Path(path), found, count=count, out=folder, stage=stage, mended=read.touched)
    return read.recipe, found


def folder_of(recipe: Recipe) -> Path:
    """Where a run goes that is given no folder."""
    return Path("runs") / recipe.name


def require(
    recipe: Recipe,
    recipe_path: Path,
    *,
    out: Path | None = None,
    stage: str | None = None,
    count: CountTokens | None = None,
    tried: Tried | None = None,
) -> None:
    """Raise everything that would stop a run of the recipe into `out`, before anything is loaded or written."""
    found = Findings()
    examine(recipe, recipe_path, found, count=count, out=out, stage=stage, tried=tried)
    found.require()


def examine(
    recipe: Recipe,
    recipe_path: Path,
    found: Findings,
    *,
    count: CountTokens | None = None,
    out: Path | None = None,
    stage: str | None = None,
    mended: frozenset[str] = frozenset(),
    tried: Tried | None = None,
) -> None:
    """Find whatever would stop a run of a recipe.

    count: None leaves prompt lengths unchecked; it is called only when the model's folder is on this disk. out: the run's folder;
    its finished stages are left out. stage: only this one and those it starts from. mended: fields that are not as the file has
    them. tried: kept between calls.
    """
    tried = tried or Tried()
    if stage is not None and stage not in recipe.stage:
        fault = Fault(f'no stage "{stage}"', field="--stage", remedy=nearest(stage, recipe.stage))
        found.add(RecipeError.exit_code, [fault])
        stage = None
    wrong, missing = model_faults(recipe.model)
    fetched = local_folder(recipe.model.base) is None
    found.add(CheckpointError.exit_code, wrong, missing, 0 if fetched else None)
    loads = not wrong and not missing
    run = RunFolder(out) if out is not None else None
    done = _finished(run, recipe) if run is not None else set()
    todo = [name for name in recipe.wanted(stage) if name not in done]
    here = _needs(found, recipe, recipe_path, todo, mended) and loads
    rows = Findings()  # a run meets these last
    for name in todo:
        _try_verifier(found, name, recipe.stage[name], recipe_path, tried)
        # Lengths under a limit, a prompt or a model that is not the file's would be faults of nobody.
        own = ("model", "prompts", f"stage.{name}.rollout", f"stage.{name}.prompt")
        as_written = not any(m == f"stage.{name}" or m.startswith(own) for m in mended)
        check_stage(found, rows, recipe_path, recipe, name, count if here and as_written else None, tried)
    found.wrong += rows.wrong
    found.pending += rows.pending
    if here:
        found.notes += model_notes(recipe)
    if run is not None:
        _check_folder(found, run, recipe, todo, stage, bool(mended))


def _finished(run: RunFolder, recipe: Recipe) -> set[str]:
    """Stages that a session would not train: they have their model, and the recipe asks for no more steps of them."""
    made = {name for name, progress in run.progress().items() if progress.model}
    try:
        return made - set(run.changes_to(dump_recipe(recipe)).reopened)
    except CheckpointError:  # told where the folder is looked at
        return made


def _try_verifier(found: Findings, name: str, stage: Stage, recipe_path: Path, tried: Tried) -> None:
    """A stage's verifier, on the first row that it will judge; those that stages have alike are tried once, with one process."""
    reward = stage.reward
    row = first_row(recipe_path, stage, tried) if reward.verifier else None
    key = (reward.verifier, reward.limit_s, reward.compat, row and row.id)
    if key not in tried.verifiers:
        tried.verifiers[key] = check_verifier(name, reward.model_copy(update={"workers": 1}), row)
    at = f"stage.{name}.reward.verifier"
    wrong, missing = ([replace(fault, field=at) for fault in faults] for faults in tried.verifiers[key])
    found.add(RecipeError.exit_code, wrong, missing, EngineError.exit_code)


def _needs(found: Findings, recipe: Recipe, path: Path, todo: Sequence[str], mended: frozenset[str]) -> bool:
    """Libraries, the chat template, and what this machine must have. Returns whether the template can be rendered."""
    renders = True
    needed = check_cluster(recipe) + check_engine(recipe.engine)
    for name in todo:
        needed += check_extras(name, recipe.stage[name])
    found.add(RecipeError.exit_code, [replace(fault, file=str(path)) for fault in needed])
    folder = local_folder(recipe.model.base)
    if folder is not None and not folder_faults(folder):
        try:
            profiles = [*(recipe.stage[name].prompt for name in todo), recipe.evaluate.prompt]
            system = next((text for profile in profiles if (text := {**PROMPTS, **recipe.prompts}.get(profile))), "")
            opening, template = reply_opening(folder, system)
        except CheckpointError as error:
            renders = False
            found.add(error.exit_code, [replace(fault, field="model.base") for fault in error.faults])
        else:
            found.add(RecipeError.exit_code, format_faults(recipe, todo, opening, template))
    if todo and not any(m.split(".")[0] in ("model", "cluster", "engine") for m in mended):
        wanted = recipe.model_copy(update={"stage": {name: recipe.stage[name] for name in todo}})
        here = [replace(fault, file=str(path)) for fault in missing_here(wanted, this_machine())]
        found.add(RecipeError.exit_code, (), here)
    return renders


def format_faults(recipe: Recipe, stages: Iterable[str], opening: str, template: Path) -> list[Fault]:
    """Stages whose format reward can never be paid, because of what the template writes at the start of every reply."""
    if format_can_be_right(opening):
        return []
    return [
        Fault(
            f"the chat template begins every reply with {opening[-60:]!r}: none can have the right format, so "
            f"reward.format = {recipe.stage[name].reward.format:g} would never be paid",
            file=str(template),
            field=f"stage.{name}.reward.format",
            remedy="a template that ends with the assistant's mark, or with <think>; or reward = { format = 0.0 }",
        )
        for name in stages
        if recipe.stage[name].reward.format > 0 and recipe.stage[name].algorithm.name != "sft"
    ]


def _check_folder(
    found: Findings, run: RunFolder, recipe: Recipe, todo: Sequence[str], stage: str | None, mended: bool
) -> None:
    """What is in the way in a run's folder, a recipe that it does not take, models that are not those it made, and the room on its disk."""
    in_the_way = run.faults(list(recipe.stage))
    found.add(CheckpointError.exit_code, in_the_way)
    if in_the_way:
        return
    try:
        changed = run.changes_to(dump_recipe(recipe)).refused if not mended else ()
    except CheckpointError as error:
        found.add(error.exit_code, error.faults)
        return
    found.add(RecipeError.exit_code, changed)
    if not changed and not mended:
        starts = {name: recipe.stage[name].start for name in recipe.wanted(stage)}
        unknown: list[str] = []
        changed_models = origin_faults(run, starts, local_folder(recipe.model.base), unknown.append)
        found.add(CheckpointError.exit_code, changed_models)
        found.notes += [Fault(said) for said in unknown]
    full = None if mended else disk_fault(recipe, {name: run.path / name for name in todo}, run.path)
    if full is not None:
        found.add(CheckpointError.exit_code, (), [full])


def require_model(base: str) -> None:
    """Raise what is wrong with a model that a command is given: a folder's files, or a name that is neither folder nor hub id."""
    found = Findings()
    _add_model(found, base)
    found.require()


def require_evaluation(base: str, sets: Sequence[str], others: Sequence[Fault] = ()) -> None:
    """Raise what would stop an evaluation, all at once: unknown sets, none at all, the model's folder; and what else was found."""
    found = Findings()
    unknown = [name for name in sets if name not in SUITES]
    asked = [Fault(f'no evaluation set "{name}"', field="--sets", remedy=nearest(name, SUITES)) for name in unknown]
    if not sets:
        asked.append(Fault("names no evaluation set", field="--sets", remedy=f"known: {', '.join(SUITES)}"))
    found.add(RecipeError.exit_code, [*asked, *others])
    _add_model(found, base)
    found.require()


def _add_model(found: Findings, base: str) -> None:
    """What is wrong with a command's MODEL; a hub id is fetched by whoever loads it."""
    wrong, missing = (
        [replace(fault, field="MODEL") if fault.field == "model.base" else fault for fault in faults]
        for faults in model_faults(Model(base=base))
    )
    found.add(CheckpointError.exit_code, wrong, missing, 0 if local_folder(base) is None else None)


def model_faults(model: Model) -> tuple[list[Fault], list[Fault]]:
    """`check_model`; a run, a stage or a checkpoint in place of a model folder is told where its model lies."""
    wrong, pending = check_model(model)
    folder = Path(model.base).expanduser()
    meant = [] if (folder / "config.json").is_file() or model.base == "micro" else models_near(folder)
    if not meant or not wrong + pending:
        return wrong, pending
    names = " or ".join(str(path) for path in meant[:4])
    return [Fault("is no model folder", file=str(folder), field="model.base", remedy=f"did you mean {names}?")], []


def models_near(folder: Path) -> list[Path]:
    """Exported models of the run, stage or checkpoint that a folder is: RUN/STAGE/model."""
    places = [folder / "model", *sorted(folder.glob("*/model"))]
    if folder.name == "checkpoints" or folder.parent.name == "checkpoints":
        places.append((folder if folder.name == "checkpoints" else folder.parent).parent / "model")
    return [path for path in places if (path / "config.json").is_file()]


def check_engine(engine: Engine) -> list[Fault]:
    """Libraries that the engine needs and that are not installed."""
    if engine.kind == "vllm" and find_spec("vllm") is None:
        return [
            Fault("needs the library vllm", field="engine.kind", remedy='pip install "lmm-r1[vllm]"; docs/scale.md')
        ]
    return []


def check_extras(name: str, stage: Stage) -> list[Fault]:
    """Libraries that a stage needs and that are not installed."""
    needed: dict[str, str] = {}
    if stage.lora is not None:
        needed = {"peft": "lora"} | ({"bitsandbytes": "qlora", "accelerate": "qlora"} if stage.lora.four_bit else {})
    faults = [
        Fault(f"needs the library {library}", field=f"stage.{name}.lora", remedy=f'pip install "lmm-r1[{extra}]"')
        for library, extra in needed.items()
        if find_spec(library) is None
    ]
    real = [at for at, data in enumerate(stage.data) if data.game == "football" and data.options.get("engine") == "grf"]
    if real and find_spec("gfootball") is None:
        field = f"stage.{name}.data.{real[0]}.options.engine"
        faults.append(Fault("needs the library gfootball", field=field, remedy="docs/football.md"))
    return faults


def check_cluster(recipe: Recipe) -> list[Fault]:
    """Ray, where the recipe asks for a cluster and it is not installed."""
    if not recipe.cluster.address or find_spec("ray") is not None:
        return []
    return [Fault("needs the library ray", field="cluster.address", remedy='pip install "lmm-r1[ray]"')]


def check_verifier(stage: str, reward: Reward, row: Problem | None = None) -> tuple[list[Fault], list[Fault]]:
    """(errors, pending) of a stage's verifier: it is started as a run would start it, and judges one answer, to `row` if given.

    A verifier that fails on a plain answer would score every reply "error". A server that does not answer is pending; one
    whose own verifier fails is not.
    """
    field = f"stage.{stage}.reward.verifier"
    plain = row or Problem("check", (), "7", verifier="math")
    reply = f"<think>{plain.answer}</think><answer>{plain.answer}</answer>"
    try:
        with closing(make_scorer(reward)) as scorer:
            found = scorer(plain, (Turn(0, 1, reply),), "eos")
    except RecipeError as error:
        return [replace(fault, field=field) for fault in error.faults], []
    except EngineError as error:
        return [], [replace(fault, field=field) for fault in error.faults]
    verdict = found.verdicts["accuracy"]
    if verdict in FAILED_VERDICTS:
        what = "fails" if verdict == "error" else "does not answer in time"
        why = found.details.get("accuracy", "it says no more")
        remedy = "its arguments are (problem, reply), where problem.answer and problem.meta come from the row"
        asked = f"gold {plain.answer[:40]}, reply {plain.answer[:40]}" + (f", row {row.id}" if row is not None else "")
        return [Fault(f"the verifier {what} on a plain answer ({asked}): {why}", field=field, remedy=remedy)], []
    return [], []


def check_model(model: Model) -> tuple[list[Fault], list[Fault]]:
    """(errors, pending) of the start weights: what a run would say of a local folder's files; a hub id is pending."""
    folder = local_folder(model.base)
    if folder is None:
        if (
            Path(model.base).expanduser().is_file()
            or model.base.count("/") != 1
            or model.base.startswith((".", "/", "~"))
        ):
            return [Fault("no such model folder", file=model.base, field="model.base")], []
        remedy = f"fetched from the hub by its first use, or: hf download {model.base} and give that folder"
        return [], [Fault("weights are not a local folder", file=model.base, field="model.base", remedy=remedy)]
    wrong = [replace(fault, field=fault.field or "model.base") for fault in folder_faults(folder)]
    pending = []
    if not any(folder.glob("*.safetensors")):
        pending.append(Fault("the model folder has no *.safetensors", file=str(folder), field="model.base"))
    return wrong, pending


def model_notes(recipe: Recipe) -> list[Fault]:
    """What a person should know of the start weights, though it is no fault."""
    folder = local_folder(recipe.model.base)
    if folder is None or folder_faults(folder):
        return []
    notes = [Fault(note, file=str(folder), field="model.base") for note in settings_notes(recipe, folder, PROMPTS)]
    silent = without_text(folder)
    if silent:
        what = f"the model can predict {silent} ids that its tokenizer has no text for: they are never sampled"
        notes.append(Fault(what, file=str(folder), field="model.base"))
    return notes
