"""A randomly initialised micro model with adapter, pictures and engines for the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import random_micro
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.types import Encoded, Image, Message, Text


def weights_of(model: Qwen2_5_VLForConditionalGeneration) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights as a trainer sends them: without tied copies."""
    return ((name, p.detach()) for name, p in model.named_parameters())


@dataclass
class Kit:
    """Model, adapter and store that belong together."""

    folder: Path
    model: Qwen2_5_VLForConditionalGeneration
    adapter: QwenVLAdapter
    images: ImageStore

    def engine(self, slots: int = 4, max_context: int = 256, prefill_tokens: int = 128) -> EmbeddedEngine:
        """An engine with the model's weights."""
        engine = EmbeddedEngine(self.model.config, self.adapter, slots, max_context, prefill_tokens)
        engine.load_weights(weights_of(self.model), version=3)
        return engine

    def picture(self, seed: int, height: int, width: int) -> Image:
        """A picture of noise."""
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return self.images.put(pixels)

    def prompt(self, *parts: str | Image) -> Encoded:
        """One user message."""
        return self.adapter.encode((Message("user", tuple(Text(p) if isinstance(p, str) else p for p in parts)),))

    def prompts(self) -> list[Encoded]:
        """Text, one picture, two pictures of different size, picture last."""
        a, b, c = self.picture(1, 56, 84), self.picture(2, 84, 28), self.picture(3, 168, 140)
        return [
            self.prompt("What is 12 + 30?"),
            self.prompt(a, "How many?"),
            self.prompt("First", c, "then", b, "which is larger?"),
            self.prompt("x", b),
        ]


def make_kit(folder: Path, tie: bool = True, spread: float = 8.0) -> Kit:
    """A small model in `folder`. spread: factor on the embedding, so that the distributions are far from uniform."""
    random_micro(folder, seed=1, hidden=64, layers=3, intermediate=96, vision_hidden=64, vision_layers=2, tie=tie)
    model, images = load_model(folder), ImageStore()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # initialised to 0, which would hide a dropped or swapped bias
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            elif parameter.ndim >= 2:
                parameter.mul_(spread if "embed" in name or "lm_head" in name else 3.0)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return Kit(folder, model, QwenVLAdapter.from_folder(folder, images, Model()), images)
