"""Sample an answer to every item of a suite, verify it, and say how sure the figures are.

Accuracy is the verifier's; format and reasoning are told apart from it, because an accuracy gain that
is only a format gain is not reasoning. Every item and every arm has its own fixed seed. An item of a game is an episode:
its accuracy is the game's success, beside it stands the benchmark's score, and scripted players show what both are worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmm_r1.config import Reward
from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import with_system
from lmm_r1.envs.games import open_environment, player_of
from lmm_r1.errors import EngineError
from lmm_r1.evaluation.statistics import paired_difference, wilson
from lmm_r1.evaluation.suites import suite
from lmm_r1.rewards.format import reasons
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.collect import as_seen
from lmm_r1.rollout.judged import unjudged
from lmm_r1.rollout.play import Sampling, turns_of
from lmm_r1.rollout.scoring import play_and_score
from lmm_r1.rollout.scripted import scripted
from lmm_r1.seams import ModelAdapter, Put, RolloutEngine, Scorer
from lmm_r1.types import FAILED_VERDICTS, Image, Problem, Score, Text, Turn


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What one item gave: shares are in [0, 1], `length` is in tokens, of a game those of all its replies.

    reply: the last one.  score: of a game, in its benchmark's unit; None for a question.  turns: replies.
    unjudged: a verifier failed on the reply, so that its shares mean nothing; such items are counted apart.
    """

    problem_id: str
    reply: str
    accuracy: float
    format: float
    reasons: float
    verdict: str
    length: int
    score: float | None = None
    turns: int = 1
    unjudged: bool = False


@dataclass(frozen=True, slots=True)
class SetResult:
    """One arm on one set."""

    name: str
    version: int
    items: tuple[ItemResult, ...]
    blind: tuple[ItemResult, ...] = ()  # the first of the same items, answered with blank pictures

    def summary(self) -> dict[str, Any]:
        """The fields of results.json: accuracy with its 95 % Wilson interval, and what lies behind it.

        verdicts: how many replies got each reason code of the verifier, the most frequent first. n: items that were judged;
        the `unjudged` ones are in no share.
        """
        judged = [i for i in self.items if not i.unjudged]
        n = len(judged)
        right = sum(i.accuracy for i in judged)
        low, high = wilson(right, n)
        formatted = [i for i in judged if i.format == 1.0]
        return {
            "n": n,
            "unjudged": len(self.items) - n,
            "accuracy": right / n,
            "low": low,
            "high": high,
            "format_rate": float(np.mean([i.format for i in judged])),
            "accuracy_given_format": float(np.mean([i.accuracy for i in formatted])) if formatted else 0.0,
            "reasoning_share": float(np.mean([i.reasons for i in self.items])),
            "mean_length": float(np.mean([i.length for i in self.items])),
            "version": self.version,
            "verdicts": dict(Counter(i.verdict for i in self.items).most_common()),
            **self._of_games(),
            **self._blind_check(),
        }

    def _of_games(self) -> dict[str, Any]:
        """The benchmark's score, its mean with a 95 % interval, and replies per episode; {} for questions."""
        scores = [i.score for i in self.items if i.score is not None]
        if not scores:
            return {}
        mean, low, high = paired_difference(scores, [0.0] * len(scores))
        turns = float(np.mean([i.turns for i in self.items]))
        return {"score": {"mean": mean, "low": low, "high": high}, "mean_turns": turns}

    def _blind_check(self) -> dict[str, Any]:
        """Accuracy with blank pictures, and what seeing adds (paired, with its 95 % interval); {} when it was not asked."""
        if not self.blind:
            return {}
        seeing, blind = judged_pairs(self.items[: len(self.blind)], self.blind)
        if not blind:
            return {}
        mean, low, high = paired_difference(seeing, blind)
        return {
            "blind": {
                "n": len(blind), "accuracy": float(np.mean(blind)), "seeing": float(np.mean(seeing)),
                "gain": mean, "low": low, "high": high,
            }
        }  # fmt: skip

    def record(self) -> dict[str, object]:
        """Summary and items, as saved in evaluations/."""
        return {
            "set": self.name,
            "summary": self.summary(),
            "items": [asdict(i) for i in self.items],
            "blind": [asdict(i) for i in self.blind],
        }


def result_from(record: Mapping[str, object]) -> SetResult:
    """The inverse of `SetResult.record`."""
    summary, items, blind = record["summary"], record["items"], record.get("blind", [])
    assert isinstance(summary, Mapping) and isinstance(items, Sequence) and isinstance(blind, Sequence)
    read = (tuple(ItemResult(**i) for i in part) for part in (items, blind))
    return SetResult(str(record["set"]), int(summary["version"]), *read)


def evaluate_set(
    name: str,
    n: int,
    engine: RolloutEngine,
    adapter: ModelAdapter,
    images: ImageStore,
    score: Scorer,
    sampling: Sampling,
    *,
    system: str,
    seed: int,
    blind: int = 0,
    memory: Literal["suite", "full"] | tuple[int, int] = "suite",
    max_unjudged: float = 0.05,
) -> SetResult:
    """Evaluate the weights that the engine holds on the first n items of a suite, one sample each.

    blind: so many of them are also answered with every picture blank (nothing for a set without pictures).
    memory: of games, "suite" = the one that the suite names, "full", or (pictures, actions) of a window.
    max_unjudged: EngineError when verifiers failed on a larger share of the replies, or on all of them.
    """
    chosen = suite(name)
    problems = [with_system(p, system) for p in chosen.problems(images, n)]
    key = ("evaluate", seed, name, chosen.version)
    unseen = [blanked(p, images) for p in problems[:blind] if p.images]
    sampling = replace(sampling, window=chosen.window if memory == "suite" else None if memory == "full" else memory)

    def answers(asked: Sequence[Problem], put: Put) -> tuple[ItemResult, ...]:
        prompts = {p.id: adapter.encode(p.messages) for p in asked}
        asked = [as_seen(p, prompts[p.id]) for p in asked]
        pairs = [(p, 0) for p in asked]
        episodes, scores = play_and_score(pairs, engine, adapter, open_environment(put), score, sampling, key, prompts)
        found = tuple(_result(p, s, turns_of(e)) for p, s, e in zip(asked, scores, episodes, strict=True))
        guard_unjudged_items(name, found, max_unjudged)
        return found

    seen = answers(problems, images.put)
    blank = partial(_put_blank, images)
    return SetResult(name, chosen.version, seen, answers(unseen, blank) if len(unseen) == min(blind, n) else ())


def evaluate_player(name: str, n: int, player: str, images: ImageStore) -> SetResult:
    """A scripted player ("idle", "random", "expert") on the first n items of a game's suite. ValueError for another set."""
    chosen = suite(name)
    make = open_environment(images.put)
    results = []
    for problem in chosen.problems(images, n):
        if not problem.is_game:
            raise ValueError(f"nobody plays the set {name}: it holds questions")
        turns = scripted(problem, make, player_of(player, problem))
        results.append(_result(problem, _GAMES_ONLY(problem, turns, "eos"), turns))
    return SetResult(name, chosen.version, tuple(results))


def blanked(problem: Problem, images: ImageStore) -> Problem:
    """The problem with every picture replaced by a grey one of the same size: what is left is what a blind model knows."""

    def blank(part: Text | Image) -> Text | Image:
        return part if isinstance(part, Text) else _put_blank(images, images.get(part.sha))

    messages = tuple(replace(m, content=tuple(map(blank, m.content))) for m in problem.messages)
    return replace(problem, messages=messages)


def _put_blank(images: ImageStore, pixels: NDArray[np.uint8]) -> Image:
    """A grey picture of the same size: what a blind player of a game is shown."""
    return images.put(np.full_like(pixels, 128))


#: Scripted players are scored by their games alone: the default weights mean nothing for them.
_GAMES_ONLY = make_scorer(Reward())


def guard_unjudged_items(name: str, items: Sequence[ItemResult], allowed: float) -> None:
    """EngineError, naming items and verdicts, when verifiers failed on more than this share of them, or on all."""
    failed = [item for item in items if item.unjudged]
    if failed and (len(failed) > allowed * len(items) or len(failed) == len(items)):
        shown = "; ".join(f"problem {item.problem_id}: {item.verdict}" for item in failed[:5])
        raise EngineError(
            f"evaluation on {name}: {len(failed)} of {len(items)} replies could not be verified "
            f"(guards.max_skipped_share = {allowed}): {shown}{'; ...' if len(failed) > 5 else ''}"
        )


def judged_pairs(left: Sequence[ItemResult], right: Sequence[ItemResult]) -> tuple[list[float], list[float]]:
    """Accuracies of the same items in both, those left out on which a verifier failed in either."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if not (a.unjudged or b.unjudged)]
    return [a.accuracy for a, _ in pairs], [b.accuracy for _, b in pairs]


def _result(problem: Problem, scored: Score, turns: Sequence[Turn]) -> ItemResult:
    """What one answered item gave. verdict: the verifier's; where a verifier failed, how."""
    failed = unjudged(problem, scored)
    reason = next((v for v in scored.verdicts.values() if v in FAILED_VERDICTS), "") if failed else ""
    return ItemResult(
        problem_id=problem.id,
        reply=turns[-1].reply,
        accuracy=float(scored.parts["accuracy"]),
        format=float(scored.parts["format"]),
        reasons=float(np.mean([reasons(turn.reply) for turn in turns])),
        verdict=reason or scored.verdicts["accuracy"],
        length=sum(turn.end - turn.start for turn in turns),
        score=turns[-1].score if problem.is_game else None,
        turns=len(turns),
        unjudged=failed,
    )


def difference(a: str, b: str, results: Mapping[str, Mapping[str, SetResult]], name: str) -> dict[str, object]:
    """Paired difference of accuracy, arm a minus arm b, on one set; a field of results.json."""
    left, right = results[a][name], results[b][name]
    pairs = judged_pairs(left.items, right.items)
    mean, low, high = paired_difference(*pairs)
    return {"a": a, "b": b, "set": name, "mean": mean, "low": low, "high": high, "n": len(pairs[0])}
