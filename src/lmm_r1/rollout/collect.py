"""problems -> scored Groups: what a step of training learns from, with figures of all that was sampled.

A prompt over the limit is dropped whole and counted (image tokens are never truncated). With a `keep`
rule (dynamic sampling), rounds go on until the step is full or `max_rounds` is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lmm_r1.config import RolloutConfig
from lmm_r1.errors import DataError
from lmm_r1.places import with_pictures
from lmm_r1.rollout.judged import Sorting, judged, unjudged
from lmm_r1.rollout.play import Sampling, seed_of, turns_of
from lmm_r1.rollout.scoring import play_and_score
from lmm_r1.seams import MakeEnvironment, ModelAdapter, RolloutEngine, Scorer
from lmm_r1.types import Encoded, Failure, Group, Problem, Score

#: Give up when this many problems in a row do not fit: the limit, not the data, is then wrong.
MAX_DROPPED_IN_A_ROW = 1000
#: Rounds of dynamic sampling when the recipe does not say.
ROUNDS_WHEN_FILTERED = 10
#: A nucleus that holds the likeliest token and no other.
GREEDY_TOP_P = 1e-9


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of one step, and {metric name: value} of all that was sampled, also of what is not learned from.

    solved: row id -> whether a reply had an accuracy above 0, by the verifier, whatever was paid. unjudged: a line for each
    reply on which a verifier failed; failures: what it said, part by part.
    """

    groups: tuple[Group, ...]
    counts: Mapping[str, float]
    solved: Mapping[str, bool] = field(default_factory=dict)
    unjudged: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()


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
    least: int = 1,
) -> Collected:
    """Sample `config.siblings` replies to each of `config.prompts` problems and score them.

    take(n): the next n problems of the stream.  shuffle: deal the scores of the step to its replies at
    random (the control arm that must learn nothing). greedy: also sample the likeliest reply to each problem, for its
    reward alone. least: a group of fewer judged replies is dropped. Raises DataError when prompts never fit.
    """
    sampling = sampling_of(config, max_context)
    sorting = Sorting(keep, least, greedy)
    dropped = rounds = 0
    max_rounds = config.max_rounds or (1 if keep is None else ROUNDS_WHEN_FILTERED)
    while len(sorting.groups) < config.prompts and rounds < max_rounds:
        wanted = config.prompts - len(sorting.groups)
        problems, encoded, too_long = fitting(take, adapter, wanted, config.max_prompt_tokens)
        dropped += too_long
        episodes = [(p, sibling) for p in problems for sibling in range(config.siblings)]
        played, scored = play_and_score(
            episodes, engine, adapter, make, score, sampling, (*seed, rounds), encoded
        )  # fmt: skip
        best = _greedy(problems, engine, adapter, make, score, sampling, (*seed, rounds), encoded) if greedy else {}
        for at, problem in enumerate(problems):
            own = slice(at * config.siblings, (at + 1) * config.siblings)
            sorting.add(Group(problem, tuple(played[own]), tuple(scored[own]), best.get(problem.id)))
        rounds += 1
    groups = shuffled(sorting.groups, seed_of(*seed, "shuffle")) if shuffle else sorting.groups
    counts = {"collect/dropped_long": float(dropped), "collect/rounds": float(rounds), **sorting.counts()}
    counts |= describe([*groups, *sorting.rest])
    return Collected(tuple(groups), counts, sorting.solved(), tuple(sorting.unjudged), tuple(sorting.failures))


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
    """The reward of the likeliest reply to each problem, by problem id; not of one that a verifier failed to judge."""
    likeliest = replace(sampling, top_p=GREEDY_TOP_P)
    episodes = [(p, 0) for p in problems]
    _, scores = play_and_score(episodes, engine, adapter, make, score, likeliest, (*seed, "greedy"), encoded)
    return {p.id: found.reward for p, found in zip(problems, scores, strict=True) if not unjudged(p, found)}


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
    """The same groups with all rewards of the step dealt to the replies at random, each as one for the whole episode.

    Parts and verdicts stay those of the reply itself; `paid_as` is the score that its reward comes from.
    """
    scores: list[Score] = [score for group in groups for score in group.scores]
    order = np.random.default_rng(seed).permutation(len(scores))
    dealt = iter(scores[k] for k in order)

    def paid(own: Score, other: Score) -> Score:
        return replace(own, reward=other.reward, per_turn=(), paid_as=other)

    return [replace(g, scores=tuple(paid(own, next(dealt)) for own in g.scores)) for g in groups]


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of what was sampled: reward and its parts, lengths in tokens, shares; {} of nothing.

    Parts and verdicts are those of the replies themselves. Where rewards were shuffled their means are also what was paid,
    since the scores of a step are dealt within it. Rewards are those of the replies that were judged; without any there are
    none. length: of a reply. A part is averaged over the episodes that have it: games and questions may meet in one step.
    turns/mean stands where an episode had more than one.
    """
    if not groups:
        return {}
    everything = [s for g in groups for s in g.scores]
    by_group = [judged(g) for g in groups]
    scores = [s for mine in by_group for s in mine]
    episodes = [episode for g in groups for episode in g.episodes]
    lengths = np.array([t.end - t.start for e in episodes for t in turns_of(e)], np.float64)
    turns = np.array([len(turns_of(e)) for e in episodes], np.float64)
    # One alone is compared with none.
    equal = [len({s.reward for s in mine}) == 1 for mine in by_group if len(mine) > 1]
    metrics = {"reward/mean": float(np.mean([s.reward for s in scores]))} if scores else {}
    metrics |= {
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
    for s in everything:
        reason = s.verdicts.get("accuracy", "none")
        reasons[reason] = reasons.get(reason, 0) + 1
    return metrics | {f"verdict/{k}": v / len(everything) for k, v in sorted(reasons.items())}
