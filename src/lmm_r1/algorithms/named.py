"""Named algorithms: each is a composition of the pure functions beside it, with its paper's values as defaults.

To add one: a function here that returns an Algorithm, a line in ALGORITHMS, a row in docs/algorithms.md and a
hand-computed test. Leaves out: the critic (PPO), sequence-level ratios (GSPO) and dynamic sampling (DAPO).
Axis legend: T = all tokens of one rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lmm_r1.algorithms import advantages as adv
from lmm_r1.algorithms import losses, token_weights
from lmm_r1.config import AlgorithmConfig
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.seams import Algorithm, PolicyLoss
from lmm_r1.types import Anchors, Credit, Float32, Group, Rollout

#: Rewards of an episode are held within this before they become advantages (released code of LMM-R1).
REWARD_CLIP = 10.0

_REDUCTIONS = {"token": token_weights.token_mean, "sequence": token_weights.sequence_mean}


def grpo(cfg: AlgorithmConfig) -> Algorithm:
    """GRPO, DeepSeekMath (arXiv 2402.03300): z-score in the group, clip 0.2, 0.04 * k3 in the loss, sequence mean.

    Departures: the paper does not say which standard deviation; ours divides by G - 1. One pass over each
    rollout is the recipe's choice (update.minibatches), not the algorithm's.
    """
    kl_coef = _or(cfg.kl_coef, 0.04)
    estimator = cfg.kl_estimator or "k3"
    reduction = cfg.reduction or "sequence"
    clip = (_or(cfg.clip_low, 0.2), _or(cfg.clip_high, 0.2))
    return Algorithm(
        name="grpo",
        credit=_group_relative_credit,
        policy_loss=clipped_loss(*clip),
        token_weights=_REDUCTIONS[reduction],
        kl_coef=kl_coef,
        kl_estimator=estimator,
        needs=frozenset({"old", "ref"} if kl_coef > 0 else {"old"}),
        parameters=_parameters(clip, kl_coef, estimator, reduction),
    )


def reinforce_pp_baseline(cfg: AlgorithmConfig) -> Algorithm:
    """REINFORCE++ with a group baseline, as LMM-R1's released scripts run it (arXiv 2501.03262).

    Reward minus the group's mean (no deviation) on the last token, minus 0.001 * k1 on every token,
    reward-to-go, whitened over all tokens of the rollout; clip 0.2; token mean. No KL term in the loss.
    Departure: the released code averages tokens per micro-batch, ours over the whole optimiser step.
    """
    kl_coef = _or(cfg.kl_coef, 1e-3)
    estimator = cfg.kl_estimator or "k1"
    reduction = cfg.reduction or "token"
    clip = (_or(cfg.clip_low, 0.2), _or(cfg.clip_high, 0.2))
    return Algorithm(
        name="reinforce_pp_baseline",
        credit=partial(_reinforce_pp_credit, kl_coef=kl_coef, estimator=estimator),
        policy_loss=clipped_loss(*clip),
        token_weights=_REDUCTIONS[reduction],
        kl_coef=0.0,
        kl_estimator=estimator,
        needs=frozenset({"old", "ref"} if kl_coef > 0 else {"old"}),
        parameters=_parameters(clip, kl_coef, estimator, reduction),
    )


#: Algorithms by the name that a recipe uses.
ALGORITHMS: dict[str, Callable[[AlgorithmConfig], Algorithm]] = {
    "grpo": grpo,
    "reinforce_pp_baseline": reinforce_pp_baseline,
}


def make_algorithm(cfg: AlgorithmConfig, minibatches: int | None = None) -> Algorithm:
    """The algorithm that `cfg` names. RecipeError when there is none.

    With minibatches = 1 the old policy is the current one: "old" leaves `needs`, which saves a forward pass
    and makes the ratio exactly 1.
    """
    if cfg.name not in ALGORITHMS:
        raise RecipeError(Fault(f"no algorithm '{cfg.name}'", remedy=f"there are: {', '.join(ALGORITHMS)}"))
    algorithm = ALGORITHMS[cfg.name](cfg)
    if minibatches == 1:
        return replace(algorithm, needs=algorithm.needs - {"old"})
    return algorithm


def clipped_loss(clip_low: float, clip_high: float) -> PolicyLoss:
    """`losses.clipped_policy` as a seams.PolicyLoss; reports `clip_share`."""

    def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, clipped = losses.clipped_policy(logprobs, old_logprobs, advantages, clip_low, clip_high)
        return loss, {"clip_share": clipped}

    return policy_loss


def _group_relative_credit(groups: Sequence[Group], anchors: Sequence[Anchors]) -> list[Credit]:
    """The z-score of an episode's reward on every trainable token of all its segments."""
    credits = []
    for group in groups:
        rewards = torch.tensor([s.reward for s in group.scores], dtype=torch.float64)
        for value, episode in zip(adv.group_relative(rewards).tolist(), group.episodes, strict=True):
            credits += [Credit((r.trainable * value).astype(np.float32)) for r in episode]
    _check_count(credits, anchors)
    return credits


def _reinforce_pp_credit(
    groups: Sequence[Group], anchors: Sequence[Anchors], *, kl_coef: float, estimator: str
) -> list[Credit]:
    """Reward-to-go over each episode (its segments chained), whitened over all trainable tokens."""
    rollouts: list[Rollout] = []
    returns: list[Tensor] = []
    for group in groups:
        rewards = torch.tensor([s.reward for s in group.scores], dtype=torch.float64)
        baselined = adv.group_relative(rewards, normalize_std=False).clamp(-REWARD_CLIP, REWARD_CLIP).tolist()
        for value, episode in zip(baselined, group.episodes, strict=True):
            pieces = []
            for r, anchor in zip(episode, anchors[len(rollouts) : len(rollouts) + len(episode)], strict=True):
                pieces.append(-kl_coef * _token_kl(r, anchor, estimator) if kl_coef > 0 else _zeros(r))
            rollouts += episode
            rewards_of_tokens = torch.cat(pieces)
            if len(rewards_of_tokens):
                rewards_of_tokens[-1] += value
            returns.append(adv.reward_to_go(rewards_of_tokens))
    _check_count(rollouts, anchors)
    whitened = adv.whiten(torch.cat(returns)).numpy() if returns else np.zeros(0)
    credits, start = [], 0
    for r in rollouts:
        spread: Float32 = np.zeros(len(r.token_ids), dtype=np.float32)
        spread[r.trainable] = whitened[start : start + r.reply_tokens]
        start += r.reply_tokens
        credits.append(Credit(spread))
    return credits


def _token_kl(rollout: Rollout, anchor: Anchors, estimator: str) -> Tensor:
    if anchor.ref_logprobs is None:
        raise ValueError("a KL term in the reward needs the reference model's log-probs")
    policy = torch.from_numpy(anchor.old_logprobs[rollout.trainable].astype(np.float64))
    reference = torch.from_numpy(anchor.ref_logprobs[rollout.trainable].astype(np.float64))
    return losses.kl(policy, reference, estimator)


def _zeros(rollout: Rollout) -> Tensor:
    return torch.zeros(rollout.reply_tokens, dtype=torch.float64)


def _check_count(made: Sequence[object], anchors: Sequence[Anchors]) -> None:
    if len(made) != len(anchors):
        raise ValueError(f"{len(made)} rollouts in the groups, but {len(anchors)} anchors")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _parameters(clip: tuple[float, float], kl_coef: float, estimator: str, reduction: str) -> dict[str, object]:
    return {
        "clip_low": clip[0],
        "clip_high": clip[1],
        "kl_coef": kl_coef,
        "kl_estimator": estimator,
        "reduction": reduction,
    }
