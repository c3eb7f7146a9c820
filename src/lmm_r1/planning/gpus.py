"""GPUs by name: what their vendor says of them. Dense figures: the doubled ones with structured sparsity are not for training.

Leaves out: what share of these figures a program reaches (assumptions.py).
Sources: per row, the vendor's data sheet of that board; `network` is the vendor's 8-GPU system of it (DGX A100: 8 x 200 Gb/s,
DGX H100, H200 and B200: 8 x 400 Gb/s); for boards without such a system it is an assumption, 25 Gb/s a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmm_r1.errors import Fault, RecipeError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One board. flops: bf16 on tensor cores with float32 sums, dense, FLOP/s. bandwidth: of its memory, bytes/s.
    link, network: to a GPU of the same and of another node, one direction, bytes/s. node: GPUs of one node."""

    name: str
    memory_gib: float
    flops: float
    bandwidth: float
    link: float
    network: float
    source: str
    node: int = 8

    @property
    def memory(self) -> float:
        """Bytes."""
        return self.memory_gib * GIB


_SHEETS = (
    Gpu("a100-40g", 40, 312e12, 1555e9, 300e9, 25e9, "NVIDIA A100 data sheet, SXM4 40 GB"),
    Gpu("a100-80g", 80, 312e12, 2039e9, 300e9, 25e9, "NVIDIA A100 data sheet, SXM4 80 GB"),
    Gpu("h100-80g", 80, 989e12, 3350e9, 450e9, 50e9, "NVIDIA H100 data sheet, SXM5"),
    Gpu("h200-141g", 141, 989e12, 4800e9, 450e9, 50e9, "NVIDIA H200 data sheet, SXM5"),
    Gpu("b200-180g", 180, 2250e12, 8000e9, 900e9, 50e9, "NVIDIA DGX B200 data sheet (72 PFLOPS FP8 sparse: a quarter in bf16)"),
    Gpu("l40s-48g", 48, 362e12, 864e9, 32e9, 3.125e9, "NVIDIA L40S data sheet, PCIe 4.0 x16"),
    Gpu("l4-24g", 24, 121e12, 300e9, 32e9, 3.125e9, "NVIDIA L4 data sheet (242 with sparsity), PCIe 4.0 x16"),
    Gpu("a10-24g", 24, 125e12, 600e9, 32e9, 3.125e9, "NVIDIA A10 data sheet, PCIe 4.0 x16"),
    Gpu("rtx4090-24g", 24, 165.2e12, 1008e9, 32e9, 3.125e9, "NVIDIA Ada GPU architecture, appendix A, PCIe 4.0 x16"),
    Gpu("rtx3090-24g", 24, 71e12, 936e9, 32e9, 3.125e9, "NVIDIA GA102 GPU architecture, table 2, PCIe 4.0 x16"),
)  # fmt: skip
GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in _SHEETS}


def gpu_named(name: str) -> Gpu:
    """The GPU of that name. RecipeError, with the known ones, when there is none."""
    if name not in GPUS:
        raise RecipeError(Fault(f'no GPU "{name}"', field="--gpu", remedy=f"known: {', '.join(GPUS)}"))
    return GPUS[name]
