"""From the rewards of a step to an advantage on every token: what a named algorithm calls `credit`.

Two ways of dealing: one number on all tokens of an episode (`dealt_to_episodes`), or reward-to-go, whitened over the step
(`dealt_to_tokens`). Both take a baseline rule (BASELINES) and a KL term in the reward. Axis legend: T = all tokens of one
rollout; G = siblings of one problem.
Sources: named.py says which algorithm is made of what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lmm_r1.algorithms import advantages as adv
from lmm_r1.algorithms import losses
from lmm_r1.types import Anchors, Credit, Float32, Group, Rollout

#: Rewards of an episode are held within this before they are dealt to tokens (released code of LMM-R1).
REWARD_CLIP = 10.0

#: (rewards float64[G], reward of the greedy reply or None) -> advantages float64[G]
Baseline = Callable[[Tensor, float | None], Tensor]


def _against_greedy(rewards: Tensor, greedy: float | None) -> Tensor:
    if greedy is None:
        raise ValueError("the greedy baseline needs the greedy reply of every problem")
    return rewards - greedy


BASELINES: dict[str, Baseline] = {
    "group_z": lambda rewards, _: adv.group_relative(rewards),
    "group_mean": lambda rewards, _: adv.group_relative(rewards, normalize_std=False),
    "leave_one_out": lambda rewards, _: adv.leave_one_out(rewards),
    "greedy": _against_greedy,
    "none": lambda rewards, _: rewards,
    "imitate": lambda rewards, _: torch.ones_like(rewards),
}


def dealt_to_episodes(
    groups: Sequence[Group],
    anchors: Sequence[Anchors],
    *,
    baseline: str,
    kl_coef: float = 0.0,
    estimator: str = "k1",
    overlong: tuple[int, int] | None = None,
) -> list[Credit]:
    """The baselined reward of an episode on every trainable token of all its segments.

    kl_coef: the episode's summed KL is taken off its reward before the baseline. overlong: (longest reply, buffer) in
    tokens, DAPO's soft punishment.
    """
    credits: list[Credit] = []
    for group, mine in _with_anchors(groups, anchors):
        rewards = torch.tensor([s.reward for s in group.scores], dtype=torch.float64)
        if overlong is not None:
            lengths = torch.tensor([sum(r.reply_tokens for r in episode) for episode in group.episodes])
            rewards = rewards + adv.soft_overlong(lengths, *overlong)
        if kl_coef > 0:
            spent = [sum(float(_token_kl(r, a, estimator).sum()) for r, a in episode) for episode in mine]
            rewards = rewards - kl_coef * torch.tensor(spent, dtype=torch.float64)
        for value, episode in zip(BASELINES[baseline](rewards, group.greedy).tolist(), mine, strict=True):
            credits += [Credit((r.trainable * value).astype(np.float32)) for r, _ in episode]
    return credits


def dealt_to_tokens(
    groups: Sequence[Group], anchors: Sequence[Anchors], *, baseline: str, kl_coef: float = 0.0, estimator: str = "k1"
) -> list[Credit]:
    """REINFORCE++: the baselined reward on the last token, KL off every token, reward-to-go over each episode (its
    segments chained), whitened over all trainable tokens of the step."""
    rollouts: list[Rollout] = []
    returns: list[Tensor] = []
    for group, mine in _with_anchors(groups, anchors):
        rewards = torch.tensor([s.reward for s in group.scores], dtype=torch.float64)
        values = BASELINES[baseline](rewards, group.greedy).clamp(-REWARD_CLIP, REWARD_CLIP).tolist()
        for value, episode in zip(values, mine, strict=True):
            pieces = [-kl_coef * _token_kl(r, a, estimator) if kl_coef > 0 else _zeros(r) for r, a in episode]
            rollouts += [r for r, _ in episode]
            rewards_of_tokens = torch.cat(pieces)
            if len(rewards_of_tokens):
                rewards_of_tokens[-1] += value
            returns.append(adv.reward_to_go(rewards_of_tokens))
    whitened = adv.whiten(torch.cat(returns)).numpy() if returns else np.zeros(0)
    credits, start = [], 0
    for r in rollouts:
        spread: Float32 = np.zeros(len(r.token_ids), dtype=np.float32)
        spread[r.trainable] = whitened[start : start + r.reply_tokens]
        start += r.reply_tokens
        credits.append(Credit(spread))
    return credits


def rewards_differ(group: Group) -> bool:
    """Dynamic sampling (DAPO, eq. 11): a group that is all right or all wrong teaches nothing.

    Told by the part "accuracy" where there is one, as in the paper, else by the whole reward.
    """
    return len({s.parts.get("accuracy", s.reward) for s in group.scores}) > 1


def _with_anchors(
    groups: Sequence[Group], anchors: Sequence[Anchors]
) -> Iterator[tuple[Group, list[list[tuple[Rollout, Anchors]]]]]:
    """Each group with its episodes as chains of (rollout, its anchors). ValueError when the counts differ."""
    count = sum(len(group.rollouts) for group in groups)
    if count != len(anchors):
        raise ValueError(f"{count} rollouts in the groups, but {len(anchors)} anchors")
    left = iter(anchors)
    for group in groups:
        yield group, [[(rollout, next(left)) for rollout in episode] for episode in group.episodes]


def _token_kl(rollout: Rollout, anchor: Anchors, estimator: str) -> Tensor:
    if anchor.ref_logprobs is None:
        raise ValueError("a KL term in the reward needs the reference model's log-probs")
    policy = torch.from_numpy(anchor.old_logprobs[rollout.trainable].astype(np.float64))
    reference = torch.from_numpy(anchor.ref_logprobs[rollout.trainable].astype(np.float64))
    return losses.kl(policy, reference, estimator)


def _zeros(rollout: Rollout) -> Tensor:
    return torch.zeros(rollout.reply_tokens, dtype=torch.float64)
