"""Weights in Ray's store: put there once, read by every worker of a machine without a copy.

Each parcel of weights is an object of the store, which workers map. The objects go when nobody refers to the shipment any more,
or when the process that made it ends. Another machine of the cluster fetches each parcel once.
References go to workers as arguments, never inside of one: what a worker borrows and then dies with stays in the store.
Leaves out: proof of arrival; the receiver's digest is compared by the engine's owner (ray_engine.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from lmm_r1.rollout.parcels import Packed, parcels, unpacked

#: Bytes of an object of the store; a larger tensor has one of its own.
OBJECT_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Shipment:
    """references: to the parcels, uint8 bytes in the object store. manifest: what lies in each."""

    references: list[Any]
    manifest: tuple[tuple[Packed, ...], ...]

    def release(self) -> None:
        """Let the parcels go, whoever still holds this: a fault keeps the frames that it passed, and what they held."""
        self.references.clear()

    def copy(self) -> Shipment:
        """The same parcels, kept for as long as anyone holds either."""
        return Shipment(list(self.references), self.manifest)


def ship(weights: Iterable[tuple[str, torch.Tensor]], object_bytes: int = OBJECT_BYTES) -> Shipment:
    """Put weights into the object store, parcel by parcel: beside the store, at most one is held."""
    references: list[Any] = []
    manifest: list[tuple[Packed, ...]] = []
    for parcel in parcels(weights, object_bytes):
        data = np.empty(parcel.size, np.uint8)
        parcel.write(torch.from_numpy(data))
        references.append(ray.put(data))
        manifest.append(parcel.packed)
    return Shipment(references, tuple(manifest))


def unpack(shipment: Shipment) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights by name, as read-only views of shared memory that are good until the next parcel."""
    for reference, packed in zip(shipment.references, shipment.manifest, strict=True):
        yield from views(packed, ray.get(reference))


def views(packed: Sequence[Packed], data: NDArray[np.uint8]) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of one parcel by name, as read-only views."""
    with warnings.catch_warnings():  # nobody writes: engines copy what they are sent
        warnings.filterwarnings("ignore", message=".*not writable.*")
        mapped = torch.from_numpy(data)
    yield from unpacked(mapped, packed)
