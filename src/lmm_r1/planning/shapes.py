"""Sizes of a Qwen2.5-VL -> parameters, bytes and FLOPs, counted exactly: no model is built.

Axis legend: D = width, H / K = query / key-value heads, d = head width, I = MLP width, V = vocabulary; E, F = width and MLP
width of the vision tower; a pair = a query and a key that meet.
A multiplication and an addition are two FLOPs; norms, activations, rotations and the softmax are left out, as
torch.utils.flop_counter leaves them out (the tests compare).
Sources: the layers of transformers' Qwen2_5_VLForConditionalGeneration; the tables of sizes are config.json of the hub ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmm_r1.errors import CheckpointError, Fault, RecipeError

#: Freezable parts, as in config.Update.freeze.
PARTS = ("vision", "merger", "language")
SHIPPED = Path(__file__).parents[1] / "models" / "micro_base"


@dataclass(frozen=True, slots=True)
class Text:
    """The language model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def head_width(self) -> int:
        """d."""
        return self.hidden // self.heads

    @property
    def linear(self) -> int:
        """Weights of all linear layers, head and biases left out: what a token is multiplied with."""
        d, wide = self.head_width, self.hidden
        attention = wide * d * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * wide * self.intermediate)

    @property
    def embedding(self) -> int:
        """V x D."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All, tied ones once."""
        biases = self.head_width * (self.heads + 2 * self.kv_heads)
        norms = 2 * self.hidden
        heads = self.embedding * (1 if self.tied else 2)
        return self.linear + self.layers * (biases + norms) + self.hidden + heads


@dataclass(frozen=True, slots=True)
class Vision:
    """The vision tower and its merger. window: side of an attention window, pixels; full: blocks that see everything."""

    depth: int
    hidden: int
    intermediate: int
    out: int
    patch: int
    temporal: int
    channels: int
    merge: int
    window: int
    full: int

    @property
    def pixels(self) -> int:
        """Numbers of one patch."""
        return self.channels * self.temporal * self.patch**2

    @property
    def linear(self) -> int:
        """Weights of the blocks' linear layers, biases left out."""
        return self.depth * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def blocks(self) -> int:
        """Parameters of the tower without its merger."""
        biases = 4 * self.hidden + 2 * self.intermediate + self.hidden
        return self.linear + self.depth * (biases + 2 * self.hidden) + self.pixels * self.hidden

    @property
    def merger_linear(self) -> int:
        """Weights of the merger's two layers."""
        wide = self.hidden * self.merge**2
        return wide * wide + wide * self.out

    @property
    def merger(self) -> int:
        """Parameters of the merger."""
        return self.merger_linear + self.hidden * self.merge**2 + self.out + self.hidden

    def token_pixels(self) -> int:
        """Pixels of a picture that one token stands for."""
        return (self.patch * self.merge) ** 2

    def patches(self, tokens: float) -> float:
        """Patches of a picture that is so many tokens."""
        return tokens * self.merge**2


@dataclass(frozen=True, slots=True)
class Shape:
    """A whole model."""

    name: str
    text: Text
    vision: Vision

    @property
    def parameters(self) -> int:
        """All, tied ones once: what the weights' file holds."""
        return sum(self.part(name) for name in PARTS)

    def part(self, name: str) -> int:
        """Parameters of a part: "vision", "merger" or "language"."""
        return {"vision": self.vision.blocks, "merger": self.vision.merger, "language": self.text.parameters}[name]

    def adapters(self, rank: int, parts: Iterable[str]) -> int:
        """Parameters of low-rank adapters beside every linear layer: rank x (inputs + outputs) each."""
        t, v = self.text, self.vision
        d, wide = t.head_width, v.hidden * v.merge**2
        ends = {
            "language": t.layers
            * (2 * (t.hidden + t.heads * d) + 2 * (t.hidden + t.kv_heads * d) + 3 * (t.hidden + t.intermediate)),
            "vision": v.depth * ((v.hidden + 3 * v.hidden) + 2 * v.hidden + 3 * (v.hidden + v.intermediate)),
            "merger": 2 * wide + wide + v.out,
        }
        return rank * sum(ends[part] for part in parts)

    def kv_bytes(self, width: int) -> int:
        """Bytes of keys and values that one token leaves in the cache; width: bytes of a number."""
        return 2 * self.text.layers * self.text.kv_heads * self.text.head_width * width

    def text_flops(self, tokens: float, pairs: float) -> float:
        """FLOPs of one forward pass of the language model, its head left out."""
        return 2 * tokens * self.text.linear + 4 * pairs * self.text.layers * self.text.heads * self.text.head_width

    def head_flops(self, predicted: float) -> float:
        """FLOPs of the output head where tokens are predicted."""
        return 2 * predicted * self.text.embedding

    def vision_flops(self, patches: float, patches_each: float) -> float:
        """FLOPs of one forward pass of the tower and its merger; `patches` in all, in pictures of `patches_each`."""
        v = self.vision
        window = min((v.window // v.patch) ** 2, patches_each)
        pairs = patches * (v.full * patches_each + (v.depth - v.full) * window)
        dense = v.pixels * v.hidden + v.linear + v.merger_linear / v.merge**2
        return 2 * patches * dense + 4 * pairs * v.hidden


def _built_in(name: str, text: Text, out: int) -> Shape:
    return Shape(name, text, Vision(32, 1280, 3420, out, 14, 2, 3, 2, 112, 4))


#: config.json of the hub ids that recipes name.
BUILT_IN: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        _built_in("Qwen/Qwen2.5-VL-3B-Instruct", Text(36, 2048, 16, 2, 11008, 151936, True), 2048),
        _built_in("Qwen/Qwen2.5-VL-7B-Instruct", Text(28, 3584, 28, 4, 18944, 152064, False), 3584),
    )
}


def shape_of(base: str) -> Shape:
    """The sizes of `model.base`: config.json of a folder (or of "micro"), or the built-in ones of a hub id.

    RecipeError for a hub id whose sizes are not known here; CheckpointError for a config.json that does not say them.
    """
    if base in BUILT_IN:
        return BUILT_IN[base]
    folder = SHIPPED if base == "micro" else Path(base).expanduser()
    path = folder / "config.json"
    if not path.is_file():
        remedy = f"a folder with a config.json, or one of: micro, {', '.join(BUILT_IN)}"
        raise RecipeError(Fault(f'the sizes of "{base}" are not known', field="model.base", remedy=remedy))
    try:
        return _read(base, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(Fault(f"not a model's config: {error}", file=str(path))) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(Fault(f"does not say the model's sizes: {error}", file=str(path))) from None


def _read(name: str, config: Mapping[str, Any]) -> Shape:
    """Sizes in a config.json, new (text_config) or old (the text's keys on top)."""
    if config.get("model_type") != "qwen2_5_vl":
        raise ValueError(f'no adapter for the family "{config.get("model_type")}"')
    text, vision = config.get("text_config") or config, config["vision_config"]
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return Shape(
        name,
        Text(
            int(text["num_hidden_layers"]), int(text["hidden_size"]), int(text["num_attention_heads"]),
            int(text["num_key_value_heads"]), int(text["intermediate_size"]), int(text["vocab_size"]), bool(tied),
        ),
        # What an old config.json leaves out are the defaults of transformers' Qwen2_5_VLVisionConfig.
        Vision(
            int(vision.get("depth", 32)), int(vision["hidden_size"]), int(vision.get("intermediate_size", 3420)),
            int(vision.get("out_hidden_size", text["hidden_size"])), int(vision.get("patch_size", 14)),
            int(vision.get("temporal_patch_size", 2)), int(vision.get("in_channels", 3)),
            int(vision.get("spatial_merge_size", 2)), int(vision.get("window_size", 112)),
            len(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
        ),
    )  # fmt: skip
