"""Conditions of a stage: each is told when its series is planted, and none of a healthy run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lmm_r1.runs.diagnose import CONDITIONS, EARLY_STEPS, MIN_STEPS, Watch, diagnose, notes_of
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import write_lines

STEPS = 40


def healthy(step: int) -> dict[str, float]:
    """A run of the micro task, in round figures."""
    done = step / STEPS
    return {
        "reward/mean": 0.75 + 0.6 * done, "reward/accuracy": 0.33 + 0.45 * done, "reward/format": 0.8 + 0.17 * done, "length/mean": 16 + 12 * done,
        "entropy": 0.27 - 0.15 * done, "kl_ref": 0.05 * done, "clip_share": 0.01, "zero_advantage_share": 0.3 * done, "truncated_share": 0.01,
        "logprob_gap/mean": 1e-6, "grad_norm": 0.5, "lr": 1e-4, "collect/groups": 16.0, "collect/discarded": 0.0, "collect/replies": 128.0,
        "collect/unjudged": 0.0, "rows/seen": 16.0 * step, "rows/never_solved": 8.0 * step, "critic/explained": 0.2 * done, "blind/accuracy": 0.1, "blind/seeing": 0.3 + 0.4 * done,
    }  # fmt: skip


#: condition -> what it changes of a healthy step (share of the run that is done -> metrics).
PLANTED: dict[str, Callable[[float], dict[str, float]]] = {
    "length_collapse": lambda d: {"length/mean": 60 - 50 * d, "reward/accuracy": 0.4, "reward/format": 0.9},
    "entropy_collapse": lambda d: {"entropy": 0.5 * (1 - d) ** 2 + 0.001, "reward/accuracy": 0.4 + 0.2 * d},
    "format_only_gain": lambda d: {"reward/format": 0.3 + 0.6 * d, "reward/accuracy": 0.3},
    "nothing_to_learn": lambda d: {"zero_advantage_share": 0.95},
    "too_much_clipping": lambda d: {"clip_share": 0.5},
    "kl_blow_up": lambda d: {"kl_ref": 5.0 * d},
    "reward_part_conflict": lambda d: {"reward/mean": 0.5 + 0.3 * d, "reward/accuracy": 0.5 - 0.2 * d},
    "sampler_trainer_gap": lambda d: {"logprob_gap/mean": 0.05},
    "truncated_replies": lambda d: {"truncated_share": 0.6},
    "verifier_fails": lambda d: {"collect/unjudged": 4.0},
    "nothing_learned": lambda d: {"grad_norm": 0.0},
    "base_cannot_solve": lambda d: {
        "reward/accuracy": 0.03,
        "reward/format": 0.9,
        "rows/seen": 30.0,
        "rows/never_solved": 22.0,
    },
    "useless_critic": lambda d: {"critic/explained": -0.3},
    "blind_policy": lambda d: {"blind/accuracy": 0.6, "blind/seeing": 0.6},
}


def records(name: str = "") -> list[dict[str, float]]:
    change = PLANTED.get(name, lambda _: {})
    return [healthy(step) | change(step / STEPS) for step in range(1, STEPS + 1)]


def test_a_healthy_run_has_no_condition() -> None:
    """Catches an alarm that everybody learns to overlook."""
    assert diagnose(records()) == []


@pytest.mark.parametrize("name", list(CONDITIONS))
def test_each_condition_is_told(name: str) -> None:
    """Catches a condition that never fires, or that another one hides."""
    found = {c.name: c for c in diagnose(records(name))}
    assert name in found and set(found) == {name}
    assert found[name].cause in str(found[name]) and found[name].remedy in str(found[name])


@pytest.mark.parametrize(
    "name", ["nothing_learned", "base_cannot_solve", "nothing_to_learn", "truncated_replies", "verifier_fails"]
)
def test_what_shows_at_once_is_told_from_the_first_steps_on(name: str) -> None:
    """Catches a run of a few steps that learns nothing and says nothing; two steps say nothing yet."""
    assert diagnose(records(name)[: EARLY_STEPS - 1]) == []
    assert [c.name for c in diagnose(records(name)[:EARLY_STEPS])] == [name]
    assert diagnose(records("kl_blow_up")[: MIN_STEPS - 1]) == []


def test_what_was_not_learned_is_told_with_its_counts() -> None:
    """Catches a note without figures: which groups, which rows."""
    filtered = {
        "collect/groups": 40.0, "collect/discarded": 40.0, "collect/discarded_wrong": 38.0, "collect/discarded_right": 2.0,
        "collect/replies": 320.0, "collect/unjudged": 0.0, "zero_advantage_share": 1.0, "truncated_share": 0.0, "reward/accuracy": 0.05,
        "rows/seen": 12.0, "rows/never_solved": 12.0,
    }  # fmt: skip
    told = {c.name: c.seen for c in diagnose([filtered] * 3)}
    assert "120 of 120 discarded" in told["nothing_learned"] and "114 all wrong" in told["nothing_learned"]
    assert "12 of 12 rows never solved" in told["base_cannot_solve"]
    equal = filtered | {"collect/discarded": 0.0, "grad_norm": 0.0, "lr": 1e-4, "rows/never_solved": 3.0}
    told = {c.name: c.seen for c in diagnose([equal] * 3)}
    assert "120 groups" in told["nothing_learned"] and "every gradient was 0" in told["nothing_learned"]
    assert "base_cannot_solve" not in told


@pytest.mark.parametrize(
    ("metric", "conditions"),
    [
        ("truncated_share", ["truncated_replies"]),
        ("entropy", ["entropy_collapse"]),
        ("reward/format", ["format_only_gain"]),
    ],
)
@pytest.mark.parametrize("broken", [None, float("nan")])
def test_a_condition_without_its_metric_is_named(metric: str, conditions: list[str], broken: float | None) -> None:
    """Catches a diagnosis that is silent because the metric that it reads is not there, or is no number."""
    lines = [{**{k: v for k, v in r.items() if k != metric}, **({metric: broken} if broken else {})} for r in records()]
    (condition,) = diagnose(lines)
    assert condition.name == "cannot_be_judged" and metric in condition.seen
    assert all(name in condition.seen for name in conditions)


def test_a_stage_that_imitates_is_not_asked_for_rewards() -> None:
    """Catches a note under every supervised stage: it samples nothing, so nothing of it is missing."""
    line = {
        "collect/imitated": 8.0,
        "entropy": 0.3,
        "kl_ref": 0.1,
        "length/mean": 20.0,
        "zero_advantage_share": 0.0,
        "truncated_share": 0.0,
    }
    assert diagnose([line] * STEPS) == []
    assert [c.name for c in diagnose([line | {"kl_ref": 0.2 * k} for k in range(STEPS)])] == ["kl_blow_up"]


def test_a_control_arm_that_learns_by_chance_has_no_false_note() -> None:
    """Catches "nothing was learned" under shuffled rewards, whose gradients are those of a run: accuracy alone stays."""
    assert diagnose([healthy(5) | {"step": float(k)} for k in range(STEPS)]) == []


def test_a_watch_tells_once() -> None:
    """Catches a line per step of the same news."""
    watch = Watch()
    told = [c.name for record in records("truncated_replies") for c in watch.add(record)]
    assert told == ["truncated_replies"]


def test_the_notes_of_a_run_name_its_stages(tmp_path: Path) -> None:
    """Catches a run that ends without a word about what went wrong in it, and a crash over one that never began."""
    assert notes_of(RunFolder(tmp_path / "none")) == []
    folder = RunFolder(tmp_path / "run")
    for stage, name in (("fine", ""), ("short", "length_collapse")):
        write_lines(folder.stage(stage).metrics, [{"step": k + 1, **r} for k, r in enumerate(records(name))])
    (note,) = notes_of(folder)
    assert note.startswith("short: length_collapse: ")


@pytest.mark.parametrize(
    ("name", "steps"), [("base_cannot_solve", 1), ("base_cannot_solve", 2), ("truncated_replies", 2)]
)
def test_a_run_of_fewer_steps_than_the_first_ends_with_its_notes(tmp_path: Path, name: str, steps: int) -> None:
    """Catches a run that ends before anything can be told while it runs, and is then not told of either."""
    folder = RunFolder(tmp_path / "run")
    write_lines(folder.stage("short").metrics, [{"step": k + 1, **r} for k, r in enumerate(records(name)[:steps])])
    (note,) = notes_of(folder)
    assert note.startswith(f"short: {name}: ")
