"""Metrics of one optimiser step, kept on the device until its end: one transfer instead of one per batch.

Leaves out: what is measured (local.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, maximum


class Tally:
    """Adds up what the batches of one optimiser step report."""

    def __init__(self) -> None:
        self._tokens = 0
        self._totals: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}

    def add(
        self,
        tokens: int,
        totals: Mapping[str, Tensor] = {},
        sums: Mapping[str, Tensor] = {},
        maxima: Mapping[str, Tensor] = {},
    ) -> None:
        """totals add up, sums become means per token, maxima stay maxima. All are scalars; tokens: of this batch."""
        self._tokens += tokens
        for store, new in ((self._totals, totals), (self._sums, sums)):
            for name, value in new.items():
                store[name] = store[name] + value if name in store else value
        for name, value in maxima.items():
            self._maxima[name] = maximum(self._maxima[name], value) if name in self._maxima else value

    def metrics(self) -> dict[str, float]:
        """ValueError when no token was trained on."""
        if self._tokens == 0:
            raise ValueError("an optimiser step needs at least one trainable token")
        out = {name: float(value) for name, value in (self._totals | self._maxima).items()}
        out |= {name: float(value) / self._tokens for name, value in self._sums.items()}
        return out | {"tokens": float(self._tokens)}
