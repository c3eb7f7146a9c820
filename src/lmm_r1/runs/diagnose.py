"""What goes wrong in RL, told from the metrics of a stage: named conditions, each with its cause and a remedy.

`diagnose(records)` looks at all steps so far; `Watch` tells each condition once while a stage runs, `notes_of` all of
them when a run ends. The thresholds are
rules of thumb that a healthy run of the micro task stays clear of (tests/runs/test_diagnose.py); a condition is a
reason to look, never to stop (guards.py stops). A condition whose metrics are missing is named as one that cannot be judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import read_steps

#: Fewer steps say nothing, and fewer than the first nothing at all.
EARLY_STEPS, MIN_STEPS = 3, 10


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
        self.records = records
        self._first, self._last = records[:width], records[-width:]

    def first(self, name: str) -> float:
        """Mean over the first steps; NaN when the metric is not there."""
        return _mean(self._first, name)

    def last(self, name: str) -> float:
        """Mean over the last steps."""
        return _mean(self._last, name)

    def total(self, name: str) -> float:
        """Sum over all steps; 0 when the metric is not there."""
        return sum(_number(record, name) for record in self.records)

    def rise(self, name: str) -> float:
        """Last minus first."""
        return self.last(name) - self.first(name)


def _number(record: Mapping[str, Any], name: str) -> float:
    """A metric of one step; 0 when it is not there or not finite."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


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


def _nothing_learned(w: Window) -> str:
    """No update so far; the counts say why."""
    if any(_number(r, "grad_norm") > 0 and _number(r, "lr") > 0 for r in w.records):
        return ""
    groups, discarded = w.total("collect/groups"), w.total("collect/discarded")
    kept = groups - discarded - w.total("collect/dropped_unjudged")
    why = [f"{n:.0f} {name}" for name, what in _DISCARDED.items() if (n := w.total(f"collect/discarded_{what}"))]
    reasons = f" ({', '.join(why)})" if why else ""
    if kept <= 0:
        return f"no group kept in {len(w.records)} steps: {discarded:.0f} of {groups:.0f} discarded for equal rewards{reasons}"
    share = sum(_number(r, "zero_advantage_share") for r in w.records) / len(w.records)
    return f"{groups:.0f} groups in {len(w.records)} steps, {100 * share:.0f} % of them with equal rewards, and every gradient was 0"


#: Reasons of collect/discarded_*, in words.
_DISCARDED = {"all right": "right", "all wrong": "wrong", "equal otherwise": "equal"}


def _cannot_solve(w: Window) -> str:
    """Rows that were never solved: all of them, or most of them at an accuracy that stays near 0."""
    seen, never = _number(w.records[-1], "rows/seen"), _number(w.records[-1], "rows/never_solved")
    accuracy = w.last("reward/accuracy")
    if seen > 0 and never == seen:
        return f"no reply to {seen:.0f} problems was right ({never:.0f} of {seen:.0f} rows never solved)"
    found = accuracy < 0.05 and w.first("reward/accuracy") < 0.05 and never > 0.5 * seen
    return f"accuracy {100 * accuracy:.1f} % throughout, {never:.0f} of {seen:.0f} rows never solved" if found else ""


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
    failed, too_big = w.total("collect/unjudged"), w.last("verdict/too_big")
    share = failed / max(w.total("collect/replies"), 1.0) + (too_big if math.isfinite(too_big) else 0.0)
    return f"{100 * share:.1f} % of the replies were not judged, {failed:.0f} of them left out" if share > 0.01 else ""


def _blind(w: Window) -> str:
    seeing, blind = w.last("blind/seeing"), w.last("blind/accuracy")
    found = seeing > 0.1 and blind > seeing - 0.02
    return f"{100 * seeing:.0f} % right with the pictures, {100 * blind:.0f} % with blank ones" if found else ""


def _critic(w: Window) -> str:
    share = w.last("critic/explained")
    return f"its values explain {100 * share:.0f} % of the returns' variance" if share < -0.05 else ""


class Rule(NamedTuple):
    """How a condition is found. needs: metrics without which it cannot be judged; early: told from EARLY_STEPS on."""

    seen: Callable[[Window], str]
    needs: tuple[str, ...]
    cause: str
    remedy: str
    early: bool = False


#: Conditions of stages that sample, by name. Metrics that only some stages have (of a critic, of the blind check) are not needed.
CONDITIONS: dict[str, Rule] = {
    "nothing_learned": Rule(
        _nothing_learned, ("collect/groups", "zero_advantage_share"), "no step had a gradient", "problems that are solved sometimes, or more siblings",
        early=True,
    ),
    "base_cannot_solve": Rule(
        _cannot_solve, ("rows/seen", "rows/never_solved"), "the start model cannot solve these rows: the base cannot teach itself",
        "easier rows, an earlier stage (supervised or text first), or keep_between on measured pass rates", early=True,
    ),
    "length_collapse": Rule(
        _length_collapse, ("length/mean", "reward/accuracy"), "short replies earn as much as long ones",
        "look at the replies; weigh tokens evenly (reduction) or pay less for format",
    ),
    "entropy_collapse": Rule(
        _entropy_collapse, ("entropy", "reward/accuracy"), "the policy has stopped exploring before it is right", "a higher clip_high, an entropy_coef, or a lower lr"
    ),
    "format_only_gain": Rule(
        _format_only, ("reward/format", "reward/accuracy"), "the format part is the easier one", "lower reward.format, or easier problems"
    ),
    "nothing_to_learn": Rule(
        _nothing_to_learn, ("zero_advantage_share",), "the problems are all solved or none is",
        "problems of middling difficulty, more siblings, or dapo's filter", early=True,
    ),
    "too_much_clipping": Rule(_clipped, ("clip_share",), "the policy moves far in one step", "a lower lr or fewer minibatches"),
    "kl_blow_up": Rule(_kl_blow_up, ("kl_ref",), "the policy leaves its start model", "a lower lr, or a kl_coef"),
    "reward_part_conflict": Rule(
        _conflict, ("reward/mean", "reward/accuracy"), "another part of the reward pays for being wrong", "compare the parts in the report, and lower that weight"
    ),
    "sampler_trainer_gap": Rule(
        _gap, ("logprob_gap/mean",), "they do not run the same numbers", "the same dtype and temperature for both, or algorithm.importance"
    ),
    "truncated_replies": Rule(
        _truncated, ("truncated_share",), "replies do not end within the budget", "more rollout.max_new_tokens, or dapo's overlong_buffer", early=True
    ),
    "verifier_fails": Rule(
        _unjudged, ("collect/unjudged", "collect/replies"), "a reply without a verdict is left out of its group", "look at the verdicts in the report", early=True
    ),
    "useless_critic": Rule(
        _critic, (), "a constant would be a better critic", "a higher critic.lr, a critic.warmup, or an algorithm without one"
    ),
    "blind_policy": Rule(_blind, (), "the policy answers without looking", "problems whose answer stands in the picture alone"),
}  # fmt: skip
#: What a stage that imitates solutions can show: it samples nothing and is paid nothing.
OF_IMITATION = ("kl_blow_up", "blind_policy")


def diagnose(records: Sequence[Mapping[str, Any]], least: int = EARLY_STEPS) -> list[Condition]:
    """The conditions that a stage's records show, in a fixed order; [] for fewer than `least` steps.

    The last one, "cannot_be_judged", names the others whose metrics are not there.
    """
    if len(records) < max(least, 1):
        return []
    window, found = Window(records), []
    missing: dict[str, list[str]] = {}
    imitates = any("collect/imitated" in record for record in records)
    for name, rule in CONDITIONS.items():
        if (not rule.early and len(records) < MIN_STEPS) or (imitates and name not in OF_IMITATION):
            continue
        lacking = [metric for metric in rule.needs if math.isnan(window.last(metric))]
        for metric in lacking:
            missing.setdefault(metric, []).append(name)
        seen = "" if lacking else rule.seen(window)
        if seen:
            found.append(Condition(name, seen, rule.cause, rule.remedy))
    if missing:
        names = ", ".join(dict.fromkeys(name for others in missing.values() for name in others))
        seen = f"{names}: no finite number in the last steps of the metrics {', '.join(missing)}"
        cause = "no step was learned from, or these metrics are not logged"
        found.append(Condition("cannot_be_judged", seen, cause, "see the other conditions; then metrics.jsonl"))
    return found


def notes_of(run: RunFolder) -> list[str]:
    """What the stages of a run show so far, a line each: for its end, good or bad. [] when there is nothing to say.

    At an end no further step can say more: what shows at once is told of a run of one step too.
    """
    return [
        f"{name}: {condition}"
        for name in run.stages()
        for condition in diagnose([r for r in read_steps(run.path / name / "metrics.jsonl") if r["step"] > 0], least=1)
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
