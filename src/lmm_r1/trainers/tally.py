"""Metrics of one optimiser step, kept on the device until its end: one transfer instead of one per batch.

Leaves out: what is measured (local.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, maximum


@dataclass(frozen=True, slots=True)
class Counts:
    """What one rank's share of an optimiser step came to; JSON-able by its fields.

    tokens: trained on. totals add up over shares, sums become means per token of all, maxima stay maxima; same: what every
    rank says alike, such as the norm of the whole gradient.
    """

    tokens: int
    totals: Mapping[str, float]
    sums: Mapping[str, float]
    maxima: Mapping[str, float]
    same: Mapping[str, float] = field(default_factory=dict)


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

    def counts(self, same: Mapping[str, float] = {}) -> Counts:
        """The sums so far, off the device."""
        totals, sums, maxima = ({n: float(v) for n, v in s.items()} for s in (self._totals, self._sums, self._maxima))
        return Counts(self._tokens, totals, sums, maxima, dict(same))


def metrics_of(shares: Sequence[Counts]) -> dict[str, float]:
    """The metrics of an optimiser step from the shares of all its ranks. ValueError when no token was trained on."""
    tokens = sum(share.tokens for share in shares)
    if tokens == 0:
        raise ValueError("an optimiser step needs at least one trainable token")
    out: dict[str, float] = {}
    for share in shares:
        for name, value in share.totals.items():
            out[name] = out.get(name, 0.0) + value
    for share in shares:
        for name, value in share.maxima.items():
            out[name] = max(out.get(name, value), value)
    sums: dict[str, float] = {}
    for share in shares:
        for name, value in share.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    out |= {name: value / tokens for name, value in sums.items()}
    return _explained(out) | {"tokens": float(tokens)} | dict(shares[0].same)


def _explained(metrics: Mapping[str, float]) -> dict[str, float]:
    """The sums of the critic as what people read: critic/{loss, value, return, explained} (the share of the returns' variance)."""
    metrics = dict(metrics)
    if "critic/return2" in metrics:
        spread = metrics.pop("critic/return2") - metrics["critic/return"] ** 2
        missed = metrics.pop("critic/miss2") - metrics.pop("critic/miss") ** 2
        metrics["critic/explained"] = 1.0 - missed / spread if spread > 1e-12 else 0.0
    return metrics
