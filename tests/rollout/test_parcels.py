"""Parcels of weights: what goes in comes out, byte for byte, in bounded pieces."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from lmm_r1.errors import EngineError
from lmm_r1.rollout.parcels import Packed, SharedFile, map_file, parcels, tensor_at, unpacked
from lmm_r1.rollout.weights import digest


def test_parcels_keep_every_byte_and_their_bound() -> None:
    """Catches tensors that overlap, lose their dtype or shape, or all wait in memory at once; and one above the bound."""
    generator = torch.Generator().manual_seed(0)
    sent = [(f"t{n}", torch.randn(n % 7 + 1, 9 * n + 1, generator=generator)) for n in range(40)]
    sent += [
        ("half", torch.randn(3, 5).to(torch.bfloat16)),
        ("one", torch.tensor(3.5)),
        ("none", torch.empty(0, 3)),
        ("turned", torch.randn(6, 4).T),
        ("last", torch.arange(5)),
    ]
    memory = SharedFile()
    got: list[list[tuple[str, torch.Tensor]]] = []
    for parcel in parcels(sent, limit=4096):
        mapped = map_file(*memory.write(parcel))  # as another process does
        got.append([(name, tensor.clone()) for name, tensor in unpacked(mapped, parcel.packed)])
    whole = [pair for part in got for pair in part]
    assert [name for name, _ in whole] == [name for name, _ in sent]
    assert digest(whole) == digest(sent)
    large = [part for part in got if sum(t.numel() * t.element_size() for _, t in part) > 4096]
    assert len(got) > 3 and large and all(len(part) == 1 for part in large)


def test_shared_memory_is_given_back() -> None:
    """Catches a file in memory that stays, mapped or open, after the transfer."""

    def held() -> int:
        gc.collect()
        with open("/proc/self/maps") as maps:
            mapped = sum("lmm_r1" in line for line in maps)
        opened = (
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        )
        return mapped + sum("lmm_r1" in name for name in opened)

    if not hasattr(os, "memfd_create"):
        pytest.skip("files without a name are Linux's")
    memory = SharedFile()
    for size in (10, 100_000):  # the second needs a larger file
        (parcel,) = parcels([("w", torch.ones(size))])
        memory.write(parcel)
        assert held() == 2  # its mapping and its handle, of one file
    memory.close()
    memory.close()
    assert held() == 0


def test_a_dtype_that_does_not_exist_is_told() -> None:
    """Catches a parcel whose dtype names something else of torch."""
    with pytest.raises(EngineError, match="no dtype"):
        tensor_at(torch.zeros(8, dtype=torch.uint8), Packed("w", "nn", (1,), 0))
