"""Weights in shared memory: put there once, read by every worker of a machine without a copy.

Tensors are packed into buckets of bytes, each an object of Ray's store, which workers map. The bytes are those of the tensors,
nothing is pickled but names and shapes. The objects go when nobody refers to the shipment any more, or when the process
that made it ends. Another machine of the cluster fetches each bucket once.
References go to workers as arguments, never inside of one: what a worker borrows and then dies with stays in the store.
Leaves out: proof of arrival; the receiver's digest is compared by the engine's owner (ray_engine.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray

#: Bytes of a bucket; a larger tensor has a bucket of its own.
BUCKET_BYTES = 128 << 20
_ALIGNED = 64


class Packed(NamedTuple):
    """Where a tensor lies in a bucket; start in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    elements: int


@dataclass(frozen=True, slots=True)
class Shipment:
    """references: to the buckets, uint8 bytes in the object store. manifest: what lies in each."""

    references: list[Any]
    manifest: tuple[tuple[Packed, ...], ...]

    def release(self) -> None:
        """Let the buckets go, whoever still holds this: a fault keeps the frames that it passed, and what they held."""
        self.references.clear()


def ship(weights: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int = BUCKET_BYTES) -> Shipment:
    """Put weights into the object store, bucket by bucket: beside the store, at most one bucket is held."""
    references: list[Any] = []
    manifest: list[tuple[Packed, ...]] = []
    parts: list[NDArray[np.uint8]] = []
    packed: list[Packed] = []
    size = 0

    def put() -> None:
        nonlocal size
        if packed:
            references.append(ray.put(np.concatenate(parts)))
            manifest.append(tuple(packed))
        parts.clear()
        packed.clear()
        size = 0

    for name, tensor in weights:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        if size + len(flat) > bucket_bytes:
            put()
        packed.append(Packed(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), size, tensor.numel()))
        parts += [flat, np.zeros(-len(flat) % _ALIGNED, np.uint8)]
        size += len(flat) + len(parts[-1])
    put()
    return Shipment(references, tuple(manifest))


def unpack(shipment: Shipment) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights by name, as read-only views of shared memory that are good until the next bucket."""
    for reference, packed in zip(shipment.references, shipment.manifest, strict=True):
        yield from views(packed, ray.get(reference))


def views(packed: Sequence[Packed], data: NDArray[np.uint8]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of one bucket by name, as read-only views."""
    for one in packed:
        dtype = getattr(torch, one.dtype)
        if not one.elements:
            yield one.name, torch.empty(one.shape, dtype=dtype)
            continue
        with warnings.catch_warnings():  # nobody writes: engines copy what they are sent
            warnings.filterwarnings("ignore", message=".*not writable.*")
            flat = torch.frombuffer(data, dtype=dtype, count=one.elements, offset=one.start)
        yield one.name, flat.reshape(one.shape)
