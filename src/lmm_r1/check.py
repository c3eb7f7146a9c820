"""`lmm-r1 check`: everything about a recipe that can be known without training.

The recipe, the model folder's layout, every row of prepared data and its pass rate, the length of every prompt, and that each
verifier can be used. What is merely not here yet (hub weights, data that says how to obtain it, a verifier's
server) is pending, not wrong.
Leaves out loading weights. Counting prompt tokens needs an adapter, so the counter comes from outside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmm_r1.config import Data, Engine, Model, Recipe, Reward, Stage
from lmm_r1.data.curriculum import graded
from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw.fields import known_identity
from lmm_r1.data.raw.sources import read_problems, rows
from lmm_r1.data.stream import First, ListSource, Source, with_system
from lmm_r1.data.synthetic.problems import SyntheticSource
from lmm_r1.envs.games import draw_problem, game, options_of
from lmm_r1.errors import CheckpointError, DataError, EngineError, Fault, RecipeError
from lmm_r1.recipes import data_path, load_recipe, system_prompt
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.score import make_scorer
from lmm_r1.types import Problem, Turn

#: count(model, images, problems) -> prompt tokens of each problem, pictures included.
CountTokens = Callable[[Model, ImageStore, Sequence[Problem]], list[int]]

#: What a Hugging Face folder must hold besides weights: the file, and others that do as well.
LAYOUT = (
    ("config.json",),
    ("tokenizer.json", "vocab.json"),
    ("tokenizer_config.json",),
    ("preprocessor_config.json", "processor_config.json"),
)
#: Problems of a game that are made to see whether it makes any.
GAMES_TRIED = 4
SHIPPED = Path(__file__).parent / "models" / "micro_base"


def check(
    path: str | Path,
    overrides: Sequence[str] = (),
    count: CountTokens | None = None,
    overlays: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """{"ok", "errors": [{file, row, field, message, remedy}], "pending": [the same], "exit_code"}; never raises for a fault.

    count: None leaves prompt lengths unchecked; it is called only when the model's folder is on this disk.
    """
    try:
        recipe = load_recipe(path, overrides, overlays)
    except RecipeError as error:
        return _report(list(error.faults), [], error.exit_code)
    wrong, pending = check_model(recipe.model)
    exit_code = CheckpointError.exit_code if wrong else 0
    here = not wrong and not pending
    rows_wrong: list[Fault] = []
    verifiers_wrong: list[Fault] = []
    needed = check_cluster(recipe) + check_engine(recipe.engine)
    verifiers_wrong += [replace(fault, file=str(path)) for fault in needed]
    for name, stage in recipe.stage.items():
        verifiers_wrong += [replace(fault, file=str(path)) for fault in check_extras(name, stage)]
        found, missing = check_verifier(name, stage.reward)
        verifiers_wrong += found
        pending += missing
        found, missing = _check_stage(Path(path), recipe, name, stage, count if here else None)
        rows_wrong += found
        pending += missing
    # The first kind of fault that a run would meet decides the exit code.
    exit_code = exit_code or (RecipeError.exit_code if verifiers_wrong else 0)
    exit_code = exit_code or (DataError.exit_code if rows_wrong else 0)
    return _report(wrong + verifiers_wrong + rows_wrong, pending, exit_code)


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


def check_verifier(stage: str, reward: Reward) -> tuple[list[Fault], list[Fault]]:
    """(errors, pending) of a stage's verifier: it is started as a run would start it, and judges one answer.

    A verifier that fails on a plain answer would score every reply "error". A server that does not answer is pending.
    """
    field = f"stage.{stage}.reward.verifier"
    plain = Problem("check", (), "7", verifier="math")
    try:
        with closing(make_scorer(reward)) as scorer:
            verdict = scorer(plain, (Turn(0, 1, "<think>7</think><answer>7</answer>"),), "eos").verdicts["accuracy"]
    except RecipeError as error:
        return [replace(fault, field=field) for fault in error.faults], []
    except EngineError as error:
        return [], [replace(fault, field=field) for fault in error.faults]
    if verdict in ("error", "timeout"):
        what = "fails" if verdict == "error" else "does not answer in time"
        remedy = "its arguments are (problem, reply), where problem.answer and problem.meta come from the row"
        return [Fault(f"the verifier {what} on a plain answer (gold 7, reply 7)", field=field, remedy=remedy)], []
    return [], []


def check_model(model: Model) -> tuple[list[Fault], list[Fault]]:
    """(errors, pending) of the start weights: the layout of a local folder; a hub id is pending."""
    folder = SHIPPED if model.base == "micro" else Path(model.base).expanduser()
    if not folder.is_dir():
        if folder.is_file() or model.base.count("/") != 1 or model.base.startswith((".", "/", "~")):
            return [Fault("no such model folder", file=model.base, field="model.base")], []
        remedy = f"fetched from the hub by its first use, or: hf download {model.base} and give that folder"
        return [], [Fault("weights are not a local folder", file=model.base, field="model.base", remedy=remedy)]
    wrong = [
        Fault(f"the model folder has no {' or '.join(names)}", file=str(folder), field="model.base")
        for names in LAYOUT
        if not any((folder / name).is_file() for name in names)
    ]
    wrong += _check_config(folder / "config.json")
    pending = []
    if not any(folder.glob("*.safetensors")):
        pending.append(Fault("the model folder has no *.safetensors", file=str(folder), field="model.base"))
    return wrong, pending


def _check_config(path: Path) -> list[Fault]:
    """Is config.json readable, and of a family that there is an adapter for?"""
    if not path.is_file():
        return []
    try:
        family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        return [Fault(f"not a model's config: {error}", file=str(path))]
    if family != "qwen2_5_vl":
        return [
            Fault(
                f'no adapter for the family "{family}"', file=str(path), field="model_type", remedy="known: qwen2_5_vl"
            )
        ]
    return []


def _check_stage(
    recipe_path: Path, recipe: Recipe, name: str, stage: Stage, count: CountTokens | None
) -> tuple[list[Fault], list[Fault]]:
    """(errors, pending) of a stage's prepared data."""
    wrong: list[Fault] = []
    pending: list[Fault] = []
    for index, data in enumerate(stage.data):
        if data.source == "game":
            wrong += _check_game(recipe, stage, data, f"stage.{name}.data.{index}", count)
            continue
        if data.source != "problems":
            wrong += _check_difficulty(recipe_path, data, f"stage.{name}.data.{index}")
            continue
        path, field = data_path(recipe_path, data), f"stage.{name}.data.{index}"
        if not path.is_file():
            absent = Fault("the data is not here", file=str(path), field=f"{field}.path", remedy=data.obtain)
            (pending if data.obtain else wrong).append(absent)
            continue
        images = ImageStore()
        try:
            problems, faults = read_problems(path, images, VERIFIERS)
        except DataError as error:  # the file as a whole cannot be read
            wrong += error.faults
            continue
        wrong += faults
        problems = [p for p in problems if data.domain in (None, p.domain)]
        if not problems and not faults:
            rows = f'rows of domain "{data.domain}"' if data.domain else "rows"
            wrong.append(
                Fault(f"the data has no {rows}", file=str(path), field=f"{field}.domain" if data.domain else field)
            )
        if problems and not faults:
            wrong += _check_difficulty(recipe_path, data, field, ListSource(problems, str(path)))
        if count is not None and problems:
            wrong += _check_lengths(path, recipe, stage, images, problems, count)
    return wrong, pending


def _check_game(recipe: Recipe, stage: Stage, data: Data, field: str, count: CountTokens | None) -> list[Fault]:
    """A game that makes no problem with these options, or openings that the prompt limit would drop."""
    images, limit = ImageStore(), stage.rollout.max_prompt_tokens
    system = system_prompt(recipe, stage.prompt)
    try:
        kind, options = game(data.game), options_of(data.game, data.options)
        drawn = [draw_problem(kind, options, "train", 0, index, images.put) for index in range(GAMES_TRIED)]
    except RecipeError as error:
        return [replace(fault, field=f"{field}.options") for fault in error.faults]
    lengths = count(recipe.model, images, [with_system(p, system) for p in drawn]) if count is not None else [0]
    if max(lengths) <= limit:
        return []
    what = f"the opening of {data.game} has {max(lengths)} tokens, more than rollout.max_prompt_tokens = {limit}"
    return [Fault(what, field=f"{field}.options", remedy="a smaller picture, or a higher limit: a prompt is never cut")]


def _check_difficulty(recipe_path: Path, data: Data, field: str, source: Source | None = None) -> list[Fault]:
    """A file of pass rates that is missing, broken or lacks rows, or bounds that keep none. source: None = synthetic."""
    if not data.difficulty:
        return []
    if source is None:
        assert data.domain is not None and data.seed is not None, "config.Data asks for both"
        drawn = SyntheticSource(data.domain, ImageStore(), families=data.families, seed=data.seed)
        source = First(drawn, data.items)
    try:
        graded(data, source, recipe_path.parent, seed=0)
    except DataError as error:
        return [replace(fault, field=f"{field}.{fault.field or 'difficulty'}") for fault in error.faults]
    return []


def _check_lengths(
    path: Path, recipe: Recipe, stage: Stage, images: ImageStore, problems: Sequence[Problem], count: CountTokens
) -> list[Fault]:
    """Prompts over the limit: the loop would drop and count them; a person should hear of it before."""
    limit, system = stage.rollout.max_prompt_tokens, system_prompt(recipe, stage.prompt)
    lengths = count(recipe.model, images, [with_system(problem, system) for problem in problems])
    too_long = {p.id: length for p, length in zip(problems, lengths, strict=True) if length > limit}
    return [
        Fault(
            f"the prompt has {too_long[name]} tokens, more than rollout.max_prompt_tokens = {limit}",
            file=str(path),
            row=number,
            field="messages",
            remedy="raise the limit or drop the row: a prompt is never cut",
        )
        for number, row in (rows(path) if too_long else ())
        if not isinstance(row, Fault) and (name := known_identity(row, number)) in too_long
    ]


def _report(errors: Sequence[Fault], pending: Sequence[Fault], exit_code: int) -> dict[str, Any]:
    return {
        "ok": not errors,
        "errors": [asdict(fault) for fault in errors],
        "pending": [asdict(fault) for fault in pending],
        "exit_code": exit_code,
    }
