"""Per-token losses: pure functions on plain tensors; nothing is averaged here (see token_weights.py).

Axis legend: N = trainable tokens, in any order. All log-probs are in nats.
Sources: clipped surrogate and clipped value loss, PPO (arXiv 1707.06347); clip-higher, DAPO
(arXiv 2503.14476); k1, k2 and k3, J. Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html).
Leaves out: entropy bonus and sequence-level ratios.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) per token.

    All float[N]; returns (loss[N], clipped[N]). `clipped` is 1 where the clip took the gradient away: the ratio
    left the range in the direction that the advantage rewards. With old = the detached log-probs the ratio
    is 1 and the gradient is that of plain policy gradient.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = ratio * advantages
    held = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return -torch.minimum(free, held), (held < free).to(logprobs.dtype)


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
