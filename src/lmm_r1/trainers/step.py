"""The forward pass of one batch: log-probs and entropies of its trainable tokens, nothing else.

The transformer runs once over the packed rows; the output head runs only where a trained token is predicted.
Axis legend: R = rows, L = row length, D = hidden width, F = vision features, N = trainable tokens.
Leaves out: the loss and the optimiser (local.py), and the log-softmax itself (models/logprobs.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.models.logprobs import token_logprobs
from lmm_r1.trainers.collate import Batch


def forward_logprobs(
    model: Qwen2_5_VLForConditionalGeneration,
    batch: Batch,
    temperature: float,
    banned_ids: Sequence[int],
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """(log-probs float32[N] in nats at `temperature`, entropies float32[N]) of the batch's trainable tokens.

    Equal to a plain forward of each sequence alone, values and gradients, up to the rounding of the dtype.
    """
    hidden = hidden_states(model, batch).flatten(0, 1)
    # An embedding look-up rather than hidden[parents]: the backward pass of indexing adds with atomics on several
    # CPU threads, in no fixed order, and a resumed run must be bit-identical.
    predicting = functional.embedding(batch.parents, hidden)
    head = model.lm_head.weight
    return token_logprobs(
        predicting, head, batch.targets, temperature, tuple(banned_ids), entropy_gradient=entropy_gradient
    )


def hidden_states(model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> Tensor:
    """Last hidden states float[R, L, D]; those of padding mean nothing."""
    inner = model.model
    embeds = inner.get_input_embeddings()(batch.input_ids)
    if batch.vision is not None:
        encoded = inner.get_image_features(**batch.vision, return_dict=True).pooler_output
        features = functional.embedding(batch.features, torch.cat(tuple(encoded)).to(embeds.dtype))
        embeds = embeds.flatten(0, 1).index_copy(0, batch.placeholders, features).view_as(embeds)
    mask = None
    if batch.mask is not None:  # additive, made once: from a boolean mask every layer would make its own
        mask = torch.zeros(batch.mask.shape, dtype=embeds.dtype, device=embeds.device)
        mask = mask.masked_fill_(~batch.mask, -torch.inf)
    output = inner.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=batch.positions, use_cache=False
    )
    return output.last_hidden_state
