"""Packing: nothing lost, nothing seen that must not be seen, and broken picture bookkeeping refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_model import PlainAdapter, make_rollout

from lmm_r1.errors import DataError
from lmm_r1.trainers.collate import Media, collate
from lmm_r1.types import Image, Rollout


@pytest.fixture
def media(adapter: PlainAdapter) -> Media:
    return Media(adapter.image_id, 4)


@pytest.mark.parametrize("micro_tokens", [10, 60, 120, 8192])
def test_every_trainable_token_comes_exactly_once(
    rollouts: list[Rollout], adapter: PlainAdapter, media: Media, micro_tokens: int
) -> None:
    """Catches samples lost or doubled when rows are split, and a wrong spread/select pairing."""
    out = [np.zeros(len(r.token_ids), np.float32) for r in rollouts]
    marks = [np.arange(len(r.token_ids), dtype=np.float32) + 1000 * i for i, r in enumerate(rollouts)]
    seen: list[int] = []
    for batch in collate(rollouts, adapter, media, micro_tokens):
        seen += batch.members
        batch.spread(batch.select(marks), out)
        targets = torch.cat(
            [torch.from_numpy(rollouts[i].token_ids[w]) for i, w in zip(batch.members, batch.where, strict=True)]
        )
        assert torch.equal(batch.targets, targets.long())
        assert batch.input_ids.numel() <= micro_tokens or len(batch.members) == 1
    assert sorted(seen) == list(range(len(rollouts)))
    for made, mark, r in zip(out, marks, rollouts, strict=True):
        np.testing.assert_array_equal(made, np.where(r.trainable, mark, 0))


def test_siblings_share_one_prompt(rollouts: list[Rollout], adapter: PlainAdapter, media: Media) -> None:
    """Catches a silent fall-back to one prompt copy per reply, which costs most of the speed."""
    batches = collate(rollouts, adapter, media, 8192)
    assert sum(len(b.input_ids) for b in batches) == 4
    assert sum(len(b.vision["image_grid_thw"]) for b in batches if b.vision) == 2  # "one" and "two", once each


def test_parent_of_each_token_is_its_predecessor(rollouts: list[Rollout], adapter: PlainAdapter, media: Media) -> None:
    """Catches the off-by-one at the first token of the second and later siblings."""
    for batch in collate(rollouts, adapter, media, 8192):
        flat = batch.input_ids.flatten()
        start = 0
        for i, where in zip(batch.members, batch.where, strict=True):
            parents = batch.parents[start : start + len(where)]
            np.testing.assert_array_equal(flat[parents].numpy(), rollouts[i].token_ids[where - 1])
            start += len(where)


def test_a_lone_reply_needs_no_mask(adapter: PlainAdapter, media: Media, rollouts: list[Rollout]) -> None:
    """Catches a quadratic mask where plain causal attention does (long replies, one per row)."""
    batches = collate([rollouts[0], rollouts[3]], adapter, media, 8192)
    assert all(b.mask is None for b in batches)


def test_a_reply_does_not_see_its_sibling(rollouts: list[Rollout], adapter: PlainAdapter, media: Media) -> None:
    """Catches a leak between siblings: the mask of the last reply token shows the prompt and itself only."""
    (batch,) = collate(rollouts[:2], adapter, media, 8192)
    prompt, first = rollouts[0].prompt_end, len(rollouts[0].token_ids)
    seen = batch.mask[0, 0, len(rollouts[1].token_ids) - prompt + first - 1]
    assert seen[:prompt].all() and not seen[prompt:first].any() and seen[first:].all()


def test_placeholders_must_equal_features(model, adapter: PlainAdapter, media: Media) -> None:
    """Catches a truncated or doubled image token, which would shift all later features silently."""
    good = make_rollout(model, "p", 0, 4, [Image("one", 56, 84)])
    at = int(np.flatnonzero(good.token_ids == adapter.image_id)[0])
    for bad in (
        replace(good, images=(Image("one", 56, 56),)),
        replace(good, images=()),
        replace(good, images=(*good.images, Image("two", 28, 28))),
        replace(
            good,
            token_ids=np.delete(good.token_ids, at),
            trainable=np.delete(good.trainable, at),
            logprobs=np.delete(good.logprobs, at),
        ),
    ):
        with pytest.raises(DataError, match="problem p: placeholder runs"):
            collate([bad], adapter, media, 8192)


def test_swapped_pictures_of_equal_total_are_refused(model, adapter: PlainAdapter, media: Media) -> None:
    """Catches a check of the sum alone: two pictures in the wrong order have the same total."""
    a, b = Image("a", 56, 56), Image("b", 84, 56)
    swapped = replace(make_rollout(model, "p", 0, 4, [a, b]), images=(b, a))
    with pytest.raises(DataError):
        collate([swapped], adapter, media, 8192)


def test_nothing_to_train_is_left_out(model, adapter: PlainAdapter, media: Media) -> None:
    """Catches a crash on a rollout without trainable tokens."""
    r = make_rollout(model, "p", 0, 4)
    mute = replace(r, trainable=np.zeros_like(r.trainable))
    assert collate([mute], adapter, media, 8192) == []
    assert collate([mute, r], adapter, media, 8192)[0].members == (1,)
