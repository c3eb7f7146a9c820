"""A reply's worth of football: when a turn ends, and that no word can make it endless."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.scenarios import SCENARIOS, Setup
from lmm_r1.envs.football.state import ACTIONS, State, metres
from lmm_r1.envs.football.turn import FLYING, NEAR, SETTING, run_turn


def begun(monkeypatch: pytest.MonkeyPatch, seed: int = 0, **setup: object) -> tuple[Academy, State]:
    """A set-up by hand, started."""
    monkeypatch.setitem(SCENARIOS, "by_hand", Setup(**setup))  # type: ignore[arg-type]
    engine = Academy()
    return engine, engine.reset("by_hand", seed)


def test_a_direction_runs_for_ten_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a turn of another length, and states that are not those of every tick."""
    engine, start = begun(monkeypatch, left=((0.0, 0.0, 0, 0),))
    turned = run_turn(engine, start, "right")
    assert turned.ticks == len(turned.states) == 10 and turned.state is turned.states[-1] and turned.over == ""
    assert [s.steps_left for s in turned.states] == list(range(399, 389, -1))
    assert turned.state.ball[0] > 0.05
    assert run_turn(engine, turned.state, "top", most=4).ticks == 4
    assert run_turn(engine, turned.state, None).ticks == 10


def test_words_that_set_take_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a sprint that lasts a tick, and a release that is lost; the run goes on meanwhile."""
    engine, state = begun(monkeypatch, left=((0.0, 0.0, 0, 0),))
    state = run_turn(engine, state, "right").state
    for word, sticky in (
        ("sprint", ("right", "sprint")), ("dribble", ("right", "sprint", "dribble")),
        ("release_sprint", ("right", "dribble")), ("release_dribble", ("right",)),
    ):  # fmt: skip
        turned = run_turn(engine, state, word)
        assert turned.ticks == SETTING and turned.state.sticky == sticky
        assert turned.state.ball[0] > state.ball[0]
        state = turned.state


def test_a_turn_stops_when_an_opponent_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run into a tackle that nobody could decide about, and one that stops for a pursuer who falls behind."""
    engine, state = begun(monkeypatch, left=((0.0, 0.0, 0, 0),), right=((0.2, 0.0, 0, 0),))
    turned = run_turn(engine, state, "right")
    while turned.ticks == 10:
        turned = run_turn(engine, turned.state, "right")
    gap = metres(*(turned.state.right_team[0] - turned.state.left_team[0]).tolist())
    assert turned.over == "" and 1.3 < gap < NEAR + 1.5
    engine, state = begun(monkeypatch, left=((0.0, 0.0, 0, 0),), right=((-0.04, 0.0, 0, 0),))
    engine.step("sprint")
    for _ in range(10):  # until it runs
        state = engine.step("right")
    assert run_turn(engine, state, "right").ticks == 10


def test_a_turn_stops_at_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that carries the ball off the pitch within one reply."""
    for spot, word in (((0.1, 0.2, 0, 0), "bottom"), ((0.7, -0.2, 0, 0), "right"), ((0.0, -0.3, 0, 0), "top_left")):
        engine, state = begun(monkeypatch, left=(spot,))
        turned = run_turn(engine, state, word)
        while turned.ticks == 10:
            turned = run_turn(engine, turned.state, word)
        assert turned.over == "" and turned.ticks < 10
        assert 0.02 < min(1 - abs(turned.state.ball[0]), 0.42 - abs(turned.state.ball[1])) < 0.06


def test_a_pass_is_played_until_somebody_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a reply that sees the ball in the air and must wait, tick by tick."""
    for word in ("short_pass", "high_pass", "long_pass"):
        engine, state = begun(monkeypatch, left=((0.0, 0.0, 0, 0), (0.3, 0.1, 0, 0)))
        turned = run_turn(engine, state, word)
        assert turned.state.has_ball and turned.state.active == 1 and turned.ticks > 5
        assert all(s.ball_owned_team == -1 for s in turned.states[:-1])


def test_a_shot_is_played_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a goal that is seen a turn late, and a shot without a ball that costs many ticks."""
    engine, state = begun(monkeypatch, left=((0.85, 0.0, 0, 0),))
    turned = run_turn(engine, state, "shot")
    assert turned.over == "goal" and turned.state.score == (1, 0)
    again = run_turn(engine, turned.state, "right")
    assert again.ticks == 0 and again.state is turned.state and again.states == () and again.over == "goal"
    engine, state = begun(monkeypatch, left=((0.0, 0.0, 0, 0), (0.3, 0.1, 0, 0)))
    state = engine.step("short_pass")
    assert run_turn(engine, state, "shot").ticks <= SETTING


class Deaf(Academy):
    """An engine that never lets the ball go, as one that is slow to kick would."""

    def step(self, action: str | None) -> State:
        """A tick without the kick."""
        self.heard = [*getattr(self, "heard", []), action]
        return super().step(None if action == "shot" else action)


def test_a_kick_that_does_not_come_is_asked_for_again_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an engine that takes several ticks to kick, and a turn that waits for ever."""
    monkeypatch.setitem(SCENARIOS, "by_hand", Setup(left=((-0.9, 0.0, 0, 0),)))
    engine = Deaf()
    engine.reset("by_hand", 0)
    state = engine.step("right")
    engine.heard = []
    turned = run_turn(engine, state, "shot")
    assert turned.ticks == 20 and engine.heard[:4] == ["shot", "right", "shot", "right"] and turned.state.has_ball


def test_any_words_come_to_an_end() -> None:
    """Catches a turn that plays nothing or too much, and states whose clock does not run."""
    rng = random.Random(2)
    for seed, scenario in enumerate(SCENARIOS):
        engine = Academy()
        state = engine.reset(scenario, seed)
        turns = 0
        while not engine.over:
            turned = run_turn(engine, state, rng.choice([*ACTIONS, None]))
            assert 1 <= turned.ticks <= 20 + FLYING
            assert state.steps_left - turned.state.steps_left == turned.ticks
            state, turns = turned.state, turns + 1
        assert turns <= 400 and turned.over == engine.over and np.isfinite(state.ball).all()


def test_what_is_no_turn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a word that is passed on to the engine unread, and a turn of no ticks."""
    engine, state = begun(monkeypatch, left=((0.0, 0.0, 0, 0),))
    with pytest.raises(ValueError, match="no action 'fly'"):
        run_turn(engine, state, "fly")
    with pytest.raises(ValueError, match="at least 1"):
        run_turn(engine, state, "left", most=0)
    assert engine.step(None).steps_left == 399  # nothing was played
