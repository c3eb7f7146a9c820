"""The turn loop: append-only streams, seeds, order, and the contract with the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmm_r1.envs import ENVIRONMENTS
from lmm_r1.errors import EngineError
from lmm_r1.rollout.play import Sampling, play, seed_of
from lmm_r1.seams import Step
from lmm_r1.types import Image, Message, Problem, Reply, Request, Text
from tests.fakes import CharAdapter, ScriptedEngine

SAMPLING = Sampling(max_new_tokens=8, temperature=1.0, max_context=200)


def problem(identity: str, text: str = "hi", env: str = "single_turn") -> Problem:
    return Problem(identity, (Message("user", (Text(text),)),), "4", env=env)


def test_rollouts_come_back_in_the_order_asked() -> None:
    """Catches rollouts mixed up between problems: the fake engine ends the last request first."""
    asked = [(problem(f"p{i}", f"q{i}"), s) for i in range(3) for s in range(2)]
    engine = ScriptedEngine(lambda r: f"r{r.id}")
    rollouts = play(asked, engine, CharAdapter(), ENVIRONMENTS, SAMPLING, (0,))
    assert [(r.problem.id, r.sibling) for r in rollouts] == [(p.id, s) for p, s in asked]
    assert [r.turns[0].reply for r in rollouts] == [f"r{i}" for i in range(6)]


def test_only_reply_tokens_are_trainable_and_carry_log_probs() -> None:
    """Catches an off-by-one between prompt and reply."""
    engine = ScriptedEngine(lambda r: "ok", version=7)
    (rollout,) = play([(problem("p", "abc"), 0)], engine, CharAdapter(), ENVIRONMENTS, SAMPLING, (0,))
    assert rollout.token_ids.tolist() == [97, 98, 99, 3, 111, 107, 2]
    assert rollout.trainable.tolist() == [False] * 4 + [True] * 3
    assert rollout.logprobs.tolist() == [0.0] * 4 + [-0.5] * 3
    assert (rollout.turns[0].start, rollout.turns[0].end, rollout.versions) == (4, 7, ((4, 7),))


def test_seeds_differ_by_sibling_and_problem_and_repeat_by_run() -> None:
    """Catches siblings that share randomness, and runs that do not repeat."""
    asked = [(problem(f"p{i}"), s) for i in range(2) for s in range(2)]
    seeds = []
    for _ in range(2):
        engine = ScriptedEngine(lambda r: "x")
        play(asked, engine, CharAdapter(), ENVIRONMENTS, SAMPLING, (1, "stage", 4))
        seeds.append([r.seed for r in engine.requests])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4
    assert seed_of(1, "stage", 5, "p0", 0, 0) not in seeds[0]


def test_an_engine_that_ran_other_ids_is_caught() -> None:
    """Catches an engine that re-tokenises or expands placeholders differently."""

    class Wrong(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            for reply in super().finished():
                yield replace(reply, prompt_ids=reply.prompt_ids[:-1])

    with pytest.raises(EngineError, match="differ"):
        play([(problem("p"), 0)], Wrong(lambda r: "x"), CharAdapter(), ENVIRONMENTS, SAMPLING, (0,))


def test_a_lost_reply_is_an_error_not_a_short_group() -> None:
    """Catches an engine that drops a request silently."""

    class Lossy(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            yield from list(super().finished())[:-1]

    with pytest.raises(EngineError, match="no reply"):
        play([(problem("a"), 0), (problem("b"), 0)], Lossy(lambda r: "x"), CharAdapter(), ENVIRONMENTS, SAMPLING, (0,))


class Counting:
    """A three-turn game that shows a picture each time."""

    def __init__(self, _: Problem) -> None:
        self.turn = 0
        self.closed = False

    def start(self) -> tuple[Message, ...]:
        return (Message("user", (Image("s0", 56, 56), Text("go"))),)

    def step(self, reply: str) -> Step:
        self.turn += 1
        done = self.turn == 3
        return Step(
            () if done else (Message("user", (Image(f"s{self.turn}", 56, 56), Text("on"))),), float(self.turn), done
        )

    def close(self) -> None:
        self.closed = True


def test_turns_append_tokens_and_pictures_and_environment_text_is_not_trained_on() -> None:
    """Catches a re-rendered history, pictures out of order and gradients on the game's words."""
    engine = ScriptedEngine(lambda r: "ab"[: 1 + r.id])
    rollouts = play(
        [(problem("g", env="game"), s) for s in range(2)], engine, CharAdapter(), {"game": Counting}, SAMPLING, (0,)
    )
    for rollout in rollouts:
        assert [i.sha for i in rollout.images] == ["s0", "s1", "s2"]
        assert [t.reward for t in rollout.turns] == [1.0, 2.0, 3.0]
        mask = np.zeros(len(rollout.token_ids), bool)
        for turn in rollout.turns:
            mask[turn.start : turn.end] = True
        assert np.array_equal(mask, rollout.trainable)
    seen: dict[int, Request] = {}
    for request in engine.requests:
        if request.id in seen:
            before = seen[request.id].token_ids
            assert np.array_equal(request.token_ids[: len(before)], before), "a prompt was rendered again"
        seen[request.id] = request


def test_a_cut_reply_ends_the_episode() -> None:
    """Catches a game played on after a truncated reply."""

    class Cut(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            for reply in super().finished():
                yield Reply(reply.id, reply.prompt_ids, reply.token_ids, reply.logprobs, "length", 0)

    (rollout,) = play(
        [(problem("g", env="game"), 0)], Cut(lambda r: "x"), CharAdapter(), {"game": Counting}, SAMPLING, (0,)
    )
    assert rollout.stop == "length" and len(rollout.turns) == 1


def test_a_full_context_ends_the_episode_before_another_turn() -> None:
    """Catches a turn that could not fit."""
    tight = Sampling(max_new_tokens=8, temperature=1.0, max_context=20)
    (rollout,) = play(
        [(problem("g", env="game"), 0)], ScriptedEngine(lambda r: "abc"), CharAdapter(), {"game": Counting}, tight, (0,)
    )
    assert rollout.stop == "context" and len(rollout.turns) == 1
