"""Weights in parcels: some tensors side by side in one run of bytes, and where each of them lies.

Every way from a trainer to an engine in another process carries these: shared memory, Ray's store, a broadcast, a buffer of a GPU.
The bytes are those of the tensors, and what describes them is names and numbers.
Leaves out: the ways themselves, and the proof that a parcel arrived (weights.py).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple, cast

import torch
from torch import Tensor

from lmm_r1.errors import EngineError

#: Bytes of tensors in one parcel; a single larger tensor still travels.
PARCEL = 256 * 1024 * 1024
#: First bytes of tensors are multiples of this, so that any dtype can be viewed in place.
_ALIGN = 64


class Packed(NamedTuple):
    """A tensor of a parcel: dtype such as "float32", start in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int


class Parcel(NamedTuple):
    """Tensors that travel together. size: bytes, gaps between tensors among them."""

    packed: tuple[Packed, ...]
    tensors: tuple[Tensor, ...]
    size: int

    def write(self, data: Tensor) -> None:
        """Copy the tensors into uint8[at least size], on whatever device that lies."""
        for packed, tensor in zip(self.packed, self.tensors, strict=True):
            tensor_at(data, packed).copy_(tensor)


def parcels(weights: Iterable[tuple[str, Tensor]], limit: int = PARCEL) -> Iterator[Parcel]:
    """Weights in their order, in parcels of at most `limit` bytes, or of one tensor. One parcel is held at a time."""
    packed: list[Packed] = []
    tensors: list[Tensor] = []
    size = 0
    for name, tensor in weights:
        space = max(1, -(-tensor.numel() * tensor.element_size() // _ALIGN)) * _ALIGN  # no parcel is without bytes
        if packed and size + space > limit:
            yield Parcel(tuple(packed), tuple(tensors), size)
            packed, tensors, size = [], [], 0
        packed.append(Packed(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), size))
        tensors.append(tensor.detach())
        size += space
    if packed:
        yield Parcel(tuple(packed), tuple(tensors), size)


def tensor_at(data: Tensor, packed: Packed) -> Tensor:
    """A tensor of a parcel as a view into its bytes uint8[size]. EngineError for a dtype that torch has not."""
    dtype = getattr(torch, packed.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise EngineError(f"weight {packed.name}: no dtype {packed.dtype}")
    size = math.prod(packed.shape) * dtype.itemsize
    return data[packed.start : packed.start + size].view(dtype).reshape(packed.shape)


def unpacked(data: Tensor, packed: Sequence[Packed]) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a parcel by name, as views."""
    return ((one.name, tensor_at(data, one)) for one in packed)


class SharedFile:
    """A file in memory that other processes of this user and machine map; a larger parcel gets a larger file.

    On Linux it has no name: the memory goes with the last process that maps it, whatever becomes of this one.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._path = ""
        self._mapped = torch.empty(0, dtype=torch.uint8)

    def write(self, parcel: Parcel) -> tuple[str, int]:
        """Put a parcel where the last one was; (path, bytes to map)."""
        if len(self._mapped) < parcel.size:
            self.close()
            if hasattr(os, "memfd_create"):
                self._file = os.fdopen(os.memfd_create("lmm_r1"), "w+b")
                self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
            else:
                named = tempfile.NamedTemporaryFile(prefix="lmm_r1_")  # noqa: SIM115  (open until `close`)
                self._file, self._path = cast(IO[bytes], named), named.name
            self._mapped = map_file(self._path, parcel.size)
        parcel.write(self._mapped)
        return self._path, len(self._mapped)

    def close(self) -> None:
        """Give the memory back, when readers have let go of it too."""
        self._mapped = torch.empty(0, dtype=torch.uint8)
        if self._file is not None:
            self._file.close()
            self._file = None


def map_file(path: str, size: int) -> Tensor:
    """The bytes uint8[size] of a SharedFile, of this process or another."""
    return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
