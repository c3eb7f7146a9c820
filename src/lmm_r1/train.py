"""The loop: one stage of rule-based RL is five verbs (collect, anchor, credit, update, sync).

FRE and MGT are two calls of `train_stage` on different data from different start weights (paper
section 4); they are stages in a recipe, not code. Knows no concrete engine, trainer or model: those
come ready-made in a StageRun, which build.py assembles.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

import numpy as np
import torch

from lmm_r1.config import Recipe, Stage
from lmm_r1.errors import EngineError, Fault, Interrupted, NumericError
from lmm_r1.rollout.collect import Collected, collect, describe
from lmm_r1.rollout.play import MakeEnvironment
from lmm_r1.rollout.supervise import supervise
from lmm_r1.runs.checkpoint import newest_good, save_checkpoint
from lmm_r1.runs.diagnose import Watch
from lmm_r1.runs.folder import StageFolder
from lmm_r1.runs.live import LiveView
from lmm_r1.runs.tracker import ReplayedTracker
from lmm_r1.seams import Algorithm, ModelAdapter, RolloutEngine, Scorer, Trainer, WeightLink
from lmm_r1.types import Anchors, Credit, Group, Problem, Rollout, Sample

#: Verdict reasons that say nothing about the reply: too many of them and the rewards mean nothing.
FAILED_VERDICTS = frozenset({"timeout", "error"})


class Stream(Protocol):
    """Where problems come from; data.stream.ProblemStream."""

    def take(self, n: int) -> list[Problem]: ...

    def state(self) -> dict[str, object]: ...

    def restore(self, state: Mapping[str, object]) -> None: ...


class Signals:
    """SIGINT and SIGTERM as a flag that the loop polls; a second one stops at once."""

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Handle both signals inside the block, and put the old handlers back."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number


@dataclass(slots=True)
class Timer:
    """Seconds by phase of one step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """seconds/<phase> for every phase of the loop, 0 where it did not run."""
        return {f"seconds/{p}": self.seconds.get(p, 0.0) for p in ("collect", "anchor", "update", "sync", "evaluate")}


@dataclass(slots=True)
class StageRun:
    """Everything one stage needs, assembled by build.py."""

    name: str
    stage: Stage
    recipe: Recipe
    folder: StageFolder
    stream: Stream
    engine: RolloutEngine
    adapter: ModelAdapter
    environments: Mapping[str, MakeEnvironment]
    score: Scorer
    trainer: Trainer
    link: WeightLink
    algorithm: Algorithm
    deal: Callable[[list[Sample], Sequence[int]], list[list[Sample]]]  # minibatches(samples, seed)
    tracker: ReplayedTracker
    live: LiveView
    signals: Signals
    evaluate: Callable[[], dict[str, float]]  # metrics of the weights that the engine holds
    forget_images: Callable[[], None]


def train_stage(run: StageRun) -> str:
    """Run a stage to its end, resuming by itself; returns the digest of its final weights.

    Raises Interrupted after a saved SIGINT or SIGTERM, NumericError or EngineError from a guard.
    """
    stage, recipe = run.stage, run.recipe
    done = resume(run)
    digest = run.link.sync(version=done)
    run.live.stage(run.name, stage.steps, done)
    watch = Watch()
    for step in range(done, stage.steps):
        timer = Timer()
        stop_if_asked(run, step)
        with timer("collect"), run.engine.awake():
            collected = gather(run, step)
        groups = collected.groups
        metrics: dict[str, float] = dict(collected.counts)
        if groups:  # dynamic sampling may find nothing to learn from
            # A sampler that sampled nothing has no log-probs to compare with.
            learned, credits = learn(run, groups, step, timer, first=step == done and not supervised(run))
            with timer("sync"):
                digest = run.link.sync(version=step + 1)
            metrics |= describe(groups) | learned
            if supervised(run):
                metrics = {k: v for k, v in metrics.items() if not k.startswith(("logprob_gap/", "reward/"))}
            run.tracker.save_rollouts(step + 1, groups, credits)
        if recipe.evaluate.every and (step + 1) % recipe.evaluate.every == 0 and step + 1 < stage.steps:
            with timer("evaluate"), run.engine.awake():
                metrics |= run.evaluate()
        metrics |= timer.metrics()
        run.tracker.log(step + 1, {**metrics, "weights_sha256": digest})
        run.tracker.commit(step + 1)
        due = recipe.save.every and (step + 1) % recipe.save.every == 0
        if due or step + 1 == stage.steps:
            save(run, step + 1)
        run.forget_images()
        run.live.step(step + 1, metrics, groups[0].rollouts[0].turns[-1].reply if groups else "")
        for condition in watch.add(metrics):
            run.live.note(f"{run.name}, step {step + 1}: {condition}")
    return digest


def supervised(run: StageRun) -> bool:
    """Whether the stage imitates solutions instead of sampling replies."""
    return "solution" in run.algorithm.needs


def gather(run: StageRun, step: int) -> Collected:
    """What a step learns from: sampled and scored replies, or solutions to imitate."""
    stage, recipe = run.stage, run.recipe
    if supervised(run):
        return supervise(run.stream.take, run.adapter, stage.rollout, max_context=recipe.engine.max_context)
    return collect(
        run.stream.take,
        run.engine,
        run.adapter,
        run.environments,
        run.score,
        stage.rollout,
        max_context=recipe.engine.max_context,
        seed=(recipe.seed, run.name, step),
        keep=run.algorithm.keep,
        greedy="greedy" in run.algorithm.needs,
        shuffle=stage.reward.shuffle,
    )


def learn(
    run: StageRun, groups: Sequence[Group], step: int, timer: Timer, first: bool
) -> tuple[dict[str, float], list[Credit]]:
    """anchor, credit, update: one rollout step's learning; (mean metrics of its updates, credits)."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    guard_verdicts(run, groups, step)
    with timer("anchor"):
        # The first step of every session compares the sampler with the trainer, whatever the algorithm needs.
        needs = run.algorithm.needs | {"old"} if first else run.algorithm.needs
        anchors = run.trainer.anchors(rollouts, frozenset(needs))
        if first:
            guard_logprobs(run, rollouts, anchors, step)
        credits = run.algorithm.credit(groups, anchors)
    samples = [Sample(*parts) for parts in zip(rollouts, anchors, credits, strict=True)]
    learned: list[dict[str, float]] = []
    with timer("update"):
        for minibatch in run.deal(samples, (run.recipe.seed, step)):
            learned.append(run.trainer.update(minibatch, run.algorithm))
    metrics = {name: float(np.mean([m[name] for m in learned])) for name in learned[0]}
    metrics["tokens"] = float(sum(m["tokens"] for m in learned))
    metrics["logprob_gap/max"] = max(m["logprob_gap/max"] for m in learned)
    return metrics, credits


def guard_logprobs(run: StageRun, rollouts: Sequence[Rollout], anchors: Sequence[Anchors], step: int) -> None:
    """Stop when sampler and trainer disagree before the first update: every later ratio would be wrong."""
    worst, where = 0.0, ""
    for rollout, anchor in zip(rollouts, anchors, strict=True):
        gap = float(np.abs(np.where(rollout.trainable, rollout.logprobs - anchor.old_logprobs, 0.0)).max())
        if not gap <= worst:
            worst, where = gap, rollout.problem.id
    if not worst <= run.recipe.guards.max_logprob_gap:
        raise NumericError(
            Fault(
                f"step {step + 1} of {run.name}: sampler and trainer differ by {worst:.3g} nats on a token of problem {where}, "
                f"more than guards.max_logprob_gap = {run.recipe.guards.max_logprob_gap}",
                remedy="they must run the same weights, pictures, temperature and dtype",
            )
        )


def guard_verdicts(run: StageRun, groups: Sequence[Group], step: int) -> None:
    """Stop when too many replies could not be judged: a failed verdict is not a wrong answer."""
    scores = [s for g in groups for s in g.scores]
    failed = [s for s in scores if FAILED_VERDICTS & set(s.verdicts.values())]
    if len(failed) > run.recipe.guards.max_skipped_share * len(scores):
        raise EngineError(
            f"step {step + 1} of {run.name}: {len(failed)} of {len(scores)} replies could not be verified "
            f"(guards.max_skipped_share = {run.recipe.guards.max_skipped_share})"
        )


def resume(run: StageRun) -> int:
    """Restore the newest good checkpoint; returns how many steps are done (0 when there is none)."""
    checkpoint = newest_good(run.folder.checkpoints)
    run.tracker.rewind(checkpoint.step if checkpoint else 0)
    if checkpoint is None:
        return 0
    for fault in checkpoint.skipped:
        run.live.note(str(fault))
    tensors, state = checkpoint.load()
    run.trainer.restore({**tensors, "scalars": state["trainer"]})
    run.stream.restore(state["stream"])
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["rng"]), dtype=torch.uint8))
    return checkpoint.step


def save(run: StageRun, step: int) -> None:
    """Checkpoint after `step` steps: weights, optimiser, stream position, random state."""
    state = run.trainer.state()
    save_checkpoint(
        run.folder.checkpoints,
        step,
        {"model": state["model"], "optimizer": state["optimizer"]},
        {
            "stage": run.name,
            "trainer": state["scalars"],
            "stream": run.stream.state(),
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
        },
        run.recipe.save.keep,
    )


def stop_if_asked(run: StageRun, step: int) -> None:
    """After a signal: save what is finished (unless that is saved already) and leave."""
    if not run.signals.received:
        return
    newest = newest_good(run.folder.checkpoints)
    if step > 0 and (newest is None or newest.step < step):
        save(run, step)
    raise Interrupted(run.signals.received)
