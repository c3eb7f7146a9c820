"""Which weights vLLM is sent, under which names. Needs no vLLM."""

from __future__ import annotations

import re

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration


def expected_weights(model_config: Qwen2_5_VLConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor that a trainer sends: the model's parameters, without tied copies."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(model_config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def live_name(name: str) -> str:
    """A weight name of a checkpoint file (older layout) or of a live model as the live model's."""
    name = re.sub(r"^visual\.", "model.visual.", name)
    return re.sub(r"^model\.(?!visual\.|language_model\.)", "model.language_model.", name)
