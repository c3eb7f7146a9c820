"""The loop: one stage of rule-based RL is five verbs (collect, anchor, credit, update, sync).

FRE and MGT are two calls of `train_stage` on different data from different start weights (paper
section 4); they are stages in a recipe, not code. Knows no concrete engine, trainer or model: those
come ready-made in a StageRun, which build.py assembles.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol

import numpy as np
import torch

from lmm_r1.config import Recipe, Stage
from lmm_r1.errors import EngineError, Fault, Interrupted, NumericError
from lmm_r1.rollout.collect import Collected, collect, describe
from lmm_r1.rollout.scoring import failures
from lmm_r1.rollout.supervise import supervise
from lmm_r1.runs.checkpoint import newest_good, save_checkpoint
from lmm_r1.runs.diagnose import Watch
from lmm_r1.runs.folder import StageFolder
from lmm_r1.runs.live import LiveView
from lmm_r1.runs.tracker import ReplayedTracker
from lmm_r1.seams import Algorithm, MakeEnvironment, ModelAdapter, Player, RolloutEngine, Scorer, Trainer, WeightLink
from lmm_r1.types import FAILED_VERDICTS, Anchors, Bound, Credit, Failure, Group, Problem, Rollout, Sample

#: Ways in which verifiers fail that a session tells of.
WAYS_TOLD = 20
#: By dtype: what guards.mean_logprob_gap and guards.max_logprob_gap are where a recipe names none. Of a step's million tokens some
#: are far off in bfloat16 (see weights.TOLERANCES).
GAP_BOUNDS = {"float32": Bound(0.05, 0.05), "bfloat16": Bound(0.05, 10.0)}
#: By dtype: which error of the first minibatch's ratio is bounded, and by how much. In bfloat16 single tokens scatter.
RATIO_BOUNDS = {"float32": ("ratio_error/max", 1e-5), "bfloat16": ("ratio_error/mean", 0.05)}
#: By dtype: how far the start model's log-probs may lie from the policy's before the first step, nats. On a CPU they are
#: bit-equal; a device may choose another kernel.
START_BOUNDS = {"float32": 1e-6, "bfloat16": 0.05}


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
    environment: MakeEnvironment
    expert: Callable[[Problem], Player]  # of games, for supervised stages
    score: Scorer
    trainer: Trainer
    link: WeightLink
    algorithm: Algorithm
    deal: Callable[[Sequence[Rollout], Sequence[int]], list[list[int]]]  # (rollouts, seed) -> indices by optimiser step
    tracker: ReplayedTracker
    live: LiveView
    signals: Signals
    evaluate: Callable[[], dict[str, float]]  # metrics of the weights that the engine holds
    forget_images: Callable[[Collection[str]], None]  # all but those of these names
    failed: set[str] = field(default_factory=set)  # ways in which a verifier has failed that were told already


def train_stage(run: StageRun) -> str:
    """Run a stage to its end, resuming by itself; returns the digest of its final weights.

    Raises Interrupted after a saved SIGINT or SIGTERM, NumericError or EngineError from a guard.
    """
    done = resume(run)
    digest = run.link.sync(version=done)
    run.live.stage(run.name, run.stage.steps, done)
    watch = Watch()
    with closing(Gathering(run)) as gathering:
        for step in range(done, run.stage.steps):
            stop_if_asked(run, step, gathering)
            digest, metrics = train_step(run, gathering, step, digest, done)
            for condition in watch.add(metrics):
                run.live.note(f"{run.name}, step {step + 1}: {condition}")
    return digest


def train_step(
    run: StageRun, gathering: Gathering, step: int, digest: str, session_start: int
) -> tuple[str, dict[str, float]]:
    """One rollout step; (digest of the weights after it, its metrics). session_start: the session's first step."""
    stage, recipe, timer = run.stage, run.recipe, Timer()
    with timer("collect"):
        collected = gathering.take(step)
    tell_failures(run, step, collected.failures)
    groups = collected.groups
    metrics: dict[str, float] = dict(collected.counts)
    learned: dict[str, float] | None = None
    credits: list[Credit] = []
    if groups:  # dynamic sampling may find nothing to learn from
        guarded = gathering.fresh  # by the guards that compare policy, sampler and start model
        learned, credits = learn(run, groups, step, timer, first=guarded, start=guarded and session_start == 0)
    with timer("collect"):
        gathering.wait()  # an engine takes no weights in the middle of a reply
    if learned is not None:
        with timer("sync"):
            digest = run.link.sync(version=step + 1)
        metrics |= describe(groups) | learned
        steer_kl(run, metrics)
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
        save(run, step + 1, gathering.position())
    run.forget_images(gathering.pictures())
    run.live.step(step + 1, metrics, groups[0].rollouts[0].turns[-1].reply if groups else "")
    return digest, metrics


class Gathering:
    """The groups of each step: gathered when they are asked for or, where the recipe says so, one step ahead.

    Ahead (`cluster.ahead` = 1), the engine samples step s + 1 with the weights that step s starts from while the trainer learns
    step s, and takes new weights when both are done: no group is more than one step old, and importance weights correct for it.
    """

    def __init__(self, run: StageRun) -> None:
        self._run = run
        self._ahead = run.recipe.cluster.ahead > 0 and not supervised(run)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gather")
        self._pending: tuple[Future[Collected], Mapping[str, object]] | None = None
        self._learned = False
        self.fresh = True  # nothing was learned in this session before the groups that were taken last

    def take(self, step: int) -> Collected:
        """The groups of a step; and the next step's begin to be gathered."""
        if self._pending is None:
            collected = self._gather(step)
        else:
            collected = self._pending[0].result()
            self._pending = None
        self.fresh = not self._learned
        self._learned = self._learned or bool(collected.groups)
        if self._ahead and step + 1 < self._run.stage.steps:
            before = self._run.stream.state()
            self._pending = self._thread.submit(self._gather, step + 1), before
        return collected

    def wait(self) -> None:
        """Until the engine is idle. Raises what gathering raised."""
        if self._pending is not None:
            self._pending[0].result()

    def position(self) -> Mapping[str, object]:
        """Where the stream stands after the groups that were taken: a resumed run gathers the others again."""
        return self._run.stream.state() if self._pending is None else self._pending[1]

    def pictures(self) -> set[str]:
        """Names of the pictures that groups which wait to be learned still need."""
        if self._pending is None:
            return set()
        return {image.sha for group in self._pending[0].result().groups for r in group.rollouts for image in r.images}

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _gather(self, step: int) -> Collected:
        with self._run.engine.awake():
            return gather(self._run, step)


def supervised(run: StageRun) -> bool:
    """Whether the stage imitates solutions instead of sampling replies."""
    return "solution" in run.algorithm.needs


def gather(run: StageRun, step: int) -> Collected:
    """What a step learns from: sampled and scored replies, or solutions to imitate."""
    stage, recipe = run.stage, run.recipe
    if supervised(run):
        return supervise(
            run.stream.take, run.adapter, stage.rollout,
            max_context=recipe.engine.max_context, make=run.environment, expert=run.expert,
        )  # fmt: skip
    return collect(
        run.stream.take,
        run.engine,
        run.adapter,
        run.environment,
        run.score,
        stage.rollout,
        max_context=recipe.engine.max_context,
        seed=(recipe.seed, run.name, step),
        keep=run.algorithm.keep,
        greedy="greedy" in run.algorithm.needs,
        shuffle=stage.reward.shuffle,
    )


def learn(
    run: StageRun, groups: Sequence[Group], step: int, timer: Timer, first: bool, start: bool
) -> tuple[dict[str, float], list[Credit]]:
    """anchor, credit, update: one rollout step's learning; (mean metrics of its updates, credits).

    first: of this session; start: of the stage. Their guards compare the policy with the sampler, and with the reference.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    guard_verdicts(run, groups, step)
    parts = run.deal(rollouts, (run.recipe.seed, step))
    with timer("anchor"):
        needs = run.algorithm.needs | {"old"} if first or start else run.algorithm.needs
        # Minibatch by minibatch: packed as they will be for the update, so that the first ratio is 1 to the last bit.
        said: dict[int, Anchors] = {}
        for part in parts:
            said |= zip(part, run.trainer.anchors([rollouts[i] for i in part], frozenset(needs)), strict=True)
        anchors = [said[i] for i in range(len(rollouts))]
        if first and not supervised(run):  # a sampler that sampled nothing has no log-probs to compare with
            guard_logprobs(run, rollouts, anchors, step)
        if start:
            guard_start(run, rollouts, anchors)
        if (
            "old" not in run.algorithm.needs
        ):  # asked for by the guards alone: credit must not depend on where a session began
            anchors = [replace(a, old_logprobs=r.logprobs) for a, r in zip(anchors, rollouts, strict=True)]
        credits = run.algorithm.credit(groups, anchors)
    samples = [Sample(*parts) for parts in zip(rollouts, anchors, credits, strict=True)]
    learned: list[dict[str, float]] = []
    with timer("update"):
        for part in parts:
            learned.append(run.trainer.update([samples[i] for i in part], run.algorithm))
            if len(learned) == 1 and "old" in run.algorithm.needs:
                guard_ratio(run, learned[0], step)
    first_ratio = learned[0]["ratio_error/max"]
    metrics = {name: float(np.mean([m[name] for m in learned])) for name in learned[0]}
    metrics["tokens"] = float(sum(m["tokens"] for m in learned))
    metrics |= {name: max(m[name] for m in learned) for name in ("logprob_gap/max", "ratio_error/max", "ratio_max")}
    metrics["ratio_error/first"] = first_ratio
    return metrics, credits


def guard_logprobs(run: StageRun, rollouts: Sequence[Rollout], anchors: Sequence[Anchors], step: int) -> None:
    """Stop when sampler and trainer disagree before the first update: every later ratio would be wrong."""
    found = [
        np.abs(rollout.logprobs.astype(np.float64) - anchor.old_logprobs)[rollout.trainable]
        for rollout, anchor in zip(rollouts, anchors, strict=True)
    ]
    knobs, usual = run.recipe.guards, GAP_BOUNDS[run.recipe.model.dtype]
    bound = Bound(knobs.mean_logprob_gap or usual.mean, knobs.max_logprob_gap or usual.largest)
    gaps = np.concatenate(found)
    if len(gaps) and bound.broken_by(gaps):
        worst = rollouts[int(np.argmax([gap.max(initial=0.0) for gap in found]))]  # a NaN is the largest
        raise NumericError(
            Fault(
                f"step {step + 1} of {run.name}: sampler and trainer differ by {gaps.max():.3g} nats on a token of problem "
                f"{worst.problem.id}, and by "
                f"{gaps.mean():.3g} in the mean (guards.max_logprob_gap = {bound.largest:g}, mean_logprob_gap = {bound.mean:g})",
                remedy="they must run the same weights, pictures, temperature and dtype; the bound may be changed on resume",
            )
        )


def guard_start(run: StageRun, rollouts: Sequence[Rollout], anchors: Sequence[Anchors]) -> None:
    """Stop when the policy is not the stage's start model before its first step: KL to it must be 0 there."""
    worst = 0.0
    for rollout, anchor in zip(rollouts, anchors, strict=True):
        if anchor.ref_logprobs is not None:
            gap = np.abs(np.where(rollout.trainable, anchor.old_logprobs - anchor.ref_logprobs, 0.0))
            worst = max(worst, float(gap.max())) if not np.isnan(gap).any() else float("nan")
    if not worst <= START_BOUNDS[run.recipe.model.dtype]:
        raise NumericError(
            Fault(
                f"step 1 of {run.name}: the policy and the reference model differ by {worst:.3g} nats on a token, "
                "though both start from the same weights",
                remedy="one of them did not load as it should",
            )
        )


def guard_ratio(run: StageRun, metrics: Mapping[str, float], step: int) -> None:
    """Stop when the first minibatch of a step, before any update, has a ratio other than 1 (PPO's silent bugs show here)."""
    name, bound = RATIO_BOUNDS[run.recipe.model.dtype]
    if not metrics[name] <= bound:
        raise NumericError(
            Fault(
                f"step {step + 1} of {run.name}: {name} = {metrics[name]:.3g} on the first minibatch, whose old policy is the "
                f"present one (at most {bound:g} allowed)",
                remedy="dropout must be off, and old and new log-probs computed alike",
            )
        )


def steer_kl(run: StageRun, metrics: dict[str, float]) -> None:
    """Move the KL coefficient where the algorithm asks for it, and log the one that this step had."""
    algorithm = run.algorithm
    if algorithm.steer_kl is None or algorithm.with_kl is None:
        return
    metrics["kl_coef"] = float(algorithm.parameters["kl_coef"])  # type: ignore[arg-type]  # a number, as in the recipe
    if metrics["grad_norm"] == 0.0:  # the policy stood still (a critic's warm-up): its KL says nothing
        return
    run.algorithm = algorithm.with_kl(algorithm.steer_kl(metrics["kl_ref"], run.stage.episodes // run.stage.steps))


def guard_verdicts(run: StageRun, groups: Sequence[Group], step: int) -> None:
    """Stop when too many replies could not be judged: a failed verdict is not a wrong answer."""
    scores = [s for g in groups for s in g.scores if not g.problem.is_game]  # no verifier judges a game
    failed = [s for s in scores if FAILED_VERDICTS & set(s.verdicts.values())]
    if len(failed) > run.recipe.guards.max_skipped_share * len(scores):
        first = next(f for g in groups for f in failures(g.problem, g.episodes, g.scores))
        raise EngineError(
            f"step {step + 1} of {run.name}: {len(failed)} of {len(scores)} replies could not be verified "
            f"(guards.max_skipped_share = {run.recipe.guards.max_skipped_share}); the first: {first}; "
            f"more in {run.folder.failures}"
        )


def tell_failures(run: StageRun, step: int, failures: Sequence[Failure]) -> None:
    """Keep what verifiers failed to judge, and say a way of failing when it is met first; before a guard may stop the run."""
    if not failures:
        return
    run.tracker.save_failures(step + 1, failures)
    for failure in failures:
        way = failure.detail.partition(":")[0]
        if way not in run.failed and len(run.failed) < WAYS_TOLD:
            run.failed.add(way)
            run.live.note(f"{run.name}, step {step + 1}: a verifier failed: {failure}")


def resume(run: StageRun) -> int:
    """Restore the newest good checkpoint; returns how many steps are done (0 when there is none)."""
    checkpoint = newest_good(run.folder.checkpoints)
    run.tracker.rewind(checkpoint.step if checkpoint else 0)
    if checkpoint is None:
        return 0
    for fault in checkpoint.skipped:
        run.live.note(str(fault))
    state = checkpoint.state()
    run.trainer.load(checkpoint.path, state["trainer"])
    if run.algorithm.with_kl is not None:
        run.algorithm = run.algorithm.with_kl(state["kl_coef"])
    run.stream.restore(state["stream"])
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["rng"]), dtype=torch.uint8))
    return checkpoint.step


def save(run: StageRun, step: int, position: Mapping[str, object]) -> None:
    """Checkpoint after `step` steps: weights, optimiser, stream position, random state."""
    save_checkpoint(
        run.folder.checkpoints,
        step,
        run.trainer.save,
        {
            "stage": run.name,
            "kl_coef": run.algorithm.parameters["kl_coef"],
            "stream": position,
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
        },
        run.recipe.save.keep,
    )


def stop_if_asked(run: StageRun, step: int, gathering: Gathering) -> None:
    """After a signal: save what is finished (unless that is saved already) and leave."""
    if not run.signals.received:
        return
    newest = newest_good(run.folder.checkpoints)
    if step > 0 and (newest is None or newest.step < step):
        save(run, step, gathering.position())
    raise Interrupted(run.signals.received)
