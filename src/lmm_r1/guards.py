"""What stops a stage: each guard compares what is learned from with what was sampled, and raises before weights move.

Left out: the loop itself (train.py), numbers that are not finite (trainers/local.py), bytes of a transfer
(rollout/weights.py), and what is a reason to look, not to stop (runs/diagnose.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from lmm_r1.config import Recipe
from lmm_r1.errors import EngineError, Fault, NumericError
from lmm_r1.rollout.weights import digest_of_lines, weight_line
from lmm_r1.types import Anchors, Bound, Rollout

#: By dtype: what guards.mean_logprob_gap and guards.max_logprob_gap are where a recipe names none. Of a step's million tokens some
#: are far off in bfloat16 (see weights.TOLERANCES).
GAP_BOUNDS = {"float32": Bound(0.05, 0.05), "bfloat16": Bound(0.05, 10.0)}
#: For groups that were sampled a version earlier (cluster.ahead): an optimiser step lies between both sides. At a mean of one nat
#: importance weights are off by a factor of e on every token: no correction mends that.
STALE_BOUND = Bound(1.0, 20.0)
#: By dtype: which error of the first minibatch's ratio is bounded, and by how much. In bfloat16 single tokens scatter.
RATIO_BOUNDS = {"float32": ("ratio_error/max", 1e-5), "bfloat16": ("ratio_error/mean", 0.05)}
#: The mean of |ratio - 1| in the later minibatches of a step: there the policy has moved, but not out of all proportion.
MOVED_BOUND = 10.0
#: By dtype: how far the start model's log-probs may lie from the policy's before the first step, nats. On a CPU they are
#: bit-equal; a device may choose another kernel.
START_BOUNDS = {"float32": 1e-6, "bfloat16": 0.05}
#: A stop for failed verdicts names so many of them.
SHOWN = 2


class Guarded(Protocol):
    """The part of train.StageRun that guards read."""

    name: str
    recipe: Recipe


def gap_bound(run: Guarded, stale: bool) -> Bound:
    """How far sampler and trainer may lie apart. stale: the groups were sampled a version earlier."""
    if stale:
        return STALE_BOUND
    knobs, usual = run.recipe.guards, GAP_BOUNDS[run.recipe.model.dtype]
    return Bound(knobs.mean_logprob_gap or usual.mean, knobs.max_logprob_gap or usual.largest)


def guard_versions(run: Guarded, rollouts: Iterable[Rollout], due: int, step: int) -> None:
    """Stop when a reply was sampled with other weights than those that were due for this step."""
    for rollout in rollouts:
        found = {version for _, version in rollout.versions}
        if found != {due}:
            said = " and ".join(map(str, sorted(found))) or "none"
            raise EngineError(
                Fault(
                    f"step {step + 1} of {run.name}: a reply to problem {rollout.problem.id} was sampled with weights of version "
                    f"{said}, and version {due} is due",
                    remedy="an engine missed a weight transfer, or answered late",
                )
            )


def guard_logprobs(
    run: Guarded, rollouts: Sequence[Rollout], anchors: Sequence[Anchors], step: int, stale: bool = False
) -> None:
    """Stop when sampler and trainer disagree before a step's first update: every later ratio would be wrong."""
    found = [
        np.abs(rollout.logprobs.astype(np.float64) - anchor.old_logprobs)[rollout.trainable]
        for rollout, anchor in zip(rollouts, anchors, strict=True)
    ]
    bound = gap_bound(run, stale)
    gaps = np.concatenate(found)
    if len(gaps) and bound.broken_by(gaps):
        worst = rollouts[int(np.argmax([gap.max(initial=0.0) for gap in found]))]  # a NaN is the largest
        raise NumericError(
            Fault(
                f"step {step + 1} of {run.name}: sampler and trainer differ by {gaps.max():.3g} nats on a token of problem "
                f"{worst.problem.id}, and by {gaps.mean():.3g} in the mean ({_allowed(bound, stale)})",
                remedy="they must run the same weights, pictures, temperature and dtype; the bound may be changed on resume",
            )
        )


def _allowed(bound: Bound, stale: bool) -> str:
    if stale:
        return f"of replies that are a version old at most {bound.largest:g} and {bound.mean:g} are allowed"
    return f"guards.max_logprob_gap = {bound.largest:g}, mean_logprob_gap = {bound.mean:g}"


def update_bounds(run: Guarded, number: int, *, old: bool, sampled: bool, stale: bool) -> dict[str, float]:
    """What the metrics of a step's minibatch may be at most: the trainer looks before its weights move.

    number: of the minibatch, from 0. old: the old policy was asked for before the step; its first ratio is then 1, and
    `guard_logprobs` has seen the gap. Without it the gap shows in the first minibatch, where the policy is still the one
    that sampled. sampled: there was a sampler.
    """
    if number > 0:
        return {"ratio_error/mean": MOVED_BOUND} if old else {}
    if old:
        name, bound = RATIO_BOUNDS[run.recipe.model.dtype]
        return {name: bound}
    gap = gap_bound(run, stale)
    return {"logprob_gap/mean": gap.mean, "logprob_gap/max": gap.largest} if sampled else {}


def guard_start(run: Guarded, rollouts: Sequence[Rollout], anchors: Sequence[Anchors]) -> None:
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


def guard_unjudged(
    run: Guarded, counts: Mapping[str, float], unjudged: Sequence[str], step: int, replies: str = "collect/replies"
) -> None:
    """Stop when verifiers failed on too many of all sampled replies: what is left would be another sample.

    unjudged: a line for each such reply.
    """
    total, allowed = counts.get(replies, 0.0), run.recipe.guards.max_skipped_share
    if len(unjudged) > allowed * total:
        shown = "; ".join([*unjudged[:SHOWN], *(["..."] if len(unjudged) > SHOWN else [])])
        raise EngineError(
            f"step {step + 1} of {run.name}: {len(unjudged)} of {total:.0f} replies could not be verified "
            f"(guards.max_skipped_share = {allowed}): {shown}"
        )


def guard_sync(
    run: Guarded,
    held: int,
    version: int,
    digests: tuple[str, str],
    learned: bool,
    weights: Callable[[], Iterable[tuple[str, torch.Tensor]]],
) -> None:
    """Stop when a weight transfer was left out, at the step where it was.

    held: the engine's version after the transfer; `version` is due. digests: that of the transfer before and of this one.
    learned: an update with a gradient lies between both. weights(): the trainer's; only asked for when the digest stayed,
    since an update may be too small for the dtype.
    """
    what = ""
    if held != version:
        what = f"the engine holds version {held}"
    elif learned and digests[0] == digests[1] and digests[1] not in _digests(weights()):
        what = f"the engine still holds {digests[1][:12]}, which the trainer does not hold any more"
    if what:
        raise EngineError(f"weights of version {version} of {run.name} did not arrive: {what}")


def _digests(weights: Iterable[tuple[str, torch.Tensor]]) -> tuple[str, str]:
    """Both digests of these weights; see rollout/weights.py."""
    lines: list[tuple[tuple[str, str], tuple[str, str]]] = []
    for name, tensor in weights:
        lines.append((weight_line(name, tensor), weight_line(name, tensor, lanes=True)))
    return digest_of_lines(line for line, _ in lines), digest_of_lines(line for _, line in lines)


def guard_learned(run: Guarded, records: Sequence[Mapping[str, Any]], digests: tuple[str | None, str]) -> None:
    """Stop a stage at its end when no step of it moved the policy: its export would be its start model under another name.

    records: the lines of metrics.jsonl. digests: of the weights at the stage's start (None: not known) and now.
    """
    steps = [r for r in records if int(r["step"]) > 0]
    moved = any((r.get("grad_norm") or 0.0) > 0 and (r.get("lr") or 0.0) > 0 for r in steps)
    if moved and digests[0] != digests[1]:
        return

    def total(name: str) -> int:
        return int(sum(r.get(name) or 0.0 for r in steps))

    groups, discarded = total("collect/groups"), total("collect/discarded")
    kept = groups - discarded - total("collect/dropped_unjudged")
    why = "every gradient was 0" if not moved else "the weights are those of its start to the last bit"
    if groups:
        why += f"; of {groups} sampled groups {discarded} were discarded for equal rewards and {kept} kept"
    remedy = "problems that are solved sometimes, more rollout.siblings or max_new_tokens"
    if steps and (never := steps[-1].get("rows/never_solved")) is not None:
        why += f"; {int(never)} of {int(steps[-1]['rows/seen'])} rows were never solved"
        remedy = remedy if never else "problems that are harder: every row was solved"
    if moved:
        remedy = "a higher update.lr: the steps were too small for the weights' digits"
    raise NumericError(
        Fault(
            f"{run.name} made no update in {len(steps)} steps: {why}. It is not exported",
            remedy=f"{remedy}; the conditions of the stage say more",
        )
    )
