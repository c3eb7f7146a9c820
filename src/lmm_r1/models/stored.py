"""A model folder that is read one tensor at a time: for ranks, which keep a part of every weight and never hold a whole model.

Models come without memory for their weights (on PyTorch's meta device), and weights by their names in such a model, whichever
layout the files have (published folders of Qwen2.5-VL-3B have "visual." for "model.visual." and "model." for
"model.language_model."). Both are what load.load_model makes of the folder, number for number.
Leaves out: which part a rank keeps (trainers/shards.py), 4-bit weights and adapters (load.py, lora.py).
Source of the names' mapping: transformers' own, which load_model uses too.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lmm_r1.errors import CheckpointError, Fault, first_line
from lmm_r1.models.load import DTYPES, checked_folder

#: Rows of two tensors that are compared at a time.
_ROWS = 4096


class StoredModel:
    """The model of a folder or hub id: any number of empty copies, and the weights to fill them with."""

    def __init__(self, folder: str | Path) -> None:
        """Checks all that load_model checks, from the files' headers alone.

        CheckpointError, in one line, when the folder is missing, of another family, truncated or incomplete. No code of the
        folder is ever run, so there is no trust_remote_code.
        """
        self.folder = checked_folder(folder)
        self._apart: list[str] = []
        with self._told():
            self._config = Qwen2_5_VLConfig.from_pretrained(self.folder, local_files_only=True)
            model = self.empty()
            self._places = self._found(model)
        tied: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            tied.setdefault(id(parameter), []).append(name)
        missing: list[str] = []
        for names in tied.values():
            first, *others = [name for name in names if name in self._places] or [""]
            if not first:
                missing += names
                continue
            # As transformers has it: weights that a configuration ties, but that files hold twice and differently, are apart.
            self._apart += [name for name in others if not self._same(first, name)]
            self._places |= {name: self._places[first] for name in names if name not in self._places}
        if missing:
            lack = f"{len(missing)} weights are missing, the first is {min(missing)}"
            raise CheckpointError(Fault(lack, file=str(self.folder)))

    def empty(self, dtype: str = "float32", gradient_checkpointing: bool = False) -> Qwen2_5_VLForConditionalGeneration:
        """A model in evaluation mode, with SDPA attention, whose weights of `dtype` are on the meta device, tied where the
        stored ones are. Its buffers, which files do not hold, are on the CPU and as load_model's."""
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration._from_config(
                copy.deepcopy(self._config), dtype=DTYPES[dtype], attn_implementation="sdpa"
            )
        for name in self._apart:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(torch.empty_like(model.get_parameter(name))))
        _compute_buffers(model)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model.eval()

    def weights(self, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """(name, safetensors' slice of its tensor) of each name of an empty model, in the order of the files.

        Nothing is read before a slice is indexed, and then no more than what was asked for; what comes is a view of the file,
        in its dtype. CheckpointError when a file has become unreadable.
        """
        wanted: dict[Path, list[tuple[str, str]]] = {}
        for name in names:
            path, key = self._places[name]
            wanted.setdefault(path, []).append((name, key))
        for path, pairs in wanted.items():
            with self._told(), safe_open(path, "pt") as file:
                for name, key in pairs:
                    yield name, file.get_slice(key)

    def _found(self, model: nn.Module) -> dict[str, tuple[Path, str]]:
        """{name in the model: (file, name there)} of what the files hold; a tensor that the model lacks is left out."""
        live = model.state_dict()
        renamings = [step for step in get_model_conversion_mapping(model) if isinstance(step, WeightRenaming)]
        places: dict[str, tuple[Path, str]] = {}
        for path in self._files():
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    name, _ = rename_source_key(key, renamings, [], model.base_model_prefix, live)
                    name = key if name not in live and key in live else name
                    if name not in live:
                        continue
                    shape, ours = tuple(file.get_slice(key).get_shape()), tuple(live[name].shape)
                    if shape != ours:
                        raise ValueError(f"{name} has the shape {shape} in {path.name}, wanted {ours}")
                    if places.setdefault(name, (path, key))[1] != key:
                        raise ValueError(f"{name} is there twice, as {key} and as {places[name][1]}")
                    places[name] = (path, key)
        return places

    def _files(self) -> list[Path]:
        """The safetensors files: one, or those that an index names."""
        named = getattr(self._config, "transformers_weights", None)  # a folder may call its file otherwise
        for name in [named] if named else [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME]:
            path = self.folder / name
            if path.is_file() and name.endswith(".index.json"):
                return [self.folder / part for part in sorted(set(json.loads(path.read_text())["weight_map"].values()))]
            if path.is_file():
                return [path]
        raise ValueError(f"there is no {named or f'{SAFE_WEIGHTS_NAME} or {SAFE_WEIGHTS_INDEX_NAME}'}")

    def _same(self, one: str, other: str) -> bool:
        """Whether two stored tensors of one shape hold the same numbers, some rows at a time."""
        (path, key), (other_path, other_key) = self._places[one], self._places[other]
        with self._told(), safe_open(path, "pt") as file, safe_open(other_path, "pt") as other_file:
            a, b = file.get_slice(key), other_file.get_slice(other_key)
            rows = range(0, a.get_shape()[0], _ROWS)
            return all(torch.equal(a[at : at + _ROWS].float(), b[at : at + _ROWS].float()) for at in rows)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line what is wrong with the files."""
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
            message = f"the weights cannot be loaded: {first_line(error)}"
            raise CheckpointError(Fault(message, file=str(self.folder))) from error


def _compute_buffers(model: nn.Module) -> None:
    """Give buffers (frequencies of rotary embeddings) memory and their numbers, as from_pretrained does. RuntimeError for one
    that transformers does not know how to compute: better none than a wrong number."""
    for module in model.modules():
        own = [name for name, _ in module.named_buffers(recurse=False)]
        for name in own:
            setattr(module, name, torch.full_like(getattr(module, name), torch.nan, device="cpu"))
        if own:
            model._init_weights(module)
        for name in own:
            if getattr(module, name).isnan().any():
                raise RuntimeError(f"the buffer {name} of {type(module).__name__} is not computed by transformers")
