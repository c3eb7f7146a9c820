"""Losses, gradients and advantages against those of TRL's GRPOTrainer, whose own methods run here on random tensors.

Nothing is re-typed: `_compute_loss` and `_generate_and_score_completions` are called on an instance made without
`__init__`, which has the attributes they read. Those are TRL's inner parts, so its version is pinned.
Agreement is to 1e-12 in float64; each deliberate difference has a test of its own with both values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peer_fixture import LENGTHS, LONGEST, Replies, moved, our_loss, replies
from torch import Tensor
from torch.testing import assert_close

from lmm_r1.algorithms import advantages as adv
from lmm_r1.algorithms import losses
from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import AlgorithmConfig
from lmm_r1.seams import Algorithm

with pytest.MonkeyPatch.context() as offline:
    offline.setenv("HF_HUB_OFFLINE", "1")
    peer = pytest.importorskip(
        "trl.trainer.grpo_trainer",
        reason="TRL is not installed: pip install -e '.[peers]'",
        exc_type=ImportError,
    )

SEEDS = range(4)
#: What TRL adds to a group's deviation.
TRL_EPS = 1e-4


class OneProcess:
    """What TRL asks of accelerate, for a single process on the CPU."""

    device, process_index, num_processes, sync_gradients = torch.device("cpu"), 0, 1, True

    def gather(self, values: Tensor) -> Tensor:
        """There is nobody else."""
        return values

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        """There is nothing to add up."""
        return values


def trainer(**values: Any) -> Any:
    """A GRPOTrainer without model, data and engine; `values` overwrite its defaults, those with `args_` its config."""
    made = object.__new__(peer.GRPOTrainer)
    config = {
        "use_bias_correction_kl": False, "delta": None, "steps_per_generation": 1, "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 8, "gradient_checkpointing_kwargs": None,
    }  # fmt: skip
    state: dict[str, Any] = {
        "accelerator": OneProcess(), "model": SimpleNamespace(training=True, is_gradient_checkpointing=False),
        "loss_type": "grpo", "importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0,
        "max_completion_length": LONGEST, "current_gradient_accumulation_steps": 1, "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False,
        "vllm_importance_sampling_correction": False, "_entropy_bonus_enabled": False, "use_adaptive_entropy": False,
        "environment_factories": None, "environments": None, "tools": None, "pad_to_multiple_of": None,
        "mask_truncated_completions": False, "num_iterations": 1, "num_generations": 4, "reward_funcs": [None],
        "reward_func_names": ["made_up"], "reward_weights": torch.ones(1).double(), "scale_rewards": "group",
        "multi_objective_aggregation": "sum_then_normalize", "log_multimodal": False, "_pending_extra_logs": {},
        "_pending_metrics": {}, "_tokenizer": SimpleNamespace(pad_token_id=0),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_logs": {"prompt": [], "completion": [], "rewards": defaultdict(list), "advantages": []},
    }  # fmt: skip
    for name, value in values.items():
        (config if name.startswith("args_") else state)[name.removeprefix("args_")] = value
    made.__dict__.update(state, args=SimpleNamespace(**config))
    return made


def their_loss(made: Replies, logprobs: Tensor, entropies: Tensor | None = None, **values: Any) -> tuple[Tensor, Any]:
    """TRL's loss of the same replies, and the trainer with its metrics."""
    entropies = torch.ones_like(made.old) if entropies is None else entropies
    them = trainer(_get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, entropies, None), **values)
    tokens = torch.zeros_like(made.mask, dtype=torch.long)
    inputs = {
        "prompt_ids": tokens, "prompt_mask": tokens, "completion_ids": tokens, "completion_mask": made.mask.long(),
        "advantages": made.advantages, "old_per_token_logps": made.old, "ref_per_token_logps": made.reference,
        "num_items_in_batch": made.mask.sum(),
    }  # fmt: skip
    return them._compute_loss(None, inputs), them


def ours(name: str, **values: Any) -> Algorithm:
    return make_algorithm(
        AlgorithmConfig.model_validate({"name": name, "importance": "none", **values}), longest=LONGEST
    )


def gradient(loss: Tensor, point: Tensor) -> Tensor:
    return torch.autograd.grad(loss, point, retain_graph=True)[0]


def close(actual: Tensor, expected: Tensor) -> None:
    assert_close(actual, expected, rtol=1e-12, atol=1e-15)


DAPO = {"loss_type": "dapo", "epsilon_high": 0.28}
GSPO = {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}
#: TRL's epsilon_high of CISPO is the bound itself, ours is the distance from 1.
CISPO = {"loss_type": "cispo", "epsilon_high": 5.0}
#: what it is -> (our name, our overrides, TRL's attributes)
SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "grpo": ("grpo", {}, {"beta": 0.04}),
    "grpo without KL": ("grpo", {"kl_coef": 0.0}, {}),
    "grpo, two ranges": (
        "grpo", {"clip_low": 0.1, "clip_high": 0.4}, {"beta": 0.04, "epsilon_low": 0.1, "epsilon_high": 0.4},
    ),
    "grpo, second clip": ("grpo", {"dual_clip": 1.5}, {"beta": 0.04, "args_delta": 1.5}),
    "grpo over tokens": ("grpo", {"reduction": "token"}, {"beta": 0.04, "loss_type": "bnpo"}),
    "grpo summed": ("grpo", {"reduction": "sum"}, {"beta": 0.04, "loss_type": "luspo"}),
    "dr_grpo": ("dr_grpo", {}, {"loss_type": "dr_grpo"}),
    "dr_grpo with KL": ("dr_grpo", {"kl_coef": 0.1}, {"loss_type": "dr_grpo", "beta": 0.1}),
    "dapo": ("dapo", {}, DAPO),
    "dapo with KL": ("dapo", {"kl_coef": 0.1}, DAPO | {"beta": 0.1}),
    "gspo": ("gspo", {}, GSPO),
    "gspo with KL": ("gspo", {"kl_coef": 0.1}, GSPO | {"beta": 0.1}),
    "gspo, wide": ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, GSPO | {"epsilon_low": 0.2, "epsilon_high": 0.3}),
    "cispo": ("cispo", {"clip_high": 1.0}, CISPO | {"epsilon_high": 2.0}),
    "cispo as published": ("cispo", {}, CISPO),
    "cispo with KL": ("cispo", {"clip_high": 1.0, "kl_coef": 0.1}, CISPO | {"epsilon_high": 2.0, "beta": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("case", list(SAME))
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_trl(case: str, seed: int) -> None:
    """Catches another formula, clip, KL estimator or average than the one that most published runs were made with."""
    name, overrides, attributes = SAME[case]
    made = replies(seed)
    logprobs = moved(made)
    mine, clipped = our_loss(ours(name, **overrides), made, logprobs)
    theirs, _ = their_loss(made, logprobs, **attributes)
    if case != "cispo as published":  # so wide that few tokens of a seed leave it
        assert 0 < float(clipped.mean()) < 1, "nothing, or everything, was clipped: the comparison says little"
    close(mine, theirs)
    close(gradient(mine, logprobs), gradient(theirs, logprobs))
    assert (gradient(theirs, logprobs)[~made.mask] == 0).all()


@pytest.mark.parametrize("lengths", [(3, 7, 5, 11, 2, 9, 6), (1, 13)])
def test_token_weights_are_rounded_to_float32(lengths: tuple[int, ...]) -> None:
    """Catches a wrong average that lengths of powers of two would hide. Deliberate difference: our weights are float32,
    so at any other length a token's gradient agrees to half a unit in their last place, 2^-24, not to 1e-12."""
    made = replies(7, lengths, siblings=len(lengths))
    logprobs = moved(made)
    for case in ("grpo", "dr_grpo with KL", "dapo"):
        name, overrides, attributes = SAME[case]
        mine, theirs = our_loss(ours(name, **overrides), made, logprobs)[0], their_loss(made, logprobs, **attributes)[0]
        assert_close(gradient(mine, logprobs), gradient(theirs, logprobs), rtol=2**-24 * 1.001, atol=0)


@pytest.mark.parametrize("case", ["grpo", "dr_grpo", "dapo", "gspo", "gspo, wide"])
def test_the_share_of_clipped_tokens_is_that_of_trl(case: str) -> None:
    """Catches a metric that counts ratios outside the range whose gradient no clip took away, and made-up ratios that
    leave the ranges on one side only. TRL averages in float32, and sequence ratios over replies in place of tokens."""
    name, overrides, attributes = SAME[case]
    sides = np.zeros(2)
    for seed in SEEDS:
        made = replies(seed)
        _, clipped = our_loss(ours(name, **overrides), made, moved(made))
        _, them = their_loss(made, moved(made), **attributes)
        shares = them._metrics["train"]
        sides += [shares["clip_ratio/low_mean"][0], shares["clip_ratio/high_mean"][0]]
        if "importance_sampling_level" in attributes:
            clipped = clipped[np.cumsum(LENGTHS) - 1]  # of each reply's last token
        assert float(clipped.mean()) == pytest.approx(shares["clip_ratio/region_mean"][0], rel=1e-6)
    assert (sides > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_entropy_bonus_of_a_token_mean(seed: int) -> None:
    """Catches a bonus of the wrong sign, or one that counts padding."""
    made, entropies = replies(seed), replies(seed + 100).old.abs().requires_grad_()
    logprobs = moved(made)
    mine, _ = our_loss(ours("dapo", entropy_coef=0.01), made, logprobs, entropies=entropies)
    theirs, _ = their_loss(made, logprobs, entropies, **DAPO, _entropy_bonus_enabled=True, entropy_coef=0.01)
    close(mine, theirs)
    close(gradient(mine, entropies), gradient(theirs, entropies))


def test_entropy_bonus_is_averaged_like_the_loss() -> None:
    """Deliberate difference: our bonus is weighted as the algorithm weighs its tokens, TRL's is a token mean for all.

    Catches either of them changing sides. Replies of 1 and 3 tokens with entropies 2 and 1 each: ours is the mean of
    2 and 1, TRL's is (2 + 1 + 1 + 1) / 4.
    """
    made = replies(0, (1, 3), siblings=2)
    entropies = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    values = {"kl_coef": 0.0, "entropy_coef": 1.0}
    plain, bonus = (our_loss(ours("grpo", **values), made, moved(made), entropies=e)[0] for e in (None, entropies))
    assert float((plain - bonus).detach()) == pytest.approx(1.5, rel=1e-6)
    without = their_loss(made, moved(made))[0]
    with_bonus = their_loss(made, moved(made), entropies, _entropy_bonus_enabled=True, entropy_coef=1.0)[0]
    assert float((without - with_bonus).detach()) == pytest.approx(1.25)


def test_a_reply_without_tokens_is_not_counted() -> None:
    """Deliberate difference: an episode with nothing to learn from leaves our mean; TRL divides by it too.

    Catches either changing sides: two replies, one of them empty, give twice TRL's loss.
    """
    made = replies(3, (4, 0), siblings=2)
    mine, _ = our_loss(ours("grpo", kl_coef=0.0), made, moved(made))
    theirs, _ = their_loss(made, moved(made))
    close(mine, 2 * theirs)


def test_cispo_bounds_by_the_distance_from_one() -> None:
    """Deliberate difference: clip_high is a distance from 1 for each of our algorithms; TRL's epsilon_high of CISPO
    alone is the bound itself. Catches either changing sides: at the same number, 1, a ratio of 8 weighs 2, there 1.
    """
    made = replies(0, (1,), siblings=1)
    logprobs = (made.old + math.log(8)).requires_grad_()
    mine, _ = our_loss(ours("cispo", clip_high=1.0), made, logprobs)
    theirs, _ = their_loss(made, logprobs, loss_type="cispo", epsilon_high=1.0)
    close(gradient(mine, logprobs)[0], -2 * made.advantages)
    close(gradient(theirs, logprobs)[0], -made.advantages)


@pytest.fixture
def double() -> Iterator[None]:
    """TRL makes tensors out of lists, at torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def their_step(made: Replies, rewards: Tensor, **values: Any) -> tuple[dict[str, Any], Any]:
    """What TRL makes of generated replies: advantages, and with vLLM importance ratios; and the trainer."""
    rows = [made.mask[i].nonzero()[:, 0].tolist() for i in range(len(made.mask))]
    sampled = [made.sampled[i][made.mask[i]].tolist() for i in range(len(made.mask))]
    completions = [[1] * len(row) for row in rows]

    def generate(prompts: list[str]) -> tuple[Any, ...]:
        return [[1, 1] for _ in prompts], completions, None, ["" for _ in prompts], sampled, {}, None, None

    them = trainer(
        _generate=generate,
        _calculate_rewards=lambda *_: rewards[:, None],
        _get_per_token_logps_and_entropies=lambda *_, **__: (made.old, None, None),
        **values,
    )
    return them._generate_and_score_completions([{"prompt": ""} for _ in rows]), them


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("siblings", [2, 4, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_group_advantages_are_those_of_trl(scale: str, siblings: int, seed: int) -> None:
    """Catches the population deviation, and groups that mix. TRL's eps is given to ours: see the next test."""
    made = replies(seed, siblings=siblings)
    output, _ = their_step(made, made.rewards, scale_rewards=scale, num_generations=siblings)
    mine = adv.group_relative(made.rewards.view(-1, siblings), normalize_std=scale == "group", eps=TRL_EPS)
    close(mine.flatten(), output["advantages"])


@pytest.mark.usefixtures("double")
def test_eps_of_the_deviation() -> None:
    """Deliberate difference: ours adds 1e-9 to the deviation, as LMM-R1's released code does, TRL 1e-4.

    Catches either changing sides. Rewards 0 and 1 have the deviation sqrt(1/2).
    """
    made = replies(0, (1, 1), siblings=2)
    rewards = torch.tensor([0.0, 1.0])
    output, _ = their_step(made, rewards, num_generations=2)
    close(adv.group_relative(rewards)[1], torch.tensor(0.5 / (math.sqrt(0.5) + 1e-9)))
    close(output["advantages"][1], torch.tensor(0.5 / (math.sqrt(0.5) + 1e-4)))


@pytest.mark.usefixtures("double")
def test_equal_rewards_are_exactly_zero_in_ours_alone() -> None:
    """Deliberate difference: seven rewards of 0.1, whose mean is not 0.1, give exactly 0 here; there the rounding over
    the rounding's deviation and 1e-4. Catches either changing sides."""
    made = replies(0, (1,) * 7, siblings=7)
    rewards = torch.full((7,), 0.1)
    theirs = their_step(made, rewards, num_generations=7)[0]["advantages"]
    assert (adv.group_relative(rewards) == 0).all()
    assert (theirs != 0).all() and float(theirs.abs().max()) < 1e-12


#: our mode and level -> TRL's mode and its smallest ratio, at our cap of 2 (masks look at 1 / cap too)
CORRECTIONS = {
    ("truncate", "token"): ("token_truncate", None),
    ("truncate", "sequence"): ("sequence_truncate", None),
    ("mask", "token"): ("token_mask", 0.5),
    ("mask", "sequence"): ("sequence_mask", 0.5),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("mode", "level"), list(CORRECTIONS))
@pytest.mark.parametrize("seed", SEEDS)
def test_a_corrected_step_is_that_of_trl(mode: str, level: str, seed: int) -> None:
    """Catches a sampler correction upside down, over the wrong tokens, or one that reaches the KL term: TRL's whole way
    from rewards to loss against ours. Our credits are float32, so the advantages here are TRL's (compared above)."""
    theirs_mode, smallest = CORRECTIONS[mode, level]
    made = replies(seed, LENGTHS)
    logprobs = moved(made)
    output, them = their_step(
        made, made.rewards, beta=0.04, ref_model=object(), use_vllm=True, vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=theirs_mode, vllm_importance_sampling_clip_min=smallest,
        vllm_importance_sampling_clip_max=2.0,
    )  # fmt: skip
    flat = (made.old[made.mask], made.sampled[made.mask], torch.nonzero(made.mask)[:, 0], len(made.mask))
    weights = losses.mismatch_weights(*flat, mode=mode, level=level, cap=2.0)
    close(weights, output["importance_sampling_ratio"].expand_as(made.old)[made.mask])
    assert len(np.unique(weights)) > 2

    them._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, torch.ones_like(logprobs), None)
    theirs = them._compute_loss(None, output | {"ref_per_token_logps": made.reference})
    dealt = output["advantages"][:, None].expand_as(made.old)
    mine, _ = our_loss(ours("grpo", importance=mode, importance_level=level), made, logprobs, dealt)
    close(mine, theirs)
    close(gradient(mine, logprobs), gradient(theirs, logprobs))
