"""How per-token losses are averaged: a weight per token, fixed before an optimiser step is split.

The loss of one optimiser step is sum(weight * token loss), so the sizes of micro-batches, packing and ranks
cannot change the gradient. Axis legend: T = all tokens of one rollout; weights are 0 where not trainable.
Sources: sequence mean, GRPO (arXiv 2402.03300, eq. 3); token mean, DAPO (arXiv 2503.14476) and LMM-R1's later code;
constant, Dr. GRPO (arXiv 2503.20783).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lmm_r1.types import Float32, Rollout, Sample


def token_mean(samples: Sequence[Sample]) -> list[Float32]:
    """Every trainable token of the step weighs the same; float32[T] each, together 1."""
    total = sum(s.rollout.reply_tokens for s in samples)
    return [(s.rollout.trainable / max(total, 1)).astype(np.float32) for s in samples]


def sequence_mean(samples: Sequence[Sample]) -> list[Float32]:
    """Every episode weighs the same, its tokens share that evenly; float32[T] each, together 1.

    The segments of one episode are one sequence. An episode without trainable tokens is not counted.
    """
    keys = episode_keys([s.rollout for s in samples])
    tokens: Counter[tuple[str, int, int, int]] = Counter()
    for key, sample in zip(keys, samples, strict=True):
        tokens[key] += sample.rollout.reply_tokens
    episodes = sum(1 for n in tokens.values() if n > 0)
    return [
        (s.rollout.trainable / max(episodes * tokens[key], 1)).astype(np.float32)
        for key, s in zip(keys, samples, strict=True)
    ]


def constant(samples: Sequence[Sample], length: int = 1) -> list[Float32]:
    """Every token weighs 1 / (episodes * length), whatever its reply's length; float32[T] each.

    With length = the longest reply allowed, the sum of a reply's losses over that constant, as in Dr. GRPO; with 1, the
    plain sum of a reply (RLOO, ReMax). An episode without trainable tokens is not counted.
    """
    keys = episode_keys([s.rollout for s in samples])
    episodes = len({key for key, s in zip(keys, samples, strict=True) if s.rollout.reply_tokens > 0})
    return [(s.rollout.trainable / max(episodes * length, 1)).astype(np.float32) for s in samples]


def episode_keys(rollouts: Sequence[Rollout]) -> list[tuple[str, int, int, int]]:
    """One key per rollout, equal for segments of the same episode and different otherwise.

    A problem that was drawn twice into one step gives two episodes of the same names: the second
    rollout with a name and segment already seen belongs to the second of them, and so on.
    """
    seen: Counter[tuple[str, int, int, int]] = Counter()
    keys = []
    for r in rollouts:
        name = (r.problem.id, r.episode, r.sibling, r.segment)
        keys.append((r.problem.id, r.episode, r.sibling, seen[name]))
        seen[name] += 1
    return keys
