"""Advantages, losses and the KL controller against verl's published functions (verl.trainer.ppo.core_algos), on random
tensors in float64.

Agreement is to 1e-12 wherever verl lets it; each deliberate difference has a test of its own with both values.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from peer_fixture import LONGEST, Replies, moved, our_loss, replies, rewarded
from torch import Tensor
from torch.testing import assert_close

from lmm_r1.algorithms import advantages as adv
from lmm_r1.algorithms import losses
from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import AlgorithmConfig
from lmm_r1.seams import Algorithm
from lmm_r1.types import Anchors

with pytest.MonkeyPatch.context() as offline:
    offline.setenv("HF_HUB_OFFLINE", "1")
    peer = pytest.importorskip(
        "verl.trainer.ppo.core_algos",
        reason="verl is not installed: pip install -e '.[peers]', then pip install --no-deps verl==0.9.1",
        exc_type=ImportError,
    )
    correction = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper", exc_type=ImportError)
    configs = pytest.importorskip("verl.workers.config", exc_type=ImportError)
    algo_configs = pytest.importorskip("verl.trainer.config", exc_type=ImportError)

SEEDS = range(4)
#: No second clip: further away than any ratio.
FAR = 1e30


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-12) -> None:
    assert_close(actual, expected, rtol=rtol, atol=1e-14)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ours(name: str, **values: Any) -> Algorithm:
    return make_algorithm(
        AlgorithmConfig.model_validate({"name": name, "importance": "none", **values}), longest=LONGEST
    )


def gradient(loss: Tensor, point: Tensor) -> Tensor:
    return torch.autograd.grad(loss, point, retain_graph=True)[0]


def on_last_token(made: Replies) -> Tensor:
    """verl's token-level rewards [B, C] of rewards that are known at the end of a reply."""
    out = torch.zeros_like(made.old)
    out[torch.arange(len(made.mask)), made.mask.sum(1) - 1] = made.rewards
    return out


def less_kl(made: Replies, coef: float, estimator: str = "k1") -> Tensor:
    """verl's token-level rewards with the KL term taken off (as in its ray_trainer.apply_kl_penalty)."""
    return on_last_token(made) - coef * peer.kl_penalty(made.old, made.reference, estimator) * made.mask


@pytest.mark.parametrize("deviation", [True, False])
@pytest.mark.parametrize("siblings", [2, 4, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_group_relative(deviation: bool, siblings: int, seed: int) -> None:
    """Catches the population deviation, and groups that mix. Our eps is given to verl: see the next test."""
    made = replies(seed, siblings=siblings)
    theirs, _ = peer.compute_grpo_outcome_advantage(
        on_last_token(made), made.mask.double(), made.group_of, epsilon=1e-9, norm_adv_by_std_in_grpo=deviation
    )
    mine = adv.group_relative(made.rewards.view(-1, siblings), normalize_std=deviation).flatten()
    close(mine[:, None] * made.mask, theirs)


def test_eps_of_the_deviation() -> None:
    """Deliberate difference: ours adds 1e-9 to the deviation, as LMM-R1's released code does, verl 1e-6.

    Catches either changing sides. Rewards 0 and 1 have the deviation sqrt(1/2).
    """
    rewards = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    theirs, _ = peer.compute_grpo_outcome_advantage(rewards.clone(), torch.ones(2, 1), [0, 0])
    close(adv.group_relative(rewards[:, 0])[1], torch.tensor(0.5 / (math.sqrt(0.5) + 1e-9), dtype=torch.float64))
    close(theirs[1, 0], torch.tensor(0.5 / (math.sqrt(0.5) + 1e-6), dtype=torch.float64))


def test_equal_rewards_are_exactly_zero_in_ours_alone() -> None:
    """Deliberate difference: seven rewards of 0.1, whose mean is not 0.1, give exactly 0 here; there the rounding over
    the rounding's deviation and 1e-6. Catches either changing sides."""
    rewards = torch.full((7, 1), 0.1, dtype=torch.float64)
    theirs, _ = peer.compute_grpo_outcome_advantage(rewards.clone(), torch.ones(7, 1), [0] * 7)
    assert (adv.group_relative(rewards[:, 0]) == 0).all()
    assert (theirs != 0).all() and float(theirs.abs().max()) < 1e-10


def test_a_group_of_one() -> None:
    """Deliberate difference: a reply without siblings has nobody to compare with. verl gives it its bare reward; ours
    is 0 and, for leave-one-out, an error. Catches either changing sides."""
    rewards = torch.tensor([[0.7]], dtype=torch.float64)
    for estimator in (peer.compute_grpo_outcome_advantage, peer.compute_rloo_outcome_advantage):
        theirs, _ = estimator(rewards.clone(), torch.ones(1, 1), [0])
        assert float(theirs) == pytest.approx(0.7, rel=1e-5)
    assert float(adv.group_relative(rewards[0])) == 0
    with pytest.raises(ValueError, match="group of one"):
        adv.leave_one_out(rewards[0])


@pytest.mark.parametrize("estimator", ["rloo", "rloo_vectorized"])
@pytest.mark.parametrize("siblings", [2, 4, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_leave_one_out(estimator: str, siblings: int, seed: int) -> None:
    """Catches a baseline that holds the sample itself."""
    made = replies(seed, siblings=siblings)
    theirs, _ = peer.get_adv_estimator_fn(estimator)(on_last_token(made), made.mask.double(), made.group_of)
    mine = adv.leave_one_out(made.rewards.view(-1, siblings)).flatten()
    close(mine[:, None] * made.mask, theirs)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("seed", SEEDS)
def test_rloo_with_kl_in_the_reward(estimator: str, seed: int) -> None:
    """Catches KL taken off after the baseline, or averaged over a reply. Our credits are float32: half a unit of it."""
    made = replies(seed)
    theirs, _ = peer.compute_rloo_outcome_advantage(less_kl(made, 0.1, estimator), made.mask.double(), made.group_of)
    algorithm = ours("rloo", kl_coef=0.1, kl_estimator=estimator)
    close(made.spread(algorithm.credit(made.groups, made.anchors)), theirs, rtol=2**-23)


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_baseline(seed: int) -> None:
    """Catches a reward-to-go that loses its end, and a baseline of the wrong sign (ReMax). Our credits are float32."""
    made = replies(seed)
    greedy = 0.25 * random(seed + 50, len(made.groups)).float().double()
    theirs, returns = peer.compute_remax_outcome_advantage(
        on_last_token(made), greedy[torch.from_numpy(made.group_of)], made.mask.double()
    )
    groups = [replace(g, greedy=float(b)) for g, b in zip(made.groups, greedy, strict=True)]
    close(made.spread(ours("remax").credit(groups, made.anchors)), theirs, rtol=2**-23)
    close(adv.reward_to_go(on_last_token(made)) * made.mask, returns)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.97, 0.9), (0.5, 0.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_gae(gamma: float, lam: float, seed: int) -> None:
    """Catches swapped gamma and lambda, and observation tokens counted as steps: there are numbers in the mask's holes.

    verl whitens its advantages: what is compared is the returns, and from them the advantages before that.
    """
    rewards, values = random(seed, 5, 17), random(seed + 10, 5, 17)
    mask = random(seed + 20, 5, 17) > -0.5
    _, theirs = peer.compute_gae_advantage_return(rewards, values, mask.double(), gamma, lam)
    advantages, returns = adv.gae(rewards, values, mask, gamma, lam)
    close(returns[mask], theirs[mask])
    close(advantages[mask], (theirs - values)[mask])


def test_gae_outside_the_mask() -> None:
    """Deliberate difference: ours is 0 there, verl carries the next number through. Catches either changing sides."""
    rewards, values, mask = torch.tensor([[0.0, 9.0, 1.0]]), torch.zeros(1, 3), torch.tensor([[True, False, True]])
    _, theirs = peer.compute_gae_advantage_return(rewards, values, mask.float(), 1.0, 1.0)
    close(adv.gae(rewards, values, mask, 1.0, 1.0)[1], torch.tensor([[1.0, 0.0, 1.0]]))
    close(theirs, torch.tensor([[1.0, 1.0, 1.0]]))


def unbiased(count: int) -> float:
    """What a whitened number of ours is multiplied with to become verl's: sample for population deviation."""
    return math.sqrt((count - 1) / count)


def test_whitening() -> None:
    """Deliberate difference: ours divides by the population deviation, held above 1e-4, as LMM-R1's released code does;
    verl by the sample deviation, sqrt(variance + 1e-8), with a mean over count + 1e-8. Catches either changing sides.

    1, 2, 3: ours -1 / sqrt(2/3), 0, 1 / sqrt(2/3); verl's -1, 0, 1, to the eight digits that its 1e-8s leave.
    """
    values = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    theirs = peer.verl_F.masked_whiten(values, torch.ones(3, dtype=torch.float64))
    s = math.sqrt(1.5)
    close(adv.whiten(values), torch.tensor([-s, 0.0, s], dtype=torch.float64))
    assert_close(theirs, torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), rtol=0, atol=2e-8)
    assert unbiased(3) * s == pytest.approx(1.0)


@pytest.mark.parametrize("coef", [0.0, 0.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_pp(coef: float, seed: int) -> None:
    """Catches a reward on the wrong token, KL of the wrong sign, and a whitening per group. Returns to 1e-12; the
    whitened advantages differ by the deviation (test_whitening) and by float32."""
    made = replies(seed)
    mask = made.mask.double()
    rewards = less_kl(made, coef)
    theirs, returns = peer.compute_reinforce_plus_plus_outcome_advantage(
        rewards, mask, config=algo_configs.AlgoConfig(gamma=1.0)
    )
    close(adv.reward_to_go(rewards) * mask, returns)
    credits = ours("reinforce_pp", kl_coef=coef).credit(made.groups, made.anchors)
    assert_close(made.spread(credits) * unbiased(int(mask.sum())), theirs, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_pp_with_a_group_baseline(seed: int) -> None:
    """Catches a baseline that is not the group's mean, or one whitened per group. Compared as in test_reinforce_pp."""
    made = replies(seed)
    mask = made.mask.double()
    theirs, _ = peer.compute_reinforce_plus_plus_baseline_outcome_advantage(on_last_token(made), mask, made.group_of)
    credits = ours("reinforce_pp_baseline", kl_coef=0.0).credit(made.groups, made.anchors)
    assert_close(made.spread(credits) * unbiased(int(mask.sum())), theirs, rtol=2e-7, atol=1e-7)


def test_where_the_kl_of_reinforce_pp_baseline_stands() -> None:
    """Deliberate difference: ours takes a token's KL off its own reward after the baseline, as LMM-R1's released code
    does; verl sums it into the reply's reward before it, and deals the sum evenly. Catches either changing sides.

    Rewards 0, replies of one and two tokens, KL 1 on each. Ours: returns -1 and -2, -1, of mean -4/3 and population
    deviation sqrt(2)/3. verl's: sums -1 and -2 less their mean, on tokens 1/2 and -1/2, -1/2, of mean -1/6 and sample
    deviation 1/sqrt(3).
    """
    made = rewarded(replies(2, (1, 2), siblings=2), [0.0, 0.0])
    anchors = [Anchors(row * 0, -row) for row in made.rows(made.mask.double())]
    mine = made.spread(ours("reinforce_pp_baseline", kl_coef=1.0).credit(made.groups, anchors))
    theirs, _ = peer.compute_reinforce_plus_plus_baseline_outcome_advantage(
        -1.0 * made.mask.double(), made.mask.double(), made.group_of
    )
    a, b = math.sqrt(0.5), math.sqrt(1 / 3)
    assert_close(mine, torch.tensor([[a, 0.0], [-2 * a, a]], dtype=torch.float64), rtol=1e-6, atol=0)
    assert_close(theirs, torch.tensor([[2 * b, 0.0], [-b, -b]], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_ppo_credit(seed: int) -> None:
    """Catches a critic's values on the wrong tokens, KL of the wrong sign, and returns that are whitened. Compared as
    in test_reinforce_pp; values are exact in float32, returns come out as float32."""
    made = replies(seed)
    mask = made.mask.double()
    values = random(seed + 30, *made.mask.shape).float().double() * mask
    theirs, returns = peer.compute_gae_advantage_return(less_kl(made, 0.1), values, mask, 0.99, 0.95)
    known = [Anchors(a.old_logprobs, a.ref_logprobs, v) for a, v in zip(made.anchors, made.rows(values), strict=True)]
    credits = ours("ppo", kl_coef=0.1, gamma=0.99, lam=0.95).credit(made.groups, known)
    assert_close(made.spread(credits) * unbiased(int(mask.sum())), theirs * mask, rtol=2e-7, atol=1e-7)
    close(made.spread(credits, returns=True), returns * mask, rtol=2**-23)


def test_large_rewards_are_held() -> None:
    """Deliberate difference: where rewards are dealt to tokens ours holds them within +-10 first, as LMM-R1's released
    code does; verl does not. Catches either changing sides: 100, 10 and 0 are 10, 10 and 0 to ours alone."""
    made = rewarded(replies(0, (1, 1, 1), siblings=3), [100.0, 10.0, 0.0])
    mine = made.spread(ours("reinforce_pp", kl_coef=0.0).credit(made.groups, made.anchors))[:, 0]
    theirs, _ = peer.compute_reinforce_plus_plus_outcome_advantage(
        on_last_token(made), made.mask.double(), config=algo_configs.AlgoConfig()
    )
    a, b = math.sqrt(0.5), math.sqrt(3033.333333333333)
    assert_close(mine, torch.tensor([a, a, -2 * a], dtype=torch.float64), rtol=1e-6, atol=0)
    wanted = torch.tensor([63.333333333333, -26.666666666667, -36.666666666667], dtype=torch.float64) / b
    assert_close(theirs[:, 0], wanted, rtol=1e-6, atol=0)


def their_loss(
    made: Replies, logprobs: Tensor, kind: str, average: str, *, coef: float = 0.0, estimator: str = "k3", **values: Any
) -> tuple[Tensor, dict[str, float]]:
    """verl's policy loss and its KL term, as its actor adds them up, and its metrics."""
    info = {"loss_scale_factor": LONGEST} if average == "seq-mean-token-sum-norm" else {}
    config = configs.ActorConfig(
        strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, global_batch_info=info, **({"clip_ratio_c": FAR} | values)
    )
    advantages = made.advantages[:, None].expand_as(made.old)
    mask = made.mask.double()
    loss, metrics = peer.get_policy_loss_fn(kind)(made.old, logprobs, advantages, mask, average, config)
    if coef > 0:
        kl = peer.kl_penalty(logprobs, made.reference, estimator)
        loss = loss + coef * peer.agg_loss(kl, mask, average, **info)
    return loss, metrics


#: what it is -> (our name and overrides, verl's loss, average and settings)
SAME: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    "clip": ({"name": "dapo"}, "vanilla", "token-mean", {"clip_ratio_high": 0.28}),
    "clip with k3": ({"name": "dapo", "kl_coef": 0.1}, "vanilla", "token-mean", {"clip_ratio_high": 0.28, "coef": 0.1}),
    "clip with k2": (
        {"name": "dapo", "kl_coef": 0.1, "kl_estimator": "k2"}, "vanilla", "token-mean",
        {"clip_ratio_high": 0.28, "coef": 0.1, "estimator": "k2"},
    ),
    "second clip": (
        {"name": "dapo", "dual_clip": 1.5}, "vanilla", "token-mean", {"clip_ratio_high": 0.28, "clip_ratio_c": 1.5},
    ),
    "dr_grpo": ({"name": "dr_grpo"}, "vanilla", "seq-mean-token-sum-norm", {}),
    "summed": ({"name": "dr_grpo", "reduction": "sum"}, "vanilla", "seq-mean-token-sum", {}),
    "gspo over tokens": (
        {"name": "gspo", "reduction": "token"}, "gspo", "token-mean", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
    ),
    "gspo, wide": (
        {"name": "gspo", "reduction": "token", "clip_low": 0.2, "clip_high": 0.3}, "gspo", "token-mean",
        {"clip_ratio_high": 0.3},
    ),
    "cispo": (
        {"name": "cispo", "clip_low": 0.5, "clip_high": 1.0}, "cispo", "token-mean",
        {"clip_ratio_low": 0.5, "clip_ratio_high": 1.0},
    ),
    "cispo without a lower bound": (
        {"name": "cispo", "clip_high": 1.0}, "cispo", "token-mean", {"clip_ratio_low": 1.0, "clip_ratio_high": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(SAME))
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_verl(case: str, seed: int) -> None:
    """Catches another formula, clip, KL estimator or average. verl's GSPO reaches its gradient another way round,
    through a stopped sequence ratio on each token: averaged over tokens or replies it is the same. The references of
    these seeds stay near enough for verl's k3 to be free (test_k3_is_not_held)."""
    overrides, kind, average, values = SAME[case]
    made = replies(seed)
    logprobs = moved(made)
    mine, clipped = our_loss(ours(**overrides), made, logprobs)
    theirs, metrics = their_loss(made, logprobs, kind, average, **values)
    close(mine, theirs)
    close(gradient(mine, logprobs), gradient(theirs, logprobs))
    # verl counts tokens in float32, over their number + 1e-8
    share = metrics["actor/pg_clipfrac"] + metrics["actor/pg_clipfrac_lower"]
    assert 0 < share < 1, "nothing, or everything, was clipped: the comparison says little"
    assert float(clipped.mean()) == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("name", ["grpo", "gspo"])
@pytest.mark.parametrize("seed", SEEDS)
def test_mean_of_a_reply(name: str, seed: int) -> None:
    """Catches a sequence mean of the wrong weight. Deliberate difference: verl adds 1e-8 to the number of a reply's
    tokens, ours does not. Each token's gradient agrees to 1e-8, and for one token theirs is ours / (1 + 1e-8)."""
    kind, values = ("gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}) if name == "gspo" else ("vanilla", {})
    made = replies(seed)
    logprobs = moved(made)
    mine, _ = our_loss(ours(name, kl_coef=0.1), made, logprobs)
    theirs, _ = their_loss(made, logprobs, kind, "seq-mean-token-mean", coef=0.1, **values)
    assert_close(gradient(mine, logprobs), gradient(theirs, logprobs), rtol=1.01e-8, atol=0)
    alone = replies(seed, (1,), siblings=1)
    mine, _ = our_loss(ours(name, kl_coef=0.0), alone, moved(alone))
    theirs, _ = their_loss(alone, moved(alone), kind, "seq-mean-token-mean", **values)
    close(mine / (1 + 1e-8), theirs)


def one_token(ratio: float, advantage: float) -> tuple[Replies, Tensor]:
    """A single token whose probability is `ratio` times the old one."""
    made = replies(0, (1,), siblings=1)
    made.advantages.fill_(advantage)
    return made, (made.old + math.log(ratio)).requires_grad_()


def test_second_clip_is_off_unless_asked_for() -> None:
    """Deliberate difference: verl always bounds the loss of a bad token at 3 times its advantage; ours only with
    dual_clip (no named algorithm has it). Catches either changing sides: at a ratio of 5 ours is 5, verl's 3."""
    made, logprobs = one_token(5.0, -1.0)
    assert float(our_loss(ours("dapo"), made, logprobs)[0].detach()) == pytest.approx(5.0)
    theirs, _ = their_loss(made, logprobs, "vanilla", "token-mean", clip_ratio_c=configs.ActorConfig.clip_ratio_c)
    assert float(theirs.detach()) == pytest.approx(3.0)
    close(our_loss(ours("dapo", dual_clip=3.0), made, logprobs)[0], theirs)


def test_log_ratios_beyond_twenty() -> None:
    """Deliberate difference: verl holds the log-ratio within +-20 (GSPO: below 10), which also takes its gradient; ours
    lets it be. Catches either changing sides: exp(25) for a bad token."""
    for name, kind, bound in (("dapo", "vanilla", 20.0), ("gspo", "gspo", 10.0)):
        made, logprobs = one_token(math.exp(25.0), -1.0)
        mine, _ = our_loss(ours(name), made, logprobs)
        theirs, _ = their_loss(made, logprobs, kind, "token-mean")
        assert float(mine.detach()) == pytest.approx(math.exp(25.0))
        assert float(theirs.detach()) == pytest.approx(math.exp(bound))
        assert float(gradient(mine, logprobs)) > 0 and float(gradient(theirs, logprobs)) == 0


def test_cispo_has_no_lower_bound_unless_asked_for() -> None:
    """Deliberate difference: as in the paper's experiments ours bounds the weight above only, verl below too, at 0.8.
    Catches either changing sides: at a ratio of 0.1."""
    made, logprobs = one_token(0.1, 1.0)
    mine, _ = our_loss(ours("cispo"), made, logprobs)
    theirs, _ = their_loss(made, logprobs, "cispo", "token-mean")
    assert float(gradient(mine, logprobs)) == pytest.approx(-0.1)
    assert float(gradient(theirs, logprobs)) == pytest.approx(-0.8)


@pytest.mark.parametrize(
    ("estimator", "names"), [("k1", ("kl", "k1")), ("k2", ("mse", "k2")), ("k3", ("low_var_kl", "k3"))]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_kl_estimators(estimator: str, names: tuple[str, str], seed: int) -> None:
    """Catches the ratio upside down, and an estimator under another's name. verl's exp(x) - x - 1 rounds near 0, hence
    an absolute 1e-14 beside the relative 1e-12. Differences stay below 2, where its k3 is not yet held (next test)."""
    policy = (random(seed, 400).clamp(-1, 1)).requires_grad_()
    reference = random(seed + 1, 400).clamp(-1, 1)
    for name in names:
        mine, theirs = losses.kl(policy, reference, estimator), peer.kl_penalty(policy, reference, name)
        close(mine, theirs)
        close(gradient(mine.sum(), policy), gradient(theirs.sum(), policy))


def test_k3_is_not_held() -> None:
    """Deliberate difference: verl holds k3 within +-10, which takes the gradient from the tokens that are furthest from
    the reference; ours does not. Catches either changing sides: exp(3) - 1 - 3 = 16.1 against 10."""
    policy = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    mine, theirs = losses.kl(policy, torch.zeros(1), "k3"), peer.kl_penalty(policy, torch.zeros(1), "k3")
    assert float(mine.detach()) == pytest.approx(math.exp(3) - 4) and float(theirs.detach()) == 10
    assert float(gradient(mine, policy)) == pytest.approx(1 - math.exp(3)) and float(gradient(theirs, policy)) == 0


def test_k3_of_nearly_equal_policies() -> None:
    """Deliberate difference: ours keeps its digits at tiny differences (expm1), verl's exp(x) - x - 1 has lost them.
    Catches either changing sides: a difference of 1e-9 is 5e-19 to ours, and 0 or beyond 1e-16 there."""
    policy = torch.tensor([1e-9], dtype=torch.float64)
    assert float(losses.kl(policy, torch.zeros(1), "k3")) == pytest.approx(5e-19, rel=1e-5)
    assert abs(float(peer.kl_penalty(policy, torch.zeros(1), "k3")) - 5e-19) > 4e-19


@pytest.mark.parametrize("clip", [0.2, 0.5, None])
@pytest.mark.parametrize("seed", SEEDS)
def test_value_loss(clip: float | None, seed: int) -> None:
    """Catches min for max, a missing half, and a clip around the returns."""
    old, returns = random(seed, 6, 9), random(seed + 1, 6, 9)
    values = (old + 0.4 * random(seed + 2, 6, 9)).requires_grad_()
    mask = random(seed + 3, 6, 9) > -0.5
    theirs, share = peer.compute_value_loss(values, returns, old, mask.double(), FAR if clip is None else clip)
    mine = losses.value(values[mask], old[mask], returns[mask], clip).mean()
    close(mine, theirs)
    close(gradient(mine, values), gradient(theirs, values))
    assert (float(share) > 0) == (clip is not None)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("mode", "threshold"), [("truncate", 2.0), ("mask", "0.5_2.0")])
@pytest.mark.parametrize("seed", SEEDS)
def test_mismatch_weights(level: str, mode: str, threshold: float | str, seed: int) -> None:
    """Catches the ratio upside down, a sequence ratio that is a mean, and a mask that only looks above."""
    made = replies(seed)
    theirs, _ = correction.compute_rollout_correction_weights(
        made.old - made.sampled, made.mask.double(), level, threshold
    )
    flat = (made.old[made.mask], made.sampled[made.mask], torch.nonzero(made.mask)[:, 0], len(made.mask))
    mine = losses.mismatch_weights(*flat, mode=mode, level=level, cap=2.0)
    close(mine, theirs[made.mask])
    assert len(mine.unique()) > 2


@pytest.mark.parametrize("seed", SEEDS)
def test_steered_kl_coefficient(seed: int) -> None:
    """Catches a controller that steers the wrong way, or is not held at a fifth: fifty steps of a random KL."""
    theirs, coef = peer.AdaptiveKLController(0.01, 0.05, 10000), 0.01
    for kl in (0.05 * random(seed, 50).exp()).tolist():
        theirs.update(kl, 256)
        coef = losses.steered_kl_coef(coef, kl, target=0.05, horizon=10000, episodes=256)
        assert coef == pytest.approx(float(theirs.value), rel=1e-12)


def test_a_steered_coefficient_never_turns_negative() -> None:
    """Deliberate difference: with more episodes in a step than five horizons, verl's coefficient changes its sign; ours
    falls to a tenth at most. Catches either changing sides: 0.01 * (1 - 0.2 * 100 / 10)."""
    theirs = peer.AdaptiveKLController(0.01, 0.05, 10)
    theirs.update(0.0, 100)
    assert float(theirs.value) == pytest.approx(-0.01)
    assert losses.steered_kl_coef(0.01, 0.0, target=0.05, horizon=10, episodes=100) == pytest.approx(0.001)
