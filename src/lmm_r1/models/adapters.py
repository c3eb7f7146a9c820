"""Which adapter serves which model family: one table, keyed by `model_type` of config.json.

A new family is one adapter file, one line here and one in folder_files.FAMILIES. Leaves out: engines and trainers, which ask the adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmm_r1.config import Model
from lmm_r1.models.folder_files import read_model_config
from lmm_r1.models.load import resolve_folder
from lmm_r1.models.qwen_vl import PixelStore, QwenVLAdapter
from lmm_r1.seams import ModelAdapter

#: model_type of config.json -> adapter of a folder.
ADAPTERS: dict[str, Callable[[str | Path, PixelStore, Model], ModelAdapter]] = {
    "qwen2_5_vl": QwenVLAdapter.from_folder,
}


def make_adapter(folder: str | Path, images: PixelStore, model_cfg: Model) -> ModelAdapter:
    """The adapter of a model folder or hub id. CheckpointError when there is none for its family."""
    path = resolve_folder(folder)
    return ADAPTERS[read_model_config(path)["model_type"]](path, images, model_cfg)
