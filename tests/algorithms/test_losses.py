"""Losses against values computed by hand, in float64 to 1e-12."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from lmm_r1.algorithms import losses


def exact(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert_close(actual, expected, rtol=0, atol=1e-12)


#: (ratio, advantage, loss at clip 0.2 / 0.3, clipped): all six cases of the surrogate.
CASES = [
    (1.0, 2.0, -2.0, 0),
    (1.5, 2.0, -2.6, 1),  # too likely already: held at 1.3
    (1.5, -2.0, 3.0, 0),  # got likelier though it was bad: not held
    (0.5, 2.0, -1.0, 0),  # got less likely though it was good: not held
    (0.5, -2.0, 1.6, 1),  # unlikely enough: held at 0.8
    (1.25, -1.0, 1.25, 0),
]


def test_clipped_policy_by_hand() -> None:
    """Catches max for min, one clip range for both sides, and a clip indicator that ignores the advantage's sign."""
    logprobs = exact([math.log(r) for r, _, _, _ in CASES])
    loss, clipped = losses.clipped_policy(
        logprobs, torch.zeros_like(logprobs), exact([a for _, a, _, _ in CASES]), 0.2, 0.3
    )
    close(loss, exact([x for _, _, x, _ in CASES]))
    close(clipped, exact([float(c) for _, _, _, c in CASES]))


def test_clipped_tokens_have_no_gradient() -> None:
    """Catches a clip that only changes the value; unclipped ones have -ratio * A."""
    logprobs = exact([math.log(r) for r, _, _, _ in CASES]).requires_grad_()
    loss, _ = losses.clipped_policy(logprobs, torch.zeros_like(logprobs), exact([a for _, a, _, _ in CASES]), 0.2, 0.3)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    close(gradient, exact([0.0 if c else -r * a for r, a, _, c in CASES]))


def test_kl_estimators_by_hand() -> None:
    """Catches k3 with the ratio upside down: at d = log 2 it is 1/2 - 1 + log 2, at d = -log 2 it is 2 - 1 - log 2."""
    d = math.log(2)
    policy, reference = exact([d, 0, 0]), exact([0, d, 0])
    close(losses.kl(policy, reference, "k1"), exact([d, -d, 0]))
    close(losses.kl(policy, reference, "k2"), exact([d * d / 2, d * d / 2, 0]))
    close(losses.kl(policy, reference, "k3"), exact([0.5 - 1 + d, 2 - 1 - d, 0]))
    with pytest.raises(ValueError, match="k9"):
        losses.kl(policy, reference, "k9")


def test_kl_estimators_estimate_the_kl() -> None:
    """Catches an estimator of the reverse direction: expectations over a policy with known KL; k1 and k3 are unbiased."""
    p, q = exact([0.7, 0.2, 0.1]), exact([0.5, 0.25, 0.25])
    true = (p * (p / q).log()).sum()
    for estimator in ("k1", "k3"):
        close((p * losses.kl(p.log(), q.log(), estimator)).sum(), true)


def test_value_loss_by_hand() -> None:
    """Catches min for max, and a missing half. old 0, return 1: at 0.5 held to 0.2 -> (0.8)^2 / 2; at -1 free -> 4 / 2."""
    values, old, returns = exact([0.5, -1.0, 0.1]), exact([0, 0, 0]), exact([1, 1, 1])
    close(losses.value(values, old, returns, 0.2), exact([0.32, 2.0, 0.405]))
    close(losses.value(values, old, returns, None), exact([0.125, 2.0, 0.405]))
