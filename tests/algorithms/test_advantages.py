"""Advantage estimators against values computed by hand (exact fractions), in float64 to 1e-12."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lmm_r1.algorithms.advantages import gae, group_relative, leave_one_out, reward_to_go, whiten


def exact(values: list[float] | list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert_close(actual, expected, rtol=0, atol=1e-12)


def test_group_relative_by_hand() -> None:
    """Catches the population deviation, a missing mean and an eps inside the root. Mean 1/2, variance (4 * 1/4) / 3."""
    std = math.sqrt(1 / 3) + 1e-9
    close(group_relative(exact([0, 1, 1, 0])), exact([-0.5 / std, 0.5 / std, 0.5 / std, -0.5 / std]))


def test_group_relative_without_deviation_and_batched() -> None:
    """Catches a mean over the wrong axis."""
    rewards = exact([[1.5, 0.0, 0.0], [1.0, 0.5, 0.0]])
    close(group_relative(rewards, normalize_std=False), exact([[1.0, -0.5, -0.5], [0.5, 0.0, -0.5]]))
    close(group_relative(rewards)[1], exact([1.0, 0.0, -1.0]) * 0.5 / (0.5 + 1e-9))


@given(st.floats(-1e6, 1e6), st.integers(1, 16), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_equal_rewards_give_exactly_zero(reward: float, size: int, dtype: torch.dtype) -> None:
    """Catches rounding of the mean (0.1 seven times) blown up by a tiny deviation."""
    rewards = torch.full((size,), reward, dtype=dtype)
    assert (group_relative(rewards) == 0).all() and (group_relative(rewards, normalize_std=False) == 0).all()
    if size > 1:
        assert (leave_one_out(rewards) == 0).all()


def test_whole_numbers_and_empty_groups() -> None:
    """Catches integer division of integer rewards, and NaN from an empty group."""
    close(group_relative(torch.tensor([0, 1]), normalize_std=False), exact([-0.5, 0.5]))
    with pytest.raises(ValueError, match="empty"):
        group_relative(exact([]))
    with pytest.raises(ValueError, match="group of one"):
        leave_one_out(exact([1.0]))


def test_leave_one_out_by_hand() -> None:
    """Catches a baseline that holds the sample itself: others' means are 1/3, 1/3, 1/3, 2/3 ... of [1,1,0,0] by hand."""
    close(leave_one_out(exact([1, 1, 0, 0])), exact([2 / 3, 2 / 3, -2 / 3, -2 / 3]))
    close(leave_one_out(exact([3, 0])), exact([3, -3]))


def test_gae_by_hand() -> None:
    """Catches swapped gamma and lambda. Deltas: 2: 1-0.25 = 0.75; 1: 0.9*0.25-0.5 = -0.275; 0: 0.9*0.5-1 = -0.55."""
    advantages, returns = gae(exact([0, 0, 1]), exact([1, 0.5, 0.25]), torch.ones(3, dtype=torch.bool), 0.9, 0.5)
    a1 = -0.275 + 0.45 * 0.75
    expected = exact([-0.55 + 0.45 * a1, a1, 0.75])
    close(advantages, expected)
    close(returns, expected + exact([1, 0.5, 0.25]))


@pytest.mark.parametrize("seed", range(8))
def test_gae_equals_its_definition(seed: int) -> None:
    """Catches a recursion that is not the sum it stands for: A_t = sum over k of (gamma lam)^k delta_(t+k), in O(T^2), over the
    tokens that the policy wrote."""
    generator = torch.Generator().manual_seed(seed)
    length, gamma, lam = 13, 0.97, 0.9
    rewards, values = (torch.randn(length, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(length, generator=generator) < 0.7
    found, returns = gae(rewards, values, mask, gamma, lam)
    own = [t for t in range(length) if mask[t]]
    following = [float(values[t]) for t in own[1:]] + [0.0]
    deltas = [float(rewards[t]) + gamma * v - float(values[t]) for t, v in zip(own, following, strict=True)]
    wanted = torch.zeros(length, dtype=torch.float64)
    for i, t in enumerate(own):
        wanted[t] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(own)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, torch.where(mask, wanted + values, 0.0), rtol=0, atol=1e-12)


def test_gae_skips_what_the_policy_did_not_write() -> None:
    """Catches environment text counted as steps: with it cut out the numbers are the same; outside they are 0."""
    mask = torch.tensor([[False, True, False, False, True, True, False]])
    rewards, values = exact([[9, 0.5, 9, 9, 0, 1, 9]]), exact([[9, 1, 9, 9, 0.5, 0.25, 9]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.5)
    short = gae(rewards[mask], values[mask], torch.ones(3, dtype=torch.bool), 0.9, 0.5)
    close(advantages[mask], short[0])
    close(returns[mask], short[1])
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_gae_of_nothing_is_nothing() -> None:
    """Catches a crash over a batch in which no token was written."""
    empty = torch.zeros(3, 0, dtype=torch.float64)
    assert all(x.shape == (3, 0) for x in gae(empty, empty, empty.bool(), 1.0, 1.0))


def test_gae_without_discount_is_reward_to_go_minus_value() -> None:
    """Catches a broken carry: at gamma = lambda = 1 the sum telescopes (LMM-R1's setting)."""
    rewards, values = torch.randn(4, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    advantages, _ = gae(rewards, values, torch.ones(4, 9, dtype=torch.bool), 1.0, 1.0)
    close(advantages, reward_to_go(rewards) - values)
    close(reward_to_go(exact([1, 2, 3])), exact([6, 5, 3]))


def test_whiten_by_hand() -> None:
    """Catches the sample variance. [1, 2, 3]: mean 2, population variance 2/3; and 0/0 for equal values."""
    s = math.sqrt(2 / 3)
    close(whiten(exact([1, 2, 3])), exact([-1 / s, 0, 1 / s]))
    assert (whiten(exact([0.1] * 7)) == 0).all() and whiten(exact([])).numel() == 0
