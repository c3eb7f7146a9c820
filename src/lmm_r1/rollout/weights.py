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
from lmm_r1.types import Bound, Float32, Image, Int32

#: Words of 32 bits that are mixed at once: what a CPU's cache holds, and what keeps a GPU busy in bounded memory.
_LANE_WORDS = {True: 1 << 18, False: 1 << 24}
#: Odd factors of the two lanes: golden ratio and MurmurHash3, as signed 32-bit numbers.
_MIXERS = (
    (-0x61C88647, -0x7A143595, -0x3D4D51CB),
    (0x27D4EB2F, 0x1B873593, -0x3361D2AF),
)


def tensor_digest(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's bytes, row-major, as hex."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(memoryview(flat.view(torch.uint8).numpy())).hexdigest()


def lanes_digest(tensor: torch.Tensor) -> str:
    """A checksum of a tensor's bytes, row-major, as hex; computed where the tensor lies, the same number on every device.

    Two sums over its words of 32 bits, each mixed with its place first, so that a changed, moved or missing word shows: by accident
    two tensors agree once in 2^64. Nobody is kept from making two that do: it tells faults, not forgers.
    Source: the mixing follows the finaliser of MurmurHash3 (A. Appleby, public domain).
    """
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if len(flat) % 4 or flat.storage_offset() % 4:  # else no copy is needed
        flat = torch.nn.functional.pad(flat, (0, -len(flat) % 4))
    flat = flat.view(torch.int32)
    lanes, chunk = [0, 0], _LANE_WORDS[flat.device.type == "cpu"]
    for start in range(0, len(flat), chunk):
        words = flat[start : start + chunk]
        places = torch.arange(len(words), dtype=torch.int32, device=words.device) + start
        for lane, (first, second, third) in enumerate(_MIXERS):  # products wrap at 32 bits, as on every device
            mixed = (words ^ (places * first)) * second
            mixed = (mixed ^ (mixed >> 15)) * third
            mixed ^= mixed >> 13
            lanes[lane] += int(mixed.sum(dtype=torch.int64))
    return "".join(f"{lane % 2**64:016x}" for lane in lanes)


def digest(pairs: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 over (name, dtype, shape, bytes) of all tensors, sorted by name: their order does not matter.

    EngineError when a name comes twice.
    """
    return digest_of_lines(weight_line(name, tensor) for name, tensor in pairs)


def weight_line(name: str, tensor: torch.Tensor, lanes: bool = False) -> tuple[str, str]:
    """(name, one line that identifies the tensor's dtype, shape and bytes). lanes: by `lanes_digest`, else by sha256."""
    found = lanes_digest(tensor) if lanes else tensor_digest(tensor)
    return name, f"{name} {tensor.dtype} {tuple(tensor.shape)} {found}\n"


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

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str: ...

    def score(self, token_ids: Int32, images: Sequence[Image], temperature: float) -> Float32: ...

    def unload(self) -> None: ...


class SyncedEngine(RolloutEngine, ProbedEngine, Protocol):
    """An engine that a link keeps up to date: what a stage needs."""


class ScoringTrainer(Trainer, Protocol):
    """A trainer that can say the log-probs of a stream, at its own temperature."""

    def score(self, token_ids: Int32, images: Sequence[Image]) -> Float32: ...


#: Of probes, by the engine's dtype. In 16 bits a logit of 16 and more is rounded to an eighth (bfloat16), so single tokens scatter,
#: most of all improbable ones: there the mean is what tells another model from another order of sums.
TOLERANCES = {torch.float32: Bound(1e-4, 1e-4), torch.bfloat16: Bound(0.05, 2.0), torch.float16: Bound(0.01, 0.5)}
#: The same for an engine whose kernels take float32 through TF32 (vLLM's attention on a GPU).
TF32_TOLERANCE = Bound(1e-3, 2e-2)


class ProvedLink:
    """Implements seams.WeightLink but for the way, which is `transfer`: what arrived is compared with what was sent."""

    def __init__(
        self,
        trainer: ScoringTrainer,
        engine: ProbedEngine,
        probes: Sequence[Probe],
        temperature: float = 1.0,
        tolerance: Bound | None = None,
        in_place: bool = False,
    ) -> None:
        """`temperature`: the trainer's. `tolerance`: None takes TOLERANCES of the engine's dtype. in_place: weights stay on the
        devices where they are, and are proved there."""
        if not probes:
            raise ValueError("a weight link needs at least one probe")
        self._trainer, self._engine, self._probes, self._temperature = trainer, engine, tuple(probes), temperature
        self._tolerance = TOLERANCES[engine.dtype] if tolerance is None else tolerance
        self._in_place = in_place

    def transfer(self) -> tuple[str, str]:
        """Move the trainer's weights into the engine, under its old version; digests of (what was sent, what arrived)."""
        raise NotImplementedError

    def sync(self, version: int) -> str:
        """Send the weights, compare digests and probes, then move the engine to `version`; returns the digest.

        EngineError when either differs: the engine then keeps its old version and refuses to sample.
        """
        sent, received = self.transfer()
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
            if self._tolerance.broken_by(gaps):
                where = int(np.nanargmax(gaps)) if not np.isnan(gaps).all() else 0
                return (
                    f"probe {number}: log-probs of trainer and engine differ by {gaps.max():.3g} nats at token {where} of {len(gaps)}, "
                    f"{gaps.mean():.3g} in the mean (at most {self._tolerance.largest:g} and {self._tolerance.mean:g} allowed)"
                )
        return ""


class LocalLink(ProvedLink):
    """The weights go through this process: its trainer's and its engine's, or those of a cluster through shared memory."""

    def transfer(self) -> tuple[str, str]:
        """As ProvedLink's. Every tensor is asked for once: gathering shards costs."""
        lines: list[tuple[str, str]] = []

        def sending() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in self._trainer.weights():
                lines.append(weight_line(name, tensor, self._in_place))
                yield name, tensor

        received = self._engine.load_weights(sending(), self._engine.version, self._in_place)
        return digest_of_lines(lines), received
