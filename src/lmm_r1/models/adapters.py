"""Which adapter serves which model family: one table, keyed by `model_type` of config.json.

A new family is one adapter file and one line here. Leaves out: engines and trainers, which ask the adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmm_r1.config import Model
from lmm_r1.errors import CheckpointError, Fault
from lmm_r1.models.load import read_model_config, resolve_folder
from lmm_r1.models.qwen_vl import PixelStore, QwenVLAdapter
from lmm_r1.seams import ModelAdapter

#: model_type of config.json -> adapter of a folder.
ADAPTERS: dict[str, Callable[[str | Path, PixelStore, Model], ModelAdapter]] = {
    "qwen2_5_vl": QwenVLAdapter.from_folder,
}


def make_adapter(folder: str | Path, images: PixelStore, model_cfg: Model) -> ModelAdapter:
    """The adapter of a model folder or hub id. CheckpointError when there is none for its family."""
    path = resolve_folder(folder)
    kind = str(read_model_config(path).get("model_type"))
    if kind not in ADAPTERS:
        known = ", ".join(sorted(ADAPTERS))
        raise CheckpointError(Fault(f"no adapter for model_type {kind!r} (there are: {known})", file=str(path)))
    return ADAPTERS[kind](path, images, model_cfg)
