"""Per-token losses: pure functions on plain tensors; nothing is averaged here (see token_weights.py).

Axis legend: N = trainable tokens of some replies, reply by reply; `sequences` int64[N] says which of `count` replies.
All log-probs are in nats.
Sources: clipped surrogate and clipped value loss, PPO (arXiv 1707.06347); clip-higher, DAPO (arXiv 2503.14476); the
second clip for negative advantages, arXiv 1912.09729; sequence ratios, GSPO (arXiv 2507.18071); clipped weights, CISPO
(arXiv 2506.13585); k1, k2 and k3, J. Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html);
truncated importance sampling between sampler and trainer, F. Yao et al., "Your efficient RL framework secretly brings
you off-policy RL training" (fengyao.notion.site/off-policy-rl).
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) per token.

    All float[N]; returns (loss[N], clipped[N]). `clipped` is 1 where a clip took the gradient away: the ratio
    left the range in the direction that the advantage rewards. With old = the detached log-probs the ratio
    is 1 and the gradient is that of plain policy gradient. dual_clip (> 1): for A < 0 the loss is at most
    dual_clip * |A|, so that a reply that became far likelier does not outweigh all others.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = ratio * advantages
    held = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    gain, clipped = torch.minimum(free, held), held < free
    if dual_clip is not None:
        floor = dual_clip * advantages
        too_low = (advantages < 0) & (gain < floor)
        gain, clipped = torch.where(too_low, floor, gain), clipped | too_low
    return -gain, clipped.to(logprobs.dtype)


def sequence_means(values: Tensor, sequences: Tensor, count: int) -> Tensor:
    """The mean over each reply's tokens, on every one of them; float[N] -> float[N]."""
    # Products with a one-hot matrix instead of index_add: the sum's order is fixed on every device and thread count.
    members = torch.nn.functional.one_hot(sequences, count).to(values.dtype)
    return members @ ((members.T @ values) / members.sum(0).clamp(min=1.0))


def sequence_clipped(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequences: Tensor,
    count: int,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """GSPO: as `clipped_policy`, with one ratio for a reply, exp(mean of its tokens' log-ratios); (loss[N], clipped[N]).

    Averaged with weights that sum to the same for every reply (token_weights.sequence_mean), this is the paper's
    objective. Advantages are those of the reply, the same on all its tokens.
    """
    means = sequence_means(logprobs - old_logprobs, sequences, count)
    return clipped_policy(means, torch.zeros_like(means), advantages, clip_low, clip_high)


def clipped_weight(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float | None, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO: -clip(ratio, 1 - clip_low, 1 + clip_high) * A * logprob, without gradient through the ratio.

    All float[N]; returns (loss[N], clipped[N]). Every token keeps a gradient: the clip bounds its weight. clip_low
    None = no lower bound, as in the paper's experiments.
    """
    ratio = torch.exp(logprobs - old_logprobs).detach()
    bounded = ratio.clamp(0.0 if clip_low is None else 1.0 - clip_low, 1.0 + clip_high)
    return -bounded * advantages * logprobs, (bounded != ratio).to(logprobs.dtype)


def mismatch_weights(
    logprobs: Tensor, sampled_logprobs: Tensor, sequences: Tensor, count: int, *, mode: str, level: str, cap: float
) -> Tensor:
    """Importance weights of the trainer's policy over the sampler's, held within bounds; float[N], no gradient.

    ratio = exp(logprobs - sampled_logprobs), of a token or, at level "sequence", exp(the sum over its reply).
    mode "truncate": min(ratio, cap); "mask": the ratio, and 0 where it is above cap or below 1 / cap.
    ValueError for another mode or level.
    """
    gap = (logprobs - sampled_logprobs).detach()
    if level == "sequence":
        members = torch.nn.functional.one_hot(sequences, count).to(gap.dtype)
        gap = members @ (members.T @ gap)
    elif level != "token":
        raise ValueError(f"no level '{level}' (there are: token, sequence)")
    ratio = gap.exp()
    if mode == "truncate":
        return ratio.clamp(max=cap)
    if mode == "mask":
        return torch.where((ratio > cap) | (ratio < 1.0 / cap), torch.zeros_like(ratio), ratio)
    raise ValueError(f"no mode '{mode}' (there are: truncate, mask)")


def kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: str = "k3") -> Tensor:
    """Estimate of KL(policy || reference) per token, from tokens that the policy sampled; float[N].

    With d = logprobs - ref_logprobs: k1 = d (unbiased; its gradient as a loss has mean zero, so it belongs into
    the reward), k2 = d^2 / 2, k3 = exp(-d) - 1 + d (unbiased, never negative). ValueError for other names.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"no KL estimator '{estimator}' (there are: k1, k2, k3)")


def value(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None = 0.2) -> Tensor:
    """Half the squared error of a critic, the larger of the free and the clipped one; float[N].

    The clipped prediction stays within `clip` of `old_values`; None = no clipping.
    """
    free = (values - returns).square()
    if clip is None:
        return 0.5 * free
    held = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(free, (held - returns).square())


def steered_kl_coef(coef: float, kl: float, target: float, horizon: int, episodes: int) -> float:
    """The next KL coefficient: it grows where the KL of a step is above its target, and falls below it.

    coef * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon), at least a tenth of what it was: it must never
    reach 0, from where nothing grows. kl and target: nats a token.
    Source: the adaptive controller of arXiv 1909.08593, section 2.2, as in LMM-R1's `--kl_target`.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coef * max(1.0 + error * episodes / horizon, 0.1)
