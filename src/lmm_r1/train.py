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
from typing import Any, Protocol

import numpy as np
import torch

from lmm_r1.config import WITHOUT_GROUPS, Recipe, Stage
from lmm_r1.errors import EngineError, Interrupted, NumericError, RankLostError, first_line
from lmm_r1.guards import (
    guard_learned,
    guard_logprobs,
    guard_start,
    guard_sync,
    guard_unjudged,
    guard_versions,
    update_bounds,
)
from lmm_r1.rollout.collect import Collected, collect
from lmm_r1.rollout.supervise import supervise
from lmm_r1.runs.checkpoint import newest_good, save_checkpoint
from lmm_r1.runs.diagnose import Watch
from lmm_r1.runs.folder import StageFolder
from lmm_r1.runs.jsonl import read_steps
from lmm_r1.runs.live import LiveView
from lmm_r1.runs.tracker import ReplayedTracker
from lmm_r1.seams import Algorithm, MakeEnvironment, ModelAdapter, Player, RolloutEngine, Scorer, Trainer, WeightLink
from lmm_r1.types import Anchors, Credit, Failure, Group, Problem, Rollout, Sample

#: Ways in which verifiers fail that a session tells of.
WAYS_TOLD = 20


class Stream(Protocol):
    """Where problems come from; data.stream.ProblemStream."""

    def take(self, n: int) -> list[Problem]: ...

    def state(self) -> dict[str, object]: ...

    def restore(self, state: Mapping[str, object]) -> None: ...


class HoldsWeights(RolloutEngine, Protocol):
    """An engine that says which version of the weights it holds."""

    version: int


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
class Progress:
    """How far a stage is, beside what trainer and stream keep themselves.

    version, digest: of the weights that the engine holds. start: the digest of the stage's start weights, None when it was
    begun by an older version. solved: row -> whether a reply was ever right. clean: no weight has moved in this step.
    """

    version: int = 0
    digest: str = ""
    start: str | None = None
    solved: dict[str, bool] = field(default_factory=dict)
    clean: bool = True
    watch: Watch = field(default_factory=Watch)

    def rows(self, solved: Mapping[str, bool]) -> dict[str, float]:
        """Take in what a step solved; metrics of all rows so far. {} for a stage that samples nothing."""
        for row, right in solved.items():
            self.solved[row] = self.solved.get(row, False) or right
        never = sum(not right for right in self.solved.values())
        return {"rows/seen": float(len(self.solved)), "rows/never_solved": float(never)} if self.solved else {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        ever = {right: sorted(row for row, found in self.solved.items() if found == right) for right in (True, False)}
        return {"start": self.start, "solved": ever[True], "unsolved": ever[False]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; of the state of an older version, which is empty, what is not known stays so."""
        self.start = state.get("start")
        self.solved = dict.fromkeys(state.get("solved", ()), True) | dict.fromkeys(state.get("unsolved", ()), False)


@dataclass(slots=True)
class StageRun:
    """Everything one stage needs, assembled by build.py."""

    name: str
    stage: Stage
    recipe: Recipe
    folder: StageFolder
    stream: Stream
    engine: HoldsWeights
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
    progress: Progress = field(default_factory=Progress)


def train_stage(run: StageRun) -> str:
    """Run a stage to its end, resuming by itself; returns the digest of its final weights.

    Raises Interrupted after a saved SIGINT or SIGTERM, NumericError or EngineError from a guard: what was finished before
    the step that it stopped is saved. NumericError too at the end of a stage that made no update.
    """
    done, progress = resume(run), run.progress
    sync(run, done, learned=False)
    if done == 0:
        progress.start = progress.digest
    for record in read_steps(run.folder.metrics):  # told in an earlier session
        progress.watch.add(record)
    run.live.stage(run.name, run.stage.steps, done)
    with closing(Gathering(run)) as gathering:
        for step in range(done, run.stage.steps):
            position = gathering.position()
            stop_if_asked(run, step, position)
            try:
                train_step(run, gathering, step, session_start=done)
            except (EngineError, NumericError) as stop:
                if progress.clean and not isinstance(stop, RankLostError):
                    save_finished(run, step, position)
                raise
    guard_learned(run, read_steps(run.folder.metrics), (progress.start, progress.digest))
    return progress.digest


def train_step(run: StageRun, gathering: Gathering, step: int, session_start: int) -> None:
    """One rollout step, its line in the metrics and its checkpoint. session_start: the session's first step."""
    stage, recipe, progress, timer = run.stage, run.recipe, run.progress, Timer()
    progress.clean = True
    with timer("collect"):
        collected = gathering.take(step, progress.version)
    tell_failures(run, step, collected.failures)
    groups = collected.groups
    guard_unjudged(run, collected.counts, collected.unjudged, step)
    metrics: dict[str, float] = dict(collected.counts)
    learned: dict[str, float] | None = None
    credits: list[Credit] = []
    if groups:  # dynamic sampling may find nothing to learn from
        if not supervised(run):
            guard_versions(run, (r for group in groups for r in group.rollouts), gathering.due, step)
        fresh = (
            gathering.fresh
        )  # the guards that compare policy, sampler and start model stand at its first step as well
        learned, credits = learn(run, groups, step, timer, fresh, fresh and session_start == 0, gathering.stale)
    with timer("collect"):
        gathering.wait()  # an engine takes no weights in the middle of a reply
    if learned is not None:
        with timer("sync"):
            sync(run, step + 1, learned["grad_norm"] > 0 and learned["lr"] > 0)
        metrics |= learned
        steer_kl(run, metrics)
        if supervised(run):
            metrics = {k: v for k, v in metrics.items() if not k.startswith("logprob_gap/")}
        run.tracker.save_rollouts(step + 1, groups, credits)
    metrics |= progress.rows(collected.solved)
    if recipe.evaluate.every and (step + 1) % recipe.evaluate.every == 0 and step + 1 < stage.steps:
        with timer("evaluate"), run.engine.awake():
            metrics |= run.evaluate()
    metrics |= timer.metrics()
    told = [str(condition) for condition in progress.watch.add({"step": step + 1, **metrics})]
    words = {"weights_sha256": progress.digest} | ({"conditions": "\n".join(told)} if told else {})
    run.tracker.log(step + 1, {**metrics, **words})
    run.tracker.commit(step + 1)
    due = recipe.save.every and (step + 1) % recipe.save.every == 0
    if due or step + 1 == stage.steps:
        save(run, step + 1, gathering.position())
    run.forget_images(gathering.pictures())
    run.live.step(step + 1, metrics, groups[0].rollouts[0].turns[-1].reply if groups else "")
    for line in told:
        run.live.note(f"{run.name}, step {step + 1}: {line}")


def sync(run: StageRun, version: int, learned: bool) -> None:
    """Move the engine to the weights of `version`, and make sure that they are there. learned: an update moved them."""
    before, digest = run.progress.digest, run.link.sync(version=version)
    guard_sync(run, run.engine.version, version, (before, digest), learned, run.trainer.weights)
    run.progress.version, run.progress.digest = version, digest


class Gathering:
    """The groups of each step: gathered when they are asked for or, where the recipe says so, one step ahead.

    Ahead (`cluster.ahead` = 1), the engine samples step s + 1 with the weights that step s starts from while the trainer learns
    step s, and takes new weights when both are done: no group is more than one step old, and importance weights correct for it.
    """

    def __init__(self, run: StageRun) -> None:
        self._run = run
        self._ahead = run.recipe.cluster.ahead > 0 and not supervised(run)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gather")
        self._pending: tuple[Future[Collected], Mapping[str, object], int] | None = None
        self._learned = False
        self.fresh = True  # nothing was learned in this session before the groups that were taken last
        self.due = 0  # the version of the weights that the groups that were taken last must come from
        self.stale = False  # the engine has newer ones by now

    def take(self, step: int, version: int) -> Collected:
        """The groups of a step; and the next step's begin to be gathered. version: of the weights that the engine holds."""
        if self._pending is None:
            collected, self.due = self._gather(step), version
        else:
            future, _, self.due = self._pending
            collected = future.result()
            self._pending = None
        self.stale = self.due != version
        self.fresh = not self._learned
        self._learned = self._learned or bool(collected.groups)
        if self._ahead and step + 1 < self._run.stage.steps:
            before = self._run.stream.state()
            self._pending = self._thread.submit(self._gather, step + 1), before, version
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
        least=1 if stage.algorithm.name in WITHOUT_GROUPS else 2,
    )


def learn(
    run: StageRun, groups: Sequence[Group], step: int, timer: Timer, first: bool, start: bool, stale: bool
) -> tuple[dict[str, float], list[Credit]]:
    """anchor, credit, update: one rollout step's learning; (mean metrics of its updates, credits).

    first: of this session; start: of the stage. The guards compare the policy with the sampler, and at the start with the
    reference. stale: the groups were sampled a version earlier.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    parts = run.deal(rollouts, (run.recipe.seed, step))
    with timer("anchor"):
        needs = run.algorithm.needs | {"old"} if first or start else run.algorithm.needs
        # Minibatch by minibatch: packed as they will be for the update, so that the first ratio is 1 to the last bit.
        said: dict[int, Anchors] = {}
        for part in parts:
            said |= zip(part, run.trainer.anchors([rollouts[i] for i in part], frozenset(needs)), strict=True)
        anchors = [said[i] for i in range(len(rollouts))]
        if "old" in needs and not supervised(run):  # a sampler that sampled nothing has no log-probs to compare with
            guard_logprobs(run, rollouts, anchors, step, stale)
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
        for number, part in enumerate(parts):
            asked = "old" in run.algorithm.needs
            bounds = update_bounds(run, number, old=asked, sampled=not supervised(run), stale=stale)
            try:
                learned.append(run.trainer.update([samples[i] for i in part], run.algorithm, bounds=bounds))
            except NumericError as error:
                raise NumericError(f"step {step + 1} of {run.name}: {first_line(error)}") from error
            run.progress.clean = False
    first_ratio = learned[0]["ratio_error/max"]
    metrics = {name: float(np.mean([m[name] for m in learned])) for name in learned[0]}
    metrics["tokens"] = float(sum(m["tokens"] for m in learned))
    metrics |= {name: max(m[name] for m in learned) for name in ("logprob_gap/max", "ratio_error/max", "ratio_max")}
    metrics["ratio_error/first"] = first_ratio
    return metrics, credits


def steer_kl(run: StageRun, metrics: dict[str, float]) -> None:
    """Move the KL coefficient where the algorithm asks for it, and log the one that this step had."""
    algorithm = run.algorithm
    if algorithm.steer_kl is None or algorithm.with_kl is None:
        return
    metrics["kl_coef"] = float(algorithm.parameters["kl_coef"])  # type: ignore[arg-type]  # a number, as in the recipe
    if metrics["grad_norm"] == 0.0:  # the policy stood still (a critic's warm-up): its KL says nothing
        return
    run.algorithm = algorithm.with_kl(algorithm.steer_kl(metrics["kl_ref"], run.stage.episodes // run.stage.steps))


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
    run.progress.restore(state.get("progress", {}))
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
            "progress": run.progress.state(),
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
        },
        run.recipe.save.keep,
    )


def save_finished(run: StageRun, step: int, position: Mapping[str, object]) -> None:
    """Save what is finished after `step` steps, unless there is nothing or it is saved already. position: of the stream then."""
    newest = newest_good(run.folder.checkpoints)
    if step > 0 and (newest is None or newest.step < step):
        save(run, step, position)


def stop_if_asked(run: StageRun, step: int, position: Mapping[str, object]) -> None:
    """After a signal: save what is finished and leave."""
    if run.signals.received:
        save_finished(run, step, position)
        raise Interrupted(run.signals.received)
