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


def test_dual_clip_by_hand() -> None:
    """Catches a bound on the wrong side: only A < 0 and a ratio above it is held, at dual_clip * |A|."""
    logprobs = exact([math.log(5.0), math.log(5.0), math.log(2.0)])
    loss, clipped = losses.clipped_policy(logprobs, torch.zeros(3), exact([-1.0, 1.0, -1.0]), 0.2, 0.2, dual_clip=3.0)
    close(loss, exact([3.0, -1.2, 2.0]))
    close(clipped, exact([1.0, 1.0, 0.0]))


SEQUENCES = torch.tensor([0, 0, 1])


def test_sequence_ratio_by_hand() -> None:
    """Catches a product in place of the geometric mean, replies that mix, and a clip of tokens.

    Reply 0: log-ratios log 4 and 0, so its ratio is 2; reply 1: 0.5. A = 1 and -1, range 0.8 to 1.3.
    """
    logprobs = exact([math.log(4), 0.0, math.log(0.5)]).requires_grad_()
    advantages = exact([1.0, 1.0, -1.0])
    loss, clipped = losses.sequence_clipped(logprobs, torch.zeros(3), advantages, SEQUENCES, 2, 0.2, 0.3)
    close(loss.detach(), exact([-1.3, -1.3, 0.8]))
    close(clipped, exact([1.0, 1.0, 1.0]))
    free, _ = losses.sequence_clipped(logprobs, torch.zeros(3), advantages, SEQUENCES, 2, 0.9, 9.0)
    (gradient,) = torch.autograd.grad(free.sum(), logprobs)
    close(gradient, exact([-2.0, -2.0, 0.5]))  # -s A / 2 on each of two tokens, twice


def test_clipped_weight_by_hand() -> None:
    """Catches a gradient through the ratio, a lost sign, and a lower bound that nobody asked for."""
    logprobs = exact([math.log(8), math.log(0.1), 0.0]).requires_grad_()
    loss, clipped = losses.clipped_weight(logprobs, torch.zeros(3), exact([1.0, 2.0, -1.0]), None, 4.0)
    close(loss.detach(), exact([-5 * math.log(8), -0.2 * math.log(0.1), 0.0]))
    close(clipped, exact([1.0, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    close(gradient, exact([-5.0, -0.2, 1.0]))
    bounded, _ = losses.clipped_weight(logprobs.detach(), torch.zeros(3), exact([1.0, 2.0, -1.0]), 0.5, 4.0)
    close(bounded[1], exact([-0.5 * 2 * math.log(0.1)])[0])


def test_mismatch_weights_by_hand() -> None:
    """Catches the ratio upside down, a sequence ratio that is a mean, and a mask that only looks above."""
    trainer, sampler = exact([math.log(3), 0.0, math.log(0.25)]), torch.zeros(3, dtype=torch.float64)
    args = (trainer, sampler, SEQUENCES, 2)
    close(losses.mismatch_weights(*args, mode="truncate", level="token", cap=2.0), exact([2.0, 1.0, 0.25]))
    close(losses.mismatch_weights(*args, mode="mask", level="token", cap=2.0), exact([0.0, 1.0, 0.0]))
    close(losses.mismatch_weights(*args, mode="truncate", level="sequence", cap=5.0), exact([3.0, 3.0, 0.25]))
    for wrong in ({"mode": "cut", "level": "token"}, {"mode": "mask", "level": "word"}):
        with pytest.raises(ValueError, match="there are"):
            losses.mismatch_weights(*args, cap=2.0, **wrong)


#: name -> loss of log-probs float64[3] against old = 0, with ratios at, beside and across the clip edges.
DIFFERENTIABLE = {
    "clipped": lambda x, a: losses.clipped_policy(x, torch.zeros_like(x), a, 0.2, 0.28)[0],
    "dual": lambda x, a: losses.clipped_policy(x, torch.zeros_like(x), a, 0.2, 0.28, 3.0)[0],
    "sequence": lambda x, a: losses.sequence_clipped(x, torch.zeros_like(x), a, torch.tensor([0, 1, 2]), 3, 0.2, 0.28)[
        0
    ],
    "k1": lambda x, a: losses.kl(x, a, "k1"),
    "k2": lambda x, a: losses.kl(x, a, "k2"),
    "k3": lambda x, a: losses.kl(x, a, "k3"),
    "value": lambda x, a: losses.value(x, torch.zeros_like(x), a, 0.2),
}


@pytest.mark.parametrize("name", list(DIFFERENTIABLE))
@pytest.mark.parametrize("side", [-1e-3, 1e-3])
def test_gradients_beside_the_clip_edges(name: str, side: float) -> None:
    """Catches a wrong derivative on either side of every edge (at an edge itself there is none)."""
    edges = (-0.2, 0.2) if name == "value" else (math.log(0.8), math.log(1.28), math.log(3.0))
    for edge in edges:
        point = (exact([edge] * 3) + side).requires_grad_()
        assert torch.autograd.gradcheck(DIFFERENTIABLE[name], (point, exact([1.0, -1.0, 0.5])), eps=1e-7, atol=1e-6)


def test_cispo_is_no_gradient_of_its_value() -> None:
    """Catches a clipped weight that is differentiated: its gradient is the weight, not that of the product."""
    point = exact([math.log(1.5)]).requires_grad_()
    loss, _ = losses.clipped_weight(point, torch.zeros(1), exact([1.0]), None, 4.0)
    (gradient,) = torch.autograd.grad(loss.sum(), point)
    close(gradient, exact([-1.5]))
