"""Log-probs of tokens: against a float64 computation by hand, chunked and not, with gradients."""

from __future__ import annotations

import pytest
import torch

from lmm_r1.models.logprobs import token_logprobs

N, D, V = 23, 16, 50
BANNED = (3, 7, 49)


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator)
    head = torch.randn(V, D, generator=generator)
    return hidden, head, torch.arange(N) % 40 + 8  # none of the banned ids


@pytest.mark.parametrize("chunk", [None, 1, 5, N])
def test_values_and_gradients_equal_a_float64_softmax(case: tuple[torch.Tensor, ...], chunk: int | None) -> None:
    """Would catch a temperature or mask on the wrong side of the softmax, chunks lost, or a broken gradient."""
    hidden, head, targets = (t.clone() for t in case)
    hidden.requires_grad_(), head.requires_grad_()
    logprobs, entropy = token_logprobs(hidden, head, targets, 0.7, BANNED, chunk)
    (logprobs * torch.arange(N)).sum().backward()

    wide, wide_head = case[0].double().requires_grad_(), case[1].double().requires_grad_()
    allowed = torch.tensor([i for i in range(V) if i not in BANNED])
    logits = (wide @ wide_head.T)[:, allowed] / 0.7
    expected = logits.log_softmax(-1)
    picked = expected[torch.arange(N), torch.searchsorted(allowed, targets)]
    (picked * torch.arange(N)).sum().backward()

    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), picked, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), -(expected.exp() * expected).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), wide.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(head.grad.double(), wide_head.grad, atol=1e-4, rtol=1e-4)
    assert not entropy.requires_grad


def test_a_banned_target_is_impossible_and_harms_no_other(case: tuple[torch.Tensor, ...]) -> None:
    """Would catch media tokens with probability, or NaN entropies from 0 * -inf."""
    hidden, head, targets = case
    targets = targets.clone()
    targets[4] = BANNED[0]
    logprobs, entropy = token_logprobs(hidden, head, targets, 1.0, BANNED)
    assert logprobs[4] == -torch.inf and torch.isfinite(entropy).all()
    assert torch.isfinite(logprobs[targets != BANNED[0]]).all()


def test_narrow_weights_still_get_a_float32_softmax(case: tuple[torch.Tensor, ...]) -> None:
    """Would catch a log-softmax in bfloat16: its values have steps of 1/64 near -3."""
    hidden, head, targets = case
    logprobs, _ = token_logprobs(hidden.bfloat16(), head.bfloat16(), targets)
    expected = (hidden.bfloat16() @ head.bfloat16().T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)


def test_misfits_are_refused(case: tuple[torch.Tensor, ...]) -> None:
    """Would catch a silent broadcast of hidden states against targets shifted by one."""
    hidden, head, targets = case
    with pytest.raises(ValueError, match="no fit"):
        token_logprobs(hidden, head, targets[1:])
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(hidden, head, targets, 0.0)
