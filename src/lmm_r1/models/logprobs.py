"""From hidden states to log-probs: the one place where "position t-1 predicts token t" becomes numbers.

Trainer and tests call it; the engine applies the same rule (`masked_logits`) before it samples. The log-softmax always
runs in float32, whatever the model's dtype, and media tokens are removed before it, so that the sampler's and the
trainer's distributions are the same one.
Axis legend: N = predicted tokens, D = hidden width, V = rows of the output head.
Leaves out: which positions predict which tokens (trainers/collate.py) and any loss.
Source: arXiv 2402.03300 (DeepSeekMath), the per-token log-probs of section 4; the masking and chunking are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

#: Logits held at once, in elements (64 MiB of float32): bounds the memory of a large vocabulary.
LOGITS_AT_ONCE = 16 * 1024 * 1024


def masked_logits(logits: Tensor, temperature: float | Tensor, banned_ids: Sequence[int] | Tensor) -> Tensor:
    """float32[N, V] logits at `temperature` (a number, or float[N, 1]) with the banned ids at -inf."""
    scaled = logits.float() / temperature
    banned = torch.as_tensor(banned_ids, dtype=torch.int64, device=logits.device)
    return scaled.index_fill(-1, banned, -torch.inf)


def token_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    banned_ids: Sequence[int] = (),
    chunk: int | None = None,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """(log-probs float32[N], entropies float32[N]), in nats, of `targets` at `temperature`.

    hidden [N, D]: row n is the last hidden state of the position BEFORE targets[n] int64[N]; head_weight [V, D].
    The log-probs are differentiable; the entropy only with `entropy_gradient` (one more [N, V] tensor is kept), else
    it is a number to watch. A banned target gives -inf. chunk: rows of the head computed at once; in a backward pass each chunk's logits are computed again.
    ValueError when shapes do not fit or the temperature is not positive.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or head_weight.shape[-1] != hidden.shape[-1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, head {tuple(head_weight.shape)}, targets {tuple(targets.shape)}: no fit"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    rows = max(1, LOGITS_AT_ONCE // head_weight.shape[0]) if chunk is None else chunk
    banned = torch.as_tensor(banned_ids, dtype=torch.int64, device=hidden.device)
    if len(targets) <= rows:
        return _chunk(hidden, head_weight, targets, temperature, banned, entropy_gradient)
    graph = torch.is_grad_enabled() and (hidden.requires_grad or head_weight.requires_grad)
    parts = []
    for start in range(0, len(targets), rows):
        piece = (
            hidden[start : start + rows],
            head_weight,
            targets[start : start + rows],
            temperature,
            banned,
            entropy_gradient,
        )
        parts.append(
            checkpoint(_chunk, *piece, use_reentrant=False, preserve_rng_state=False) if graph else _chunk(*piece)
        )
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _chunk(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, banned: Tensor, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` of rows whose logits fit into memory."""
    logits = masked_logits(functional.linear(hidden, head), temperature, banned)
    total = logits.logsumexp(-1)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - total
    if entropy_gradient:
        normal = logits - total[:, None]
        # A banned id has probability 0 and log-prob -inf: 0 there, or the gradient would be 0 * inf.
        return logprobs, -(normal.exp() * normal.masked_fill(normal == -torch.inf, 0.0)).sum(-1)
    with torch.no_grad():
        entropy = torch.special.entr((logits - total[:, None]).exp_()).sum(-1)  # 0 where a banned id has 0
    return logprobs, entropy
