"""The forward pass of one batch: what predicts its trainable tokens, and their log-probs and entropies.

The transformer runs once over the packed rows; the output head runs only where a trained token is predicted.
Axis legend: R = rows, L = row length, D = hidden width, F = vision features, N = trainable tokens.
Leaves out: the loss and the optimiser (local.py), and the log-softmax itself (models/logprobs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    return read_logprobs(model, predicting_states(model.model, batch), batch, temperature, banned_ids, entropy_gradient)


def read_logprobs(
    model: Qwen2_5_VLForConditionalGeneration,
    states: Tensor,
    batch: Batch,
    temperature: float,
    banned_ids: Sequence[int],
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """`forward_logprobs` from the `predicting_states` that are there already."""
    return token_logprobs(
        states, model.lm_head.weight, batch.targets, temperature, tuple(banned_ids), entropy_gradient=entropy_gradient
    )


def predicting_states(trunk: Any, batch: Batch) -> Tensor:
    """float[N, D]: the last hidden state before each trainable token, what predicts it. trunk: a model without its head."""
    # An embedding look-up rather than hidden[parents]: the backward pass of indexing adds with atomics on several
    # CPU threads, in no fixed order, and a resumed run must be bit-identical.
    return functional.embedding(batch.parents, hidden_states(trunk, batch).flatten(0, 1))


def hidden_states(trunk: Any, batch: Batch) -> Tensor:
    """Last hidden states float[R, L, D]; those of padding mean nothing."""
    embeds = trunk.get_input_embeddings()(batch.input_ids)
    if batch.vision is not None:
        encoded = trunk.get_image_features(**batch.vision, return_dict=True).pooler_output
        features = functional.embedding(batch.features, torch.cat(tuple(encoded)).to(embeds.dtype))
        embeds = embeds.flatten(0, 1).index_copy(0, batch.placeholders, features).view_as(embeds)
    mask = None
    if batch.mask is not None:  # additive, made once: from a boolean mask every layer would make its own
        mask = torch.zeros(batch.mask.shape, dtype=embeds.dtype, device=embeds.device)
        mask = mask.masked_fill_(~batch.mask, -torch.inf)
    output = trunk.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=batch.positions, use_cache=False
    )
    return output.last_hidden_state
