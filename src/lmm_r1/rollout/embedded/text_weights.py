"""The engine's own copy of the language model's weights, laid out for sampling.

Query, key and value projections are one matrix, gate and up projections another: fewer, larger products per token.
Each published name maps to a view into the fused storage, so what arrived can be read back by name.
Axis legend: V = vocabulary rows, D = hidden width, H / K = query / key-value heads, d = head width, I = MLP width.
Leaves out: the forward pass (decoder.py) and the vision tower (vision.py).
Source of the names: Qwen2_5_VLForConditionalGeneration of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from lmm_r1.errors import EngineError


@dataclass(slots=True)
class Layer:
    """One decoder layer: norms [D], qkv [(H + 2K) d, D] with bias, out [D, H d], gate_up [2 I, D], down [D, I]."""

    norm_in: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    down: Tensor


class TextWeights:
    """Weights of the decoder; `targets` maps canonical names to the views that hold them."""

    def __init__(self, config: Qwen2_5_VLConfig, dtype: torch.dtype, device: torch.device) -> None:
        """EngineError when the configuration asks for what this engine does not compute."""
        text = config.text_config
        rope = text.rope_parameters
        if rope.get("rope_type", "default") != "default":
            raise EngineError(f"rope_type {rope.get('rope_type')!r} is not supported (only 'default')")
        if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
            raise EngineError("sliding-window attention is not supported")
        if text.hidden_act != "silu":
            raise EngineError(f"hidden_act {text.hidden_act!r} is not supported (only 'silu')")
        self.heads, self.kv_heads = text.num_attention_heads, text.num_key_value_heads
        self.head_width = text.hidden_size // text.num_attention_heads
        self.hidden, self.vocabulary, self.intermediate = text.hidden_size, text.vocab_size, text.intermediate_size
        self.eps, self.tied = float(text.rms_norm_eps), bool(config.tie_word_embeddings)
        self.theta, self.sections = float(rope["rope_theta"]), tuple(rope["mrope_section"])
        if 2 * sum(self.sections) != self.head_width:
            raise EngineError(f"mrope_section {self.sections} does not fill heads of {self.head_width} channels")

        def empty(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        d, wide = self.head_width, self.hidden
        self.embed, self.norm = empty(self.vocabulary, wide), empty(wide)
        self.head = self.embed if self.tied else empty(self.vocabulary, wide)
        self.layers = [
            Layer(
                norm_in=empty(wide),
                qkv=empty((self.heads + 2 * self.kv_heads) * d, wide),
                qkv_bias=empty((self.heads + 2 * self.kv_heads) * d),
                out=empty(wide, self.heads * d),
                norm_mlp=empty(wide),
                gate_up=empty(2 * self.intermediate, wide),
                down=empty(wide, self.intermediate),
            )
            for _ in range(text.num_hidden_layers)
        ]
        self.targets = self._targets()

    def _targets(self) -> dict[str, Tensor]:
        found = {"embed_tokens.weight": self.embed, "norm.weight": self.norm}
        if not self.tied:
            found["lm_head.weight"] = self.head
        d, q, k = self.head_width, self.heads, self.kv_heads
        parts = {"q_proj": (0, q * d), "k_proj": (q * d, (q + k) * d), "v_proj": ((q + k) * d, (q + 2 * k) * d)}
        for number, layer in enumerate(self.layers):
            at = f"layers.{number}."
            for name, (low, high) in parts.items():
                found[f"{at}self_attn.{name}.weight"] = layer.qkv[low:high]
                found[f"{at}self_attn.{name}.bias"] = layer.qkv_bias[low:high]
            found[f"{at}self_attn.o_proj.weight"] = layer.out
            found[f"{at}input_layernorm.weight"] = layer.norm_in
            found[f"{at}post_attention_layernorm.weight"] = layer.norm_mlp
            found[f"{at}mlp.gate_proj.weight"] = layer.gate_up[: self.intermediate]
            found[f"{at}mlp.up_proj.weight"] = layer.gate_up[self.intermediate :]
            found[f"{at}mlp.down_proj.weight"] = layer.down
        return found
