"""Conditions of a stage: each is told when its series is planted, and none of a healthy run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lmm_r1.runs.diagnose import CONDITIONS, MIN_STEPS, Watch, diagnose, notes_of
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import write_lines

STEPS = 40


def healthy(step: int) -> dict[str, float]:
    """A run of the micro task, in round figures."""
    done = step / STEPS
    return {
        "reward/mean": 0.75 + 0.6 * done, "reward/accuracy": 0.33 + 0.45 * done, "reward/format": 0.8 + 0.17 * done, "length/mean": 16 + 12 * done,
        "entropy": 0.27 - 0.15 * done, "kl_ref": 0.05 * done, "clip_share": 0.01, "zero_advantage_share": 0.3 * done, "truncated_share": 0.01,
        "logprob_gap/mean": 1e-6, "verdict/error": 0.0, "critic/explained": 0.2 * done, "blind/accuracy": 0.1, "blind/seeing": 0.3 + 0.4 * done,
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
    "verifier_fails": lambda d: {"verdict/error": 0.02, "verdict/timeout": 0.01},
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


def test_a_few_steps_and_missing_metrics_say_nothing() -> None:
    """Catches a verdict on the first steps, and a crash over a metric that is not there."""
    assert diagnose(records("truncated_replies")[: MIN_STEPS - 1]) == []
    assert diagnose([{"step": 1.0}] * STEPS) == []
    assert diagnose([{"entropy": float("nan"), "kl_ref": None}] * STEPS) == []


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
