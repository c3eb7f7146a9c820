"""Sequence parallelism: the ranks of a group share the tokens of every batch, so that a long reply fits.

Each rank runs the layers on its part of each row; attention alone looks beyond it, at the keys and values of all parts, which
are gathered layer by layer. Numbers are those of the whole row: a rank's queries see the same keys in the same order. The
tower of pictures runs whole on every rank of the group, and a rank takes the features that stand in its part.
Axis legend: R = rows, L = row length, P = L / ranks of the group (a rank's part), H = heads, K = key heads, D = width of a head.
Leaves out: losses over whole sequences, which no rank sees (fsdp.py refuses them), and rings that overlap sending and computing.
Source: gathering keys and values as in Llama 3 (arXiv 2407.21783, section 3.3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from lmm_r1.trainers.collate import Batch

#: One more name for each group that this process was ever in.
_NAME = "lmm_r1_sequence_{}"
_named = 0


class _Gather(torch.autograd.Function):
    """Parts [R, K, P, D] of all ranks -> [R, K, L, D]; a part's gradient is the sum of what every rank wants of it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[override]
        ctx.group, ctx.size = group, part.shape[2]
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        whole = grads[0].contiguous()
        dist.all_reduce(whole, group=ctx.group)
        start = ctx.group.rank() * ctx.size
        return whole[:, :, start : start + ctx.size].contiguous(), None


def share_attention(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Make the language layers of a network look at the keys and values of every rank of a group."""
    global _named
    name = _NAME.format(_named)
    _named += 1
    AttentionInterface.register(name, _attention(group))
    for module in network.modules():
        tower = getattr(module, "language_model", None)
        if isinstance(tower, nn.Module):
            tower.config._attn_implementation = name  # type: ignore[union-attr]  # of the layers too: one object


def _attention(group: dist.ProcessGroup) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        """query [R, H, P, D]; key, value [R, K, P, D]; attention_mask [R, 1, P, L] additive -> [R, P, H, D]."""
        both = _Gather.apply(torch.cat([key, value], dim=-1), group)  # one message a layer
        key, value = both.split(key.shape[-1], dim=-1)
        groups = query.shape[1] // key.shape[1]
        if groups > 1:  # grouped heads beside a mask would choose the kernel that holds all H x P x L scores
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    return attend


def part_of_batch(batch: Batch, rank: int, ranks: int, pad_id: int) -> Batch:
    """A rank's part of a batch: its columns of every row, what they predict, and the features that stand in them."""
    rows, length = batch.input_ids.shape
    whole = -(-length // ranks) * ranks
    size = whole // ranks
    start, end, extra = rank * size, (rank + 1) * size, whole - length
    ids = functional.pad(batch.input_ids, (0, extra), value=pad_id)[:, start:end]
    positions = functional.pad(batch.positions, (0, extra))[..., start:end]
    if batch.mask is None:
        seen = torch.ones(whole, whole, dtype=torch.bool, device=ids.device).tril().expand(rows, 1, whole, whole)
    else:
        seen = functional.pad(batch.mask, (0, extra, 0, extra), value=False)
        seen = seen | torch.eye(whole, dtype=torch.bool, device=ids.device)  # no row of a softmax is empty
    at, use = _placed(batch.parents, length, start, end)
    slot, filled = _placed(batch.placeholders, length, start, end)
    kept = use.cpu().numpy()
    lengths = [len(where) for where in batch.where]
    cuts = np.split(kept, np.cumsum(lengths)[:-1]) if lengths else []
    mine = [(m, where[cut]) for m, where, cut in zip(batch.members, batch.where, cuts, strict=True) if cut.any()]
    return replace(
        batch,
        input_ids=ids.contiguous(),
        positions=positions.contiguous(),
        mask=seen[:, :, start:end].clone(),  # a view would hold all rows of it
        parents=at,
        targets=batch.targets[use],
        placeholders=slot,
        features=batch.features[filled],
        members=tuple(m for m, _ in mine),
        where=tuple(w for _, w in mine),
    )


def _placed(flat: Tensor, length: int, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Flat indices into rows of `length` -> (those of the columns [start, end), into rows of that size; which they were)."""
    row, column = flat // length, flat % length
    use = (column >= start) & (column < end)
    return row[use] * (end - start) + column[use] - start, use
