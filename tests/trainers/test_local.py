"""The trainer: the documented loss, invariance to splitting, guards, freezing and exact state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_model import PlainAdapter, flat_gradient, make_rollout, plain_logprobs, random_model

from lmm_r1.algorithms.named import ALGORITHMS, make_algorithm
from lmm_r1.algorithms.token_weights import token_mean
from lmm_r1.config import AlgorithmConfig, Update
from lmm_r1.errors import CheckpointError, NumericError
from lmm_r1.models.critic import Critic
from lmm_r1.seams import Algorithm
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.trainers.optimiser import part_of
from lmm_r1.types import Credit, Rollout, Sample
from tests.closeness import relative


def trainer(seed: int = 2, critic: bool = False, **update: object) -> LocalTrainer:
    model = random_model(seed)
    value = Critic(random_model(seed + 2).model, model.config.text_config.hidden_size, seed) if critic else None
    settings = Update(lr=1e-3, **update)
    return LocalTrainer(model, random_model(seed + 1), PlainAdapter(model), settings, 10, critic=value)


def both_gradients(owner: LocalTrainer) -> torch.Tensor:
    """Of the policy and, where there is one, the critic."""
    parts = [flat_gradient(owner.model)] + ([flat_gradient(owner.critic)] if owner.critic is not None else [])
    return torch.cat(parts)


def samples_of(owner: LocalTrainer, rollouts: list[Rollout], algorithm: Algorithm) -> list[Sample]:
    rng = np.random.default_rng(0)
    anchors = owner.anchors(rollouts, algorithm.needs)
    credits = [
        Credit((r.trainable * rng.normal()).astype(np.float32), (r.trainable * rng.normal()).astype(np.float32))
        for r in rollouts
    ]
    return [Sample(*parts) for parts in zip(rollouts, anchors, credits, strict=True)]


def weights_of(owner: LocalTrainer) -> torch.Tensor:
    return torch.cat([w.flatten() for _, w in owner.weights()])


def test_loss_and_gradient_are_the_documented_sum(rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wrong weight, KL, clip or sign: everything is recomputed by hand from plain forwards."""
    owner = trainer(micro_tokens=100)
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.1, clip_low=0.2, clip_high=0.3))
    samples = samples_of(owner, rollouts, algorithm)
    rng = np.random.default_rng(1)  # an old policy off by some: ratios on both sides of the clip range
    samples = [
        replace(
            s,
            anchors=replace(
                s.anchors,
                old_logprobs=s.anchors.old_logprobs + rng.normal(0, 0.3, len(s.rollout.token_ids)).astype(np.float32),
            ),
        )
        for s in samples
    ]
    model, adapter = owner.model, PlainAdapter(owner.model)
    model.zero_grad()
    total = torch.zeros(())
    for s in samples:
        keep = torch.from_numpy(s.rollout.trainable.copy())
        lp = plain_logprobs(model, adapter, s.rollout)
        ratio = torch.exp(lp - torch.from_numpy(s.anchors.old_logprobs)[keep])
        a = torch.from_numpy(s.credit.advantages)[keep]
        surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.3) * a)
        d = torch.from_numpy(s.anchors.ref_logprobs)[keep] - lp
        total = total + (-surrogate + 0.1 * (d.exp() - d - 1)).mean() / len(samples)
    total.backward()
    wanted = flat_gradient(model)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(owner, "_step", lambda lr: seen.append(flat_gradient(model)) or {})
    metrics = owner.update(samples, algorithm, 0.0)
    assert metrics["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert relative(seen[0], wanted) < 2e-5
    assert 0 < metrics["clip_share"] < 1 and metrics["ratio_max"] > 1.3


#: Every algorithm, and every option that looks at more than one token.
VARIANTS = [{"name": name} for name in ALGORITHMS] + [
    {"name": "grpo", "entropy_coef": 0.01, "dual_clip": 3.0},
    {"name": "dapo", "importance": "truncate"},
    {"name": "gspo", "importance": "mask", "importance_level": "sequence", "importance_cap": 1.05},
    {"name": "grpo", "reduction": "constant", "kl_estimator": "k2"},
    {"name": "ppo", "reduction": "sequence", "gamma": 0.9, "lam": 0.9},
]


def shifted(sample: Sample, old: float, sampled: float) -> Sample:
    """A sample whose old policy lies `old` nats a token below the present one, and whose sampler `sampled` above that."""
    before = sample.anchors.old_logprobs - np.float32(old) * sample.rollout.trainable
    rollout = replace(sample.rollout, logprobs=before + np.float32(sampled) * sample.rollout.trainable)
    return Sample(rollout, replace(sample.anchors, old_logprobs=before), sample.credit)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_neither_micro_batches_nor_the_order_of_rows_nor_ranks_change_the_gradient(
    rollouts: list[Rollout], variant: dict[str, object]
) -> None:
    """Catches a mean taken per micro-batch or per rank, the classic bug of accumulation, and replies that mix."""
    algorithm = make_algorithm(AlgorithmConfig.model_validate(variant), longest=12)
    found = []
    for micro_tokens, turned, ranks in (
        (40, False, 1),
        (8192, False, 1),
        (8192, True, 1),
        (8192, False, 2),
        (90, True, 4),
    ):
        owner = trainer(critic="values" in algorithm.needs, micro_tokens=micro_tokens)
        samples = samples_of(owner, rollouts, algorithm)
        if "old" in algorithm.needs:  # ratios off 1, and a sampler that is not quite the trainer
            samples = [shifted(s, 0.1, 0.02 * (k % 3)) for k, s in enumerate(samples)]
        samples = samples[::-1] if turned else samples
        # Every rank has its share of the samples and of weights that were fixed over all; their gradients add up.
        weights, value_weights = algorithm.token_weights(samples), token_mean(samples)
        for rank in range(ranks):
            owner.accumulate(samples[rank::ranks], algorithm, weights[rank::ranks], value_weights[rank::ranks])
        found.append(both_gradients(owner))
    assert found[0].norm() > 0
    for other in found[1:]:
        assert relative(other, found[0]) < 2e-5


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_equal_rewards_have_a_gradient_of_exactly_zero(rollouts: list[Rollout], name: str) -> None:
    """Catches a step that is taken where there is nothing to learn."""
    owner = trainer()  # without a critic: that one always has something to learn
    algorithm = make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0))
    credit = [Credit(np.zeros(len(r.token_ids), np.float32)) for r in rollouts]
    anchors = owner.anchors(rollouts, frozenset({"old"}))
    samples = [Sample(*parts) for parts in zip(rollouts, anchors, credit, strict=True)]
    assert owner.update(samples, algorithm, 1e-4)["grad_norm"] == 0.0


def test_the_entropy_bonus_raises_the_entropy(rollouts: list[Rollout]) -> None:
    """Catches a bonus without gradient, or with the wrong sign."""
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0, entropy_coef=1.0), minibatches=1)
    owner = trainer()
    credit = [Credit(np.zeros(len(r.token_ids), np.float32)) for r in rollouts]
    samples = [
        Sample(r, a, c) for r, a, c in zip(rollouts, owner.anchors(rollouts, frozenset({"old"})), credit, strict=True)
    ]
    entropies = [owner.update(samples, algorithm, 1e-3)["entropy"] for _ in range(4)]
    assert entropies[-1] > entropies[0]


def test_one_minibatch_skips_the_old_pass(rollouts: list[Rollout]) -> None:
    """Catches a ratio that is not exactly 1, and a gradient that is not that of the recomputed old policy."""
    algorithm = make_algorithm(AlgorithmConfig(), minibatches=1)
    results = []
    for used in (algorithm, make_algorithm(AlgorithmConfig())):
        owner = trainer()
        results.append(owner.update(samples_of(owner, rollouts, used), used, 1e-4))
    assert results[0]["ratio_max"] == 1.0 and results[0]["clip_share"] == 0.0
    assert results[0]["grad_norm"] == pytest.approx(results[1]["grad_norm"], rel=1e-5)
    for name in ("logprob_gap/mean", "logprob_gap/max", "kl_ref", "entropy"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-4)


def test_gap_is_that_of_sampler_and_trainer(rollouts: list[Rollout]) -> None:
    """Catches a guard that cannot see a sampler with other weights, or alarms over later minibatches."""
    owner = trainer()
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0))
    true = owner.anchors(rollouts, frozenset({"old"}))
    shifted = [replace(r, logprobs=a.old_logprobs + 0.5 * r.trainable) for r, a in zip(rollouts, true, strict=True)]
    samples = samples_of(owner, [replace(r, logprobs=r.logprobs.astype(np.float32)) for r in shifted], algorithm)
    for _ in range(2):
        metrics = owner.update(samples, algorithm, 1e-3)
        assert metrics["logprob_gap/max"] == pytest.approx(0.5, abs=1e-4)
        assert metrics["logprob_gap/mean"] == pytest.approx(0.5, abs=1e-4)


def test_advantage_moves_probability(rollouts: list[Rollout]) -> None:
    """Catches a sign error end to end: rewarded replies become likelier, punished ones less likely."""
    owner = trainer()
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    anchors = owner.anchors(rollouts, frozenset({"old"}))
    signs = [1.0 if i % 2 else -1.0 for i in range(len(rollouts))]
    samples = [
        Sample(r, a, Credit((r.trainable * s).astype(np.float32)))
        for r, a, s in zip(rollouts, anchors, signs, strict=True)
    ]
    for _ in range(3):
        owner.update(samples, algorithm, 1e-3)
    after = owner.anchors(rollouts, frozenset({"old"}))
    moved = [float((b.old_logprobs - a.old_logprobs).sum()) for a, b in zip(anchors, after, strict=True)]
    assert all(m * s > 0 for m, s in zip(moved, signs, strict=True))


def test_equal_rewards_move_nothing(rollouts: list[Rollout]) -> None:
    """Catches a drift from groups that hold no information (no KL, all advantages 0)."""
    owner = trainer()
    before = weights_of(owner).clone()
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    zero = [
        Sample(s.rollout, s.anchors, Credit(np.zeros_like(s.credit.advantages)))
        for s in samples_of(owner, rollouts, algorithm)
    ]
    assert owner.update(zero, algorithm, 1e-3)["grad_norm"] == 0.0
    assert torch.equal(weights_of(owner), before)


@pytest.mark.parametrize("part", ["vision", "merger", "language"])
def test_frozen_parts_stay(rollouts: list[Rollout], part: str) -> None:
    """Catches a freeze that freezes too little or too much."""
    owner = trainer(freeze=(part,))
    before = {n: w.clone() for n, w in owner.weights()}
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-3)
    moved = {part_of(n) for n, w in owner.weights() if not torch.equal(w, before[n])}
    assert moved == {"vision", "merger", "language"} - {part}


def test_each_part_has_its_own_learning_rate(rollouts: list[Rollout]) -> None:
    """Catches a scale that reaches another part, or none: AdamW's first step is proportional to the rate."""
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    moved = []
    for scale in ({}, {"vision": 0.1, "merger": 3.0}):
        owner = trainer(lr_scale=scale)
        before = {name: weight.clone() for name, weight in owner.weights()}
        owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-4)
        parts: dict[str, float] = {}
        for name, weight in owner.weights():
            parts[part_of(name)] = parts.get(part_of(name), 0.0) + float((weight - before[name]).abs().sum())
        moved.append(parts)
    for part, factor in (("vision", 0.1), ("merger", 3.0), ("language", 1.0)):
        assert moved[1][part] == pytest.approx(factor * moved[0][part], rel=1e-2), part


@pytest.mark.parametrize("poison", ["advantage", "weight"])
def test_a_number_that_is_not_finite_never_reaches_the_weights(rollouts: list[Rollout], poison: str) -> None:
    """Catches NaN weights saved as a checkpoint; the message names the step."""
    owner = trainer()
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    samples = samples_of(owner, rollouts, algorithm)
    if poison == "advantage":
        bad = samples[0].credit.advantages.copy()
        bad[np.flatnonzero(samples[0].rollout.trainable)[0]] = np.nan
        samples[0] = replace(samples[0], credit=Credit(bad))
    else:
        with torch.no_grad():
            owner.model.model.language_model.norm.weight[0] = float("inf")
    before = weights_of(owner).clone()
    with pytest.raises(NumericError, match="optimiser step 1 of 10"):
        owner.update(samples, algorithm, 1e-3)
    assert torch.equal(weights_of(owner), before) and owner.updates == 0
    assert all(p.grad is None for p in owner.model.parameters())


def test_state_and_restore_are_exact(rollouts: list[Rollout]) -> None:
    """Catches a resume that forgets moments, step counts or the schedule: the next steps must be bit-equal."""
    algorithm = make_algorithm(AlgorithmConfig())
    first = trainer()
    text_only = samples_of(first, rollouts[:3], algorithm)  # pictures first come later: unequal AdamW step counts
    first.update(text_only, algorithm)
    samples = samples_of(first, rollouts, algorithm)
    first.update(samples, algorithm)
    state = first.state()
    second = trainer(seed=7)
    second.set_reference(random_model(3))
    second.restore(state)
    results = []
    for owner in (first, second):
        results.append(owner.update(samples, algorithm))
        owner.update(samples, algorithm)
    assert results[0] == results[1]
    assert torch.equal(weights_of(first), weights_of(second))
    assert second.state()["scalars"] == {"updates": 4}


def test_updates_are_deterministic(rollouts: list[Rollout]) -> None:
    """Catches atomics in the backward pass: two trainers from the same seed stay bit-equal."""
    algorithm = make_algorithm(AlgorithmConfig())
    ends = []
    for _ in range(2):
        owner = trainer()
        for _ in range(2):
            owner.update(samples_of(owner, rollouts, algorithm), algorithm)
        ends.append(weights_of(owner))
    assert torch.equal(*ends)


def test_restore_refuses_another_model() -> None:
    """Catches a checkpoint loaded into the wrong architecture."""
    owner = trainer()
    state = owner.state()
    del state["model"]["model.language_model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        owner.restore(state)


def test_score_equals_a_plain_forward(rollouts: list[Rollout]) -> None:
    """Catches a shifted score: the weight-sync probe compares it with the engine's."""
    owner = trainer()
    for r in (rollouts[0], rollouts[6]):
        flags = ~np.isin(r.token_ids, PlainAdapter(owner.model).banned_ids)
        flags[0] = False
        plain = plain_logprobs(owner.model, PlainAdapter(owner.model), replace(r, trainable=flags)).detach().numpy()
        scored = owner.score(r.token_ids, r.images)
        np.testing.assert_allclose(scored[flags], plain, atol=1e-4)
        assert (scored[~flags] == 0).all()


def test_bfloat16_weights_learn_through_float32_masters(rollouts: list[Rollout]) -> None:
    """Catches steps of 1e-6 that vanish in bfloat16 rounding."""
    model = random_model(2, torch.bfloat16)
    owner = LocalTrainer(model, None, PlainAdapter(model), Update(lr=1e-6), 10)
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    before = owner.state()["model"]
    owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-6)
    after = owner.state()["model"]
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert after[name].dtype == torch.float32 and 0 < (after[name] - before[name]).abs().max() < 2e-6
    assert model.get_parameter(name).dtype == torch.bfloat16


def test_gradient_checkpointing_changes_nothing(rollouts: list[Rollout]) -> None:
    """Catches a shared prompt that is dropped under activation checkpointing (it was, with a KV cache)."""
    norms = []
    for on in (False, True):
        model = random_model(2)
        if on:
            model.gradient_checkpointing_enable()
        owner = LocalTrainer(model, None, PlainAdapter(model), Update(), 10)
        algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
        norms.append(owner.update(samples_of(owner, rollouts, algorithm), algorithm, 0.0)["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_the_norm_of_narrow_gradients_is_taken_in_float32(rollouts: list[Rollout]) -> None:
    """Catches a clip by a norm with eight bits, and gradients that are held in two dtypes at once."""
    model = random_model(2, torch.bfloat16)
    owner = LocalTrainer(model, None, PlainAdapter(model), Update(), 10)
    algorithm = make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1)
    samples = samples_of(owner, rollouts, algorithm)
    owner.accumulate(samples, algorithm, algorithm.token_weights(samples), token_mean(samples))
    assert float(owner._policy.norm()) == pytest.approx(float(flat_gradient(model).norm()), rel=1e-5)
    owner._policy.apply(owner._policy.norm(), 1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_missing_parts_are_named(rollouts: list[Rollout]) -> None:
    """Catches a run that silently drops its KL term or its freeze."""
    model = random_model(2)
    owner = LocalTrainer(model, None, PlainAdapter(model), Update(), 10)
    with pytest.raises(ValueError, match="reference model"):
        owner.anchors(rollouts, frozenset({"ref"}))
    with pytest.raises(ValueError, match="critic"):
        owner.anchors(rollouts, frozenset({"values"}))
    with pytest.raises(ValueError, match="nothing to train"):
        LocalTrainer(model, None, PlainAdapter(model), Update(freeze=("vision", "merger", "language")), 10)
    assert make_rollout(model, "p", 0, 3).reply_tokens == 3
