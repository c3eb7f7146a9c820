"""The packed forward pass against transformers' own, one sequence at a time: values and gradients."""

from __future__ import annotations

import pytest
import torch
from plain_model import PlainAdapter, flat_gradient, plain_logprobs, random_model

from lmm_r1.trainers.collate import Media, collate
from lmm_r1.trainers.step import forward_logprobs
from lmm_r1.types import Rollout
from tests.closeness import relative


@pytest.mark.parametrize(
    ("dtype", "micro_tokens", "tied", "values", "gradients"),
    [
        (torch.float32, 8192, True, 1e-4, 2e-5),
        (torch.float32, 64, False, 1e-4, 2e-5),
        (torch.float64, 8192, False, 1e-5, 1e-6),
    ],
)
def test_packed_rows_equal_plain_sequences(
    rollouts: list[Rollout], dtype: torch.dtype, micro_tokens: int, tied: bool, values: float, gradients: float
) -> None:
    """Catches wrong masks, positions, parents, feature order or temperature: anything that packing can break."""
    model = random_model(1, dtype, tie=tied)
    adapter = PlainAdapter(model)
    generator = torch.Generator().manual_seed(0)
    coefficients = [torch.randn(int(r.trainable.sum()), generator=generator).to(dtype) for r in rollouts]

    model.zero_grad()
    expected = [plain_logprobs(model, adapter, r, temperature=0.7) for r in rollouts]
    torch.cat([c * e for c, e in zip(coefficients, expected, strict=True)]).sum().backward()
    wanted = flat_gradient(model)

    model.zero_grad()
    for batch in collate(rollouts, adapter, Media(adapter.image_id, 4), micro_tokens):
        logprobs, entropy = forward_logprobs(model, batch, 0.7, adapter.banned_ids)
        there = torch.cat([expected[i] for i in batch.members])
        assert (logprobs - there).abs().max() < values
        assert (entropy > 0).all()
        weights = torch.cat([coefficients[i] for i in batch.members])
        (weights * logprobs).sum().backward()
    assert relative(flat_gradient(model), wanted) < gradients


def test_another_picture_changes_the_logprobs(model, adapter: PlainAdapter, rollouts: list[Rollout]) -> None:
    """Catches features that never reach the language model."""
    media = Media(adapter.image_id, 4)
    (batch,) = collate(rollouts[3:4], adapter, media, 8192)
    before, _ = forward_logprobs(model, batch, 1.0, adapter.banned_ids)
    batch.vision["pixel_values"].mul_(-1.0)
    after, _ = forward_logprobs(model, batch, 1.0, adapter.banned_ids)
    assert (before - after).abs().max() > 1e-3


def test_a_text_row_does_not_move_when_a_picture_row_joins(
    model, adapter: PlainAdapter, rollouts: list[Rollout]
) -> None:
    """Catches features spread over rows without placeholders, and positions shifted by a neighbour's picture."""
    media, text = Media(adapter.image_id, 4), rollouts[:3]
    found = []
    for rows in (text, rollouts):
        said = {}
        for batch in collate(rows, adapter, media, 8192):
            logprobs, _ = forward_logprobs(model, batch, 1.0, adapter.banned_ids)
            said |= zip(batch.members, logprobs.detach().split([len(w) for w in batch.where]), strict=True)
        found.append(torch.cat([said[i] for i in range(3)]))
    assert float((found[0] - found[1]).abs().max()) < 1e-5
