"""What goes wrong in RL, told from the metrics of a stage: named conditions, each with its cause and a remedy.

`diagnose(records)` looks at all steps so far; `Watch` tells each condition once while a stage runs, `notes_of` all of
them when a run ends. The thresholds are
rules of thumb that a healthy run of the micro task stays clear of (tests/runs/test_diagnose.py); a condition is a
reason to look, never to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import read_steps

#: Fewer steps say nothing.
MIN_STEPS = 10


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing found: `name` is stable, `seen` has the figures."""

    name: str
    seen: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.name}: {self.seen}. {self.cause}; {self.remedy}."


class Window:
    """The first and the last steps of a stage: a fifth of them each, at least five, and of fewer than ten the halves."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        width = max(1, min(max(5, len(records) // 5), len(records) // 2))
        self._first, self._last = records[:width], records[-width:]

    def first(self, name: str) -> float:
        """Mean over the first steps; NaN when the metric is not there."""
        return _mean(self._first, name)

    def last(self, name: str) -> float:
        """Mean over the last steps."""
        return _mean(self._last, name)

    def rise(self, name: str) -> float:
        """Last minus first."""
        return self.last(name) - self.first(name)


def _mean(records: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [float(v) for r in records if isinstance(v := r.get(name), int | float) and math.isfinite(v)]
    return sum(values) / len(values) if values else math.nan


def _length_collapse(w: Window) -> str:
    a, b = w.first("length/mean"), w.last("length/mean")
    return f"mean length fell from {a:.0f} to {b:.0f} tokens" if b < 0.5 * a and w.rise("reward/accuracy") < 0.1 else ""


def _entropy_collapse(w: Window) -> str:
    a, b = w.first("entropy"), w.last("entropy")
    found = b < 0.1 * a and b < 0.05 and w.last("reward/accuracy") < 0.9
    return (
        f"entropy fell from {a:.3f} to {b:.3f} nats at {100 * w.last('reward/accuracy'):.0f} % accuracy"
        if found
        else ""
    )


def _format_only(w: Window) -> str:
    found = w.rise("reward/format") > 0.1 and -0.03 <= w.rise("reward/accuracy") < 0.02
    return (
        f"format rose by {100 * w.rise('reward/format'):.0f} points, accuracy by {100 * w.rise('reward/accuracy'):.0f}"
        if found
        else ""
    )


def _nothing_to_learn(w: Window) -> str:
    share = w.last("zero_advantage_share")
    return f"{100 * share:.0f} % of the groups have equal rewards" if share > 0.8 else ""


def _clipped(w: Window) -> str:
    share = w.last("clip_share")
    return f"{100 * share:.0f} % of the tokens are clipped" if share > 0.3 else ""


def _kl_blow_up(w: Window) -> str:
    a, b = w.first("kl_ref"), w.last("kl_ref")
    return (
        f"KL to the start model is {b:.2g} nats a token (first steps: {a:.2g})"
        if b > 1.0 and b > 5 * max(a, 1e-3)
        else ""
    )


def _conflict(w: Window) -> str:
    found = w.rise("reward/mean") > 0.02 and w.rise("reward/accuracy") < -0.03
    return (
        f"the reward rose by {w.rise('reward/mean'):.2f} while accuracy fell by {-100 * w.rise('reward/accuracy'):.0f} points"
        if found
        else ""
    )


def _gap(w: Window) -> str:
    gap = w.last("logprob_gap/mean")
    return f"sampler and trainer differ by {gap:.2g} nats a token" if gap > 0.02 else ""


def _truncated(w: Window) -> str:
    share = w.last("truncated_share")
    return f"{100 * share:.0f} % of the replies are cut off" if share > 0.3 else ""


def _unjudged(w: Window) -> str:
    shares = [s for name in ("verdict/error", "verdict/timeout", "verdict/too_big") if math.isfinite(s := w.last(name))]
    return f"{100 * sum(shares):.1f} % of the replies were not judged" if sum(shares) > 0.01 else ""


def _blind(w: Window) -> str:
    seeing, blind = w.last("blind/seeing"), w.last("blind/accuracy")
    found = seeing > 0.1 and blind > seeing - 0.02
    return f"{100 * seeing:.0f} % right with the pictures, {100 * blind:.0f} % with blank ones" if found else ""


def _critic(w: Window) -> str:
    share = w.last("critic/explained")
    return f"its values explain {100 * share:.0f} % of the returns' variance" if share < -0.05 else ""


#: name -> (what is looked for, cause, remedy)
CONDITIONS: dict[str, tuple[Callable[[Window], str], str, str]] = {
    "length_collapse": (
        _length_collapse, "short replies earn as much as long ones", "look at the replies; weigh tokens evenly (reduction) or pay less for format"
    ),
    "entropy_collapse": (
        _entropy_collapse, "the policy has stopped exploring before it is right", "a higher clip_high, an entropy_coef, or a lower lr"
    ),
    "format_only_gain": (
        _format_only, "the format part is the easier one", "lower reward.format, or easier problems"
    ),
    "nothing_to_learn": (
        _nothing_to_learn, "the problems are all solved or none is", "problems of middling difficulty, more siblings, or dapo's filter"
    ),
    "too_much_clipping": (_clipped, "the policy moves far in one step", "a lower lr or fewer minibatches"),
    "kl_blow_up": (_kl_blow_up, "the policy leaves its start model", "a lower lr, or a kl_coef"),
    "reward_part_conflict": (
        _conflict, "another part of the reward pays for being wrong", "compare the parts in the report, and lower that weight"
    ),
    "sampler_trainer_gap": (
        _gap, "they do not run the same numbers", "the same dtype and temperature for both, or algorithm.importance"
    ),
    "truncated_replies": (_truncated, "replies do not end within the budget", "more rollout.max_new_tokens, or dapo's overlong_buffer"),
    "verifier_fails": (_unjudged, "a reply without a verdict is scored 0", "look at the verdicts in the report"),
    "useless_critic": (
        _critic, "a constant would be a better critic", "a higher critic.lr, a critic.warmup, or an algorithm without one"
    ),
    "blind_policy": (_blind, "the policy answers without looking", "problems whose answer stands in the picture alone"),
}  # fmt: skip


def diagnose(records: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """The conditions that a stage's records show, in a fixed order; [] for fewer than MIN_STEPS steps."""
    if len(records) < MIN_STEPS:
        return []
    window = Window(records)
    found = ((name, check(window), cause, remedy) for name, (check, cause, remedy) in CONDITIONS.items())
    return [Condition(name, seen, cause, remedy) for name, seen, cause, remedy in found if seen]


def notes_of(run: RunFolder) -> list[str]:
    """What the stages of a run show so far, a line each: for its end, good or bad. [] when there is nothing to say."""
    return [
        f"{name}: {condition}"
        for name in run.stages()
        for condition in diagnose([r for r in read_steps(run.path / name / "metrics.jsonl") if r["step"] > 0])
    ]


class Watch:
    """Tells each condition once, when it first shows: add(metrics) after every step."""

    def __init__(self) -> None:
        self._records: list[Mapping[str, Any]] = []
        self._told: set[str] = set()

    def add(self, metrics: Mapping[str, Any]) -> list[Condition]:
        """The conditions that this step brought."""
        self._records.append(metrics)
        fresh = [c for c in diagnose(self._records) if c.name not in self._told]
        self._told |= {c.name for c in fresh}
        return fresh
