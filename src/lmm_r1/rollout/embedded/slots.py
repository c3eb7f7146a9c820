"""The slots of running replies: a static key-value cache and the state of each reply, as tensors.

Running replies always fill rows 0..running-1: one that ends is overwritten by one from the end of the rows, so every
operation works on a slice and nothing loops over slots.
Axis legend: K = key-value heads, d = head width, D = hidden width, P = prompt tokens; capacity = cache
positions of a slot; budget = reply tokens of a slot.
Leaves out: scheduling (engine.py) and the layers (decoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmm_r1.rollout.embedded.sampling import uniforms
from lmm_r1.rollout.embedded.text_weights import TextWeights
from lmm_r1.types import Request

#: Cache capacities are whole multiples of this.
_ROUND = 64


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prompt that ran: its keys and values [layers, K, P, d], last hidden state [D], next rotary position."""

    keys: Tensor
    values: Tensor
    hidden: Tensor
    position: int


class Slots:
    """State of the running replies; row r of every tensor belongs to `requests[r]`.

    lengths: cache positions filled. positions: the next token's rotary position. written: reply tokens so far.
    budget: reply tokens allowed. tokens: the last token drawn. mask: 0 where a cache position is seen, else -inf.
    """

    def __init__(self, weights: TextWeights) -> None:
        self._weights = weights
        self.requests: list[Request] = []
        self._free()

    def _free(self) -> None:
        w = self._weights
        dtype, device = w.embed.dtype, w.embed.device
        self.keys, self.values = self._cache(0, 0)
        self.hidden = torch.zeros((0, w.hidden), dtype=dtype, device=device)
        self.mask = torch.zeros((0, 0), dtype=dtype, device=device)

        def flat(kind: torch.dtype) -> Tensor:
            return torch.zeros(0, dtype=kind, device=device)

        self.lengths, self.positions, self.written = flat(torch.int64), flat(torch.int64), flat(torch.int64)
        self.budget, self.tokens = flat(torch.int64), flat(torch.int64)
        self.temperature, self.top_p = flat(torch.float32), flat(torch.float64)
        self.uniform = torch.zeros((0, 0), dtype=torch.float64, device=device)
        self.reply_ids = torch.zeros((0, 0), dtype=torch.int64, device=device)
        self.reply_logprobs = torch.zeros((0, 0), dtype=torch.float32, device=device)
        self.all_top_p_one = True

    def _cache(self, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, rows, K, capacity, d]. In float32 the keys lie in memory with d before capacity:
        one query against them is then a plain matrix product (decoder.py), three times as fast on a CPU.

        Zeros, not empty: a masked position is multiplied by 0, and 0 times what memory held may be NaN.
        """
        w = self._weights
        outer, dtype, device = (len(w.layers), rows, w.kv_heads), w.embed.dtype, w.embed.device
        values = torch.zeros((*outer, capacity, w.head_width), dtype=dtype, device=device)
        if dtype != torch.float32:
            return torch.zeros_like(values), values
        return torch.zeros((*outer, w.head_width, capacity), dtype=dtype, device=device).transpose(-1, -2), values

    @property
    def running(self) -> int:
        """How many replies are running."""
        return len(self.requests)

    def free(self) -> None:
        """Give the memory back. ValueError while replies are running."""
        if self.requests:
            raise ValueError("the cache is in use")
        self._free()

    def reserve(self, rows: int, capacity: int, budget: int) -> None:
        """Room for this many rows, cache positions and reply tokens; what is there is kept."""
        rows = max(rows, len(self.lengths))
        capacity = max(-(-capacity // _ROUND) * _ROUND, self.mask.shape[1])
        budget = max(budget, self.uniform.shape[1])
        old_rows, old_capacity = self.mask.shape
        if (rows, capacity) != (old_rows, old_capacity):
            keys, values = self._cache(rows, capacity)
            keys[:, :old_rows, :, :old_capacity], values[:, :old_rows, :, :old_capacity] = self.keys, self.values
            self.keys, self.values = keys, values
            self.mask = _grown(self.mask, (rows, capacity), -torch.inf)
        if rows != len(self.lengths):
            self.hidden = _grown(self.hidden, (rows, self.hidden.shape[1]))
            for name in ("lengths", "positions", "written", "budget", "tokens", "temperature", "top_p"):
                setattr(self, name, _grown(getattr(self, name), (rows,)))
        if (rows, budget) != tuple(self.uniform.shape):
            for name in ("uniform", "reply_ids", "reply_logprobs"):
                setattr(self, name, _grown(getattr(self, name), (rows, budget)))

    def start(self, requests: Sequence[Request], budgets: Sequence[int], prefix: Prefix) -> None:
        """Let replies with the same prompt begin, in the next rows. `reserve` made room."""
        first, last = self.running, self.running + len(requests)
        rows, length = slice(first, last), prefix.keys.shape[2]
        self.keys[:, rows, :, :length] = prefix.keys[:, None]
        self.values[:, rows, :, :length] = prefix.values[:, None]
        self.hidden[rows] = prefix.hidden
        self.mask[rows] = -torch.inf
        self.mask[rows, :length] = 0
        self.lengths[rows], self.positions[rows], self.written[rows] = length, prefix.position, 0
        device = self.lengths.device
        self.budget[rows] = torch.tensor(budgets, device=device)
        self.temperature[rows] = torch.tensor([r.temperature for r in requests], device=device)
        self.top_p[rows] = torch.tensor([r.top_p for r in requests], dtype=torch.float64, device=device)
        width = max(budgets)
        self.uniform[rows, :width] = torch.stack([uniforms(r, width) for r in requests]).to(device)
        self.requests += requests
        self.all_top_p_one = all(r.top_p >= 1 for r in self.requests)

    def remove(self, rows: Sequence[int]) -> None:
        """End the replies of these rows: rows from the end move into the holes below the new count."""
        left = self.running - len(rows)
        gone = set(rows)
        holes = sorted(r for r in gone if r < left)
        movers = [r for r in range(left, self.running) if r not in gone]
        if holes:
            device = self.lengths.device
            to, source = torch.tensor(holes, device=device), torch.tensor(movers, device=device)
            span = int(self.lengths[source].max())
            for cache in (self.keys, self.values):
                cache[:, to, :, :span] = cache[:, source, :, :span]
            for name in (
                "hidden", "mask", "lengths", "positions", "written", "budget", "tokens", "temperature", "top_p",
                "uniform", "reply_ids", "reply_logprobs",
            ):  # fmt: skip
                state = getattr(self, name)
                state[to] = state[source]
            for hole, mover in zip(holes, movers, strict=True):
                self.requests[hole] = self.requests[mover]
        del self.requests[left:]
        self.all_top_p_one = all(r.top_p >= 1 for r in self.requests)

    def record(self, tokens: Tensor, logprobs: Tensor) -> None:
        """Append one token to every running reply."""
        rows = torch.arange(self.running, device=tokens.device)
        written = self.written[: self.running]
        self.reply_ids[rows, written], self.reply_logprobs[rows, written] = tokens, logprobs
        self.tokens[: self.running] = tokens
        written += 1

    def replies(self, rows: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(token ids int32, log-probs float32) written in these rows."""
        at = torch.tensor(rows, device=self.lengths.device)
        counts = self.written[at].tolist()
        width = max(counts)
        ids = self.reply_ids[at, :width].to(torch.int32).cpu().numpy()
        logprobs = self.reply_logprobs[at, :width].cpu().numpy()
        return [(ids[i, :n].copy(), logprobs[i, :n].copy()) for i, n in enumerate(counts)]


def _grown(tensor: Tensor, shape: tuple[int, ...], fill: float = 0) -> Tensor:
    """A larger tensor that starts with this one."""
    larger = torch.full(shape, fill, dtype=tensor.dtype, device=tensor.device)
    larger[tuple(slice(n) for n in tensor.shape)] = tensor
    return larger
