"""The Football Game: our engine's rules, its set-ups, and the game for Gymnasium."""

from __future__ import annotations

import random
import warnings
from itertools import pairwise

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lmm_r1.envs.football import ACTIONS, SCENARIOS, Football
from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.rules import leaving, nearest, save_chance, spread, tackle_chance
from lmm_r1.envs.football.scenarios import Setup
from lmm_r1.envs.football.state import DIRECTIONS, ENDS, STICKY, Engine, State, metres

Spot = tuple[float, float, float, float]


def at(x: float, y: float) -> Spot:
    """A spot without play."""
    return (x, y, 0.0, 0.0)


def played(engine: Engine, state: State, *actions: str | None, most: int = 400) -> list[State]:
    """The states of an episode: the actions, then nothing, until it ends or `most` ticks are over."""
    states = [state]
    for tick in range(most):
        if engine.over:
            break
        states.append(engine.step(actions[tick] if tick < len(actions) else None))
    return states


def bits(state: State) -> list[object]:
    """Everything in a state, exactly."""
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in state.as_dict().values()]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Makes a set-up by hand and starts it."""

    def start(seed: int = 0, **setup: object) -> tuple[Academy, State]:
        monkeypatch.setitem(SCENARIOS, "by_hand", Setup(**setup))  # type: ignore[arg-type]
        engine = Academy()
        return engine, engine.reset("by_hand", seed)

    return start


def test_the_words_are_those_of_gfootball() -> None:
    """Catches another order: the ids of replies would mean other things in the other engine."""
    assert len(ACTIONS) == 16 and ACTIONS[:8] == tuple(DIRECTIONS) and ACTIONS[8:12] == (
        "long_pass", "high_pass", "short_pass", "shot",
    )  # fmt: skip
    assert ACTIONS[12:] == ("sprint", "release_sprint", "dribble", "release_dribble")
    assert all(abs(x * x + y * y - 1.0) < 1e-12 for x, y in DIRECTIONS.values())
    assert DIRECTIONS["top_right"][0] > 0 > DIRECTIONS["top_right"][1]


def test_states_have_the_keys_of_gfootball() -> None:
    """Catches a key that one score or prompt for both engines would miss, and shapes that differ."""
    engine = Academy()
    found = engine.reset("11_vs_11", 0).as_dict()
    for key, shape in {
        "ball": (3,), "ball_direction": (3,), "left_team": (11, 2), "right_team": (11, 2), "left_team_direction": (11, 2),
        "right_team_direction": (11, 2), "left_team_tired_factor": (11,), "right_team_tired_factor": (11,),
    }.items():  # fmt: skip
        value = found[key]
        assert isinstance(value, np.ndarray) and value.shape == shape and value.dtype == np.float64, key
    assert found["score"] == [0, 0] and found["steps_left"] == 400 and found["game_mode"] == 0
    assert found["ball_owned_team"] == 0 and found["ball_owned_player"] == found["active"] == 1
    assert found["sticky_actions"] == [0] * 10 and found["left_team_roles"] == [0] + [5] * 10
    engine.step("bottom_left"), engine.step("sprint")
    assert engine.step("dribble").as_dict()["sticky_actions"] == [0] * 7 + [1, 1, 1]
    assert engine.step("release_sprint").sticky == ("bottom_left", "dribble")
    assert STICKY[7:] == ("bottom_left", "sprint", "dribble")


@pytest.mark.parametrize("scenario", ["11_vs_11", "3_vs_1_with_keeper", "micro_2_vs_1"])
def test_the_seed_is_the_whole_story(scenario: str) -> None:
    """Catches chance from anywhere else: same seed and actions, same states to the bit; another seed, another game."""
    rng = random.Random(5)
    actions = [rng.choice(ACTIONS[:8]) if rng.random() < 0.3 else None for _ in range(60)] + ["shot"]

    def game(engine: Academy, seed: int) -> list[list[object]]:
        return [bits(state) for state in played(engine, engine.reset(scenario, seed), *actions)]

    used = Academy()
    game(used, 9)
    first = game(Academy(), 4)
    assert game(used, 4) == first
    assert game(used, 5)[0] != first[0]


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_every_set_up_plays_and_ends(scenario: str) -> None:
    """Catches a set-up that stalls, runs off the pitch, or breaks down into numbers that are none."""
    engine = Academy()
    setup = SCENARIOS[scenario]
    for seed in range(12):
        rng = random.Random(seed)
        state = engine.reset(scenario, seed)
        assert state.ball_owned_team == 0 and state.has_ball and state.steps_left == setup.steps <= 400
        assert (len(state.left_team), len(state.right_team)) == (len(setup.left), len(setup.right))
        ticks = 0
        while not engine.over:
            # Mostly runs, or nothing would last long enough to go wrong.
            state = engine.step(rng.choice(ACTIONS if rng.random() < 0.05 else ACTIONS[:8]))
            ticks += 1
            for team in (state.left_team, state.right_team):
                assert (np.abs(team) <= (1.0 + 1e-9, 0.42 + 1e-9)).all()
            for value in state.as_dict().values():
                assert np.isfinite(np.asarray(value, np.float64)).all()
            assert 0 <= state.active < len(state.left_team) and state.steps_left == setup.steps - ticks
        assert engine.over in ENDS and ticks <= setup.steps
        assert (engine.over == "goal") == (state.score == (1, 0))
        assert (engine.over == "conceded") == (state.score == (0, 1))
        assert (engine.over == "stolen") == (state.ball_owned_team == 1)


def test_nobody_runs_faster_than_a_sprint() -> None:
    """Catches a player that jumps: every place is the one before plus the movement that the state tells."""
    engine = Academy()
    states = played(engine, engine.reset("counterattack_hard", 2), "sprint", "right", most=60)
    for before, after in pairwise(states):
        for team, moves in (("left_team", "left_team_direction"), ("right_team", "right_team_direction")):
            steps = getattr(after, team) - getattr(before, team)
            assert all(metres(x, y) < 0.8 for x, y in steps.tolist())
            assert np.abs(steps - getattr(after, moves)).max() < 0.02


def test_a_sprint_is_fast_and_tires(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a sprint for nothing or for ever: it is faster, tires, a tired player is slower, and rest helps."""

    def ran(*actions: str, ticks: int) -> list[State]:
        engine, state = stage(left=(at(-0.9, 0.0),))
        return played(engine, state, *actions, most=ticks)

    run, sprint, dribble = (ran(*words, "right", ticks=60)[-1] for words in ((), ("sprint",), ("dribble",)))
    assert dribble.left_team[0, 0] < run.left_team[0, 0] < sprint.left_team[0, 0]
    assert run.left_team_tired_factor[0] < 0.05 < sprint.left_team_tired_factor[0] < 0.3
    long = ran("sprint", "right", ticks=140)
    early, late = long[30], long[130]
    assert late.left_team_direction[0, 0] < early.left_team_direction[0, 0]
    engine, state = stage(left=(at(-0.5, 0.0),))
    state = played(engine, state, "sprint", "right", *["right"] * 50, *["left"] * 8, most=60)[-1]
    tired = state.left_team_tired_factor[0]
    for word in ("right", "left") * 10:  # on the spot
        state = engine.step(word)
    assert 0.0 < state.left_team_tired_factor[0] < tired


def test_a_direction_stays_in_force(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a player that stops by itself, and one that runs without being told to."""
    engine, state = stage(left=(at(0.0, 0.0),))
    assert played(engine, state, most=10)[-1].left_team[0].tolist() == [0.0, 0.0]
    engine, state = stage(left=(at(0.0, 0.0),))
    assert played(engine, state, "bottom_right", most=10)[-1].left_team[0].min() > 0.03


def test_the_ends_of_an_episode(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a goal beside the post, own goals for us, a ball that is off and played on, and a game without end."""
    ends = {}
    for name, spot, word in (
        ("goal", at(0.95, 0.0), "right"), ("conceded", at(-0.95, 0.0), "left"), ("out", at(0.95, 0.2), "right"),
        ("beside", at(0.95, 0.05), "right"), ("side", at(0.2, 0.38), "bottom"), ("top", at(0.2, -0.38), "top"),
    ):  # fmt: skip
        engine, state = stage(left=(spot,))
        ends[name] = (engine, played(engine, state, word)[-1])
    assert {name: engine.over for name, (engine, _) in ends.items()} == {
        "goal": "goal", "conceded": "conceded", "out": "out", "beside": "out", "side": "out", "top": "out",
    }  # fmt: skip
    assert ends["goal"][1].score == (1, 0) and ends["conceded"][1].score == (0, 1) and ends["beside"][1].score == (0, 0)
    engine, state = stage(left=(at(0.0, 0.0),), steps=30)
    assert played(engine, state)[-1].steps_left == 0 and engine.over == "time"
    with pytest.raises(RuntimeError, match="over"):
        engine.step(None)


def test_a_lost_ball_ends_the_episode(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches opponents that never get at a player who stands still, or that are not seen to have the ball."""
    for seed in range(10):
        engine, state = stage(seed=seed, left=(at(0.0, 0.0),), right=(at(0.15, 0.0), at(0.2, 0.1)), press=2)
        last = played(engine, state)[-1]
        assert engine.over == "stolen" and last.ball_owned_team == 1 and last.ball_owned_player in (0, 1)
        assert last.steps_left > 300


def arrivals(stage, word: str, *right: Spot) -> int:  # type: ignore[no-untyped-def]
    """Of 40 passes to a mate 24 m to the right: how many arrive."""
    count = 0
    for seed in range(40):
        engine, state = stage(seed=seed, left=(at(-0.2, 0.0), at(0.24, 0.0)), right=right, press=0)
        states = played(engine, state, "right", word, most=45)
        count += any(s.ball_owned_team == 0 and s.ball_owned_player == 1 for s in states)
    return count


def test_passes_along_the_ground_are_intercepted_and_high_ones_are_not(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a ball that rolls through people, one that is caught high in the air, and passes that go nowhere."""
    between = at(0.05, 0.0)
    assert arrivals(stage, "short_pass") >= 36
    assert arrivals(stage, "short_pass", between) <= 14
    assert arrivals(stage, "high_pass", between) >= 28
    assert arrivals(stage, "long_pass", between) >= 24


def test_the_receiver_is_controlled_and_meets_the_ball(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a pass to the mate behind, control that stays with the kicker, and a ball in the air that is none."""
    engine, state = stage(left=(at(0.0, 0.0), at(-0.3, 0.0), at(0.2, 0.2)))
    states = played(engine, state, "bottom_right", "high_pass", most=30)
    assert states[2].active == 2 and states[2].ball_owned_team == -1
    assert max(s.ball[2] for s in states) > 2.5
    assert any(s.has_ball and s.active == 2 for s in states)
    engine, state = stage(left=(at(0.0, 0.0), at(-0.3, 0.0), at(0.2, 0.2)))
    assert played(engine, state, "left", "short_pass", most=3)[2].active == 1


def test_kicks_need_the_ball(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a second kick of a ball that is on its way."""
    engine, _ = stage(left=(at(0.5, 0.0),))
    first = engine.step("shot")
    second = engine.step("shot")
    assert first.ball_owned_team == -1 and second.ball_direction[0] == pytest.approx(first.ball_direction[0])


def test_chances_go_the_right_way() -> None:
    """Catches a sign: far, pressed and oblique shots are worse, dribbling shields, a keeper reaches what is near."""
    assert spread(8.0, 0.0) < spread(20.0, 0.0) < spread(40.0, 0.0) and spread(8.0, 0.0) < spread(8.0, 1.0)
    free, dribbling, sprinting = (tackle_chance(d, s, False) for d, s in ((False, False), (True, False), (False, True)))
    assert dribbling < free < sprinting and tackle_chance(False, False, True) < free
    assert save_chance(0.2, 2.0, 0.5) > save_chance(1.8, 2.0, 0.5) > save_chance(2.1, 2.0, 0.5) == 0.0
    assert nearest(0j, 10 + 0j, 5 + 2j) == (2.0, 0.5) and nearest(0j, 10 + 0j, -3 + 4j) == (5.0, 0.0)
    assert leaving(50 + 0j, 54 + 0j) == 1.0 and leaving(54 + 0j, 54.8 + 0j) == pytest.approx(0.5)
    assert leaving(50 + 33j, 60 + 43j) == pytest.approx(0.2112)


@pytest.mark.parametrize("picture", ["grid", "full"])
def test_gymnasium_accepts_the_game(picture: str) -> None:
    """Catches an observation outside its space, a reset that ignores its seed, and a step that returns the wrong things."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The checker asks for a registered environment to try other render modes with.
        warnings.filterwarnings("ignore", message=".*render modes|.*spec")
        check_env(Football(picture=picture, render_mode="rgb_array"), skip_render_check=False)
    env = Football("micro_empty_goal", picture=picture, render_mode="rgb_array", width=320, height=180)
    seen, info = env.reset(seed=3)
    assert seen.shape == ((224, 392, 3) if picture == "grid" else (180, 320, 3))
    assert set(info) == {"state", "score", "over"} and info["score"] == 0.0 and info["over"] == ""
    again, _ = Football("micro_empty_goal", picture=picture, width=320, height=180).reset(seed=3)
    assert (seen == again).all() and (env.render() == seen).all()
    env.close()


def test_the_game_pays_for_goals_alone(stage) -> None:  # type: ignore[no-untyped-def]
    """Catches a reward for moving, a goal that pays nothing, time that counts as an end of the game."""
    for spot, word, pay in (
        (at(0.96, 0.0), "right", 1.0),
        (at(-0.96, 0.0), "left", -1.0),
        (at(0.96, 0.3), "right", 0.0),
    ):
        stage(left=(spot,))
        env = Football("by_hand", picture="grid")
        env.reset(seed=0)
        paid = []
        done = stopped = False
        while not (done or stopped):
            _, reward, done, stopped, info = env.step(ACTIONS.index(word))
            paid.append(reward)
        assert paid == [0.0] * (len(paid) - 1) + [pay] and done and not stopped
        assert info["over"] == {1.0: "goal", -1.0: "conceded", 0.0: "out"}[pay]
    stage(left=(at(0.0, 0.0),), steps=3)
    env = Football("by_hand", picture="grid")
    env.reset(seed=0)
    assert [env.step(12)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_what_cannot_be_is_said_in_a_line() -> None:
    """Catches an unknown name that is played anyway, or an error that names no alternative."""
    engine = Academy()
    with pytest.raises(RuntimeError, match="reset"):
        engine.step(None)
    with pytest.raises(ValueError, match=r"no scenario 'moon'.*11_vs_11"):
        engine.reset("moon", 0)
    engine.reset("empty_goal", 0)
    for wrong in ("jump", "", "Right"):
        with pytest.raises(ValueError, match=r"no action .*release_dribble"):
            engine.step(wrong)
    for settings, line in (
        ({"picture": "3d"}, "full, grid"), ({"scenario": "moon"}, "corner"), ({"render_mode": "human"}, "rgb_array"),
        ({"width": 20}, "at least 160"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=line) as caught:
            Football(**settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    env = Football("empty_goal", picture="grid")
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    env.reset(seed=0)
    for number in (-1, 16):
        with pytest.raises(ValueError, match=r"0 to 15 \(left"):
            env.step(number)
