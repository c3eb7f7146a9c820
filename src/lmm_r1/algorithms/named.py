"""Named algorithms: each is a row of published values over the pure functions beside it.

To add one: a `Published` row in ALGORITHMS (and a pure function, if it is really new), its name in config.AlgorithmConfig, a
row in docs/algorithms.md and a hand-computed test. A recipe may override every value; None keeps the published one.
Left out: the critic itself (models/critic.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor

from lmm_r1.algorithms import losses, token_weights
from lmm_r1.algorithms.credits import dealt_by_gae, dealt_to_episodes, dealt_to_tokens, rewards_differ
from lmm_r1.config import AlgorithmConfig
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.seams import Algorithm, PolicyLoss, PolicyTokens
from lmm_r1.types import Float32, Sample


@dataclass(frozen=True, slots=True)
class Published:
    """What a paper fixes. Fields that a recipe may override have the names of config.AlgorithmConfig.

    baseline: key of credits.BASELINES. dealt: "episodes", "tokens" or "gae" (credits.py). ratio: "token" (clipped),
    "sequence" (GSPO), "weight" (CISPO) or "none" (plain policy gradient: the ratio is 1). keep_all: False = dynamic
    sampling. gamma, lam and value_clip are read where dealt is "gae".
    """

    source: str
    baseline: str
    dealt: str = "episodes"
    ratio: str = "token"
    clip_low: float | None = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    kl_place: str = "loss"
    entropy_coef: float = 0.0
    reduction: str = "token"
    overlong_buffer: float = 0.0
    keep_all: bool = True
    gamma: float = 1.0
    lam: float = 1.0
    value_clip: float = 0.2


#: Algorithms by the name that a recipe uses.
ALGORITHMS: dict[str, Published] = {
    "ppo": Published(
        "PPO, arXiv 1707.06347, with GAE, as in LMM-R1 (arXiv 2503.07536, figure 2 and Table A7)", "none", dealt="gae",
        kl_coef=1e-3, kl_estimator="k1", kl_place="reward",
    ),
    "grpo": Published(
        "DeepSeekMath, arXiv 2402.03300, eq. 3 and 4", "group_z", kl_coef=0.04, reduction="sequence"
    ),
    "dr_grpo": Published("Dr. GRPO, arXiv 2503.20783", "group_mean", reduction="constant"),
    "rloo": Published(
        "RLOO, arXiv 2402.14740", "leave_one_out", ratio="none", kl_coef=0.03, kl_estimator="k1", kl_place="reward",
        reduction="sum",
    ),
    "remax": Published("ReMax, arXiv 2310.10505", "greedy", ratio="none", reduction="sum"),
    "reinforce_pp": Published(
        "REINFORCE++, arXiv 2501.03262", "none", dealt="tokens", kl_coef=1e-3, kl_estimator="k1", kl_place="reward"
    ),
    "reinforce_pp_baseline": Published(
        "REINFORCE++ with a group baseline, arXiv 2501.03262, as in LMM-R1's released scripts", "group_mean", dealt="tokens",
        kl_coef=1e-3, kl_estimator="k1", kl_place="reward",
    ),
    "dapo": Published(
        "DAPO, arXiv 2503.14476", "group_z", clip_high=0.28, overlong_buffer=0.2, keep_all=False
    ),
    "gspo": Published(
        "GSPO, arXiv 2507.18071", "group_z", ratio="sequence", clip_low=3e-4, clip_high=4e-4, reduction="sequence"
    ),
    "cispo": Published("CISPO, MiniMax-M1, arXiv 2506.13585", "group_z", ratio="weight", clip_low=None, clip_high=4.0),
    "sft": Published("supervised fine-tuning: mean negative log-likelihood of the solutions", "imitate", ratio="none"),
}  # fmt: skip


def make_algorithm(
    cfg: AlgorithmConfig, minibatches: int | None = None, longest: int = 1, exact_sampler: bool = True
) -> Algorithm:
    """The algorithm that `cfg` names, with its overrides. RecipeError when there is none, or when values do not go together.

    longest: rollout.max_new_tokens, for what depends on it. exact_sampler: whether the engine computes as the trainer
    does; if not, importance = "auto" truncates. With minibatches = 1 the old policy is the current one: "old" leaves
    `needs`, which saves a forward pass and makes the ratio exactly 1.
    """
    if cfg.name not in ALGORITHMS:
        raise RecipeError(Fault(f"no algorithm '{cfg.name}'", remedy=f"there are: {', '.join(ALGORITHMS)}"))
    published = ALGORITHMS[cfg.name]
    overridden = {name: value for name in asdict(published) if (value := getattr(cfg, name, None)) is not None}
    values = Published(**{**asdict(published), **overridden})
    _check(cfg, values)
    in_reward = values.kl_place == "reward"
    asked = values.ratio != "none" or (in_reward and values.kl_coef > 0)
    needs = {"old"} if asked and minibatches != 1 else set()
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
        steer_kl=None if target is None else partial(_steered, values.kl_coef, target, cfg.kl_horizon),
        with_kl=None if target is None else partial(_at_kl, cfg, minibatches, longest, exact_sampler),
        parameters={**asdict(values), "importance": importance},
    )


def _steered(coef: float, target: float, horizon: int, kl: float, episodes: int) -> float:
    return losses.steered_kl_coef(coef, kl, target, horizon, episodes)


def _at_kl(
    cfg: AlgorithmConfig, minibatches: int | None, longest: int, exact_sampler: bool, kl_coef: float
) -> Algorithm:
    return make_algorithm(cfg.model_copy(update={"kl_coef": kl_coef}), minibatches, longest, exact_sampler)


def _check(cfg: AlgorithmConfig, values: Published) -> None:
    """Pairs of values that mean nothing together."""
    if values.dealt != "episodes" and values.overlong_buffer > 0:
        raise RecipeError(
            Fault(f"{cfg.name} deals rewards to tokens: it has no overlong punishment", field="overlong_buffer")
        )
    for field in ("gamma", "lam", "value_clip"):
        if values.dealt != "gae" and getattr(cfg, field) is not None:
            raise RecipeError(Fault(f"{cfg.name} has no critic", field=field, remedy='name = "ppo"'))
    if cfg.kl_target is not None and values.kl_coef == 0:
        raise RecipeError(
            Fault("a KL target needs a KL term to steer", field="kl_target", remedy="a kl_coef above 0 to start from")
        )
    if values.baseline == "imitate" and cfg.importance not in ("auto", "none"):
        raise RecipeError(Fault(f"{cfg.name} samples nothing: there is no sampler to correct for", field="importance"))
    if values.kl_place == "loss" and values.kl_coef > 0 and values.kl_estimator == "k1":
        raise RecipeError(
            Fault(
                "k1 as a loss has a gradient of mean zero: it pulls towards nothing",
                field="kl_estimator", remedy='kl_place = "reward", or kl_estimator = "k2" or "k3"',
            )
        )  # fmt: skip
    if values.dual_clip is not None and values.ratio != "token":
        raise RecipeError(Fault(f"{cfg.name} has no clipped ratio of tokens for a second clip", field="dual_clip"))


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
