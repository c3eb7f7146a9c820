"""Prompts as vLLM takes them, each of them proved to be the one that was asked for.

Prompts go in with one placeholder per picture, as vLLM wants them; the ids that it expands them to must be the request's own. Its
processor must leave canonical pictures as they are, and cut the first few into the adapter's own numbers.
Leaves out: what any engine refuses (requests.py), and sampling (vllm_engine.py).
Source: vLLM 0.32.0, vllm/renderers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as Pil
from vllm.exceptions import VLLMError
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.v1.engine.llm_engine import LLMEngine

from lmm_r1.errors import EngineError
from lmm_r1.models.pictures import PatchGrid, patches_of
from lmm_r1.models.qwen_vl import PixelStore
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Image, Int32

#: Distinct pictures whose patches are compared with the adapter's, number by number, before the engine is believed.
PICTURES_COMPARED = 8
#: The largest difference of a patch value that is rounding (measured: 2e-7), far below one step of an 8-bit channel (about 0.015).
PATCH_TOLERANCE = 1e-4


class Prompts:
    """Renders prompts for one engine, and remembers which pictures were compared."""

    def __init__(
        self, llm: LLMEngine, adapter: ModelAdapter, images: PixelStore, grid: PatchGrid, image_token: int
    ) -> None:
        """images: where canonical pictures live. grid: the adapter's. image_token: the placeholder's id."""
        self._llm, self._adapter, self._images = llm, adapter, images
        self._grid, self._image_token = grid, image_token
        self._compared: set[str] = set()

    def cells(self, image: Image) -> int:
        """Tokens of a canonical picture."""
        return self._grid.tokens(image.height, image.width)

    def rendered(self, token_ids: Int32, images: Sequence[Image]) -> Any:
        """A prompt as vLLM's engine takes it. EngineError when it would run other ids or other pictures."""
        keep = np.ones(len(token_ids), np.bool_)
        starts = np.flatnonzero(token_ids == self._image_token)
        for image in images:  # of each picture's placeholders the first stays
            keep[starts[1 : self.cells(image)]] = False
            starts = starts[self.cells(image) :]
        prompt: dict[str, Any] = {"prompt_token_ids": token_ids[keep].tolist()}
        if images:
            prompt["multi_modal_data"] = {"image": [Pil.fromarray(self._images.get(i.sha)) for i in images]}
            prompt["multi_modal_uuids"] = {"image": [i.sha for i in images]}
        try:
            config, renderer = self._llm.model_config, self._llm.renderer
            (rendered,) = renderer.render_cmpl([parse_model_prompt(config, prompt)])
        except (ValueError, VLLMError) as error:
            raise EngineError(f"vLLM refuses a prompt: {one_line(error)}") from error
        expanded = np.asarray(rendered["prompt_token_ids"], np.int32)
        if not np.array_equal(expanded, token_ids):
            raise EngineError(f"vLLM makes {len(expanded)} tokens of a prompt of {len(token_ids)}, or other ones")
        if images:
            self._compare(images, rendered["mm_kwargs"]["image"])
        return rendered

    def _compare(self, images: Sequence[Image], items: Sequence[Any]) -> None:
        """EngineError when vLLM's processor resizes a canonical picture, or cuts it into other numbers than the adapter."""
        for image, item in zip(images, items, strict=True):
            if item is None or len(self._compared) >= PICTURES_COMPARED or image.sha in self._compared:
                continue
            theirs, ours = item.get_data(), self._adapter.vision_inputs([image])
            if theirs["image_grid_thw"].flatten().tolist() != ours["image_grid_thw"].flatten().tolist():
                raise EngineError(
                    f"vLLM would resize picture {image.sha[:12]} of {image.width} x {image.height} pixels"
                )
            patches, expected = theirs["pixel_values"], ours["pixel_values"]
            if patches.dtype == torch.uint8:  # vLLM normalises on the device: then the very bytes are compared
                bytes_table = np.tile(np.arange(256, dtype=np.float32), (3, 1))
                expected = torch.from_numpy(patches_of(self._images.get(image.sha), self._grid, bytes_table))
            gap = float((patches.float() - expected).abs().max())
            if not gap <= PATCH_TOLERANCE:
                raise EngineError(f"vLLM's processor and the adapter differ by {gap:.3g} in picture {image.sha[:12]}")
            self._compared.add(image.sha)


def one_line(error: BaseException) -> str:
    """What an error of vLLM says, on one line that a person reads to its end."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]} ..."
