"""What the papers fix, by name: a row of values each; and which values of a recipe mean nothing together.

No torch: `lmm-r1 check` reads this. A recipe may override every value; None keeps the published one.
Left out: what is made of the values (named.py).
Sources: the `source` of each row; docs/algorithms.md says where they are silent.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lmm_r1.config import AlgorithmConfig, Stage
from lmm_r1.errors import Fault, RecipeError


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


def values_of(cfg: AlgorithmConfig) -> Published:
    """The values of a recipe's algorithm. RecipeError when there is none of that name, or values do not go together."""
    if cfg.name not in ALGORITHMS:
        raise RecipeError(Fault(f"no algorithm '{cfg.name}'", remedy=f"there are: {', '.join(ALGORITHMS)}"))
    published = ALGORITHMS[cfg.name]
    overridden = {name: value for name in asdict(published) if (value := getattr(cfg, name, None)) is not None}
    values = Published(**{**asdict(published), **overridden})
    faults = _faults(cfg, values)
    if faults:
        raise RecipeError(*faults)
    return values


def check_stage(stage: Stage, field: str = "") -> None:
    """RecipeError when the tables of a stage do not go together. field: the stage's path, for the faults."""
    try:
        values = values_of(stage.algorithm)
    except RecipeError as error:
        raise RecipeError(*(_at(f"{field}.algorithm", fault) for fault in error.faults)) from None
    faults: list[Fault] = []
    if stage.update.reference_reset and values.kl_coef == 0:
        what = f"{stage.algorithm.name} has no KL term here, so no reference model to reset"
        faults.append(Fault(what, field="update.reference_reset"))
    if stage.critic is not None and stage.critic.warmup >= stage.steps:
        faults.append(Fault("the warm-up takes the whole stage: the policy would never learn", field="critic.warmup"))
    if faults:
        raise RecipeError(*(_at(field, fault) for fault in faults))


def _at(field: str, fault: Fault) -> Fault:
    return Fault(fault.message, field=f"{field}.{fault.field}".strip("."), remedy=fault.remedy)


def _faults(cfg: AlgorithmConfig, values: Published) -> list[Fault]:
    """Values that would do nothing, or something other than they say."""
    faults = []
    if values.dealt != "episodes" and values.overlong_buffer > 0:
        faults.append(
            Fault(f"{cfg.name} deals rewards to tokens: it has no overlong punishment", field="overlong_buffer")
        )
    for field in ("gamma", "lam", "value_clip"):
        if values.dealt != "gae" and getattr(cfg, field) is not None:
            faults.append(Fault(f"{cfg.name} has no critic", field=field, remedy='name = "ppo"'))
    if cfg.kl_target is not None and values.kl_coef == 0:
        remedy = "a kl_coef above 0 to start from"
        faults.append(Fault("a KL target needs a KL term to steer", field="kl_target", remedy=remedy))
    if cfg.kl_horizon is not None and cfg.kl_target is None:
        faults.append(Fault("nothing is steered without a KL target", field="kl_horizon", remedy="kl_target"))
    if values.baseline == "imitate":
        if cfg.importance not in ("auto", "none"):
            faults.append(Fault(f"{cfg.name} samples nothing: there is no sampler to correct for", field="importance"))
        if values.overlong_buffer > 0:
            faults.append(Fault(f"{cfg.name} has no rewards to take a punishment off", field="overlong_buffer"))
        if values.kl_place == "reward" and values.kl_coef > 0:
            faults.append(Fault(f"{cfg.name} has no rewards to take KL off", field="kl_place", remedy='"loss"'))
    if values.kl_place == "loss" and values.kl_coef > 0 and values.kl_estimator == "k1":
        what = "k1 as a loss has a gradient of mean zero: it pulls towards nothing"
        remedy = 'kl_place = "reward", or kl_estimator = "k2" or "k3"'
        faults.append(Fault(what, field="kl_estimator", remedy=remedy))
    if values.dual_clip is not None and values.ratio != "token":
        faults.append(Fault(f"{cfg.name} has no clipped ratio of tokens for a second clip", field="dual_clip"))
    return faults
