"""A bandit with one token: the sampled gradient follows the path that can be computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import AlgorithmConfig
from lmm_r1.seams import PolicyTokens
from lmm_r1.types import Anchors, Group, Problem, Rollout, Sample, Score

REWARDS = torch.tensor([1.0, 0.2, 0.0, 0.5], dtype=torch.float64)


def step_gradient(name: str, theta: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """d loss / d theta of one step, through credit, policy loss and weights as a trainer uses them."""
    logprobs = theta.log_softmax(0)
    arms = torch.multinomial(logprobs.detach().exp(), count, replacement=True, generator=generator)
    problem = Problem("bandit", (), "")
    flags = np.array([False, True])
    rollouts = [
        Rollout(problem, g, 0, 0, np.array([0, a], np.int32), flags.copy(), np.zeros(2, np.float32), (), (), "eos", ())
        for g, a in enumerate(arms.tolist())
    ]
    group = Group(
        problem, tuple((r,) for r in rollouts), tuple(Score(float(REWARDS[a]), {}, {}) for a in arms), greedy=0.4
    )
    algorithm = make_algorithm(AlgorithmConfig.model_validate({"name": name, "kl_coef": 0.0}), minibatches=1, longest=1)
    value = np.array([0.0, 0.4], np.float32)  # what a critic that knows the mean reward at the start would say
    anchors = [Anchors(r.logprobs, values=value) for r in rollouts]
    credits = algorithm.credit([group], anchors)
    weights = algorithm.token_weights([Sample(*parts) for parts in zip(rollouts, anchors, credits, strict=True)])
    taken = logprobs[arms]
    advantages = torch.tensor([float(c.advantages[1]) for c in credits], dtype=torch.float64)
    same = taken.detach()
    loss, _ = algorithm.policy_loss(PolicyTokens(taken, same, same, advantages, torch.arange(count), count))
    total = (torch.tensor([float(w[1]) for w in weights], dtype=torch.float64) * loss).sum()
    (gradient,) = torch.autograd.grad(total, theta)
    return gradient


@pytest.mark.parametrize("name", ["dr_grpo", "rloo", "remax"])
def test_the_bandit_follows_the_analytic_path(name: str) -> None:
    """Catches a biased estimator: with a baseline and no deviation, the expected step is the policy gradient itself."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    analytic = torch.zeros(4, dtype=torch.float64)
    for _ in range(60):
        gradient = step_gradient(name, theta, 512, generator)
        theta = (theta - 0.5 * gradient).detach().requires_grad_()
        policy = analytic.softmax(0)
        analytic = analytic + 0.5 * policy * (REWARDS - (policy * REWARDS).sum())
    assert analytic.softmax(0)[0] > 0.9
    assert float((theta.detach().softmax(0) - analytic.softmax(0)).abs().max()) < 0.03


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo", "reinforce_pp", "reinforce_pp_baseline", "ppo"])
def test_the_bandit_finds_the_best_arm(name: str) -> None:
    """Catches a sign or a scale that keeps an algorithm from the only thing it is for."""
    generator = torch.Generator().manual_seed(1)
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(60):
        theta = (theta - 0.5 * step_gradient(name, theta, 256, generator)).detach().requires_grad_()
    assert float(theta.detach().softmax(0)[0]) > 0.9
