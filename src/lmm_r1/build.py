"""Config -> objects: the only file that knows every implementation.

A `Workshop` holds what all stages of a run share and makes models, critics, adapters and engines from it; `stage_run`
assembles what the loop needs. Left out: the order in which stages run (chain.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lmm_r1 import build_base as base_model
from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.check import check_engine
from lmm_r1.config import Data, Lora, Model, Recipe, Reward, Stage
from lmm_r1.data.curriculum import graded
from lmm_r1.data.images import ImageStore
from lmm_r1.data.jsonl_source import open_rows
from lmm_r1.data.made import MadeSource
from lmm_r1.data.stream import First, ProblemStream, Source
from lmm_r1.data.synthetic.problems import SyntheticSource
from lmm_r1.envs.episode import dice
from lmm_r1.envs.games import draw_problem, game, open_environment, options_of, player_of
from lmm_r1.errors import DataError, Fault, RankLostError, RecipeError
from lmm_r1.evaluation.evaluate import SetResult, evaluate_set
from lmm_r1.evaluation.suites import suite
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.critic import Critic
from lmm_r1.models.load import load_model, resolve_folder
from lmm_r1.models.lora import add_adapters
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.recipes import data_path, system_prompt
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.rollout.play import Sampling, seed_of
from lmm_r1.rollout.supervise import careless
from lmm_r1.rollout.weights import TF32_TOLERANCE, LocalLink, Probe, ScoringTrainer, SyncedEngine
from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.live import LiveView
from lmm_r1.runs.tracker import JsonlTracker, TensorBoardTracker, Trackers
from lmm_r1.seams import Algorithm, ModelAdapter, Player, Scorer, WeightLink
from lmm_r1.train import Signals, StageRun
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.trainers.schedule import minibatches
from lmm_r1.types import Message, Problem, Text

if TYPE_CHECKING:  # Ray and vLLM are optional libraries
    from lmm_r1.distributed.cluster import Cluster
    from lmm_r1.distributed.ray_engine import RayEngine
    from lmm_r1.distributed.ray_trainer import RayTrainer
    from lmm_r1.rollout.vllm_engine import VllmEngine


#: engine.kind -> what makes that engine in a worker of a cluster (distributed/seat.py, Factory).
ENGINES = {"embedded": "lmm_r1.distributed.seat:embedded", "vllm": "lmm_r1.rollout.vllm_engine:from_folder"}


def base_folder(base: str) -> str:
    """The folder or hub id of a recipe's `model.base`; "micro" is the shipped one."""
    return str(MICRO_DIR) if base == "micro" else base


def device_of(model: Model, elsewhere: bool = False) -> str:
    """The device that `model.device` means on this machine. elsewhere: workers compute, on machines that are not this one;
    "cuda" is then taken at its word."""
    if model.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if model.device == "cuda" and not elsewhere and not torch.cuda.is_available():
        raise RecipeError(Fault('model.device = "cuda", but this machine has no CUDA device', field="model.device"))
    return model.device


def _anywhere(folder: str) -> str:
    """A model folder as workers find it, who may have been started in another working directory; a hub id as it is."""
    return str(Path(folder).resolve()) if Path(folder).is_dir() else folder


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
    _cluster: Cluster | None = None
    _engines: RayEngine | None = None
    _ranks: RayTrainer | None = None
    _vllm: VllmEngine | None = None

    def adapter(self, folder: str) -> ModelAdapter:
        """The adapter of a model folder, over the run's pictures."""
        return make_adapter(folder, self.images, self.recipe.model)

    def model(self, folder: str, lora: Lora | None = None, seed: int = 0) -> Any:
        """The model of a folder, on the run's device; with fresh adapters, drawn from `seed`, where asked.

        With a cluster, devices and adapters belong to its workers: the model is then a plain one on the CPU, as what is exported
        in the end.
        """
        knobs = self.recipe.model
        lora = None if self.recipe.cluster.address else lora
        model = load_model(
            folder,
            dtype=self.dtype,
            device="cpu" if self.recipe.cluster.address else self.device,
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

    def engine(self, config: Any, adapter: ModelAdapter, folder: str) -> SyncedEngine:
        """An engine without weights for the model of a folder: in this process, or one for each worker of the cluster.

        The engine made before this one ends: vLLM's would fill the device, and so do a cluster's. (In this process vLLM's serves on
        when it fits the model: then both are one engine.)
        """
        knobs = self.recipe.engine
        options: dict[str, Any] = {
            "slots": knobs.slots,
            "max_context": knobs.max_context,
            "prefill_tokens": knobs.prefill_tokens,
            "dtype": self.dtype,
            "device": self.device,
        }
        if knobs.kind == "vllm":
            options["enforce_eager"] = bool(knobs.enforce_eager)
            options["sleeps"] = self.recipe.cluster.layout == "colocated"  # split engines have GPUs of their own
            if knobs.gpu_memory_utilization is not None:
                options["gpu_memory_utilization"] = knobs.gpu_memory_utilization
        if self.recipe.cluster.address:
            from lmm_r1.distributed.ray_engine import RayEngine

            if self._engines is not None:
                self._engines.close()
            arguments = {"folder": _anywhere(folder), "model": self.recipe.model.model_dump(), **options}
            self._engines = RayEngine(self.cluster(), self.images, ENGINES[knobs.kind], arguments)
            return self._engines
        if knobs.kind == "vllm":
            return self._vllm_here(config, adapter, folder, options)
        return EmbeddedEngine(config, adapter, **options)

    def _vllm_here(self, config: Any, adapter: ModelAdapter, folder: str, options: dict[str, Any]) -> VllmEngine:
        """The one vLLM engine of this process. RecipeError where vLLM is not installed."""
        missing = check_engine(self.recipe.engine)
        if missing:
            raise RecipeError(*missing)
        from lmm_r1.rollout.vllm_engine import VllmEngine

        if self._vllm is not None and self._vllm.fits(config, adapter):
            self._vllm.unload()
            return self._vllm
        if self._vllm is not None:
            self._vllm.close()
            self._vllm = None
        self._vllm = VllmEngine(resolve_folder(folder), config, adapter, self.images, self.recipe.model, **options)
        return self._vllm

    def trainer(
        self, name: str, folder: str, model: Any, adapter: ModelAdapter, algorithm: Algorithm
    ) -> ScoringTrainer:
        """The trainer of a stage that starts from a folder, whose model it takes: here, or the ranks of the cluster.

        With a cluster, the ranks made before these end.
        """
        stage = self.recipe.stage[name]
        critic_seed = seed_of(self.recipe.seed, name, "critic") % 2**31
        if not self.recipe.cluster.address:
            return LocalTrainer(
                model,
                self.model(folder) if "ref" in algorithm.needs and stage.lora is None else None,
                adapter,
                stage.update,
                total_updates=stage.steps * stage.update.minibatches,
                temperature=stage.rollout.temperature,
                device=self.device,
                critic=self.critic(folder, model, stage, critic_seed) if "values" in algorithm.needs else None,
                critic_config=stage.critic,
            )
        from lmm_r1.distributed.ray_trainer import RayTrainer

        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None
        arguments = {
            "start": _anywhere(folder), "model": self.recipe.model.model_dump(), "stage": stage.model_dump(by_alias=True),
            "exact": exact_sampler(self.recipe, stage), "critic_seed": critic_seed, "device": self.device,
            "adapters_seed": adapters_seed(self.recipe, name),
            "offload": self.recipe.cluster.offload, "sequence": self.recipe.cluster.sequence,
        }  # fmt: skip
        self._ranks = RayTrainer(self.cluster(), self.images, arguments)
        return self._ranks

    def link(
        self, trainer: ScoringTrainer, engine: SyncedEngine, proofs: Sequence[Probe], temperature: float
    ) -> WeightLink:
        """The way of a stage's weights from its trainer to its engine."""
        knobs = self.recipe.cluster
        way = knobs.weights
        tf32 = self.recipe.engine.kind == "vllm" and self.device != "cpu" and engine.dtype == torch.float32
        tolerance = TF32_TOLERANCE if tf32 else None  # vLLM's attention on a GPU
        if way == "auto" and (self.device == "cpu" or (knobs.layout == "colocated" and knobs.engines > knobs.ranks)):
            way = "store"
        if not knobs.address or way == "store":
            in_place = not knobs.address and self.device != "cpu"
            return LocalLink(trainer, engine, proofs, temperature, tolerance, in_place)
        from lmm_r1.distributed.direct import DirectLink

        assert self._ranks is not None and self._engines is not None, "a cluster has ranks and engines"
        shared = knobs.layout == "colocated"
        return DirectLink(
            self.cluster(),
            self._ranks,
            self._engines,
            proofs,
            temperature,
            tolerance,
            shared=shared,
            device=self.device,
        )

    def start_anew(self, lost: RankLostError) -> None:
        """Allow new ranks after a loss, and end those that are left. EngineError when the run has had its restarts."""
        self.cluster().count_restart(lost)
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def forget(self, keep: Collection[str]) -> None:
        """Drop all pictures but these, here and in the cluster's trainer."""
        self.images.forget(keep)
        if self._ranks is not None:
            self._ranks.forget(keep)

    def cluster(self) -> Cluster:
        """The cluster of the recipe, started or joined when it is first asked for."""
        from lmm_r1.distributed.cluster import Cluster

        if self._cluster is None:
            knobs = self.recipe.cluster
            # Colocated engines and ranks work in turn, split ones have cores of their own.
            busy = knobs.engines + knobs.ranks if knobs.layout == "split" else max(knobs.engines, knobs.ranks)
            threads = max(1, torch.get_num_threads() // busy)
            stacks = self.run.path / "workers"
            self._cluster = Cluster(knobs, stacks, threads, self.device == "cuda", self.live.note)
        return self._cluster

    def close(self) -> None:
        """End the cluster and the vLLM engine, where there are any."""
        if self._ranks is not None:
            self._ranks.close()
        if self._cluster is not None:
            self._cluster.close()
        if self._vllm is not None:
            self._vllm.close()
        self._cluster = self._engines = self._ranks = self._vllm = None

    def loaded(self, folder: str) -> tuple[SyncedEngine, ModelAdapter, str]:
        """(engine with the folder's weights, adapter, digest of the weights), for sampling only."""
        model, adapter = self.model(folder), self.adapter(folder)
        engine = self.engine(model.config, adapter, folder)
        weights = ((name, parameter.detach()) for name, parameter in model.named_parameters())
        return engine, adapter, engine.load_weights(weights, version=0)


def evaluate_with(
    shop: Workshop, name: str, engine: SyncedEngine, adapter: ModelAdapter, system: str, top_p: float = 1.0
) -> SetResult:
    """One set with the recipe's evaluation settings; a run's own evaluations have no nucleus."""
    knobs = shop.recipe.evaluate
    sampling = Sampling(
        knobs.max_new_tokens, knobs.temperature, top_p=top_p, max_context=shop.recipe.engine.max_context
    )
    with engine.awake():
        return evaluate_set(
            name, knobs.items, engine, adapter, shop.images, make_scorer(Reward()), sampling,
            system=system, seed=shop.recipe.seed, blind=min(knobs.blind, knobs.items),
            memory=knobs.memory if isinstance(knobs.memory, str) else (knobs.memory.pictures, knobs.memory.actions),
            max_unjudged=shop.recipe.guards.max_skipped_share,
        )  # fmt: skip


def stage_run(
    shop: Workshop,
    name: str,
    stage: Stage,
    folder: StageFolder,
    model: Any,
    adapter: ModelAdapter,
    engine: SyncedEngine,
    scorer: Scorer,
    start: str,
) -> StageRun:
    """Assemble everything that the loop needs."""
    recipe, system = shop.recipe, system_prompt(shop.recipe, stage.prompt)
    algorithm = make_algorithm(
        stage.algorithm, stage.update.minibatches, stage.rollout.max_new_tokens, exact_sampler(recipe, stage)
    )
    trainer = shop.trainer(name, start, model, adapter, algorithm)
    stream = make_stream(shop, name, stage, system)
    stream.keep_rows(folder.data)
    proofs = probes(adapter, shop.images)
    kept = {image.sha for probe in proofs for image in probe.images}
    return StageRun(
        name=name,
        stage=stage,
        recipe=recipe,
        folder=folder,
        stream=stream,
        engine=engine,
        adapter=adapter,
        environment=open_environment(shop.images.put),
        expert=lambda problem: imitated(problem, stage.rollout.slips),
        score=scorer,
        trainer=trainer,
        link=shop.link(trainer, engine, proofs, stage.rollout.temperature),
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
        # Drawn and resized pictures are made anew when they come again; those of a data set are files and stay.
        forget_images=lambda needed: shop.forget(kept | set(needed)),
    )


def adapters_seed(recipe: Recipe, name: str) -> int:
    """What a stage's adapters are drawn from."""
    return seed_of(recipe.seed, name, "adapters") % 2**31


def exact_sampler(recipe: Recipe, stage: Stage) -> bool:
    """Whether the engine samples from just what the trainer computes; else importance weights correct for it."""
    four_bit = stage.lora is not None and stage.lora.four_bit
    embedded = recipe.engine.kind == "embedded"
    return recipe.model.dtype == "float32" and embedded and not four_bit and not recipe.cluster.ahead


def imitated(problem: Problem, slips: float) -> Player:
    """Who plays a game's episode that a supervised stage imitates."""
    return careless(player_of("expert", problem), player_of("random", problem), slips, dice(problem, "slips"))


def _metrics(results: Mapping[str, SetResult]) -> dict[str, float]:
    """evaluate/<set>/accuracy, and over all sets with pictures blind/accuracy and blind/seeing."""
    summaries = {name: result.summary() for name, result in results.items()}
    metrics = {f"evaluate/{name}/accuracy": float(s["accuracy"]) for name, s in summaries.items()}
    checks = [s["blind"] for s in summaries.values() if "blind" in s]
    if checks:
        metrics |= {f"blind/{key}": float(np.mean([c[key] for c in checks])) for key in ("accuracy", "seeing")}
    return metrics


def make_stream(shop: Workshop, name: str, stage: Stage, system: str) -> ProblemStream:
    """The mixture of a stage. Raises DataError naming every bad row of the first source that has any."""
    total = sum(data.weight for data in stage.data)
    dealt = stage.steps * stage.rollout.prompts
    sources = []
    for at, data in enumerate(stage.data):
        seed = seed_of(shop.recipe.seed, name, at) % 2**31
        span = math.ceil(dealt * data.weight / total)
        sources.append((data.weight, make_source(data, shop.recipe_path, shop.images, seed, span)))
    return ProblemStream(sources, seed_of(shop.recipe.seed, name, "stream") % 2**31, system)


def make_source(data: Data, recipe_path: Path, images: ImageStore, seed: int, span: int | None = None) -> Source:
    """One source of a stage's mixture. Raises DataError naming every bad row.

    seed: of synthetic problems that name none, and of an order by difficulty. span: problems the stage will deal of it.
    """
    source: Source
    if data.source == "synthetic":
        assert data.domain is not None
        drawn = seed if data.seed is None else data.seed
        source = SyntheticSource(data.domain, images, families=data.families, seed=drawn, solutions=data.solutions)
        source = First(source, data.items) if data.items else source
    elif data.source == "game":
        kind, options = game(data.game), options_of(data.game, data.options)
        drawn = seed if data.seed is None else data.seed
        source = MadeSource(
            data.game,
            lambda index: draw_problem(kind, options, "train", drawn, index, images.put),
            data.items or None,
        )
    else:
        path = data_path(recipe_path, data)
        if not path.is_file():
            raise DataError(Fault("the data is not here", file=str(path), remedy=data.obtain))
        source = open_rows(path, images, VERIFIERS, data.domain)
    return graded(data, source, Path(recipe_path).parent, seed, span)
