"""The layer loop of Qwen2.5-VL's language model, for sampling: whole prompts, and one token per running reply.

RMSNorm, biased QKV, multimodal rotary positions, grouped-query attention, SwiGLU. No gradients.
Axis legend: R = prompts of a batch, L = padded prompt length, B = running replies, S = cache positions read,
D = hidden width, H / K = query / key-value heads, G = H / K, d = head width.
Leaves out: which reply sits in which slot (slots.py), sampling (sampling.py) and pictures (vision.py).
Sources: arXiv 2502.13923, 2409.12191 (M-RoPE: channels are dealt to the three axes by mrope_section).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lmm_r1.rollout.embedded.text_weights import Layer, TextWeights


class Decoder:
    """Runs the layers over its `TextWeights`."""

    def __init__(self, weights: TextWeights, positions: int) -> None:
        """`positions`: how many rotary positions to tabulate; longer streams make the table grow."""
        self.weights = weights
        self._axis = torch.repeat_interleave(torch.arange(3), torch.tensor(weights.sections)).to(weights.embed.device)
        self._tabulate(positions)

    def _tabulate(self, positions: int) -> None:
        """Cosines and sines float32[positions, d/2] of every position."""
        d, device = self.weights.head_width, self.weights.embed.device
        inverse = 1.0 / (self.weights.theta ** (torch.arange(0, d, 2, dtype=torch.float, device=device) / d))
        angles = torch.arange(positions, device=device).float()[:, None] * inverse
        self._cos, self._sin = angles.cos(), angles.sin()

    def ensure_positions(self, count: int) -> None:
        """Make sure that positions below `count` are tabulated."""
        if count > len(self._cos):
            self._tabulate(2 * count)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, signed sin) [..., 1, d] at int64[3, ...] positions; the sign is that of the rotated half."""
        channels = torch.arange(len(self._axis), device=positions.device)
        at = positions[self._axis].movedim(0, -1)  # [..., d/2]: each channel reads its own axis
        return self._signed(self._cos[at, channels], self._sin[at, channels])

    def rotary_text(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The same at int64[B] positions that are equal on all axes, as those of text are."""
        return self._signed(self._cos[positions], self._sin[positions])

    def _signed(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.weights.embed.dtype
        return torch.cat((cos, cos), -1)[..., None, :].to(dtype), torch.cat((-sin, sin), -1)[..., None, :].to(dtype)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last axis, in float32 whatever the dtype."""
        if x.dtype == torch.float32:
            return functional.rms_norm(x, (x.shape[-1],), weight, self.weights.eps)
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.weights.eps)).to(x.dtype)

    def prefill(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(hidden [R, L, D], keys and values [layers, R, K, L, d]) of right-padded prompts.

        x [R, L, D] input embeddings, positions int64[3, R, L]. What stands at padding means nothing.
        """
        w = self.weights
        cos, sin = self.rotary(positions)
        shape = (len(w.layers), x.shape[0], w.kv_heads, x.shape[1], w.head_width)
        keys, values = (torch.empty(shape, dtype=x.dtype, device=x.device) for _ in range(2))
        for number, layer in enumerate(w.layers):
            q, k, v = self._project(layer, x, cos, sin)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            keys[number], values[number] = k, v
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = self._finish(layer, x, mixed.transpose(1, 2).flatten(-2))
        return self.norm(x, w.norm), keys, values

    def decode(
        self, tokens: Tensor, positions: Tensor, lengths: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> Tensor:
        """Hidden states [B, D] after one more token of each running reply; its keys and values go into the cache.

        tokens, positions, lengths int64[B]: the token, its rotary position, and the cache position it takes.
        keys, values [layers, slots, K, capacity, d]: rows 0..B-1 are used. mask [B, S] additive.
        """
        w, count, span = self.weights, len(tokens), mask.shape[1]
        rows = torch.arange(count, device=tokens.device)
        cos, sin = self.rotary_text(positions)
        x = w.embed[tokens]
        seen = mask[:, None].expand(-1, w.kv_heads, -1).reshape(count * w.kv_heads, 1, span)
        for number, layer in enumerate(w.layers):
            q, k, v = self._project(layer, x, cos, sin)
            keys[number, rows, :, lengths], values[number, rows, :, lengths] = k, v
            # The G query heads of a key head stand in for queries of one sequence: nothing is repeated.
            mixed = _attend(
                q.reshape(count * w.kv_heads, -1, w.head_width),
                keys[number, :count, :, :span].flatten(0, 1),
                values[number, :count, :, :span].flatten(0, 1),
                seen,
            )
            x = self._finish(layer, x, mixed.reshape(count, -1))
        return self.norm(x, w.norm)

    def _project(self, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [..., H, d] and keys [..., K, d], and values [..., K, d]."""
        w = self.weights
        qkv = functional.linear(self.norm(x, layer.norm_in), layer.qkv, layer.qkv_bias)
        qkv = qkv.unflatten(-1, (w.heads + 2 * w.kv_heads, w.head_width))
        turned, v = qkv[..., : w.heads + w.kv_heads, :], qkv[..., w.heads + w.kv_heads :, :]
        turned = turned * cos + turned.roll(w.head_width // 2, -1) * sin
        return turned[..., : w.heads, :], turned[..., w.heads :, :], v

    def _finish(self, layer: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """Output projection, residual, and the gated MLP with its residual."""
        x = x + functional.linear(mixed, layer.out)
        gate, up = functional.linear(self.norm(x, layer.norm_mlp), layer.gate_up).chunk(2, -1)
        return x + functional.linear(functional.silu(gate) * up, layer.down)


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention [B * K, G, d] of queries [B * K, G, d] over keys and values [B * K, S, d]; mask [B * K, 1, S]."""
    if q.dtype != torch.float32:  # the narrow dtypes need the kernel's wide sums
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), values)
