"""Named algorithms: published values (published.py) over the pure functions beside it, as a trainer and the loop use them.

To add one: a `Published` row (and a pure function, if it is really new), its name in config.AlgorithmConfig, a row in
docs/algorithms.md and a hand-computed test. Left out: the critic itself (models/critic.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from lmm_r1.algorithms import losses, token_weights
from lmm_r1.algorithms.credits import dealt_by_gae, dealt_to_episodes, dealt_to_tokens, rewards_differ
from lmm_r1.algorithms.published import ALGORITHMS, Published, values_of
from lmm_r1.config import AlgorithmConfig
from lmm_r1.seams import Algorithm, PolicyLoss, PolicyTokens
from lmm_r1.types import Float32, Sample

#: Names that tests and reports walk through.
__all__ = ["ALGORITHMS", "make_algorithm"]
#: Episodes over which a steered KL coefficient moves by its largest step, where a recipe names none.
KL_HORIZON = 10_000


def make_algorithm(
    cfg: AlgorithmConfig, minibatches: int | None = None, longest: int = 1, exact_sampler: bool = True
) -> Algorithm:
    """The algorithm that `cfg` names, with its overrides. RecipeError when there is none, or when values do not go together.

    longest: rollout.max_new_tokens, for what depends on it. exact_sampler: whether the engine computes as the trainer
    does; if not, importance = "auto" truncates. With minibatches = 1 the old policy is the current one: "old" leaves
    `needs`, which saves a forward pass and makes the ratio exactly 1.
    """
    values = values_of(cfg)
    in_reward = values.kl_place == "reward"
    asked = values.ratio != "none" or (in_reward and values.kl_coef > 0)
    # A KL in the reward is the present policy's, which another sampler's log-probs are not.
    apart = in_reward and values.kl_coef > 0 and not exact_sampler
    needs = {"old"} if asked and (minibatches != 1 or apart) else set()
    needs |= {"ref"} if values.kl_coef > 0 else set()
    needs |= {"values"} if values.dealt == "gae" else set()
    needs |= {"greedy"} if values.baseline == "greedy" else set()
    needs |= {"solution"} if values.baseline == "imitate" else set()
    importance = cfg.importance
    if importance == "auto":
        importance = "none" if exact_sampler or values.baseline == "imitate" else "truncate"
    target = cfg.kl_target
    return Algorithm(
        name=cfg.name,
        credit=_credit(values, longest),
        policy_loss=_policy_loss(values, cfg, importance),
        token_weights=_weights(values.reduction, longest),
        kl_coef=0.0 if in_reward else values.kl_coef,
        kl_estimator=values.kl_estimator,
        entropy_coef=values.entropy_coef,
        needs=frozenset(needs),
        keep=None if values.keep_all else rewards_differ,
        value_loss=partial(losses.value, clip=values.value_clip) if values.dealt == "gae" else None,
        steer_kl=None if target is None else partial(_steered, values.kl_coef, target, cfg.kl_horizon or KL_HORIZON),
        with_kl=None if target is None else partial(_at_kl, cfg, minibatches, longest, exact_sampler),
        parameters={**asdict(values), "importance": importance},
    )


def _steered(coef: float, target: float, horizon: int, kl: float, episodes: int) -> float:
    return losses.steered_kl_coef(coef, kl, target, horizon, episodes)


def _at_kl(
    cfg: AlgorithmConfig, minibatches: int | None, longest: int, exact_sampler: bool, kl_coef: float
) -> Algorithm:
    return make_algorithm(cfg.model_copy(update={"kl_coef": kl_coef}), minibatches, longest, exact_sampler)


def _credit(values: Published, longest: int) -> Callable[..., Any]:
    kl_coef = values.kl_coef if values.kl_place == "reward" else 0.0
    common: dict[str, Any] = {"baseline": values.baseline, "kl_coef": kl_coef, "estimator": values.kl_estimator}
    if values.dealt == "gae":
        return partial(dealt_by_gae, gamma=values.gamma, lam=values.lam, **common)
    if values.dealt == "tokens":
        return partial(dealt_to_tokens, **common)
    buffer = round(values.overlong_buffer * longest)
    return partial(dealt_to_episodes, overlong=(longest, buffer) if buffer > 0 else None, **common)


def _policy_loss(values: Published, cfg: AlgorithmConfig, importance: str) -> PolicyLoss:
    """The loss of one batch, times the weights of the sampler/trainer mismatch; reports `clip_share`."""

    def policy_loss(tokens: PolicyTokens) -> tuple[Tensor, dict[str, Tensor]]:
        loss, clipped = _surrogate(values, tokens)
        shares = {"clip_share": clipped}
        if importance != "none":
            old = tokens.old_logprobs
            weight = losses.mismatch_weights(
                old, tokens.sampled_logprobs, tokens.sequences, tokens.count,
                mode=importance, level=cfg.importance_level, cap=cfg.importance_cap,
            )  # fmt: skip
            loss, shares["importance/mean"] = loss * weight, weight
        return loss, shares

    return policy_loss


def _surrogate(values: Published, t: PolicyTokens) -> tuple[Tensor, Tensor]:
    """(loss [N], clipped [N]) before any correction."""
    low = 1.0 if values.clip_low is None else values.clip_low
    if values.ratio == "sequence":
        return losses.sequence_clipped(
            t.logprobs, t.old_logprobs, t.advantages, t.sequences, t.count, low, values.clip_high
        )
    if values.ratio == "weight":
        return losses.clipped_weight(t.logprobs, t.old_logprobs, t.advantages, values.clip_low, values.clip_high)
    if values.ratio == "none":
        return -t.advantages * t.logprobs, t.logprobs.new_zeros(t.logprobs.shape)
    return losses.clipped_policy(t.logprobs, t.old_logprobs, t.advantages, low, values.clip_high, values.dual_clip)


def _weights(reduction: str, longest: int) -> Callable[[Sequence[Sample]], list[Float32]]:
    if reduction == "token":
        return token_weights.token_mean
    if reduction == "sequence":
        return token_weights.sequence_mean
    return partial(token_weights.constant, length=longest if reduction == "constant" else 1)
