"""The turn loop: append-only streams, seeds, order, and the contract with the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.errors import EngineError
from lmm_r1.rollout.play import Sampling, play, seed_of, turns_of
from lmm_r1.seams import Step
from lmm_r1.types import SINGLE_TURN, Image, Message, Problem, Reply, Request, Rollout, Text
from tests.fakes import CharAdapter, ScriptedEngine

SAMPLING = Sampling(max_new_tokens=8, temperature=1.0, max_context=200)


def problem(identity: str, text: str = "hi", env: str = SINGLE_TURN) -> Problem:
    shown = (Image("s0", 56, 56), Text("go")) if env == "game" else (Text(text),)
    return Problem(identity, (Message("user", shown),), "4", env=env)


def test_rollouts_come_back_in_the_order_asked() -> None:
    """Catches rollouts mixed up between problems: the fake engine ends the last request first."""
    asked = [(problem(f"p{i}", f"q{i}"), s) for i in range(3) for s in range(2)]
    engine = ScriptedEngine(lambda r: f"r{r.id}")
    rollouts = [r for (r,) in play(asked, engine, CharAdapter(), SingleTurn, SAMPLING, (0,))]
    assert [(r.problem.id, r.sibling) for r in rollouts] == [(p.id, s) for p, s in asked]
    assert [r.turns[0].reply for r in rollouts] == [f"r{i}" for i in range(6)]


def test_only_reply_tokens_are_trainable_and_carry_log_probs() -> None:
    """Catches an off-by-one between prompt and reply."""
    engine = ScriptedEngine(lambda r: "ok", version=7)
    ((rollout,),) = play([(problem("p", "abc"), 0)], engine, CharAdapter(), SingleTurn, SAMPLING, (0,))
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
        play(asked, engine, CharAdapter(), SingleTurn, SAMPLING, (1, "stage", 4))
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
        play([(problem("p"), 0)], Wrong(lambda r: "x"), CharAdapter(), SingleTurn, SAMPLING, (0,))


def test_a_lost_reply_is_an_error_not_a_short_group() -> None:
    """Catches an engine that drops a request silently."""

    class Lossy(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            yield from list(super().finished())[:-1]

    with pytest.raises(EngineError, match="no reply"):
        play([(problem("a"), 0), (problem("b"), 0)], Lossy(lambda r: "x"), CharAdapter(), SingleTurn, SAMPLING, (0,))


class Counting:
    """A three-turn game that shows a picture each time."""

    def __init__(self, asked: Problem) -> None:
        self.problem = asked
        self.turn, self.last = 0, 3
        self.closed = False

    def start(self) -> tuple[Message, ...]:
        return self.problem.messages

    def step(self, reply: str) -> Step:
        self.turn += 1
        done = self.turn == self.last
        seen = Message("user", (Image(f"s{self.turn}", 56, 56), Text("on")))
        return Step(() if done else (seen,), float(self.turn), done, action=f"move {self.turn}")

    def close(self) -> None:
        self.closed = True


def test_turns_append_tokens_and_pictures_and_environment_text_is_not_trained_on() -> None:
    """Catches a re-rendered history, pictures out of order and gradients on the game's words."""
    engine = ScriptedEngine(lambda r: "ab"[: 1 + r.id])
    rollouts = play([(problem("g", env="game"), s) for s in range(2)], engine, CharAdapter(), Counting, SAMPLING, (0,))
    for (rollout,) in rollouts:
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


WINDOW = replace(SAMPLING, window=(1, 2), max_context=400)


def windowed_episodes(sampling: Sampling = WINDOW, count: int = 2) -> tuple[list[tuple[Rollout, ...]], ScriptedEngine]:
    engine = ScriptedEngine(lambda r: f"<{r.id}>")
    asked = [(problem("g", env="game"), s) for s in range(count)]
    return play(asked, engine, CharAdapter(), Counting, sampling, (0,)), engine


def test_a_window_makes_every_turn_a_rollout_of_its_own() -> None:
    """Catches segments out of order, a turn in two of them, frames that pile up, and seeds that repeat."""
    episodes, engine = windowed_episodes()
    for index, episode in enumerate(episodes):
        assert [(r.episode, r.segment, len(r.turns)) for r in episode] == [(index, k, 1) for k in range(3)]
        assert [[i.sha for i in r.images] for r in episode] == [["s0"], ["s1"], ["s2"]]
        assert [t.reward for t in turns_of(episode)] == [1.0, 2.0, 3.0]
        for rollout in episode:
            turn = rollout.turns[0]
            assert rollout.trainable.tolist() == [False] * turn.start + [True] * (turn.end - turn.start)
    assert len({r.seed for r in engine.requests}) == 6
    shown = "".join(chr(t) for t in episodes[0][2].token_ids[: episodes[0][2].prompt_end])
    assert "Before: move 1; move 2" in shown and shown.count("\x01" * 4) == 1 and "go" in shown


def test_both_memories_play_the_same_game() -> None:
    """Catches a window that changes what the environment sees: rewards and turns must not depend on the memory."""
    whole = play(
        [(problem("g", env="game"), 0)], ScriptedEngine(lambda r: "<0>"), CharAdapter(), Counting, SAMPLING, (0,)
    )
    windows, _ = windowed_episodes(count=1)
    assert [(t.reply, t.reward, t.action) for t in turns_of(whole[0])] == [
        (t.reply, t.reward, t.action) for t in turns_of(windows[0])
    ]


def test_a_turn_limit_and_a_small_context_end_an_episode() -> None:
    """Catches an endless episode, and a segment that got no reply."""
    (short,), _ = windowed_episodes(replace(WINDOW, max_turns=2), count=1)
    assert len(turns_of(short)) == 2
    (tight,), _ = windowed_episodes(replace(WINDOW, max_context=20), count=1)
    assert len(tight) == 1 and tight[-1].stop == "context"


def test_episodes_do_not_wait_for_each_other() -> None:
    """Catches a lockstep: a long episode's last turns are asked for long after the short ones are done."""
    asked = [(problem(name, env="game"), 0) for name in ("long", "short")]
    engine = ScriptedEngine(lambda r: "x")

    class Uneven(Counting):
        def __init__(self, asked: Problem) -> None:
            super().__init__(asked)
            self.last = 9 if asked.id == "long" else 1

    long, short = play(asked, engine, CharAdapter(), Uneven, replace(SAMPLING, max_context=900), (0,))
    assert (len(turns_of(long)), len(turns_of(short))) == (9, 1)
    assert [r.id for r in engine.requests] == [0, 1, *[0] * 8]


def test_every_environment_is_closed_whatever_happens() -> None:
    """Catches a game's process that outlives a fault of the engine."""
    made: list[Counting] = []

    def make(asked: Problem) -> Counting:
        made.append(Counting(asked))
        return made[-1]

    class Broken(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            raise EngineError("lost")
            yield

    with pytest.raises(EngineError, match="lost"):
        play([(problem("a"), 0), (problem("b"), 0)], Broken(lambda r: "x"), CharAdapter(), make, SAMPLING, (0,))
    assert [env.closed for env in made] == [True, True]


def test_an_environment_that_opens_with_other_words_is_caught() -> None:
    """Catches a game whose first turn is asked with the system prompt and whose later ones are not."""

    class Other(Counting):
        def start(self) -> tuple[Message, ...]:
            return (Message("user", (Text("other"),)),)

    with pytest.raises(EngineError, match="opens problem g with other messages"):
        play([(problem("g", env="game"), 0)], ScriptedEngine(lambda r: "x"), CharAdapter(), Other, SAMPLING, (0,))


def test_an_episode_that_is_over_is_closed_at_once() -> None:
    """Catches hundreds of finished matches that are held open until the last one ends."""
    made: list[Counting] = []
    open_at_end: list[int] = []

    def make(asked: Problem) -> Counting:
        made.append(Counting(asked))
        made[-1].last = 1 + 3 * (len(made) == 1)
        return made[-1]

    def script(request: Request) -> str:
        open_at_end.append(sum(not env.closed for env in made))
        return "x"

    asked = [(problem("g", env="game"), s) for s in range(4)]
    play(asked, ScriptedEngine(script), CharAdapter(), make, SAMPLING, (0,))
    assert open_at_end[-1] == 1 and all(env.closed for env in made)


def test_a_cut_reply_ends_the_episode() -> None:
    """Catches a game played on after a truncated reply."""

    class Cut(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            for reply in super().finished():
                yield Reply(reply.id, reply.prompt_ids, reply.token_ids, reply.logprobs, "length", 0)

    ((rollout,),) = play([(problem("g", env="game"), 0)], Cut(lambda r: "x"), CharAdapter(), Counting, SAMPLING, (0,))
    assert rollout.stop == "length" and len(rollout.turns) == 1


def test_a_full_context_ends_the_episode_before_another_turn() -> None:
    """Catches a turn that could not fit."""
    tight = Sampling(max_new_tokens=8, temperature=1.0, max_context=20)
    ((rollout,),) = play(
        [(problem("g", env="game"), 0)], ScriptedEngine(lambda r: "abc"), CharAdapter(), Counting, tight, (0,)
    )
    assert rollout.stop == "context" and len(rollout.turns) == 1


#: What is wrong with a reply -> the reply that the engine gives for a good one.
MALFORMED: dict[str, Callable[[Reply], list[Reply]]] = {
    "no request waits": lambda r: [replace(r, id=99)],
    "id 0, for which no request waits": lambda r: [r, r],
    "log-probs of type float32 and shape": lambda r: [replace(r, logprobs=r.logprobs[:-1])],
    "of a vocabulary of 128": lambda r: [replace(r, token_ids=np.full_like(r.token_ids, 128))],
    "token ids from -1": lambda r: [replace(r, token_ids=np.full_like(r.token_ids, -1))],
    "token ids of type float32": lambda r: [replace(r, token_ids=r.token_ids.astype(np.float32))],
    "token 1, which must never be sampled": lambda r: [replace(r, token_ids=np.full_like(r.token_ids, 1))],
    "a log-prob of nan": lambda r: [replace(r, logprobs=np.full_like(r.logprobs, np.nan))],
    "a log-prob of -inf": lambda r: [replace(r, logprobs=np.full_like(r.logprobs, -np.inf))],
    "above 0": lambda r: [replace(r, logprobs=-r.logprobs)],
    "9 tokens where 8": lambda r: [replace(r, token_ids=np.full(9, 50, np.int32), logprobs=np.full(9, -1, np.float32))],
    "unknown stop": lambda r: [replace(r, stop="tired")],  # type: ignore[arg-type]
}


@pytest.mark.parametrize("said", list(MALFORMED))
def test_a_malformed_reply_is_one_line_and_never_learned_from(said: str) -> None:
    """Catches a traceback, and numbers of another reply or of none that reach a rollout (trial 58)."""

    class Odd(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            for reply in super().finished():
                yield from MALFORMED[said](reply)

    with pytest.raises(EngineError) as stop:
        play([(problem("a"), 0)], Odd(lambda r: "x"), CharAdapter(), SingleTurn, SAMPLING, (0,))
    assert said in str(stop.value) and "\n" not in str(stop.value) and stop.value.exit_code == 7


def test_a_lost_later_turn_is_an_error() -> None:
    """Catches an episode that ends in its middle because the engine dropped its second reply."""

    class Tired(ScriptedEngine):
        def finished(self):  # type: ignore[no-untyped-def]
            for number, reply in enumerate(super().finished()):
                if number < 1:
                    yield reply

    with pytest.raises(EngineError, match="no reply for 1 episodes, the first of problem g"):
        play([(problem("g", env="game"), 0)], Tired(lambda r: "x"), CharAdapter(), Counting, SAMPLING, (0,))
