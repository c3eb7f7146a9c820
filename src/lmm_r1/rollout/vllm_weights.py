"""The trainer's side of the way to vLLM's workers: which tensors there are, and parcels of them in shared memory.

A parcel is written once by the trainer and read by every worker of this host, whatever process it lives in and whatever device
it runs on; a bounded part of the weights is in flight at a time.
Leaves out: what workers do with a parcel (vllm_worker.py). Needs no vLLM.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from lmm_r1.errors import EngineError

#: Bytes of tensors in one parcel; a single larger tensor still travels.
PARCEL = 256 * 1024 * 1024
#: First bytes of tensors are multiples of this, so that any dtype can be viewed in place.
_ALIGN = 64


#: (name, dtype such as "float32", shape, first byte in the file): one tensor of a parcel.
Place = tuple[str, str, tuple[int, ...], int]


def expected_weights(model_config: Qwen2_5_VLConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor that a trainer sends: the model's parameters, without tied copies."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(model_config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def tensor_at(mapped: Tensor, place: Place) -> Tensor:
    """The tensor of a place as a view into the mapped bytes uint8[size]. EngineError for a dtype that torch has not."""
    name, kind, shape, start = place
    dtype = getattr(torch, kind, None)
    if not isinstance(dtype, torch.dtype):
        raise EngineError(f"weight {name}: no dtype {kind}")
    return mapped[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def live_name(name: str) -> str:
    """A weight name of a checkpoint file (older layout) or of a live model as the live model's."""
    name = re.sub(r"^visual\.", "model.visual.", name)
    return re.sub(r"^model\.(?!visual\.|language_model\.)", "model.language_model.", name)


class Outbox:
    """Gathers tensors and sends them in parcels. send({"path", "size", "places"}) returns when every worker has read one."""

    def __init__(self, send: Callable[[dict[str, Any]], object]) -> None:
        self._send = send
        self._waiting: list[tuple[str, Tensor]] = []
        self._size = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._mapped: Tensor | None = None

    def put(self, name: str, tensor: Tensor) -> None:
        """Add a tensor; what came before it goes out when both would be too much for one parcel."""
        if self._waiting and self._size + _space(tensor) > PARCEL:
            self.flush()
        self._waiting.append((name, tensor.detach()))
        self._size += _space(tensor)

    def flush(self) -> None:
        """Send what is waiting."""
        if not self._waiting:
            return
        path, mapped = self._file(self._size)
        places, start = [], 0
        for name, tensor in self._waiting:
            source = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
            mapped[start : start + source.numel()].copy_(source)
            places.append((name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), start))
            start += _space(tensor)
        self._waiting, self._size = [], 0
        self._send({"path": path, "size": mapped.numel(), "places": places})

    def clear(self) -> None:
        """Drop what is waiting and give the memory back."""
        self._waiting, self._size = [], 0
        self._drop_file()

    def _file(self, size: int) -> tuple[str, Tensor]:
        """(path, its bytes as uint8[at least size]) of the file that carries parcels; a larger parcel gets a larger file."""
        if self._mapped is None or self._mapped.numel() < size:
            self._drop_file()
            memory = "/dev/shm"
            self._folder = tempfile.TemporaryDirectory(prefix="lmm_r1_", dir=memory if os.path.isdir(memory) else None)
            self._mapped = torch.from_file(
                str(Path(self._folder.name) / "parcel"), shared=True, size=size, dtype=torch.uint8
            )
        assert self._folder is not None
        return str(Path(self._folder.name) / "parcel"), self._mapped

    def _drop_file(self) -> None:
        self._mapped = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _space(tensor: Tensor) -> int:
    """Bytes of a tensor in a parcel."""
    return -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
