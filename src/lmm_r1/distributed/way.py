"""A way for weights from one process to others, past the process of the loop: a sender and its receivers.

Of two kinds. A broadcast goes from the sender's device to those of all receivers (NCCL between GPUs, Gloo between CPUs). On a
shared device the sender writes into a buffer that its receiver maps (CUDA IPC on a GPU, a file in memory on a CPU). What describes
a parcel, and the word that it was taken, go through a Gloo group in either case. Each end proves what it had in hand by a digest
that is computed on its device (rollout/weights.py, lanes).
Who meets a fault leaves, and the others notice: nobody is told, and nobody answers for an end that is gone.
Leaves out: who meets whom, and what becomes of a transfer that failed (direct.py); a host copy for later (shipment.py).
Source: torch.distributed's process groups; torch.multiprocessing.reductions for the parts of a CUDA IPC handle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmm_r1.distributed.meeting import meet
from lmm_r1.errors import EngineError, first_line
from lmm_r1.rollout.parcels import PARCEL, Packed, Parcel, SharedFile, map_file, parcels, unpacked
from lmm_r1.rollout.weights import digest_of_lines, weight_line

#: Of the parts of a CUDA IPC handle, those that are bytes.
_BYTES = (1, 4, 6)


class WayClosedError(EngineError):
    """An end of the way went: what it says itself, or how it died, is the reason."""


class Way:
    """One end of a way. The sender has index 0."""

    def __init__(
        self, *, meeting: str, address: str, index: int, members: int, limit_s: float, device: str, shared: bool
    ) -> None:
        """Returns when all members are there. meeting, address: see meeting.meet. limit_s: of every wait for another member.

        device: "cpu", or "cuda" = the GPU that this process was given. shared: sender and receiver are on one device.
        """
        limit = timedelta(seconds=limit_s)
        self._device, self._shared = torch.device(device), shared
        self._memory, self._buffer = SharedFile(), torch.empty(0, dtype=torch.uint8)
        self._handle: list[Any] = []  # of the buffer, where another process maps it
        with self._fragile():
            store = meet(meeting, address, index, members, limit)
            talk = dist.ProcessGroupGloo(dist.PrefixStore("talk", store), index, members, limit)
            self._talk: Any = talk
            self._bulk: Any = None if shared else talk
            if not shared and device != "cpu":
                self._bulk = _nccl(dist.PrefixStore("bulk", store), index, members, limit)

    def send(self, weights: Iterable[tuple[str, Tensor]]) -> str:
        """Send weights to all receivers; the digest of what was sent. WayClosedError when one of them is gone."""
        lines: list[tuple[str, str]] = []

        def noted() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                lines.append(weight_line(name, tensor, lanes=True))
                yield name, tensor

        with self._fragile():
            for parcel in parcels(noted(), PARCEL):
                told = {"packed": parcel.packed, "size": parcel.size}
                if self._shared:
                    self._tell(told | self._laid_out(parcel))
                    self._taken()
                else:
                    data = self._room(parcel.size)
                    parcel.write(data)
                    self._tell(told)
                    self._broadcast(self._bulk, data)
            self._tell(None)
            self._taken()  # nobody reads the buffer any more
        self._forget()
        return digest_of_lines(lines)

    def received(self) -> Generator[tuple[str, Tensor]]:
        """The weights that the sender sends, each good until the next one. A reader that stops early ends the way.

        WayClosedError when the sender is gone.
        """
        with self._fragile():
            while (told := self._heard()) is not None:
                packed = [Packed(name, dtype, tuple(shape), start) for name, dtype, shape, start in told["packed"]]
                data = self._mapped(told) if self._shared else self._room(told["size"])
                if not self._shared:
                    self._broadcast(self._bulk, data)
                yield from unpacked(data, packed)
                if self._shared:
                    self._taken()
            data = torch.empty(0)
            self._forget()
            self._taken()

    def abort(self) -> None:
        """End all waits for other members, from another thread (NCCL would wait on when one of them has died)."""
        for group in {id(group): group for group in (self._bulk, self._talk) if group is not None}.values():
            group.abort()

    def close(self) -> None:
        """Leave, and give memory back. A second call does nothing."""
        self._bulk = self._talk = None
        self._forget()

    # ---- words

    def _tell(self, told: dict[str, Any] | None) -> None:
        """Send what describes a parcel; None: that was all."""
        text = b"" if told is None else json.dumps(told).encode()
        self._broadcast(self._talk, torch.tensor([len(text)]))
        if text:
            self._broadcast(self._talk, torch.frombuffer(bytearray(text), dtype=torch.uint8))

    def _heard(self) -> dict[str, Any] | None:
        """What the sender tells."""
        size = torch.zeros(1, dtype=torch.int64)
        self._broadcast(self._talk, size)
        if not size[0]:
            return None
        text = torch.empty(int(size[0]), dtype=torch.uint8)
        self._broadcast(self._talk, text)
        found: dict[str, Any] = json.loads(text.numpy().tobytes())
        return found

    def _taken(self) -> None:
        """Wait until all members say this."""
        self._settle()
        self._group(self._talk).barrier(dist.BarrierOptions()).wait()

    # ---- bytes

    def _broadcast(self, group: Any, data: Tensor) -> None:
        """Fill `data` with the sender's."""
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self._group(group).broadcast([data], options).wait()

    def _room(self, size: int) -> Tensor:
        """uint8[size] on the device, the same memory every time."""
        if len(self._buffer) < size:
            self._buffer = torch.empty(0)  # the old one goes before the new one comes
            self._buffer = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._buffer[:size]

    def _laid_out(self, parcel: Parcel) -> dict[str, Any]:
        """A parcel in memory that the receiver can map; how it does that."""
        if self._device.type == "cpu":
            path, size = self._memory.write(parcel)
            return {"path": path, "mapped": size}
        before = self._buffer
        parcel.write(self._room(parcel.size))
        self._settle()
        if self._buffer is not before:
            self._handle = _exported(self._buffer)  # once for each buffer: every export is counted
        return {"handle": self._handle}

    def _mapped(self, told: dict[str, Any]) -> Tensor:
        """The sender's buffer, in its memory."""
        if self._device.type == "cpu":
            return map_file(told["path"], told["mapped"])
        if not len(self._buffer) or self._handle != told["handle"]:
            self._buffer = torch.empty(0)
            self._buffer, self._handle = _opened(told["handle"]), told["handle"]
        return self._buffer

    def _settle(self) -> None:
        """Wait for the device: another process reads what it writes, or writes what it reads."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _forget(self) -> None:
        self._memory.close()
        self._buffer, self._handle = torch.empty(0, dtype=torch.uint8), []
        if self._device.type == "cuda" and self._shared:
            torch.cuda.ipc_collect()

    def _group(self, group: Any) -> Any:
        if group is None:
            raise WayClosedError("the way was closed")
        return group

    @contextmanager
    def _fragile(self) -> Iterator[None]:
        """Leave upon any fault, so that no member waits for this one."""
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                raise EngineError(f"the device failed in a transfer: {first_line(error)}") from error
            if isinstance(error, RuntimeError) and not isinstance(error, EngineError):
                raise WayClosedError(
                    f"another process left in the middle of a transfer: {first_line(error)}"
                ) from error
            raise


def _nccl(store: dist.Store, index: int, members: int, limit: timedelta) -> Any:
    """A group of GPUs. When a member dies it is cleaned up; NCCL's watchdog would end the others' processes with it."""
    name, only_clean_up = "TORCH_NCCL_ASYNC_ERROR_HANDLING", "2"
    before = os.environ.get(name)
    os.environ[name] = only_clean_up  # read when a group is made; those of the ranks among themselves are older
    try:
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = limit
        return dist.ProcessGroupNCCL(store, index, members, options)
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _exported(buffer: Tensor) -> list[Any]:
    """How another process of this machine maps a GPU's buffer: the GPU's own id, then the parts of a handle."""
    parts = buffer.untyped_storage()._share_cuda_()
    gpu = str(torch.cuda.get_device_properties(buffer.device).uuid)
    return [gpu, *(part.hex() if at in _BYTES else part for at, part in enumerate(parts))]


def _opened(handle: list[Any]) -> Tensor:
    """The buffer uint8[...] of another process. EngineError when it lies on another GPU than this process's."""
    torch.cuda.init()
    device, (gpu, *parts) = torch.cuda.current_device(), handle
    own = str(torch.cuda.get_device_properties(device).uuid)
    if own != gpu:
        raise EngineError(f"rank and engine are on two GPUs ({gpu} and {own}), and cannot share memory")
    parts = [bytes.fromhex(part) if at in _BYTES else part for at, part in enumerate(parts)]
    storage = torch.UntypedStorage._new_shared_cuda(device, *parts[1:])  # type: ignore[attr-defined]
    return torch.empty(0, dtype=torch.uint8, device=f"cuda:{device}").set_(storage)  # type: ignore[call-overload]
