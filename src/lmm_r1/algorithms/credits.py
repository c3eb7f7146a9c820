"""From the rewards of a step to an advantage on every token: what a named algorithm calls `credit`.

Three ways of dealing: one number on all tokens of an episode (`dealt_to_episodes`), reward-to-go (`dealt_to_tokens`), or
reward-to-go against a critic's values (`dealt_by_gae`), the last two whitened over the step. All take a baseline rule
(BASELINES) and a KL term in the reward. Environment tokens are skipped everywhere.
Axis legend: T = all tokens of one rollout; n = trainable tokens of one episode; G = siblings of one problem.
Sources: named.py says which algorithm is made of what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lmm_r1.algorithms import advantages as adv
from lmm_r1.algorithms import losses
from lmm_r1.types import Anchors, Credit, Float32, Group, Rollout

#: Rewards of an episode are held within this before they are dealt to tokens (released code of LMM-R1).
REWARD_CLIP = 10.0

#: Episodes that GAE runs over side by side: bounds the memory of long ones.
EPISODES_AT_ONCE = 256

#: An episode as a chain of (segment, what the frozen models said of it).
Episode = list[tuple[Rollout, Anchors]]

#: (rewards float64[G], reward of the greedy reply or None) -> advantages float64[G]
Baseline = Callable[[Tensor, float | None], Tensor]


def _against_greedy(rewards: Tensor, greedy: float | None) -> Tensor:
    if greedy is None:
        raise ValueError("the greedy baseline needs the greedy reply of every problem")
    return rewards - greedy


BASELINES: dict[str, Baseline] = {
    "group_z": lambda rewards, _: adv.group_relative(rewards),
    "group_mean": lambda rewards, _: adv.group_relative(rewards, normalize_std=False),
    "leave_one_out": lambda rewards, _: adv.leave_one_out(rewards),
    "greedy": _against_greedy,
    "none": lambda rewards, _: rewards,
    "imitate": lambda rewards, _: torch.ones_like(rewards),
}


def dealt_to_episodes(
    groups: Sequence[Group],
    anchors: Sequence[Anchors],
    *,
    baseline: str,
    kl_coef: float = 0.0,
    estimator: str = "k1",
    overlong: tuple[int, int] | None = None,
) -> list[Credit]:
    """The baselined reward of an episode on every trainable token of all its segments.

    kl_coef: the episode's summed KL is taken off its reward before the baseline. overlong: (longest reply, buffer) in
    tokens, DAPO's soft punishment; of an episode its longest reply counts.
    """
    credits: list[Credit] = []
    for group, mine in _with_anchors(groups, anchors):
        rewards = torch.tensor([s.reward for s in group.scores], dtype=torch.float64)
        if overlong is not None:
            lengths = torch.tensor([max(_reply_lengths(episode)) for episode in group.episodes])
            rewards = rewards + adv.soft_overlong(lengths, *overlong)
        if kl_coef > 0:
            spent = [sum(float(_token_kl(r, a, estimator).sum()) for r, a in episode) for episode in mine]
            rewards = rewards - kl_coef * torch.tensor(spent, dtype=torch.float64)
        for value, episode in zip(BASELINES[baseline](rewards, group.greedy).tolist(), mine, strict=True):
            credits += [Credit((r.trainable * value).astype(np.float32)) for r, _ in episode]
    return credits


def dealt_to_tokens(
    groups: Sequence[Group], anchors: Sequence[Anchors], *, baseline: str, kl_coef: float = 0.0, estimator: str = "k1"
) -> list[Credit]:
    """REINFORCE++: the baselined reward on the last token, KL off every token, reward-to-go over each episode (its
    segments chained), whitened over all trainable tokens of the step. Without a baseline, rewards of single turns stand
    at their ends; with one the episode's sum is compared, and stands at its end."""
    episodes = list(_token_rewards(groups, anchors, baseline, kl_coef, estimator))
    returns = [adv.reward_to_go(rewards) for _, rewards in episodes]
    return _dealt(episodes, adv.whiten(_joined(returns)))


def dealt_by_gae(
    groups: Sequence[Group],
    anchors: Sequence[Anchors],
    *,
    baseline: str,
    gamma: float,
    lam: float,
    kl_coef: float = 0.0,
    estimator: str = "k1",
) -> list[Credit]:
    """PPO: rewards as in `dealt_to_tokens`, against the critic's values by GAE over each episode (its segments chained);
    advantages whitened over all trainable tokens of the step, returns as they are. ValueError without values."""
    episodes = list(_token_rewards(groups, anchors, baseline, kl_coef, estimator))
    values = [_joined([_values(r, a) for r, a in episode]) for episode, _ in episodes]
    found = []
    for start in range(0, len(episodes), EPISODES_AT_ONCE):
        part = slice(start, start + EPISODES_AT_ONCE)
        rewards = pad_sequence([rewards for _, rewards in episodes[part]], batch_first=True)
        known = pad_sequence(values[part], batch_first=True)
        lengths = torch.tensor([len(v) for v in values[part]])
        mask = torch.arange(rewards.shape[1]) < lengths[:, None]
        pair = adv.gae(rewards, known, mask, gamma, lam)
        found += [(a[:n], r[:n]) for a, r, n in zip(*pair, lengths.tolist(), strict=True)]
    return _dealt(episodes, adv.whiten(_joined([a for a, _ in found])), _joined([r for _, r in found]))


def rewards_differ(group: Group) -> bool:
    """Dynamic sampling (DAPO, eq. 11): a group that is all right or all wrong teaches nothing.

    Told by the part "accuracy" where there is one, as in the paper, else by the whole reward; of a game by the whole
    reward, since an episode that is not won may still be better than another.
    """
    whole = group.problem.is_game
    return len({s.reward if whole else s.parts.get("accuracy", s.reward) for s in group.scores}) > 1


def _reply_lengths(episode: Sequence[Rollout]) -> list[int]:
    """Tokens of each reply; of a rollout that names no turns, of all it wrote."""
    return [n for r in episode for n in ([t.end - t.start for t in r.turns] or [r.reply_tokens])]


def _with_anchors(groups: Sequence[Group], anchors: Sequence[Anchors]) -> Iterator[tuple[Group, list[Episode]]]:
    """Each group with its episodes as chains of (rollout, its anchors). ValueError when the counts differ."""
    count = sum(len(group.rollouts) for group in groups)
    if count != len(anchors):
        raise ValueError(f"{count} rollouts in the groups, but {len(anchors)} anchors")
    left = iter(anchors)
    for group in groups:
        yield group, [[(rollout, next(left)) for rollout in episode] for episode in group.episodes]


def _token_rewards(
    groups: Sequence[Group], anchors: Sequence[Anchors], baseline: str, kl_coef: float, estimator: str
) -> Iterator[tuple[Episode, Tensor]]:
    """Each episode with the reward of each of its trainable tokens, float64[n], segments chained."""
    for group, mine in _with_anchors(groups, anchors):
        totals = torch.tensor([s.reward for s in group.scores], dtype=torch.float64)
        values = BASELINES[baseline](totals, group.greedy).clamp(-REWARD_CLIP, REWARD_CLIP).tolist()
        for value, score, episode in zip(values, group.scores, mine, strict=True):
            rewards = _joined([-kl_coef * _token_kl(r, a, estimator) if kl_coef > 0 else _zeros(r) for r, a in episode])
            if len(rewards):
                # Against siblings only the sum means something: a group's mean says nothing of what is left at a turn.
                if score.per_turn and baseline == "none":
                    ends = _turn_ends([r for r, _ in episode])
                    for end, earned in zip(ends, score.per_turn, strict=True):
                        rewards[end] += earned
                    value -= sum(score.per_turn)
                rewards[-1] += value
            yield episode, rewards


def _turn_ends(segments: Sequence[Rollout]) -> list[int]:
    """Of each turn: which of the episode's trainable tokens is its last; an empty turn takes the one before it."""
    ends, before = [], 0
    for r in segments:
        ends += [max(before + int(r.trainable[: turn.end].sum()) - 1, 0) for turn in r.turns]
        before += r.reply_tokens
    return ends


def _dealt(
    episodes: Sequence[tuple[Episode, Tensor]], advantages: Tensor, returns: Tensor | None = None
) -> list[Credit]:
    """Numbers of all trainable tokens of a step, float64[n], as arrays float32[T] of each rollout."""
    credits, start = [], 0
    for r in (r for episode, _ in episodes for r, _ in episode):
        own = slice(start, start + r.reply_tokens)
        start += r.reply_tokens
        credits.append(Credit(_spread(r, advantages[own]), None if returns is None else _spread(r, returns[own])))
    return credits


def _spread(rollout: Rollout, values: Tensor) -> Float32:
    out: Float32 = np.zeros(len(rollout.token_ids), dtype=np.float32)
    out[rollout.trainable] = values.numpy()
    return out


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=torch.float64)


def _values(rollout: Rollout, anchor: Anchors) -> Tensor:
    if anchor.values is None:
        raise ValueError("GAE needs the critic's values")
    return torch.from_numpy(anchor.values[rollout.trainable].astype(np.float64))


def _token_kl(rollout: Rollout, anchor: Anchors, estimator: str) -> Tensor:
    if anchor.ref_logprobs is None:
        raise ValueError("a KL term in the reward needs the reference model's log-probs")
    policy = torch.from_numpy(anchor.old_logprobs[rollout.trainable].astype(np.float64))
    reference = torch.from_numpy(anchor.ref_logprobs[rollout.trainable].astype(np.float64))
    return losses.kl(policy, reference, estimator)


def _zeros(rollout: Rollout) -> Tensor:
    return torch.zeros(rollout.reply_tokens, dtype=torch.float64)
