"""The critic of PPO: its values, its loss, its warm-up, its state; and the reference model that moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_model import PlainAdapter, flat_gradient, random_model

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import AlgorithmConfig, Update
from lmm_r1.config import Critic as CriticConfig
from lmm_r1.errors import CheckpointError, NumericError
from lmm_r1.models.critic import Critic
from lmm_r1.seams import Algorithm
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Credit, Rollout, Sample
from tests.closeness import relative

PPO = AlgorithmConfig(name="ppo", kl_coef=0.0)


def make(shared: bool = False, seed: int = 2, reference: bool = False, **settings: object) -> LocalTrainer:
    """A policy and its critic; `settings` of Update, and of the critic where they are its."""
    own = {k: v for k, v in settings.items() if k in CriticConfig.model_fields}
    model = random_model(seed)
    trunk = None if shared else random_model(seed + 1).model
    critic = Critic(trunk, model.config.text_config.hidden_size, seed)
    with torch.no_grad():
        critic.value_head.weight.mul_(30.0)  # as if it had learned something
    return LocalTrainer(
        model,
        random_model(seed) if reference else None,
        PlainAdapter(model),
        Update(lr=1e-3, **{k: v for k, v in settings.items() if k not in own}),
        10,
        critic=critic,
        critic_config=CriticConfig(**({"lr": 2e-3} | own)),
    )


def samples_of(owner: LocalTrainer, rollouts: list[Rollout], algorithm: Algorithm) -> list[Sample]:
    rng = np.random.default_rng(0)
    anchors = owner.anchors(rollouts, algorithm.needs)
    moved = [replace(a, values=a.values + rng.normal(0, 0.3, len(a.values)).astype(np.float32)) for a in anchors]
    credits = [
        Credit((r.trainable * rng.normal()).astype(np.float32), (r.trainable * rng.normal()).astype(np.float32))
        for r in rollouts
    ]
    return [Sample(*parts) for parts in zip(rollouts, moved, credits, strict=True)]


def plain_values(critic: Critic, trunk: torch.nn.Module, adapter: PlainAdapter, rollout: Rollout) -> torch.Tensor:
    """V of every trainable token by transformers' own forward, one sequence: from the state of the token before."""
    ids = torch.from_numpy(rollout.token_ids.astype(np.int64))[None]
    more = {}
    if rollout.images:
        more = adapter.vision_inputs(rollout.images) | {"mm_token_type_ids": (ids == adapter.image_id).int()}
    states = trunk(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more).last_hidden_state[0]
    before = np.flatnonzero(rollout.trainable) - 1
    return states[torch.from_numpy(before)] @ critic.value_head.weight[0]


def numbers(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def test_a_fresh_head_is_small_and_drawn_from_its_seed() -> None:
    """Catches a head whose first values drown the rewards, and one that depends on the global generator."""
    heads = [Critic(None, 512, seed).value_head.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert float(heads[0].detach().std()) == pytest.approx(1 / 513, rel=0.15)


@pytest.mark.parametrize("shared", [False, True])
def test_values_are_those_of_the_state_before_each_token(rollouts: list[Rollout], shared: bool) -> None:
    """Catches values shifted by one, of another reply in the row, or of prompt tokens; pictures are seen."""
    owner = make(shared)
    trunk = owner.model.model if shared else owner.critic.trunk
    with torch.no_grad():
        for rollout, anchor in zip(rollouts, owner.anchors(rollouts, frozenset({"values", "old"})), strict=True):
            wanted = plain_values(owner.critic, trunk, PlainAdapter(owner.model), rollout)
            np.testing.assert_allclose(anchor.values[rollout.trainable], wanted, atol=1e-4)
            assert (anchor.values[~rollout.trainable] == 0).all()


@pytest.mark.parametrize("shared", [False, True])
def test_loss_and_gradient_are_the_documented_sum(
    rollouts: list[Rollout], shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wrong weight, clip, coefficient or graph: all is computed again from plain forwards."""
    owner = make(shared, **({"trunk": "shared", "coef": 0.3} if shared else {}), micro_tokens=100)
    # The critic's loss is a mean over tokens, whatever the policy's is.
    algorithm = make_algorithm(PPO.model_copy(update={"reduction": "sequence"}), minibatches=1)
    samples = [
        replace(s, credit=replace(s.credit, advantages=s.credit.advantages * 0))
        for s in samples_of(owner, rollouts, algorithm)
    ]
    critic, adapter = owner.critic, PlainAdapter(owner.model)
    trunk = owner.model.model if shared else critic.trunk
    total, tokens = torch.zeros(()), sum(r.reply_tokens for r in rollouts)
    for s in samples:
        keep = torch.from_numpy(s.rollout.trainable.copy())
        v = plain_values(critic, trunk, adapter, s.rollout)
        old, goal = torch.from_numpy(s.anchors.values)[keep], torch.from_numpy(s.credit.returns)[keep]
        held = old + (v - old).clamp(-0.2, 0.2)
        total = total + 0.5 * torch.maximum((v - goal) ** 2, (held - goal) ** 2).sum() / tokens
    ((0.3 if shared else 1.0) * total).backward()

    def gradients() -> torch.Tensor:
        return torch.cat([flat_gradient(n) for n in ((owner.model, critic) if shared else (critic,))])

    wanted = gradients()
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(owner, "_step", lambda lr: seen.append(gradients()) or {})
    metrics = owner.update(samples, algorithm, 0.0)
    assert metrics["critic/loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert relative(seen[0], wanted) < 2e-5


def test_the_critic_learns_the_returns(rollouts: list[Rollout]) -> None:
    """Catches a critic that is never stepped, or away from its returns; `explained` must say that it learned."""
    owner = make()
    algorithm = make_algorithm(PPO, minibatches=1)
    samples = samples_of(owner, rollouts, algorithm)
    wide = replace(algorithm, value_loss=lambda v, old, goal: 0.5 * (v - goal) ** 2)
    seen = [owner.update(samples, wide, 1e-3) for _ in range(15)]
    assert seen[-1]["critic/loss"] < 0.1 * seen[0]["critic/loss"]
    assert seen[0]["critic/explained"] < 0.5 < 0.8 < seen[-1]["critic/explained"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_warm_up_moves_the_critic_alone(rollouts: list[Rollout], shared: bool) -> None:
    """Catches a policy that learns from a critic which knows nothing yet; with a shared trunk only the head moves."""
    owner = make(shared, warmup=2, minibatches=2)  # four optimiser steps
    algorithm = make_algorithm(PPO, minibatches=2)
    policy, critic = numbers(owner.model), numbers(owner.critic)
    for _ in range(4):
        metrics = owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-3)
        assert metrics["grad_norm"] == 0.0 and metrics["critic/grad_norm"] > 0.0 and metrics["entropy"] > 0.0
    assert torch.equal(policy, numbers(owner.model)) and not torch.equal(critic, numbers(owner.critic))
    owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-3)
    assert not torch.equal(policy, numbers(owner.model))


def test_critic_and_policy_have_their_own_rates(rollouts: list[Rollout]) -> None:
    """Catches one rate for both: AdamW's first step is proportional to it."""
    moved = []
    for lr in (2e-3, 4e-3):
        owner = make(lr=lr)
        algorithm = make_algorithm(PPO, minibatches=1)
        before = numbers(owner.model), numbers(owner.critic)
        owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-3)
        pairs = zip(before, (owner.model, owner.critic), strict=True)
        moved.append([float((numbers(n) - b).abs().sum()) for b, n in pairs])
    assert moved[1][0] == moved[0][0] and moved[1][1] == pytest.approx(2 * moved[0][1], rel=1e-2)


@pytest.mark.parametrize("shared", [False, True])
def test_state_and_restore_are_exact(rollouts: list[Rollout], shared: bool) -> None:
    """Catches a resume without the critic's weights or moments, or with the reference back at its start."""
    algorithm = make_algorithm(AlgorithmConfig(name="ppo", kl_coef=0.1))
    first = make(shared, reference=True, reference_reset=1)
    for _ in range(2):
        first.update(samples_of(first, rollouts, algorithm), algorithm)
    samples = samples_of(first, rollouts, algorithm)
    state = first.state()
    second = make(shared, seed=7, reference=True, reference_reset=1)
    second.restore(state)
    again = samples_of(second, rollouts, algorithm)
    for a, b in zip(samples, again, strict=True):
        assert (a.anchors.ref_logprobs == b.anchors.ref_logprobs).all() and (a.anchors.values == b.anchors.values).all()
    assert first.update(samples, algorithm) == second.update(again, algorithm)
    for one, other in ((first.model, second.model), (first.critic, second.critic)):
        assert torch.equal(numbers(one), numbers(other))


def test_the_reference_moves_every_so_many_steps(rollouts: list[Rollout]) -> None:
    """Catches a reset that never comes, comes twice, or makes the reference learn along."""
    owner = make(reference=True, reference_reset=2, minibatches=2)
    algorithm = make_algorithm(AlgorithmConfig(name="ppo", kl_coef=0.1))
    distances = []
    for _ in range(5):  # rollout steps
        anchors = owner.anchors(rollouts, algorithm.needs)
        distances.append(max(float(np.abs(a.old_logprobs - a.ref_logprobs).max()) for a in anchors))
        for _ in range(2):
            owner.update(samples_of(owner, rollouts, algorithm), algorithm, 1e-3)
    assert [d == 0.0 for d in distances] == [True, False, True, False, True]


def test_nothing_moves_when_the_critic_breaks(rollouts: list[Rollout]) -> None:
    """Catches a policy that has stepped when its critic's loss is not finite."""
    owner = make()
    algorithm = make_algorithm(PPO, minibatches=1)
    samples = samples_of(owner, rollouts, algorithm)
    bad = samples[0].credit.returns * np.float32(np.nan)
    samples[0] = replace(samples[0], credit=replace(samples[0].credit, returns=bad))
    before = numbers(owner.model), numbers(owner.critic)
    with pytest.raises(NumericError, match="critic/loss"):
        owner.update(samples, algorithm, 1e-3)
    assert torch.equal(before[0], numbers(owner.model)) and torch.equal(before[1], numbers(owner.critic))
    assert all(p.grad is None for p in owner.critic.parameters())


def test_missing_parts_are_named(rollouts: list[Rollout]) -> None:
    """Catches a critic that trains on nothing, and a checkpoint of a stage without one."""
    owner = make()
    grpo = make_algorithm(AlgorithmConfig(kl_coef=0.0))
    ppo = make_algorithm(PPO)
    with pytest.raises(ValueError, match="critic"):
        owner.update(samples_of(owner, rollouts, replace(grpo, needs=ppo.needs)), grpo)
    state = owner.state()
    del state["critic"]
    with pytest.raises(CheckpointError, match="critic"):
        owner.restore(state)
