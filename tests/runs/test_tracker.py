"""Metrics lines, rollout files, TensorBoard events, provenance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from run_fixture import Pictures, decode, group

from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.jsonl import read_lines, read_steps
from lmm_r1.runs.provenance import clean_command, git_commit, provenance, without_home
from lmm_r1.runs.tracker import JsonlTracker, TensorBoardTracker, Trackers
from lmm_r1.types import Failure

ROLLOUT_FIELDS = {
    "problem_id", "episode", "segment", "sibling", "prompt", "replies", "images", "token_ids", "trainable",
    "logprobs", "reward", "parts", "verdicts", "advantage", "stop", "versions",
}  # fmt: skip


def _tracker(folder: StageFolder, keep: int = 1) -> JsonlTracker:
    return JsonlTracker(folder, "fre_text", keep, decode, Pictures())


def test_rollout_line_has_every_field_and_its_own_credit(tmp_path: Path) -> None:
    """Catches a missing field of the interface, and credits that slide from one group to the next."""
    folder = RunFolder(tmp_path).stage("fre_text")
    (one, credits_one), (two, credits_two) = group(1), group(2, siblings=3)
    _tracker(folder, keep=16).save_rollouts(12, [one, two], credits_one + credits_two)
    lines = read_lines(folder.rollouts / "step_000012.jsonl")
    assert all(set(line) >= ROLLOUT_FIELDS for line in lines)
    assert [(line["problem_id"], line["sibling"], line["advantage"]) for line in lines] == [
        ("p1", 0, 1.0), ("p1", 1, -1.0), ("p2", 0, 1.0), ("p2", 1, -1.0), ("p2", 2, -1.0),
    ]  # fmt: skip
    assert lines[0]["prompt"] == "0 1" and lines[0]["token_ids"] == [0, 1, 2, 3, 4]
    assert lines[0]["trainable"] == [False, False, True, True, True]
    assert all((folder.images / f"{sha}.png").is_file() for line in lines for sha in line["images"])


def test_only_the_first_groups_are_kept(tmp_path: Path) -> None:
    """Catches a rollout file that grows with the batch, and pictures of groups that were not kept."""
    folder = RunFolder(tmp_path).stage("fre_text")
    (one, credits_one), (two, credits_two) = group(1), group(2)
    _tracker(folder, keep=1).save_rollouts(1, [one, two], credits_one + credits_two)
    assert {line["problem_id"] for line in read_lines(folder.rollouts / "step_000001.jsonl")} == {"p1"}
    assert len(list(folder.images.iterdir())) == 1


def test_hostile_reply_stays_one_escaped_line(tmp_path: Path) -> None:
    """Catches a reply that breaks out of its JSON line or writes raw control bytes into a file someone will cat."""
    folder = RunFolder(tmp_path).stage("fre_text")
    reply = 'x"}\n{"reward": 99}\r\x1b[2J\x9b\u202e\u2028\ud800'
    hostile, credits = group(1, reply)
    _tracker(folder).save_rollouts(1, [hostile], credits)
    raw = (folder.rollouts / "step_000001.jsonl").read_bytes()
    assert raw.count(b"\n") == 2 and all(byte == 10 or 32 <= byte < 127 for byte in raw)
    assert json.loads(raw.splitlines()[0])["replies"] == [reply]


def test_metrics_merge_and_wait_for_commit(tmp_path: Path) -> None:
    """Catches a half-written step (a kill between log and commit), NaN in JSON, and lost step or stage."""
    folder = RunFolder(tmp_path).stage("fre_text")
    tracker = _tracker(folder)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.log(1, {"grad_norm": float("inf"), "weights_sha256": "ab"})
    assert not folder.metrics.exists()
    tracker.commit(1)
    expected = {"step": 1, "stage": "fre_text", "reward/mean": 0.5, "grad_norm": None, "weights_sha256": "ab"}
    assert read_lines(folder.metrics) == [expected]


def test_rewind_makes_the_replay_equal_to_an_uninterrupted_run(tmp_path: Path) -> None:
    """Catches a resumed run whose log holds steps twice, or a rollout file of a step that never happened."""
    straight, broken = RunFolder(tmp_path / "a").stage("s"), RunFolder(tmp_path / "b").stage("s")
    for folder, steps in ((straight, range(1, 6)), (broken, range(1, 5))):
        tracker = _tracker(folder)
        for step in steps:
            one, credits = group(step)
            tracker.log(step, {"x": step / 7})
            tracker.save_rollouts(step, [one], credits)
            tracker.commit(step)
    with open(broken.metrics, "a") as out:
        out.write('{"step": 5, "torn')
    tracker = _tracker(broken)  # a new session: the newest checkpoint is that of step 2
    tracker.rewind(2)
    assert sorted(p.name for p in broken.rollouts.iterdir()) == ["step_000001.jsonl", "step_000002.jsonl"]
    for step in range(3, 6):
        one, credits = group(step)
        tracker.log(step, {"x": step / 7})
        tracker.save_rollouts(step, [one], credits)
        tracker.commit(step)
    assert broken.metrics.read_bytes() == straight.metrics.read_bytes()
    for path in straight.rollouts.iterdir():
        assert (broken.rollouts / path.name).read_bytes() == path.read_bytes()


def test_tensorboard_reads_the_scalars_back(tmp_path: Path) -> None:
    """Catches event files that TensorBoard cannot read, and strings or NaN handed to it as numbers."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path / "run").stage("fre_text")
    trackers = Trackers(_tracker(folder), TensorBoardTracker(tmp_path / "tb", "fre_text"))
    for step in (1, 2):
        trackers.log(step, {"reward/mean": step / 4, "weights_sha256": "ab", "entropy": float("nan")})
        trackers.commit(step)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("fre_text/reward/mean")] == [(1, 0.25), (2, 0.5)]
    assert events.Tags()["scalars"] == ["fre_text/reward/mean"]
    assert [line["reward/mean"] for line in read_steps(folder.metrics)] == [0.25, 0.5]


def test_provenance_holds_no_secret_and_no_home(tmp_path: Path) -> None:
    """Catches a run folder, made to be shared, that gives away a token or a user's name."""
    home = str(Path.home())
    command = [
        "/x/bin/lmm-r1",
        "train",
        f"{home}/r.toml",
        "--hf-token",
        "abc123",
        "--api-key=zzz",
        "hf_secretword",
        "--set",
        "a.max_new_tokens=4",
    ]
    record = provenance(
        command, "name = 'a'", {"model.safetensors": "0" * 64, "config.json": "1" * 64}, threads=1, seed=3
    )
    text = json.dumps(record)
    assert "abc123" not in text and "zzz" not in text and "hf_secretword" not in text
    assert record["command"] == "lmm-r1 train ~/r.toml --hf-token *** --api-key=*** *** --set a.max_new_tokens=4"
    assert home not in text
    assert record["base_weights"] == {"model.safetensors": "0" * 64}
    assert record["base_files"] == {"config.json": "1" * 64}
    assert record["seed"] == 3 and record["threads"] == 1
    assert without_home(home) == "~" and clean_command([]) == ""


def test_no_commit_is_claimed_for_an_untracked_file(tmp_path: Path) -> None:
    """Catches an installed copy that reports the commit of somebody else's repository around it."""
    assert git_commit(tmp_path / "file.py") == ""


def test_a_line_keeps_the_own_verdict_beside_what_was_paid(tmp_path: Path) -> None:
    """Catches a rollout file from which the truth about a reply cannot be read in the shuffled arm."""
    folder = RunFolder(tmp_path).stage("fre_text")
    made, credits = group(1)
    right, wrong = made.scores
    dealt = (replace(right, reward=wrong.reward, paid_as=wrong), replace(wrong, reward=right.reward, paid_as=right))
    _tracker(folder).save_rollouts(1, [replace(made, scores=dealt)], credits)
    first, second = read_lines(folder.rollouts / "step_000001.jsonl")
    assert (first["reward"], first["parts"]["accuracy"], first["verdicts"]) == (0.5, 1.0, {"accuracy": "correct"})
    assert first["paid_as"] == {"parts": wrong.parts, "verdicts": wrong.verdicts}
    assert (second["reward"], second["verdicts"]["accuracy"], second["paid_as"]["parts"]) == (1.5, "wrong", right.parts)
    _tracker(folder).save_rollouts(2, [made], credits)
    assert all("paid_as" not in line for line in read_lines(folder.rollouts / "step_000002.jsonl"))


def test_failures_of_verifiers_are_kept_bounded_and_forgotten_with_their_step(tmp_path: Path) -> None:
    """Catches a reason that is nowhere in the run folder, a file without a bound, and a step that is told twice."""
    folder = RunFolder(tmp_path).stage("fre_text")
    failed = [Failure(f"p{k}", k, "accuracy", "error", "ValueError: no (own.py:3)", "\x1b[2J7") for k in range(30)]
    tracker = _tracker(folder)
    for step in (1, 2, 3):
        tracker.save_failures(step, failed[: 10 * step])
        tracker.commit(step)
    lines = read_lines(folder.failures)
    assert [line["step"] for line in lines] == [1] * 8 + [2] * 8 + [3] * 8
    assert lines[8] == {
        "step": 2, "of": 20, "problem_id": "p0", "sibling": 0, "part": "accuracy", "reason": "error",
        "detail": "ValueError: no (own.py:3)", "reply": "\x1b[2J7",
    }  # fmt: skip
    assert b"\x1b" not in folder.failures.read_bytes()
    tracker.rewind(1)
    assert {line["step"] for line in read_lines(folder.failures)} == {1}
    for step in range(2, 200):
        tracker.save_failures(step, failed)
    assert len(read_lines(folder.failures)) == 1000
    again = _tracker(folder)
    again.save_failures(200, failed)
    assert len(read_lines(folder.failures)) == 1000
