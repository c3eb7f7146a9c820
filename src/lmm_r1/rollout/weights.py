"""Weight transfer that is proved, not believed: digests of the bytes, then log-probs of fixed probe streams.

A version number says what was meant to arrive. The digest says which bytes did, and the probe says that the engine
computes with them as the trainer does (a wrong fusion or an unread tensor passes any digest).
Axis legend: T = tokens of one probe stream.
Leaves out: transports to other processes (their links implement the same protocol).
Source: design of this project; the check of log-probs follows the sampler-trainer gap described in arXiv 2505.24298.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lmm_r1.errors import EngineError
from lmm_r1.seams import RolloutEngine, Trainer
from lmm_r1.types import Float32, Image, Int32


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's bytes, row-major, as hex."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(memoryview(flat.view(torch.uint8).numpy())).hexdigest()


def digest(pairs: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 over (name, dtype, shape, bytes) of all tensors, sorted by name: their order does not matter.

    EngineError when a name comes twice.
    """
    return digest_of_lines(weight_line(name, tensor) for name, tensor in pairs)


def weight_line(name: str, tensor: torch.Tensor) -> tuple[str, str]:
    """(name, one line that identifies the tensor's dtype, shape and bytes)."""
    return name, f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor_digest(tensor)}\n"


def digest_of_lines(lines: Iterable[tuple[str, str]]) -> str:
    """`digest` from `weight_line`s, so that tensors need not be held at once."""
    found: dict[str, str] = {}
    for name, line in lines:
        if name in found:
            raise EngineError(f"weight {name} was sent twice")
        found[name] = line
    return hashlib.sha256("".join(found[name] for name in sorted(found)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A fixed token stream, with its canonical pictures, whose log-probs both sides must agree on."""

    token_ids: Int32
    images: tuple[Image, ...]


class ProbedEngine(Protocol):
    """What a link needs of an engine in the same process."""

    version: int
    dtype: torch.dtype

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int) -> str: ...

    def score(self, token_ids: Int32, images: Sequence[Image], temperature: float) -> Float32: ...

    def unload(self) -> None: ...


class SyncedEngine(RolloutEngine, ProbedEngine, Protocol):
    """An engine that a link keeps up to date: what a stage needs."""


class ScoringTrainer(Trainer, Protocol):
    """A trainer that can say the log-probs of a stream, at its own temperature."""

    def score(self, token_ids: Int32, images: Sequence[Image]) -> Float32: ...


#: Largest probe difference in nats, by the engine's dtype.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.3, torch.float16: 0.05}


class LocalLink:
    """Implements seams.WeightLink for a trainer and an engine in one process."""

    def __init__(
        self,
        trainer: ScoringTrainer,
        engine: ProbedEngine,
        probes: Sequence[Probe],
        temperature: float = 1.0,
        tolerance: float | None = None,
    ) -> None:
        """`temperature`: the trainer's. `tolerance`: in nats; None takes TOLERANCES of the engine's dtype."""
        if not probes:
            raise ValueError("a weight link needs at least one probe")
        self._trainer, self._engine, self._probes, self._temperature = trainer, engine, tuple(probes), temperature
        self._tolerance = TOLERANCES[engine.dtype] if tolerance is None else tolerance

    def sync(self, version: int) -> str:
        """Send the weights, compare digests and probes, then move the engine to `version`; returns the digest.

        EngineError when either differs: the engine then keeps its old version and refuses to sample.
        """
        lines: list[tuple[str, str]] = []

        def sending() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in self._trainer.weights():  # once: gathering shards costs
                lines.append(weight_line(name, tensor))
                yield name, tensor

        received = self._engine.load_weights(sending(), self._engine.version)
        sent = digest_of_lines(lines)
        fault = "" if received == sent else f"sent {sent[:12]}, the engine holds {received[:12]}"
        fault = fault or self._probe_fault()
        if fault:
            self._engine.unload()
            raise EngineError(f"weights of version {version} did not arrive: {fault}")
        self._engine.version = version
        return sent

    def _probe_fault(self) -> str:
        """What the probes say against the engine; empty when nothing."""
        for number, probe in enumerate(self._probes):
            ours = self._trainer.score(probe.token_ids, probe.images)
            theirs = self._engine.score(probe.token_ids, probe.images, self._temperature)
            gaps = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
            worst = float(gaps.max())
            if not worst <= self._tolerance:  # not <=: a NaN is a fault
                where = int(np.nanargmax(gaps)) if not np.isnan(gaps).all() else 0
                return (
                    f"probe {number}: log-probs of trainer and engine differ by {worst:.3g} nats at token {where} "
                    f"of {len(gaps)} (at most {self._tolerance:g} allowed)"
                )
        return ""
