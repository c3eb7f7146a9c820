"""problems -> scored Groups: what a step of training learns from, with counts of what was discarded.

A prompt over the limit is dropped whole and counted (image tokens are never truncated). With a `keep`
rule (dynamic sampling), rounds go on until the step is full or `max_rounds` is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmm_r1.config import RolloutConfig
from lmm_r1.errors import DataError
from lmm_r1.places import with_pictures
from lmm_r1.rollout.play import Sampling, play, seed_of, turns_of
from lmm_r1.seams import MakeEnvironment, ModelAdapter, RolloutEngine, Scorer
from lmm_r1.types import Encoded, Group, Problem, Score

#: Give up when this many problems in a row do not fit: the limit, not the data, is then wrong.
MAX_DROPPED_IN_A_ROW = 1000
#: Rounds of dynamic sampling when the recipe does not say.
ROUNDS_WHEN_FILTERED = 10
#: A nucleus that holds the likeliest token and no other.
GREEDY_TOP_P = 1e-9


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step, and {metric name: value} of what happened on the way."""

    groups: tuple[Group, ...]
    counts: Mapping[str, float]


def collect(
    take: Callable[[int], list[Problem]],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    make: MakeEnvironment,
    score: Scorer,
    config: RolloutConfig,
    *,
    max_context: int,
    seed: Sequence[object],
    keep: Callable[[Group], bool] | None = None,
    greedy: bool = False,
    shuffle: bool = False,
) -> Collected:
    """Sample `config.siblings` replies to each of `config.prompts` problems and score them.

    take(n): the next n problems of the stream.  shuffle: deal the scores of the step to its replies at
    random (the control arm that must learn nothing). greedy: also sample the likeliest reply to each problem, for its
    reward alone. Raises DataError when prompts never fit.
    """
    sampling = sampling_of(config, max_context)
    groups: list[Group] = []
    dropped = discarded = rounds = 0
    max_rounds = config.max_rounds or (1 if keep is None else ROUNDS_WHEN_FILTERED)
    while len(groups) < config.prompts and rounds < max_rounds:
        wanted = config.prompts - len(groups)
        problems, encoded, too_long = fitting(take, adapter, wanted, config.max_prompt_tokens)
        dropped += too_long
        episodes = [(p, sibling) for p in problems for sibling in range(config.siblings)]
        played = play(episodes, engine, adapter, make, sampling, (*seed, rounds), encoded)
        best = _greedy(problems, engine, adapter, make, score, sampling, (*seed, rounds), encoded) if greedy else {}
        for at, problem in enumerate(problems):
            mine = tuple(played[at * config.siblings : (at + 1) * config.siblings])
            scores = [score(problem, turns_of(episode), episode[-1].stop) for episode in mine]
            group = Group(problem, mine, tuple(scores), best.get(problem.id))
            if keep is None or keep(group):
                groups.append(group)
            else:
                discarded += 1
        rounds += 1
    if shuffle:
        groups = shuffled(groups, seed_of(*seed, "shuffle"))
    counts = {
        "collect/dropped_long": float(dropped),
        "collect/discarded": float(discarded),
        "collect/rounds": float(rounds),
    }
    return Collected(tuple(groups), counts)


def _greedy(
    problems: Sequence[Problem],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    make: MakeEnvironment,
    score: Scorer,
    sampling: Sampling,
    seed: Sequence[object],
    encoded: dict[str, Encoded],
) -> dict[str, float]:
    """The reward of the likeliest reply to each problem, by problem id."""
    likeliest = replace(sampling, top_p=GREEDY_TOP_P)
    episodes = play([(p, 0) for p in problems], engine, adapter, make, likeliest, (*seed, "greedy"), encoded)
    pairs = zip(problems, episodes, strict=True)
    return {p.id: score(p, turns_of(episode), episode[-1].stop).reward for p, episode in pairs}


def sampling_of(config: RolloutConfig, max_context: int) -> Sampling:
    """How a stage's replies are drawn and remembered."""
    window = None if config.memory == "full" else (config.memory.pictures, config.memory.actions)
    return Sampling(
        config.max_new_tokens, config.temperature, config.top_p, max_context, window, config.max_turns
    )  # fmt: skip


def fitting(
    take: Callable[[int], list[Problem]], adapter: ModelAdapter, wanted: int, limit: int
) -> tuple[list[Problem], dict[str, Encoded], int]:
    """(problems whose prompts fit, as the model sees them, their prompts, how many were dropped)."""
    problems: list[Problem] = []
    encoded: dict[str, Encoded] = {}
    dropped = 0
    while len(problems) < wanted:
        for problem in take(wanted - len(problems)):
            prompt = adapter.encode(problem.messages)
            if len(prompt.token_ids) > limit:
                dropped += 1
                if dropped >= MAX_DROPPED_IN_A_ROW and not problems:
                    raise DataError(
                        f"{dropped} problems in a row are longer than rollout.max_prompt_tokens = {limit}; "
                        f"the last is {problem.id} with {len(prompt.token_ids)} tokens"
                    )
                continue
            problem = as_seen(problem, prompt)
            # Two passes over a small data set may meet in one step: the copies are told apart.
            if problem.id in encoded:
                problem = replace(problem, id=f"{problem.id}#{len(problems)}")
            encoded[problem.id] = prompt
            problems.append(problem)
    return problems, encoded, dropped


def as_seen(problem: Problem, prompt: Encoded) -> Problem:
    """A question with the pictures that the model sees, and its places in their pixels; a game draws its own pictures."""
    return problem if problem.is_game else with_pictures(problem, prompt.images)


def shuffled(groups: Sequence[Group], seed: int) -> list[Group]:
    """The same groups with all scores of the step dealt to the replies at random, each as one for the whole episode."""
    scores: list[Score] = [replace(s, per_turn=()) for group in groups for s in group.scores]
    order = np.random.default_rng(seed).permutation(len(scores))
    dealt = iter(scores[k] for k in order)
    return [replace(group, scores=tuple(next(dealt) for _ in group.scores)) for group in groups]


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of what was sampled: reward and its parts, lengths in tokens, shares.

    length: of a reply. A part is averaged over the episodes that have it: games and questions may meet in one step.
    turns/mean stands where an episode had more than one.
    """
    scores = [s for g in groups for s in g.scores]
    episodes = [episode for g in groups for episode in g.episodes]
    lengths = np.array([t.end - t.start for e in episodes for t in turns_of(e)], np.float64)
    turns = np.array([len(turns_of(e)) for e in episodes], np.float64)
    equal = [
        len({s.reward for s in g.scores}) == 1 for g in groups if len(g.scores) > 1
    ]  # one alone is compared with none
    metrics = {
        "reward/mean": float(np.mean([s.reward for s in scores])),
        "length/mean": float(lengths.mean()),
        "length/max": float(lengths.max()),
        "truncated_share": float(np.mean([e[-1].stop != "eos" for e in episodes])),
        "zero_advantage_share": float(np.mean(equal)) if equal else 0.0,
    }
    for part in sorted({part for s in scores for part in s.parts}):
        metrics[f"reward/{part}"] = float(np.mean([s.parts[part] for s in scores if part in s.parts]))
    if turns.max() > 1:
        metrics["turns/mean"] = float(turns.mean())
    reasons: dict[str, int] = {}
    for s in scores:
        reason = s.verdicts.get("accuracy", "none")
        reasons[reason] = reasons.get(reason, 0) + 1
    return metrics | {f"verdict/{k}": v / len(scores) for k, v in sorted(reasons.items())}
