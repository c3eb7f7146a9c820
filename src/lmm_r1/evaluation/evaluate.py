"""Sample an answer to every item of a suite, verify it, and say how sure the figures are.

Accuracy is the verifier's; format and reasoning are told apart from it, because an accuracy gain that
is only a format gain is not reasoning. Every item and every arm has its own fixed seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import with_system
from lmm_r1.envs import ENVIRONMENTS
from lmm_r1.evaluation.statistics import paired_difference, wilson
from lmm_r1.evaluation.suites import suite
from lmm_r1.rewards.format import reasons
from lmm_r1.rollout.play import Sampling, play
from lmm_r1.seams import ModelAdapter, RolloutEngine, Scorer
from lmm_r1.types import Image, Problem, Text


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What one item gave: shares are 0 or 1, `length` is in tokens."""

    problem_id: str
    reply: str
    accuracy: float
    format: float
    reasons: float
    verdict: str
    length: int


@dataclass(frozen=True, slots=True)
class SetResult:
    """One arm on one set."""

    name: str
    version: int
    items: tuple[ItemResult, ...]
    blind: tuple[ItemResult, ...] = ()  # the first of the same items, answered with blank pictures

    def summary(self) -> dict[str, Any]:
        """The fields of results.json: accuracy with its 95 % Wilson interval, and what lies behind it.

        verdicts: how many replies got each reason code of the verifier, the most frequent first.
        """
        n = len(self.items)
        right = sum(i.accuracy for i in self.items)
        low, high = wilson(right, n)
        formatted = [i for i in self.items if i.format == 1.0]
        return {
            "n": n,
            "accuracy": right / n,
            "low": low,
            "high": high,
            "format_rate": len(formatted) / n,
            "accuracy_given_format": float(np.mean([i.accuracy for i in formatted])) if formatted else 0.0,
            "reasoning_share": float(np.mean([i.reasons for i in self.items])),
            "mean_length": float(np.mean([i.length for i in self.items])),
            "version": self.version,
            "verdicts": dict(Counter(i.verdict for i in self.items).most_common()),
            **self._blind_check(),
        }

    def _blind_check(self) -> dict[str, Any]:
        """Accuracy with blank pictures, and what seeing adds (paired, with its 95 % interval); {} when it was not asked."""
        if not self.blind:
            return {}
        seeing = [i.accuracy for i in self.items[: len(self.blind)]]
        blind = [i.accuracy for i in self.blind]
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
) -> SetResult:
    """Evaluate the weights that the engine holds on the first n items of a suite, one sample each.

    blind: so many of them are also answered with every picture blank (nothing for a set without pictures).
    """
    chosen = suite(name)
    problems = [with_system(p, system) for p in chosen.problems(images, n)]
    key = ("evaluate", seed, name, chosen.version)
    unseen = [blanked(p, images) for p in problems[:blind] if p.images]
    return SetResult(
        name,
        chosen.version,
        _answers(problems, engine, adapter, score, sampling, key),
        _answers(unseen, engine, adapter, score, sampling, key) if len(unseen) == min(blind, n) else (),
    )


def blanked(problem: Problem, images: ImageStore) -> Problem:
    """The problem with every picture replaced by a grey one of the same size: what is left is what a blind model knows."""

    def blank(part: Text | Image) -> Text | Image:
        if isinstance(part, Text):
            return part
        return images.put(np.full_like(images.get(part.sha), 128))

    messages = tuple(replace(m, content=tuple(map(blank, m.content))) for m in problem.messages)
    return replace(problem, messages=messages)


def _answers(
    problems: Sequence[Problem],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    score: Scorer,
    sampling: Sampling,
    key: tuple[object, ...],
) -> tuple[ItemResult, ...]:
    """One sampled and verified answer to each problem."""
    rollouts = play([(p, 0) for p in problems], engine, adapter, ENVIRONMENTS, sampling, key)
    results = []
    for problem, rollout in zip(problems, rollouts, strict=True):
        replies = [turn.reply for turn in rollout.turns]
        verdict = score(problem, replies, rollout.stop)
        results.append(
            ItemResult(
                problem_id=problem.id,
                reply=replies[-1],
                accuracy=float(verdict.parts["accuracy"]),
                format=float(verdict.parts["format"]),
                reasons=float(reasons(replies[-1])),
                verdict=verdict.verdicts["accuracy"],
                length=rollout.reply_tokens,
            )
        )
    return tuple(results)


def difference(a: str, b: str, results: Mapping[str, Mapping[str, SetResult]], name: str) -> dict[str, object]:
    """Paired difference of accuracy, arm a minus arm b, on one set; a field of results.json."""
    left, right = results[a][name], results[b][name]
    mean, low, high = paired_difference([i.accuracy for i in left.items], [i.accuracy for i in right.items])
    return {"a": a, "b": b, "set": name, "mean": mean, "low": low, "high": high, "n": len(left.items)}
