"""Lets torchvision be imported beside a CPU build of torch. Installed as sitecustomize.py of .venv-distributed (Makefile), nowhere else.

PyPI has no CPU build of torchvision, and the compiled operators of its CUDA build cannot be loaded without CUDA. Importing
torchvision then fails, for it attaches shapes to operators that do not exist. vLLM and the processor of Qwen2.5-VL import
torchvision but call none of these operators, so their names alone are enough. A torchvision whose operators load is left alone.
vLLM starts Python processes of its own, so this must act in every one of them, and cost nothing in those without torchvision.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

NAMES = ("nms", "qnms", "roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "qroi_align", "deform_conv2d")
BACKWARD = ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")

_kept: list[object] = []  # a library's operators go with it


class TorchvisionImport:
    """A finder that acts once, before torchvision is imported, and finds nothing itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            found = importlib.util.find_spec(name)
            if found is not None and found.origin is not None:
                declare_operators(Path(found.origin).parent / "_C.so")
        return None


def declare_operators(compiled: Path) -> None:
    """Load torchvision's compiled operators, or declare them without any code."""
    import torch

    try:
        torch.ops.load_library(str(compiled))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in (*NAMES, *(f"_{name}_backward" for name in BACKWARD)):
            library.define(f"{name}() -> ()")
        _kept.append(library)


sys.meta_path.insert(0, TorchvisionImport())
