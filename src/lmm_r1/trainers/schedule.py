"""Learning rate over a stage, and how a step's groups are dealt to its optimiser steps.

Source of the values: LMM-R1's scripts (linear warm-up over 3 %, cosine to 10 % of the peak).
Leaves out: token-dependent rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmm_r1.config import Update
from lmm_r1.types import Rollout


def lr_at(update_index: int, total: int, update: Update) -> float:
    """Learning rate of optimiser step `update_index` (0-based) of `total`.

    The k-th of w warm-up steps has k/w of the peak, so no step has rate 0; then a cosine that ends at
    final_lr * peak on the last step. Beyond the last step the rate stays there.
    """
    warmup = math.ceil(update.warmup * total)
    if update_index < warmup:
        return update.lr * (update_index + 1) / warmup
    span = max(total - warmup - 1, 1)
    progress = min((update_index - warmup) / span, 1.0)
    share = update.final_lr + (1.0 - update.final_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return update.lr * share


def minibatches(rollouts: Sequence[Rollout], update: Update, seed: int | Sequence[int]) -> list[list[int]]:
    """Deal the rollouts of a step to `update.minibatches` optimiser steps: their indices; never an empty one.

    "groups": whole groups at random, each minibatch with as many groups as the others (give or take one) and
    balanced by tokens, so that a prompt is computed once. "samples": all episodes at random in equal parts; the segments of
    an episode stay together, since its weight is shared among them.
    A pure function of the rollouts' order and the seed; with one minibatch the order stays as it is.
    """
    if update.minibatches == 1:
        return [list(range(len(rollouts)))]
    rng = np.random.default_rng(seed)
    if update.shuffle == "samples":
        episodes = _episodes(rollouts)
        order = rng.permutation(len(episodes))
        parts = [[i for e in part for i in episodes[e]] for part in np.array_split(order, update.minibatches)]
    else:
        parts = _deal_groups(rollouts, update.minibatches, rng)
    return [part for part in parts if part]


def shares_of(rollouts: Sequence[Rollout], ranks: int) -> list[list[int]]:
    """Deal the rollouts of an optimiser step to ranks: their indices, in order; a rank may get none.

    Whole groups, so that a prompt is computed once; the longest first, each to the rank with the fewest tokens so far. A pure
    function of the rollouts.
    """
    groups = sorted(_groups(rollouts), key=lambda group: -_tokens(rollouts, group))
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for group in groups:
        min(parts, key=lambda part: _tokens(rollouts, part)).extend(group)
    return [sorted(part) for part in parts]


def _groups(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Indices of each problem's rollouts."""
    groups: dict[str, list[int]] = {}
    for i, rollout in enumerate(rollouts):
        groups.setdefault(rollout.problem.id, []).append(i)
    return list(groups.values())


def _tokens(rollouts: Sequence[Rollout], indices: Sequence[int]) -> int:
    return sum(len(rollouts[i].token_ids) for i in indices)


def _episodes(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Indices of each episode's segments, which stand one after another."""
    episodes: list[list[int]] = []
    for i, rollout in enumerate(rollouts):
        if rollout.segment == 0 or not episodes:
            episodes.append([])
        episodes[-1].append(i)
    return episodes


def _deal_groups(rollouts: Sequence[Rollout], count: int, rng: np.random.Generator) -> list[list[int]]:
    members = _groups(rollouts)
    tokens = [_tokens(rollouts, group) for group in members]
    order = rng.permutation(len(members))
    order = order[np.argsort([-tokens[g] for g in order], kind="stable")]  # longest first, ties at random
    room = [len(part) for part in np.array_split(order, count)]
    load = [0] * count
    parts: list[list[int]] = [[] for _ in range(count)]
    for g in order:
        lightest = min((b for b in range(count) if room[b] > 0), key=lambda b: load[b])
        parts[lightest] += members[g]
        room[lightest] -= 1
        load[lightest] += tokens[g]
    # The longest groups were dealt first: a random order of minibatches does not favour them.
    return [sorted(parts[b]) for b in rng.permutation(count)]
