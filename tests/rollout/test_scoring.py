"""Scoring beside sampling: as many verifiers at a time as asked, and the same scores whatever their number and order."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lmm_r1.config import Reward, RolloutConfig
from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import ListSource
from lmm_r1.difficulty import measure
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.errors import EngineError, Fault
from lmm_r1.evaluation.evaluate import evaluate_set
from lmm_r1.rewards.remote import TOKEN_VARIABLE, VerifierServer
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.collect import Collected, collect
from lmm_r1.rollout.play import Sampling
from lmm_r1.rollout.scoring import play_and_score
from lmm_r1.types import Message, Problem, Request, Score, Text, Turn, Verdict
from tests.fakes import CharAdapter, ScriptedEngine
from tests.own_verifiers import MEETING

OWN = "tests.own_verifiers"
SAMPLING = Sampling(max_new_tokens=60, temperature=1.0, max_context=400)


def problems(n: int) -> list[Problem]:
    return [Problem(f"p{k}", (Message("user", (Text(f"q{k}"),)),), "7") for k in range(n)]


@pytest.mark.parametrize("count", [3, 4])
def test_workers_work_side_by_side(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches `reward.workers` processes of which one has work: each call here waits until all are under way."""
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(count))
    monkeypatch.setenv(MEETING, str(shared))
    engine = ScriptedEngine(lambda r: str(r.id))
    asked = [(p, 0) for p in problems(count)]
    with closing(make_scorer(Reward(verifier=f"{OWN}:meets", workers=count, limit_s=20.0))) as score:
        _, scores = play_and_score(asked, engine, CharAdapter(), SingleTurn, score, SAMPLING, (0,))
    assert [s.verdicts["accuracy"] for s in scores] == ["correct"] * count


@pytest.mark.parametrize("path", ["train", "evaluate", "difficulty"])
def test_remote_calls_are_side_by_side_on_every_path(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a path that scores one reply after the other."""
    monkeypatch.setenv(TOKEN_VARIABLE, "a token for tests")
    together = threading.Barrier(4)

    def verifier(problem: Problem, reply: str) -> Verdict:
        together.wait(timeout=30)  # raises when four are never there at once, and the call fails
        return Verdict(1.0, "correct")

    server = VerifierServer("a token for tests", verifier)
    server.start()
    engine = ScriptedEngine(lambda r: "<answer>7</answer>")
    try:
        with closing(make_scorer(Reward(verifier=server.url, workers=4))) as score:
            if path == "train":
                rows = iter(problems(2))
                config = RolloutConfig(prompts=2, siblings=4)
                got = collect(
                    lambda n: [next(rows) for _ in range(n)], engine, CharAdapter(), SingleTurn, score, config,
                    max_context=400, seed=(0,),
                )  # fmt: skip
                assert all(s.parts["accuracy"] == 1.0 for g in got.groups for s in g.scores)
            elif path == "evaluate":
                found = evaluate_set(
                    "text", 4, engine, CharAdapter(), ImageStore(), score, Sampling(60, 1.0, max_context=4000),
                    system="", seed=0,
                )  # fmt: skip
                assert found.summary()["accuracy"] == 1.0
            else:
                knobs = {"samples": 4, "temperature": 1.0, "max_new_tokens": 60, "max_prompt_tokens": 60, "seed": 0}
                out = tmp_path / "d.jsonl"
                measure(ListSource(problems(2)), out, knobs, engine, CharAdapter(), score, 1)
                assert [json.loads(line)["pass_rate"] for line in out.read_text().splitlines()] == [1.0, 1.0]
    finally:
        server.stop()


class Waiting(ScriptedEngine):
    """Gives the second reply only when the first one has been judged."""

    def __init__(self, judged: threading.Event) -> None:
        super().__init__(lambda r: f"reply {r.id}")
        self.judged = judged

    def finished(self) -> Iterator:  # type: ignore[type-arg]
        for count, reply in enumerate(super().finished()):
            if count == 1 and not self.judged.wait(30):
                raise EngineError("the first reply was not judged while the second was sampled")
            yield reply


class Aside:
    """A scorer with a thread of its own."""

    def __init__(self, judged: threading.Event) -> None:
        self.judged, self.thread = judged, ThreadPoolExecutor(1)

    def __call__(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Score:
        self.judged.set()
        return Score(1.0, {"accuracy": 1.0}, {"accuracy": "correct"})

    def submit(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Future[Score]:
        return self.thread.submit(self, problem, turns, stop)


@pytest.mark.parametrize("kind", ["aside", "at once"])
def test_a_reply_is_judged_while_others_are_sampled(kind: str) -> None:
    """Catches scores that wait for the last reply of a step."""
    judged = threading.Event()
    aside = Aside(judged)
    score = aside if kind == "aside" else lambda *episode: aside(*episode)
    played, scores = play_and_score(
        [(p, 0) for p in problems(3)], Waiting(judged), CharAdapter(), SingleTurn, score, SAMPLING, (0,)
    )  # fmt: skip
    assert [e[0].turns[0].reply for e in played] == [f"reply {k}" for k in range(3)] and len(scores) == 3


def gathered(workers: int, order: int) -> Collected:
    """A step through `digits`; the engine's replies end in another order for each `order`."""

    class Shuffled(ScriptedEngine):
        def finished(self) -> Iterator:  # type: ignore[type-arg]
            random.Random(order).shuffle(self._waiting)
            yield from super().finished()

    def reply(request: Request) -> str:
        return f"<think>t</think><answer>{request.seed % 97}</answer>"

    rows = iter(problems(4))
    with closing(make_scorer(Reward(verifier=f"{OWN}:digits", workers=workers, limit_s=20.0))) as score:
        return collect(
            lambda n: [next(rows) for _ in range(n)], Shuffled(reply), CharAdapter(), SingleTurn, score,
            RolloutConfig(prompts=4, siblings=6), max_context=400, seed=(5,), shuffle=True,
        )  # fmt: skip


def test_scores_hang_on_neither_order_nor_number_of_workers() -> None:
    """Catches a score that is dealt to another reply when replies end in another order."""
    one, four = gathered(1, 0), gathered(4, 1)
    assert [g.scores for g in one.groups] == [g.scores for g in four.groups]
    assert one.failures == four.failures and one.failures
    assert [r.turns for g in one.groups for r in g.rollouts] == [r.turns for g in four.groups for r in g.rollouts]
    assert len({s.reward for g in one.groups for s in g.scores}) > 3


def test_a_lost_verifier_stops_the_step_and_frees_the_engine() -> None:
    """Catches an exception that is swallowed by a thread, and an engine that keeps requests nobody reads."""

    class Lost(Aside):
        def __call__(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Score:
            raise EngineError(Fault("the verifier gave no verdict"))

    for score in (Lost(threading.Event()), lambda *episode: Lost(threading.Event())(*episode)):
        engine = ScriptedEngine(lambda r: "x")
        with pytest.raises(EngineError, match="no verdict"):
            play_and_score([(p, 0) for p in problems(5)], engine, CharAdapter(), SingleTurn, score, SAMPLING, (0,))
        assert not engine._waiting


def test_what_could_not_be_judged_is_kept_with_its_reason() -> None:
    """Catches a failure without its problem, sibling, reply or line, and one of a discarded group that is forgotten."""
    got = gathered(2, 0)
    left = {(g.problem.id, episode[0].sibling) for g in got.groups for episode in g.episodes}
    assert got.failures and not left & {(f.problem_id, f.sibling) for f in got.failures}
    assert len(left) + len(got.failures) == got.counts["collect/replies"]
    assert all(s.verdicts["accuracy"] != "error" for g in got.groups for s in g.scores)
    first = got.failures[0]
    assert first.part == "accuracy" and first.reason == "error" and first.reply.startswith("<think>t</think><answer>")
    assert "ValueError: no figure in <think>" in first.detail and "tests/own_verifiers.py:" in first.detail
    assert first.problem_id in str(first) and first.detail in str(first) and repr(first.reply) in str(first)
    rows = iter(problems(2))
    with closing(make_scorer(Reward(verifier=f"{OWN}:digits", workers=2, limit_s=20.0))) as score:
        none = collect(
            lambda n: [next(rows) for _ in range(n)], ScriptedEngine(lambda r: chr(65)), CharAdapter(), SingleTurn, score,
            RolloutConfig(prompts=1, siblings=2, max_rounds=1), max_context=400, seed=(5,), keep=lambda group: False,
        )  # fmt: skip
    assert none.groups == () and len(none.failures) == 2
    assert np.isfinite(sum(s.reward for g in got.groups for s in g.scores))
