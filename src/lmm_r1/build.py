"""Config -> objects: the only file that knows every implementation.

`run_recipe` is the main job: evaluate the base, run each stage from its start weights, hand its weights
over in Hugging Face format, evaluate it, and say at the end what the data show. Every part of it is
skipped when the run folder already holds its result, so the same command resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmm_r1 import build_base as base_model
from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import Data, Evaluate, Lora, Model, Recipe, Reward, Stage
from lmm_r1.data.images import ImageStore
from lmm_r1.data.sources import read_problems
from lmm_r1.data.stream import ListSource, ProblemStream, Source
from lmm_r1.data.synthetic import SyntheticSource
from lmm_r1.envs import ENVIRONMENTS
from lmm_r1.errors import CheckpointError, DataError, Fault, RecipeError
from lmm_r1.evaluation.evaluate import SetResult, evaluate_set, result_from
from lmm_r1.evaluation.results import results_of
from lmm_r1.evaluation.suites import suite
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.critic import Critic
from lmm_r1.models.load import DTYPES, export_model, load_model, resolve_folder
from lmm_r1.models.lora import add_adapters
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.recipes import data_path, dump_recipe, system_prompt
from lmm_r1.reports.page import write_report
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.rollout.play import Sampling, seed_of
from lmm_r1.rollout.weights import TOLERANCES, LocalLink, Probe
from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.jsonl import fsync_folder, write_json
from lmm_r1.runs.live import LiveView
from lmm_r1.runs.provenance import provenance
from lmm_r1.runs.tracker import JsonlTracker, TensorBoardTracker, Trackers
from lmm_r1.seams import ModelAdapter, Scorer
from lmm_r1.train import Signals, StageRun, train_stage
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.trainers.schedule import minibatches
from lmm_r1.types import Image, Message, Problem, Request, Text

#: The largest log-prob difference between a stage's trainer and its exported, reloaded model.
HAND_OFF_TOLERANCE = 1e-5


def base_folder(base: str) -> str:
    """The folder or hub id of a recipe's `model.base`; "micro" is the shipped one."""
    return str(MICRO_DIR) if base == "micro" else base


def device_of(model: Model) -> str:
    """The device that `model.device` means on this machine."""
    if model.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if model.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(Fault('model.device = "cuda", but this machine has no CUDA device', field="model.device"))
    return model.device


def set_threads(count: int) -> None:
    """Fix the CPU threads of torch: a part of what fixes the numbers."""
    torch.set_num_threads(count)


def build_base(
    out_dir: Path, *, steps: int | None = None, seed: int | None = None, start: Path | None = None, done: int = 1
) -> Path:
    """`lmm-r1 build-base`: the shipped recipe of the micro base, or one with fewer steps, another seed or start."""
    shipped = base_model.BaseRecipe()
    recipe = base_model.shortened(shipped, steps or shipped.steps)
    recipe = replace(recipe, seed=shipped.seed if seed is None else seed)
    return base_model.build_base(out_dir, recipe, start=start, done=done)


def probes(adapter: ModelAdapter, images: ImageStore) -> list[Probe]:
    """A fixed text stream and a fixed picture stream, whose log-probs prove that weights arrived."""
    streams = []
    for name in ("text", "geometry"):
        (problem,) = suite(name).problems(images, 1)
        prompt = adapter.encode(problem.messages)
        answer = adapter.encode((Message("user", (Text(problem.answer),)),))
        streams.append(Probe(np.concatenate([prompt.token_ids, answer.token_ids]), prompt.images))
    return streams


@dataclass(slots=True)
class Workshop:
    """What all stages of a run share."""

    recipe: Recipe
    recipe_path: Path
    run: RunFolder
    live: LiveView
    signals: Signals
    images: ImageStore
    device: str
    dtype: str

    def adapter(self, folder: str) -> ModelAdapter:
        """The adapter of a model folder, over the run's pictures."""
        return make_adapter(folder, self.images, self.recipe.model)

    def model(self, folder: str, lora: Lora | None = None, seed: int = 0) -> Any:
        """The model of a folder, on the run's device; with fresh adapters, drawn from `seed`, where asked."""
        knobs = self.recipe.model
        model = load_model(
            folder,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=knobs.trust_remote_code,
            gradient_checkpointing=knobs.gradient_checkpointing,
            four_bit=lora is not None and lora.four_bit,
        )
        if lora is not None:
            add_adapters(model, rank=lora.rank, alpha=lora.alpha, parts=lora.parts, seed=seed)
        return model

    def critic(self, folder: str, model: Any, stage: Stage, seed: int) -> Critic:
        """A fresh critic for a stage that starts from a folder; `model` is its policy."""
        width = model.config.text_config.hidden_size
        shared = stage.critic is not None and stage.critic.trunk == "shared"
        trunk = None if shared else self.model(folder, stage.lora, seed + 1).model
        return Critic(trunk, width, seed)

    def engine(self, config: Any, adapter: ModelAdapter) -> EmbeddedEngine:
        """An engine without weights."""
        knobs = self.recipe.engine
        return EmbeddedEngine(
            config,
            adapter,
            slots=knobs.slots,
            max_context=knobs.max_context,
            prefill_tokens=knobs.prefill_tokens,
            dtype=self.dtype,
            device=self.device,
        )

    def loaded(self, folder: str) -> tuple[EmbeddedEngine, ModelAdapter, str]:
        """(engine with the folder's weights, adapter, digest of the weights), for sampling only."""
        model, adapter = self.model(folder), self.adapter(folder)
        engine = self.engine(model.config, adapter)
        weights = ((name, parameter.detach()) for name, parameter in model.named_parameters())
        return engine, adapter, engine.load_weights(weights, version=0)


def run_recipe(
    recipe: Recipe, recipe_path: Path, out_dir: Path, *, stage: str | None = None, live: LiveView | None = None
) -> dict[str, Any]:
    """Run a recipe into a run folder, or what is left of it; returns the content of results.json.

    stage: only this stage and the ones it starts from. Raises LmmR1Error subclasses; the folder is
    locked while this runs, and the same call resumes after any of them.
    """
    if stage is not None and stage not in recipe.stage:
        raise RecipeError(f"no stage '{stage}' (there are: {', '.join(recipe.stage)})")
    run = RunFolder(out_dir)
    with run.lock(), Signals().caught() as signals, live or LiveView(title=recipe.name) as view:
        text = dump_recipe(recipe)
        base = base_folder(recipe.model.base)
        if run.keep_recipe(text):
            local = Path(base) if Path(base).is_dir() else None
            run.write_json("provenance.json", provenance(sys.argv, text, local, torch.get_num_threads(), recipe.seed))
        device = device_of(recipe.model)
        shop = Workshop(recipe, recipe_path, run, view, signals, ImageStore(), device, recipe.model.dtype)
        results: dict[str, dict[str, SetResult]] = {}
        if recipe.evaluate.sets:
            evaluate_base(shop, base, results)
        for name in _wanted(recipe, stage):
            run_stage(shop, name, results)
        summary = results_of(recipe, results)
        run.write_json("results.json", summary)
        write_report(out_dir)
        return summary


def _wanted(recipe: Recipe, stage: str | None) -> list[str]:
    """Stages to run, in order: all, or one with its ancestors."""
    if stage is None:
        return recipe.order()
    wanted = {stage}
    while (stage := recipe.stage[stage].start) != "base":
        wanted.add(stage)
    return [name for name in recipe.order() if name in wanted]


def evaluate_base(shop: Workshop, base: str, results: dict[str, dict[str, SetResult]]) -> None:
    """The arm "base", and "base_no_prompt" where asked (the paper evaluates its base without, C.2)."""
    knobs = shop.recipe.evaluate
    arms = [("base", knobs.prompt)] + ([("base_no_prompt", "none")] if knobs.also_without_prompt else [])
    missing = [arm for arm, _ in arms if _stored(shop.run.stage(arm), knobs) is None]
    engine, adapter, _ = shop.loaded(base) if missing else (None, None, "")
    for arm, profile in arms:
        results[arm] = evaluate_arm(shop, arm, profile, engine, adapter)


def evaluate_arm(
    shop: Workshop, arm: str, profile: str, engine: EmbeddedEngine | None, adapter: ModelAdapter | None
) -> dict[str, SetResult]:
    """Results of an arm on every set: read back when stored, else sampled from the engine's weights."""
    knobs, folder = shop.recipe.evaluate, shop.run.stage(arm)
    stored = _stored(folder, knobs)
    if stored is None:
        assert engine is not None and adapter is not None, "an arm without stored results needs an engine"
        stored = {}
        for name in knobs.sets:
            stored[name] = evaluate_with(shop, name, engine, adapter, system_prompt(shop.recipe, profile))
            write_json(folder.evaluations / f"{name}.json", stored[name].record())
    for name, result in stored.items():
        shop.live.evaluation(arm, name, result.summary())
    return stored


def evaluate_with(shop: Workshop, name: str, engine: EmbeddedEngine, adapter: ModelAdapter, system: str) -> SetResult:
    """One set with the recipe's evaluation settings."""
    knobs = shop.recipe.evaluate
    sampling = Sampling(knobs.max_new_tokens, knobs.temperature, max_context=shop.recipe.engine.max_context)
    with engine.awake():
        return evaluate_set(
            name, knobs.items, engine, adapter, shop.images, make_scorer(Reward()), sampling,
            system=system, seed=shop.recipe.seed, blind=min(knobs.blind, knobs.items),
        )  # fmt: skip


def _stored(folder: StageFolder, knobs: Evaluate) -> dict[str, SetResult] | None:
    """Results of an earlier session, when all sets are there with the same number of items and version."""
    found = {}
    for name in knobs.sets:
        path = folder.evaluations / f"{name}.json"
        if not path.is_file():
            return None
        result = result_from(json.loads(path.read_text(encoding="utf-8")))
        if len(result.items) != knobs.items or result.version != suite(name).version:
            return None
        found[name] = result
    return found


def run_stage(shop: Workshop, name: str, results: dict[str, dict[str, SetResult]]) -> None:
    """Train one stage, export it, prove the hand-off, evaluate it; each only when not done before."""
    recipe, stage = shop.recipe, shop.recipe.stage[name]
    folder = shop.run.stage(name)
    finished = (folder.model / "config.json").is_file()
    if finished and _stored(folder, recipe.evaluate) is not None:
        results[name] = evaluate_arm(shop, name, recipe.evaluate.prompt, None, None)
        return
    start = base_folder(recipe.model.base) if stage.start == "base" else str(shop.run.stage(stage.start).model)
    if finished:
        engine, adapter, _ = shop.loaded(str(folder.model))
    else:
        # The scorer first: a verifier that cannot be imported stops the run before any weights are read.
        with closing(make_scorer(stage.reward)) as scorer:
            model = shop.model(start, stage.lora, seed_of(recipe.seed, name, "adapters") % 2**31)
            adapter = shop.adapter(start)
            engine = shop.engine(model.config, adapter)
            run = stage_run(shop, name, stage, folder, model, adapter, engine, scorer, start)
            train_stage(run)
        run.tracker.close()
        # Proved before it gets its name: a model/ that is there is taken for finished by every later call.
        unproved = folder.path / ".model_unproved"
        export_model(model, resolve_folder(start), unproved)
        assert isinstance(run.trainer, LocalTrainer)
        check_hand_off(shop, stage, run.trainer, unproved, adapter)
        unproved.rename(folder.model)
        fsync_folder(folder.path)
    if recipe.evaluate.sets:
        results[name] = evaluate_arm(shop, name, recipe.evaluate.prompt, engine, adapter)


def check_hand_off(shop: Workshop, stage: Stage, trainer: LocalTrainer, exported: Path, adapter: ModelAdapter) -> None:
    """Reload an exported model and compare its log-probs with the trainer's on the probes, at the stage's temperature."""
    reloaded = shop.model(str(exported))
    again = LocalTrainer(reloaded, None, adapter, stage.update, 1, stage.rollout.temperature, shop.device)
    for probe in probes(adapter, shop.images):
        ours, theirs = trainer.score(probe.token_ids, probe.images), again.score(probe.token_ids, probe.images)
        gap = float(np.abs(ours - theirs).max())
        # Merged adapters are rounded anew: the export is then held to what the engine is held to.
        allowed = HAND_OFF_TOLERANCE if stage.lora is None else TOLERANCES[DTYPES[shop.dtype]]
        if not gap <= allowed:
            raise CheckpointError(
                Fault(f"the exported model's log-probs differ from the trainer's by {gap:.3g} nats", file=str(exported))
            )


def stage_run(
    shop: Workshop,
    name: str,
    stage: Stage,
    folder: StageFolder,
    model: Any,
    adapter: ModelAdapter,
    engine: EmbeddedEngine,
    scorer: Scorer,
    start: str,
) -> StageRun:
    """Assemble everything that the loop needs."""
    recipe, system = shop.recipe, system_prompt(shop.recipe, stage.prompt)
    exact = recipe.model.dtype == "float32" and not (stage.lora is not None and stage.lora.four_bit)
    algorithm = make_algorithm(stage.algorithm, stage.update.minibatches, stage.rollout.max_new_tokens, exact)
    critic = None
    if "values" in algorithm.needs:
        critic = shop.critic(start, model, stage, seed_of(recipe.seed, name, "critic") % 2**31)
    trainer = LocalTrainer(
        model,
        shop.model(start) if "ref" in algorithm.needs and stage.lora is None else None,
        adapter,
        stage.update,
        total_updates=stage.steps * stage.update.minibatches,
        temperature=stage.rollout.temperature,
        device=shop.device,
        critic=critic,
        critic_config=stage.critic,
    )
    sources = [
        (data.weight, make_source(data, shop.recipe_path, shop.images, seed_of(recipe.seed, name, at) % 2**31))
        for at, data in enumerate(stage.data)
    ]
    proofs = probes(adapter, shop.images)
    kept = {image.sha for probe in proofs for image in probe.images}
    endless = all(data.source == "synthetic" for data in stage.data)
    return StageRun(
        name=name,
        stage=stage,
        recipe=recipe,
        folder=folder,
        stream=ProblemStream(sources, seed_of(recipe.seed, name, "stream") % 2**31, system),
        engine=engine,
        adapter=adapter,
        environments=ENVIRONMENTS,
        score=scorer,
        trainer=trainer,
        link=LocalLink(trainer, engine, proofs, stage.rollout.temperature),
        algorithm=algorithm,
        deal=lambda rollouts, seed: minibatches(rollouts, stage.update, seed),
        tracker=Trackers(
            JsonlTracker(folder, name, recipe.save.rollout_groups, adapter.decode, shop.images),
            TensorBoardTracker(shop.run.path / "tensorboard", name),
        ),
        live=shop.live,
        signals=shop.signals,
        evaluate=lambda: _metrics(
            {
                s: evaluate_with(shop, s, engine, adapter, system_prompt(recipe, recipe.evaluate.prompt))
                for s in recipe.evaluate.sets
            }
        ),
        # Synthetic pictures are drawn anew each step; those of a data set are files and stay.
        forget_images=(lambda: shop.images.forget(kept)) if endless else (lambda: None),
    )


def _metrics(results: Mapping[str, SetResult]) -> dict[str, float]:
    """evaluate/<set>/accuracy, and over all sets with pictures blind/accuracy and blind/seeing."""
    summaries = {name: result.summary() for name, result in results.items()}
    metrics = {f"evaluate/{name}/accuracy": float(s["accuracy"]) for name, s in summaries.items()}
    checks = [s["blind"] for s in summaries.values() if "blind" in s]
    if checks:
        metrics |= {f"blind/{key}": float(np.mean([c[key] for c in checks])) for key in ("accuracy", "seeing")}
    return metrics


def make_source(data: Data, recipe_path: Path, images: ImageStore, seed: int) -> Source:
    """One source of a stage's mixture. Raises DataError naming every bad row."""
    if data.source == "synthetic":
        assert data.domain is not None
        return SyntheticSource(data.domain, images, families=data.families, seed=seed, solutions=data.solutions)
    path = data_path(recipe_path, data)
    if not path.is_file():
        raise DataError(Fault("the data is not here", file=str(path), remedy=data.obtain))
    problems, faults = read_problems(path, images, VERIFIERS)
    if faults:
        raise DataError(*faults)
    if data.domain is not None:
        problems = [p for p in problems if p.domain == data.domain]
    return ListSource(problems)


def evaluate_model(
    model: str,
    *,
    sets: Sequence[str],
    items: int,
    prompt: str = "think",
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model folder (or "micro"); {"weights_sha256", "arms": {model: {set: summary}}, and the settings}."""
    recipe = _ad_hoc(model, seed)
    knobs = Evaluate(
        sets=tuple(sets), items=items, prompt=prompt, temperature=temperature, max_new_tokens=max_new_tokens
    )
    shop = _workshop(recipe.model_copy(update={"evaluate": knobs}))
    for name in sets:
        suite(name)  # a misspelt set stops before the model loads
    engine, adapter, sha = shop.loaded(base_folder(model))
    system = system_prompt(recipe, prompt)
    summaries = {name: evaluate_with(shop, name, engine, adapter, system).summary() for name in sets}
    return {
        "arms": {model: summaries},
        "weights_sha256": sha,
        "prompt": prompt,
        "temperature": temperature,
        "seed": seed,
    }


def sample_model(
    model: str,
    prompt: str,
    *,
    images: Sequence[Path] = (),
    system: str = "",
    n: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """Sample n replies: {"samples": [{prompt_token_ids, token_ids, logprobs, stop, text, weights_sha256}], and the settings}.

    token_ids hold the placeholders expanded, as the model ran them; logprobs are in nats at the temperature.
    """
    recipe = _ad_hoc(model, seed)
    knobs = recipe.engine.model_copy(update={"slots": min(n, recipe.engine.slots), "max_context": 32768})
    shop = _workshop(recipe.model_copy(update={"engine": knobs}))
    engine, adapter, sha = shop.loaded(base_folder(model))
    content: tuple[Text | Image, ...] = (*(shop.images.put_file(path) for path in images), Text(prompt))
    messages = ((Message("system", (Text(system),)),) if system else ()) + (Message("user", content),)
    encoded = adapter.encode(messages)
    requests = [
        Request(k, encoded.token_ids, encoded.images, seed_of("sample", seed, k), max_new_tokens, temperature, top_p)
        for k in range(n)
    ]
    engine.submit(requests)
    replies = sorted(engine.finished(), key=lambda r: r.id)
    return {
        "model": model,
        "weights_sha256": sha,
        "prompt_token_ids": encoded.token_ids.tolist(),
        "images": [i.sha for i in encoded.images],
        "temperature": temperature,
        "seed": seed,
        "samples": [
            {
                "prompt_token_ids": encoded.token_ids.tolist(),
                "token_ids": r.token_ids.tolist(),
                "logprobs": [float(x) for x in r.logprobs],
                "stop": r.stop,
                "text": adapter.decode(r.token_ids),
                "weights_sha256": sha,
            }
            for r in replies
        ],
    }


def _ad_hoc(model: str, seed: int) -> Recipe:
    """A recipe around a model that is only sampled from."""
    never = Stage(steps=1, data=(Data(domain="text"),))
    return Recipe(name="ad_hoc", seed=seed, model=Model(base=model), stage={"never": never})


def _workshop(recipe: Recipe) -> Workshop:
    device = device_of(recipe.model)
    return Workshop(
        recipe, Path(), RunFolder(Path()), LiveView(), Signals(), ImageStore(), device, recipe.model.dtype
    )  # fmt: skip


def prompt_tokens(model: Model, images: ImageStore, problems: Sequence[Problem]) -> list[int]:
    """Tokens of each problem's prompt, pictures included, as the model of a recipe would see them."""
    adapter = make_adapter(base_folder(model.base), images, model)
    return [len(adapter.encode(problem.messages).token_ids) for problem in problems]
