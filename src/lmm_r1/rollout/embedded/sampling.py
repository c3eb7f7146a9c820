"""Drawing tokens: inverse CDF of uniforms that belong to the request, so batch mates cannot change a reply.

Axis legend: B = running replies, V = vocabulary rows.
Choice for top_p < 1: the token comes from the renormalised nucleus, but the log-prob reported is that of the whole
distribution (temperature and media mask applied, before the cut). It is what a trainer computes for the token, so the
gap between sampler and trainer stays a check; at top_p = 1, as published, the two are the same.
Source: inverse-transform sampling; nucleus from arXiv 1904.09751.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lmm_r1.types import Request


def uniforms(request: Request, count: int) -> Tensor:
    """float64[count] in [0, 1): number t decides token t of the reply. A function of the request's seed alone."""
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=request.seed)).random(count))


def draw(logits: Tensor, uniform: Tensor, top_p: Tensor | None) -> tuple[Tensor, Tensor]:
    """(tokens int64[B], log-probs float32[B]) from masked float32[B, V] logits at temperature.

    uniform float64[B]; top_p float64[B], or None when all are 1. Sums run in float64: with 150 000 tokens a float32
    running sum would lose the rare ones.
    """
    logprobs = logits.log_softmax(-1)
    weights = logprobs.double().exp()
    if top_p is not None:
        weights = nucleus(weights, top_p)
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    # Strictly below the total, so that a token with weight exists at the place found.
    goal = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(sums, goal, right=True)
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]


def nucleus(weights: Tensor, top_p: Tensor) -> Tensor:
    """Weights outside the smallest set of likeliest tokens with at least `top_p` of the mass set to 0.

    float64[B, V] and float64[B]; equal weights keep their order by id. At top_p = 1 nothing is dropped.
    """
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    outside = (before >= top_p[:, None]) & (top_p[:, None] < 1)
    outside[:, 0] = False  # the likeliest token always stays
    return weights.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)
