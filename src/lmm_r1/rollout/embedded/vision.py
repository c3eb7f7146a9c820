"""The engine's own vision tower, and the features of pictures it saw lately.

The tower is transformers' module with weights of the engine's own. A picture is encoded once per distinct sha256 and
weight version, however many replies look at it.
Axis legend: n = merged cells of one picture, D = hidden width.
Leaves out: patches (models/qwen_vl.py makes them) and where features go in a prompt (engine.py).
Source: arXiv 2502.13923, section 2.1.1.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Image

#: Pictures of one pass through the tower, in cells.
_CELLS_AT_ONCE = 4096
#: Cells whose features are kept.
_CELLS_KEPT = 65536


class Vision:
    """Pictures to features."""

    def __init__(
        self, config: Qwen2_5_VLConfig, adapter: ModelAdapter, dtype: torch.dtype, device: torch.device
    ) -> None:
        settings = copy.deepcopy(config.vision_config)
        with torch.random.fork_rng(devices=[]):  # its random initialisation must not move the run's generator
            tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(
                settings, attn_implementation="sdpa", dtype=dtype
            )
        self._tower = tower.to(device).eval().requires_grad_(False)
        self._adapter, self._cell = adapter, settings.patch_size * settings.spatial_merge_size
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._cells = 0
        self.encoded = 0  # pictures that went through the tower: what sharing saves shows here
        self.targets: dict[str, Tensor] = {name: p.data for name, p in tower.named_parameters()}

    def cells(self, image: Image) -> int:
        """Tokens of a canonical picture."""
        return (image.height // self._cell) * (image.width // self._cell)

    def forget(self) -> None:
        """Drop all features: the weights changed, or the memory is wanted."""
        self._kept.clear()
        self._cells = 0

    def features(self, images: Iterable[Image]) -> dict[str, Tensor]:
        """{sha: features [n, D]} of all distinct pictures asked for."""
        distinct = {image.sha: image for image in images}
        new: list[Image] = []
        for sha, image in distinct.items():
            if sha in self._kept:
                self._kept.move_to_end(sha)
            else:
                new.append(image)
        found = {sha: self._kept[sha] for sha in distinct if sha in self._kept}
        batch: list[Image] = []
        for image in new:
            if batch and sum(map(self.cells, batch)) + self.cells(image) > _CELLS_AT_ONCE:
                found |= self._encode(batch)
                batch = []
            batch.append(image)
        if batch:
            found |= self._encode(batch)
        return found

    def _encode(self, images: list[Image]) -> dict[str, Tensor]:
        inputs = self._adapter.vision_inputs(images)
        device = self._tower.device
        pixels = inputs["pixel_values"].to(device=device, dtype=self._tower.dtype)
        output = self._tower(pixels, grid_thw=inputs["image_grid_thw"].to(device)).pooler_output
        parts = output.split([self.cells(i) for i in images])
        self.encoded += len(images)
        for image, part in zip(images, parts, strict=True):
            self._kept[image.sha] = part.clone()  # a view would keep the whole batch alive
            self._cells += len(part)
        while self._cells > _CELLS_KEPT and len(self._kept) > len(images):
            self._cells -= len(self._kept.popitem(last=False)[1])
        return {image.sha: part for image, part in zip(images, parts, strict=True)}
