"""Rollouts -> batches: the only padding and packing in the code, with one copy of a group's prompt.

A row holds one prompt and, after it, the replies of several siblings; a mask lets each reply see the prompt and
itself, and the rotary positions are those of the reply's own stream. So the numbers are those of separate
sequences, at a fraction of the tokens. Rows never split a rollout. Images are encoded once per batch.

Axis legend: T = tokens of one rollout; R = rows of a batch; L = row length; N = trainable tokens of a batch, rollout
by rollout; M = image placeholders of a batch; F = vision features of a batch (one per merged patch).
Leaves out: sharding over ranks, and cutting a rollout that is longer than a batch (it becomes a batch of its own).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmm_r1.errors import DataError
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Float32, Image, PromptKey, Rollout, prompt_key

#: Longest row with more than one reply: the mask of a row grows with the square of its length.
MAX_TREE_ROW = 4096

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Media:
    """What collate must know of a model: the placeholder's id and how many patches make one feature."""

    image_token_id: int
    patches_per_feature: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One forward and backward pass.

    input_ids int64[R, L]; positions int64[3, R, L]; mask bool[R, 1, L, L], True = attend, or None for plain
    causal attention.  parents int64[N]: flat index (row * L + column) of the hidden state that predicts a trainable
    token; targets int64[N]: that token.  vision: arguments of the vision tower for the distinct images, or None;
    placeholders int64[M]: flat index, features int64[M]: which of the F features goes there.
    members: index of each rollout in the collated list; where: its trainable token indices. Both in N order.
    """

    input_ids: Tensor
    positions: Tensor
    mask: Tensor | None
    parents: Tensor
    targets: Tensor
    vision: dict[str, Tensor] | None
    placeholders: Tensor
    features: Tensor
    members: tuple[int, ...]
    where: tuple[Indices, ...]

    def select(self, arrays: Sequence[Float32]) -> Tensor:
        """Per-token arrays float32[T] of the whole collated list -> float32[N] on the batch's device."""
        picked = [arrays[i][w] for i, w in zip(self.members, self.where, strict=True)]
        return torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *picked])).to(self.input_ids.device)

    @property
    def sequences(self) -> Tensor:
        """int64[N]: which of the batch's rollouts a trainable token belongs to, 0 to len(members) - 1."""
        lengths = torch.tensor([len(where) for where in self.where], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(self.input_ids.device)

    def spread(self, values: Tensor, out: Sequence[Float32]) -> None:
        """Write float[N] into the arrays float32[T] of the whole collated list: the inverse of `select`."""
        flat = values.detach().float().cpu().numpy()
        start = 0
        for i, where in zip(self.members, self.where, strict=True):
            out[i][where] = flat[start : start + len(where)]
            start += len(where)


@dataclass(slots=True, eq=False)
class _Row:
    """One prompt and the replies after it; `prompt` is its length, `length` that of the row."""

    members: list[int]
    prompt: int
    length: int


def collate(
    rollouts: Sequence[Rollout],
    adapter: ModelAdapter,
    media: Media,
    micro_tokens: int,
    device: torch.device | str = "cpu",
) -> list[Batch]:
    """Batches of at most `micro_tokens` tokens (padding included), longest rows first.

    Rollouts without trainable tokens are left out. DataError when the placeholders of an image do not equal its
    features. A single rollout longer than `micro_tokens` is a batch of its own.
    """
    rows = sorted(_rows(rollouts, media, micro_tokens), key=lambda row: -row.length)
    batches: list[Batch] = []
    chunk: list[_Row] = []
    for row in rows:
        if chunk and chunk[0].length * (len(chunk) + 1) > micro_tokens:
            batches.append(_batch(chunk, rollouts, adapter, media, device))
            chunk = []
        chunk.append(row)
    if chunk:
        batches.append(_batch(chunk, rollouts, adapter, media, device))
    return batches


def _rows(rollouts: Sequence[Rollout], media: Media, micro_tokens: int) -> Iterator[_Row]:
    """Siblings (same prompt tokens, same prompt images) share rows until a row is full."""
    families: dict[PromptKey, list[int]] = {}
    for i, r in enumerate(rollouts):
        if r.trainable.any():
            if r.trainable[0]:
                raise DataError(f"rollout of problem {r.problem.id}: its first token cannot be trained on")
            families.setdefault(prompt_key(_prompt(r), r.images), []).append(i)
    limit = min(micro_tokens, MAX_TREE_ROW)
    for members in families.values():
        prompt = len(_prompt(rollouts[members[0]]))
        row = _Row([], prompt, prompt)
        for i in members:
            extra = len(rollouts[i].token_ids) - prompt
            if row.members and row.length + extra > limit:
                yield row
                row = _Row([], prompt, prompt)
            row.members.append(i)
            row.length += extra
        yield row


def _prompt(rollout: Rollout) -> NDArray[np.int32]:
    """Everything before the first trainable token: what siblings may share."""
    return rollout.token_ids[: int(rollout.trainable.argmax())]


def _batch(
    rows: Sequence[_Row], rollouts: Sequence[Rollout], adapter: ModelAdapter, media: Media, device: torch.device | str
) -> Batch:
    count, length = len(rows), max(row.length for row in rows)
    ids = np.full((count, length), adapter.pad_id, dtype=np.int64)
    positions = np.zeros((3, count, length), dtype=np.int64)
    segment = np.full((count, length), -1, dtype=np.int32)  # 0 = prompt, k = k-th reply of the row, -1 = padding
    tower = _Tower(adapter, media)
    members: list[int] = []
    where: list[Indices] = []
    parents: list[Indices] = []
    targets: list[NDArray[np.int32]] = []
    slots: list[Indices] = []
    features: list[Indices] = []
    for r, row in enumerate(rows):
        start, prompt = row.prompt, row.prompt
        placed = [tower.place(rollouts[i]) for i in row.members]  # first: positions presume that pictures match
        family = _Positions(adapter, [rollouts[i] for i in row.members], media.image_token_id, prompt)
        for k, i in enumerate(row.members):
            rollout = rollouts[i]
            tokens, end = rollout.token_ids, start + len(rollout.token_ids) - prompt
            own = family.of(rollout)
            shift = start - prompt  # column of a reply token = its index in the stream + shift
            if k == 0:
                ids[r, :prompt], segment[r, :prompt], positions[:, r, :prompt] = tokens[:prompt], 0, own[:, :prompt]
            ids[r, start:end], segment[r, start:end] = tokens[prompt:], k + 1
            positions[:, r, start:end] = own[:, prompt:]
            trained = np.flatnonzero(rollout.trainable)
            before = trained - 1  # THE shift by one of the row: the state of the token before predicts a token
            parents.append(r * length + np.where(before < prompt, before, before + shift))
            targets.append(tokens[trained])
            members.append(i)
            where.append(trained)
            at, feature = placed[k]
            use = slice(None) if k == 0 else at >= prompt
            at, feature = at[use], feature[use]
            slots.append(r * length + np.where(at < prompt, at, at + shift))
            features.append(feature)
            start = end
    return Batch(
        input_ids=torch.from_numpy(ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        mask=_tree_mask(torch.from_numpy(segment).to(device)) if any(len(row.members) > 1 for row in rows) else None,
        parents=torch.from_numpy(np.concatenate(parents)).to(device),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)).to(device),
        vision=tower.inputs(device),
        placeholders=torch.from_numpy(np.concatenate(slots)).to(device),
        features=torch.from_numpy(np.concatenate(features)).to(device),
        members=tuple(members),
        where=tuple(where),
    )


def _tree_mask(segment: Tensor) -> Tensor:
    """segment int[R, L] -> bool[R, 1, L, L]: earlier tokens of the prompt and of one's own reply.

    Padding sees the prompt, so that no row of the softmax is empty; nothing sees padding.
    """
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    keys = segment[:, None, :]
    return (causal & ((segment[:, :, None] == keys) | (keys == 0)))[:, None]


class _Positions:
    """Rotary positions of the siblings of a row.

    Siblings without images in their replies differ only in length, so the longest one's positions hold
    for all: a text token's position depends on how many tokens are before it, not on which.
    """

    def __init__(self, adapter: ModelAdapter, siblings: Sequence[Rollout], image_token_id: int, prompt: int) -> None:
        self._adapter = adapter
        self._shared: NDArray[np.int64] | None = None
        if not any((r.token_ids[prompt:] == image_token_id).any() for r in siblings):
            longest = max(siblings, key=lambda r: len(r.token_ids))
            self._shared = adapter.positions(longest.token_ids, longest.images)

    def of(self, rollout: Rollout) -> NDArray[np.int64]:
        """int64[3, T]."""
        if self._shared is not None:
            return self._shared[:, : len(rollout.token_ids)]
        return self._adapter.positions(rollout.token_ids, rollout.images)


class _Tower:
    """The distinct images of a batch, in order of first use, and where their features go."""

    def __init__(self, adapter: ModelAdapter, media: Media) -> None:
        self._adapter, self._media = adapter, media
        self._inputs: list[dict[str, Tensor]] = []
        self._span: dict[str, tuple[int, int]] = {}  # sha -> [first feature, end)
        self._next = 0

    def place(self, rollout: Rollout) -> tuple[Indices, Indices]:
        """Token indices of the placeholders int64[m] and the features that go there int64[m]."""
        at = np.flatnonzero(rollout.token_ids == self._media.image_token_id)
        spans = [self._span.get(image.sha) or self._add(image) for image in rollout.images]
        runs = np.split(at, np.flatnonzero(np.diff(at) != 1) + 1) if len(at) else []
        have, want = [len(run) for run in runs], [end - first for first, end in spans]
        if have != want:
            raise DataError(
                f"rollout of problem {rollout.problem.id}: placeholder runs of {have} tokens, but its images have "
                f"{want} features; image tokens and pictures must match one to one"
            )
        feature = [np.arange(first, end) for first, end in spans]
        return at, np.concatenate([*feature, np.zeros(0, np.int64)])

    def _add(self, image: Image) -> tuple[int, int]:
        inputs = self._adapter.vision_inputs([image])
        count = int(inputs["image_grid_thw"].prod(-1).sum()) // self._media.patches_per_feature
        self._inputs.append(inputs)
        self._span[image.sha] = (self._next, self._next + count)
        self._next += count
        return self._span[image.sha]

    def inputs(self, device: torch.device | str) -> dict[str, Tensor] | None:
        """Arguments of the vision tower for all images, or None without any."""
        if not self._inputs:
            return None
        return {name: torch.cat([i[name] for i in self._inputs]).to(device) for name in self._inputs[0]}
