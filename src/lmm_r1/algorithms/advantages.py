"""Advantage estimators: pure functions on plain tensors, any float dtype, no models and no files.

Axis legend: G = siblings of one problem; T = tokens of one reply; leading axes `...` are batches.

Sources: group-relative advantages, DeepSeekMath (arXiv 2402.03300, section 4.1.1); leave-one-out, RLOO
(arXiv 2402.14740); GAE (arXiv 1506.02438); whitening over a rollout, REINFORCE++ (arXiv 2501.03262).
Leaves out: how rewards are made, and how advantages are dealt to tokens of many segments (named.py).
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_relative(rewards: Tensor, normalize_std: bool = True, eps: float = 1e-9) -> Tensor:
    """Reward minus the group's mean, over the group's standard deviation.

    rewards float[..., G] -> float[..., G]. The deviation is the sample one (divided by G - 1), as in the
    released code of LMM-R1 (`group_norm`) and TRL; the paper does not say which. `eps` is added to it.
    A group whose rewards are all equal gets exactly 0: they are compared, because the rounding of the
    mean would otherwise be blown up to advantages near +-1. Raises ValueError for an empty group.
    """
    if rewards.shape[-1] == 0:
        raise ValueError("group_relative: the group is empty")
    if not rewards.is_floating_point():
        rewards = rewards.to(torch.float64)
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    equal = (rewards == rewards[..., :1]).all(dim=-1, keepdim=True)
    if normalize_std and rewards.shape[-1] > 1:
        centred = centred / (rewards.std(dim=-1, keepdim=True, correction=1) + eps)
    return torch.where(equal, torch.zeros_like(centred), centred)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean of the other siblings' rewards; float[..., G] -> float[..., G].

    Exactly 0 when all rewards are equal. Raises ValueError for a group of fewer than two.
    """
    size = rewards.shape[-1]
    if size < 2:
        raise ValueError("leave_one_out: a group of one has nobody to compare with")
    return group_relative(rewards, normalize_std=False) * (size / (size - 1))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the trainable tokens only.

    rewards, values float[..., T]; mask bool[..., T], True where the policy wrote the token. Tokens outside the
    mask (prompt, environment text, padding) are skipped: the successor of a trainable token is the next
    trainable one, and a reward lying outside the mask is not seen. After the last one the value is 0.
    Returns (advantages, returns) float[..., T], 0 outside the mask; returns = advantages + values.
    """
    keep = mask.to(rewards.dtype)
    advantages = torch.zeros_like(rewards)
    if rewards.shape[-1] == 0:
        return advantages, advantages
    next_value = torch.zeros_like(rewards[..., 0])
    running = torch.zeros_like(next_value)
    for t in range(rewards.shape[-1] - 1, -1, -1):
        here = keep[..., t]
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        running = here * (delta + gamma * lam * running) + (1 - here) * running
        next_value = here * values[..., t] + (1 - here) * next_value
        advantages[..., t] = here * running
    return advantages, (advantages + values) * keep


def soft_overlong(lengths: Tensor, longest: int, buffer: int) -> Tensor:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 up to longest - buffer, then linearly to -1.

    lengths int[...] in tokens -> float64[...]. At `longest`, and beyond, it is -1. ValueError unless 0 < buffer <= longest.
    """
    if not 0 < buffer <= longest:
        raise ValueError(f"soft_overlong: a buffer of {buffer} tokens does not fit into {longest}")
    return ((longest - buffer - lengths.to(torch.float64)) / buffer).clamp(-1.0, 0.0)


def reward_to_go(rewards: Tensor) -> Tensor:
    """Sum of the rewards from each token on (undiscounted); float[..., T] -> float[..., T]."""
    return rewards.flip(-1).cumsum(-1).flip(-1)


def whiten(values: Tensor, min_variance: float = 1e-8) -> Tensor:
    """(value - mean) / standard deviation over all elements; population variance, at least `min_variance`.

    float[N] -> float[N]; an empty tensor stays empty. Equal values (compared) give exactly 0.
    """
    if values.numel() == 0 or bool((values == values.reshape(-1)[0]).all()):
        return torch.zeros_like(values)
    variance = values.var(correction=0).clamp(min=min_variance)
    return (values - values.mean()) * variance.rsqrt()
