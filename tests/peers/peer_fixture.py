"""Made-up replies for the comparisons with peers: padded matrices for them, flat trainable tokens for us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmm_r1.algorithms import losses
from lmm_r1.seams import Algorithm, PolicyTokens
from lmm_r1.types import Anchors, Credit, Float32, Group, Problem, Rollout, Sample, Score

PROMPT = 2
#: Eight replies of 32 tokens, all powers of two: token weights are float32 by type, and these are exact in it.
LENGTHS = (1, 2, 4, 8, 8, 4, 4, 1)
#: The longest reply allowed; a power of two too.
LONGEST = 16


@dataclass(frozen=True)
class Replies:
    """Groups of replies, and float64 numbers on their tokens. Axes: B = replies, C = the longest of them.

    mask [B, C]; gap = log-prob - old, sampled, old, reference [B, C], 0 outside; rewards and advantages [B].
    """

    groups: list[Group]
    mask: Tensor
    old: Tensor
    gap: Tensor
    reference: Tensor
    sampled: Tensor
    rewards: Tensor
    advantages: Tensor

    @property
    def group_of(self) -> np.ndarray:
        """int[B]: which group a reply belongs to."""
        return np.repeat(np.arange(len(self.groups)), [len(g.episodes) for g in self.groups])

    @property
    def anchors(self) -> list[Anchors]:
        """What the frozen models said, per rollout; `old` and `reference` are exact in float32."""
        return [Anchors(old, ref) for old, ref in zip(self.rows(self.old), self.rows(self.reference), strict=True)]

    @property
    def samples(self) -> list[Sample]:
        """For the token weights, which look at rollouts alone."""
        rollouts = [r for g in self.groups for r in g.rollouts]
        return [
            Sample(r, a, Credit(np.zeros(len(r.token_ids), np.float32)))
            for r, a in zip(rollouts, self.anchors, strict=True)
        ]

    def rows(self, values: Tensor) -> list[Float32]:
        """A padded matrix [B, C] as one array float32[T] for each rollout, 0 on the prompt."""
        return [
            np.concatenate([np.zeros(PROMPT), row[kept].numpy()]).astype(np.float32)
            for row, kept in zip(values, self.mask, strict=True)
        ]

    def spread(self, credits: Sequence[Credit], returns: bool = False) -> Tensor:
        """Our advantages, or returns, as a padded matrix [B, C]."""
        out = torch.zeros_like(self.old)
        arrays = [c.returns if returns else c.advantages for c in credits]
        kept = [a[s.rollout.trainable] for a, s in zip(arrays, self.samples, strict=True) if a is not None]
        out[self.mask] = torch.from_numpy(np.concatenate(kept)).double()
        return out


def replies(seed: int, lengths: Sequence[int] = LENGTHS, siblings: int = 4) -> Replies:
    """Every other reply moved far from the old policy, the rest hardly: ratios inside and on both sides of a range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count, longest = len(lengths), max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    scale = torch.where(torch.arange(count) % 2 == 0, 1.2, 1e-4).double()[:, None]
    old = (-normal(count, longest).exp()).float().double() * mask
    rewards = normal(count).float().double()
    groups = []
    for start in range(0, count, siblings):
        problem = Problem(id=f"p{start}", messages=(), answer="")
        own = range(start, min(start + siblings, count))
        episodes = tuple((_rollout(problem, g, lengths[i]),) for g, i in enumerate(own))
        groups.append(Group(problem, episodes, tuple(Score(float(rewards[i]), {}, {}) for i in own)))
    return Replies(
        groups=groups,
        mask=mask,
        old=old,
        gap=normal(count, longest) * scale * mask,
        reference=(old + 0.5 * normal(count, longest) * mask).float().double(),
        sampled=old + 0.5 * normal(count, longest) * mask,
        rewards=rewards,
        advantages=normal(count),
    )


def rewarded(made: Replies, rewards: Sequence[float]) -> Replies:
    """The same replies with these rewards."""
    scores = iter(Score(r, {}, {}) for r in rewards)
    groups = [replace(g, scores=tuple(next(scores) for _ in g.episodes)) for g in made.groups]
    return replace(made, groups=groups, rewards=torch.tensor(rewards, dtype=torch.float64))


def our_loss(
    algorithm: Algorithm,
    made: Replies,
    logprobs: Tensor,
    advantages: Tensor | None = None,
    entropies: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of one optimiser step as seams.Algorithm defines it, and which tokens were clipped [N].

    logprobs and entropies [B, C]; advantages [B, C], without them those of `made` on every token of a reply.
    """
    dealt = made.advantages[:, None].expand_as(made.old) if advantages is None else advantages
    tokens = PolicyTokens(
        logprobs=logprobs[made.mask],
        old_logprobs=made.old[made.mask],
        sampled_logprobs=made.sampled[made.mask],
        advantages=dealt[made.mask],
        sequences=torch.nonzero(made.mask)[:, 0],
        count=len(made.mask),
    )
    loss, shares = algorithm.policy_loss(tokens)
    if algorithm.kl_coef > 0:
        estimate = losses.kl(tokens.logprobs, made.reference[made.mask], algorithm.kl_estimator)
        loss = loss + algorithm.kl_coef * estimate
    if entropies is not None:
        loss = loss - algorithm.entropy_coef * entropies[made.mask]
    weights = algorithm.token_weights(made.samples)
    flat = np.concatenate([w[s.rollout.trainable] for w, s in zip(weights, made.samples, strict=True)])
    return (torch.from_numpy(flat).double() * loss).sum(), shares["clip_share"]


def moved(made: Replies) -> Tensor:
    """The log-probs after some updates, [B, C], with a gradient."""
    return (made.old + made.gap).requires_grad_()


def _rollout(problem: Problem, sibling: int, length: int) -> Rollout:
    flags = np.array([False] * PROMPT + [True] * length)
    n = len(flags)
    return Rollout(
        problem, sibling, 0, 0, np.arange(n, dtype=np.int32), flags, np.zeros(n, np.float32), (), (), "eos", ()
    )
