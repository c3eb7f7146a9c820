"""What happened, on disk: a line a step, kept rollouts with their pictures, TensorBoard files.

Steps are counted from 1 here, as finished steps: the line of step 12 and rollouts/step_000012.jsonl tell of
the step whose end checkpoints/step_000012 holds. Step 0 is what was measured before the first update.

A metrics line, as far as the caller measured it: step, stage, reward/{mean,format,accuracy},
length/{mean,max}, truncated_share, entropy, kl_ref, clip_share, zero_advantage_share,
logprob_gap/{mean,max}, grad_norm, lr, tokens, seconds/{collect,anchor,update,sync,evaluate}, weights_sha256.

Left out: what the numbers mean, plots (reports/), the live view (runs/live.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lmm_r1.runs.folder import StageFolder
from lmm_r1.runs.jsonl import append_line, plain, read_lines, repair, write_lines
from lmm_r1.seams import Tracker
from lmm_r1.types import Credit, Failure, Group, Image, Int32, Rollout, Score

#: Failures of verifiers that are kept of a step, and lines of a stage's file of them.
FAILURES_OF_STEP, FAILURES_OF_STAGE = 8, 1000


class PictureSource(Protocol):
    """The part of data.images.ImageStore that is needed here."""

    def save_png(self, sha: str, folder: Path) -> Path:
        """Write <sha>.png into `folder`."""


class ReplayedTracker(Tracker, Protocol):
    """A tracker that a resumed run can set back."""

    def rewind(self, step: int) -> None:
        """Forget everything after `step`, the step of the checkpoint that the run resumes from."""

    def close(self) -> None:
        """Write out what is buffered."""


class JsonlTracker:
    """metrics.jsonl, verifier_failures.jsonl, rollouts/*.jsonl and images/*.png of one stage.

    decode: token ids of the prompt to text. images: where the pictures of rollouts are kept.
    """

    def __init__(
        self, folder: StageFolder, stage: str, keep_groups: int, decode: Callable[[Int32], str], images: PictureSource
    ) -> None:
        self._folder, self._stage, self._keep = folder, stage, keep_groups
        self._decode, self._images = decode, images
        self._pending: dict[int, dict[str, Any]] = {}
        for path in (folder.metrics, folder.failures):
            repair(path)
        self._failures = len(read_lines(folder.failures))

    def log(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """Merge `metrics` into the record of `step`."""
        self._pending.setdefault(step, {}).update(metrics)

    def commit(self, step: int) -> None:
        """Write the line of `step`, in one write, synced to the disk."""
        append_line(self._folder.metrics, {"step": step, "stage": self._stage, **self._pending.pop(step, {})})

    def save_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None:
        """Keep the first groups of `step` (save.rollout_groups of them) and their pictures.

        credits: one per rollout of all groups, in their order.
        """
        records: list[dict[str, Any]] = []
        pictures: dict[str, Image] = {}
        rest = iter(credits)
        for number, group in enumerate(groups):
            for episode, score in zip(group.episodes, group.scores, strict=True):
                for rollout in episode:
                    credit = next(rest)
                    if number < self._keep:
                        records.append(self._record(rollout, score, credit))
                        pictures.update((image.sha, image) for image in rollout.images)
        if not records:
            return
        for sha in pictures:
            if not (self._folder.images / f"{sha}.png").exists():
                self._images.save_png(sha, self._folder.images)
        write_lines(self._folder.rollouts / f"step_{step:06d}.jsonl", records)

    def save_failures(self, step: int, failures: Sequence[Failure]) -> None:
        """Append the first few failures of `step`, each with how many there were; the file stops at a fixed length."""
        for failure in failures[: min(FAILURES_OF_STEP, FAILURES_OF_STAGE - self._failures)]:
            append_line(self._folder.failures, {"step": step, "of": len(failures), **asdict(failure)})
            self._failures += 1

    def _record(self, rollout: Rollout, score: Score, credit: Credit) -> dict[str, Any]:
        """One line of a rollout file. `advantage` is the mean over the tokens that the policy wrote."""
        mask = rollout.trainable
        return {
            "problem_id": rollout.problem.id,
            "source": rollout.problem.source,
            "answer": rollout.problem.answer,
            "episode": rollout.episode,
            "segment": rollout.segment,
            "sibling": rollout.sibling,
            "prompt": self._decode(rollout.token_ids[: rollout.prompt_end]),
            "replies": [turn.reply for turn in rollout.turns],
            **_of_game(rollout),
            "images": [image.sha for image in rollout.images],
            "token_ids": rollout.token_ids,
            "trainable": mask,
            "logprobs": rollout.logprobs,
            "reward": score.reward,
            "parts": score.parts,
            "verdicts": score.verdicts,
            **_if_any(rollout, score),
            "advantage": float(credit.advantages[mask].mean()) if mask.any() else 0.0,
            "stop": rollout.stop,
            "versions": rollout.versions,
        }

    def rewind(self, step: int) -> None:
        """Drop the lines and rollout files after `step`: the resumed run writes them again, equal bit for bit."""
        self._pending.clear()
        for path in (self._folder.metrics, self._folder.failures):
            records = read_lines(path)
            kept = [record for record in records if int(record["step"]) <= step]
            if len(kept) < len(records):
                write_lines(path, kept)
        self._failures = len(read_lines(self._folder.failures))
        for path in self._folder.rollouts.glob("step_*.jsonl"):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()

    def close(self) -> None:
        """Nothing is buffered."""


def _if_any(rollout: Rollout, score: Score) -> dict[str, Any]:
    """What most lines lack: what the template began of each reply, what a verifier said that failed, whose score was paid."""
    found: dict[str, Any] = {}
    if any(turn.opening for turn in rollout.turns):
        found["openings"] = [turn.opening for turn in rollout.turns]
    if score.details:
        found["details"] = score.details
    if score.paid_as is not None:
        found["paid_as"] = {"parts": score.paid_as.parts, "verdicts": score.paid_as.verdicts}
    return found


def _of_game(rollout: Rollout) -> dict[str, Any]:
    """Of a game: what each reply of this rollout did, beside the frames in `images`; {} for a question."""
    if not rollout.problem.is_game:
        return {}
    names = ("action", "outcome", "reward", "success", "score", "feedback")
    turns = [{name: getattr(turn, name) for name in names} for turn in rollout.turns]
    return {"env": rollout.problem.env, "turns": turns}


class TensorBoardTracker:
    """The numbers of each step as TensorBoard scalars named <stage>/<metric>, under `folder`; needs no torch."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._writer = EventFileWriter(str(folder))
        self._stage = stage
        self._pending: dict[int, dict[str, float]] = {}

    def log(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """Keep the numbers of `metrics`; strings have no curve."""
        numbers = {name: float(value) for name, value in metrics.items() if not isinstance(value, str)}
        self._pending.setdefault(step, {}).update(numbers)

    def save_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None:
        """Rollouts stand in the JSONL files only."""

    def save_failures(self, step: int, failures: Sequence[Failure]) -> None:
        """Failures stand in the JSONL files only."""

    def commit(self, step: int) -> None:
        """Write the scalars of `step`."""
        values = [
            Summary.Value(tag=f"{self._stage}/{name}", simple_value=value)
            for name, value in self._pending.pop(step, {}).items()
            if plain(value) is not None
        ]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def rewind(self, step: int) -> None:
        """Tell TensorBoard to hide what an earlier session wrote after `step`."""
        self._pending.clear()
        self._writer.add_event(
            Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        )

    def close(self) -> None:
        """Flush and end the writer's thread."""
        self._writer.close()


class Trackers:
    """Several trackers as one."""

    def __init__(self, *trackers: ReplayedTracker) -> None:
        self._all = trackers

    def log(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """See Tracker."""
        for tracker in self._all:
            tracker.log(step, metrics)

    def save_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None:
        """See Tracker."""
        for tracker in self._all:
            tracker.save_rollouts(step, groups, credits)

    def save_failures(self, step: int, failures: Sequence[Failure]) -> None:
        """See Tracker."""
        for tracker in self._all:
            tracker.save_failures(step, failures)

    def commit(self, step: int) -> None:
        """See Tracker."""
        for tracker in self._all:
            tracker.commit(step)

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`."""
        for tracker in self._all:
            tracker.rewind(step)

    def close(self) -> None:
        """Close all of them."""
        for tracker in self._all:
            tracker.close()
