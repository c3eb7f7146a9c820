"""The losses of one batch, from what the networks said of its trainable tokens, and what a step's metrics take from them.

A token's weight is fixed over the whole optimiser step, so the losses of batches and of ranks add up to that of the step.
Axis legend: N = trainable tokens of a batch, in its order. All log-probs are in nats, at the sampling temperature.
Leaves out: the networks and the backward pass (local.py), the losses of a token (algorithms/losses.py), and means (tally.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmm_r1.algorithms import losses
from lmm_r1.seams import Algorithm, PolicyTokens
from lmm_r1.trainers.collate import Batch
from lmm_r1.trainers.tally import Tally
from lmm_r1.types import Sample


def policy_loss(
    logprobs: Tensor,
    entropy: Tensor,
    batch: Batch,
    samples: Sequence[Sample],
    algorithm: Algorithm,
    weight: Tensor,
    tally: Tally,
) -> Tensor:
    """The policy's loss, a scalar; `logprobs`, `entropy` and `weight` float[N]. `samples`: all that were collated.

    ValueError when a KL term lacks reference log-probs.
    """
    if not len(batch.targets):  # a rank without tokens walks along with the others: a gradient of zeros
        return logprobs.sum()
    if "old" in algorithm.needs:
        old = batch.select([s.anchors.old_logprobs for s in samples])
    else:
        old = logprobs.detach()
    sampled = batch.select([s.rollout.logprobs for s in samples])
    advantages = batch.select([s.credit.advantages for s in samples])
    tokens = PolicyTokens(logprobs, old, sampled, advantages, batch.sequences, len(batch.members))
    token_loss, shares = algorithm.policy_loss(tokens)
    surrogate = (weight * token_loss).sum()
    loss = surrogate
    if algorithm.entropy_coef > 0:
        loss = surrogate - algorithm.entropy_coef * (weight * entropy).sum()
    kl = torch.zeros((), device=logprobs.device)
    references = [s.anchors.ref_logprobs for s in samples]
    known = [r for r in references if r is not None]
    if len(known) == len(references):
        kl_tokens = losses.kl(logprobs, batch.select(known), algorithm.kl_estimator)
        kl = kl_tokens.detach().sum()
        if algorithm.kl_coef > 0:
            loss = loss + algorithm.kl_coef * (weight * kl_tokens).sum()
    elif algorithm.kl_coef > 0:
        raise ValueError(f"{algorithm.name} needs reference log-probs on every sample")
    with torch.no_grad():
        gap = (sampled - old).abs()  # old = the weights that sampled, in the trainer's own arithmetic
        ratio = (logprobs - old).exp()
        off = (ratio - 1.0).abs()
        sums = {"kl_ref": kl, "entropy": entropy.detach().sum(), "logprob_gap/mean": gap.sum()}
        sums |= {"ratio_error/mean": off.sum()} | {name: values.sum() for name, values in shares.items()}
        tally.add(
            len(batch.targets),
            {"loss": loss.detach(), "policy_loss": surrogate.detach()},
            sums,
            {"logprob_gap/max": gap.max(), "ratio_max": ratio.max(), "ratio_error/max": off.max()},
        )
    return loss


def value_loss(
    values: Tensor,
    batch: Batch,
    samples: Sequence[Sample],
    algorithm: Algorithm,
    weight: Tensor,
    tally: Tally,
) -> Tensor:
    """A critic's loss, a scalar; `values` and `weight` float[N]. `samples`: all that were collated.

    ValueError when the algorithm gives a critic nothing to learn from.
    """
    if not len(batch.targets):
        return values.sum()
    olds = [s.anchors.values for s in samples if s.anchors.values is not None]
    goals = [s.credit.returns for s in samples if s.credit.returns is not None]
    if algorithm.value_loss is None or min(len(olds), len(goals)) < len(samples):
        raise ValueError(f"{algorithm.name} gives a critic no values and returns to learn from")
    goal = batch.select(goals)
    loss = (weight * algorithm.value_loss(values, batch.select(olds), goal)).sum()
    with torch.no_grad():
        miss = goal - values
        named = {"value": values, "return": goal, "return2": goal.square(), "miss": miss, "miss2": miss.square()}
        tally.add(0, {"critic/loss": loss.detach()}, {f"critic/{n}": x.double().sum() for n, x in named.items()})
    return loss
