"""Google Research Football behind the Engine protocol: what holds without it, and, where it is installed, the real thing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from lmm_r1.envs.football import Football
from lmm_r1.envs.football import grf_renderer as football_grf_renderer
from lmm_r1.envs.football.grf import ACTION_IDS, LEVELS, SCENARIOS, GoogleFootball, end_of, level_of, state_of
from lmm_r1.envs.football.grf_renderer import (
    NEEDED,
    SHARED,
    Renderer,
    SharedRenderer,
    brightened,
    check_size,
    libraries,
    packed,
    place,
    serve,
    unpacked,
)
from lmm_r1.envs.football.scenarios import SCENARIOS as OURS
from lmm_r1.envs.football.state import ACTIONS, ENDS, STICKY, State
from lmm_r1.envs.football.turn import run_turn
from lmm_r1.errors import EngineError, LmmR1Error

PROBE = (
    "from lmm_r1.envs.football.grf import GoogleFootball as G; e = G(); e.reset('empty_goal_close', 0); e.step('right')"
)


@lru_cache(maxsize=1)
def absent() -> str:
    """Why the real engine cannot be tested here; "" if it can. Tried in a process of its own, which it may take down."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    tried = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120, env=where)
    return "" if tried.returncode == 0 else f"does not run: {tried.stderr.strip()[-300:]}"


@pytest.fixture
def engine() -> Iterator[GoogleFootball]:
    if absent():
        pytest.skip(f"gfootball: {absent()}")
    made = GoogleFootball()
    yield made
    made.close()


# What holds without gfootball


def test_every_word_and_every_scenario_has_its_counterpart() -> None:
    """Catches an action or a set-up of ours that the real engine would refuse, and two words that mean the same to it."""
    assert set(ACTION_IDS) == set(ACTIONS)
    assert len(set(ACTION_IDS.values())) == len(ACTIONS) and 0 not in ACTION_IDS.values()
    assert set(SCENARIOS.values()) <= set(LEVELS)
    assert {name for name in OURS if not name.startswith("micro_")} <= set(SCENARIOS)
    assert level_of("corner") == level_of("academy_corner") == "academy_corner"
    assert level_of("11_vs_11") == "11_vs_11_stochastic"
    for unknown in ("micro_keeper", "../corner", ""):
        with pytest.raises(ValueError, match="11_vs_11_stochastic"):
            level_of(unknown)


def raw(**changed: Any) -> dict[str, Any]:
    """An observation as gfootball gives it."""
    found: dict[str, Any] = {
        "ball": np.array([0.7, -0.1, 0.11]),
        "ball_direction": np.zeros(3),
        "left_team": np.array([[-1.0, 0.0], [0.69, -0.1]]),
        "right_team": np.array([[1.0, 0.0]]),
        "left_team_direction": np.zeros((2, 2)),
        "right_team_direction": np.zeros((1, 2)),
        "left_team_tired_factor": np.zeros(2),
        "right_team_tired_factor": np.zeros(1),
        "left_team_roles": np.array([0, 1]),
        "right_team_roles": np.array([5]),
        "ball_owned_team": 0,
        "ball_owned_player": 1,
        "active": 1,
        "score": [0, 0],
        "steps_left": 390,
        "game_mode": 0,
        "sticky_actions": np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1], np.uint8),
    }
    return {**found, **changed}


def test_an_observation_becomes_a_state() -> None:
    """Catches a swapped field, and sticky actions that the game has no word for."""
    given_raw = raw()
    state = state_of(given_raw)
    assert state.has_ball and state.heading == "right" and state.sticky == ("right", "sprint")
    assert state.keepers == (True, False) and state.score == (0, 0) and state.steps_left == 390
    given_raw["ball"][0] = -1.0  # gfootball reuses nothing that the state holds
    assert state.ball[0] == 0.7
    shown = state.as_dict()
    for key in ("ball", "left_team", "right_team", "left_team_direction", "right_team_tired_factor"):
        assert np.array_equal(np.asarray(shown[key]), raw()[key]), key
    assert len(STICKY) == 10


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"score": [1, 0]}, "goal"),
        ({"score": [0, 1], "game_mode": 1}, "conceded"),
        ({"game_mode": 4}, "out"),
        ({"ball_owned_team": 1}, "stolen"),
        ({"steps_left": 0}, "time"),
        ({"steps_left": 0, "ball_owned_team": 1}, "time"),
        ({"steps_left": 0, "score": [1, 0]}, "goal"),
    ],
)
def test_why_an_episode_ended(changed: dict[str, Any], why: str) -> None:
    """Catches a goal that counts as the ball lost, or a match that ends in the right team's possession as stolen."""
    assert end_of(state_of(raw()), state_of(raw(**changed))) == why
    assert why in ENDS


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.binary(max_size=2000), st.integers(0, 2100))
def test_a_message_comes_out_as_it_went_in(head: dict[str, Any], body: bytes, cut: int) -> None:
    """Catches a frame that swallows a neighbour's bytes, or takes half a message for one."""
    message = packed(head, body)
    stream = io.BytesIO(message + message)
    assert unpacked(stream.read) == (head, body)
    assert unpacked(stream.read) == (head, body)
    assert unpacked(stream.read) is None
    if 0 < cut < len(message):
        with pytest.raises(EngineError, match="broke off"):
            unpacked(io.BytesIO(message[:cut]).read)


@pytest.mark.parametrize("junk", [b"\xff" * 8, packed({})[:8] + b"no", b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\1\0\0\0\0\xff"])
def test_what_is_no_message_is_refused(junk: bytes) -> None:
    """Catches a print of the C++ engine on the pipe that would be read as lengths, and gigabytes waited for."""
    with pytest.raises(EngineError, match=r"no message|no JSON|no object"):
        unpacked(io.BytesIO(junk).read)


class Painted:
    """A screen that shows what it was told."""

    def draw(self, level: str, state: bytes) -> np.ndarray:
        return np.full((64, 64, 3), state[0], np.uint8)


def test_the_process_answers_every_state() -> None:
    """Catches an answer that is missing, or brightened where the display did that."""
    for linear, value in ((False, 60), (True, 133)):
        replies = io.BytesIO()
        serve(Painted(), linear, io.BytesIO(packed({"level": "x"}, bytes([60])) * 2), replies)  # type: ignore[arg-type]
        replies.seek(0)
        assert unpacked(replies.read) == ({"ready": True}, b"")
        for _ in range(2):
            head, pixels = unpacked(replies.read) or ({}, b"")
            assert head == {"shape": [64, 64, 3]} and set(pixels) == {value}
        assert unpacked(replies.read) is None


def test_brightening_keeps_order_black_and_white() -> None:
    """Catches a curve that clips or wraps."""
    levels = brightened(np.arange(256, dtype=np.uint8).reshape(1, 256, 1)).ravel()
    assert levels[0] == 0 and levels[255] == 255 and levels.dtype == np.uint8
    assert (np.diff(levels.astype(int)) >= 0).all()


@pytest.mark.parametrize(("width", "height"), [(642, 360), (0, 0), (640, 4000), (-4, 64)])
def test_sizes_that_cannot_be_drawn(width: int, height: int) -> None:
    """Catches a width for which the engine writes rows past the end of its own memory."""
    with pytest.raises(ValueError, match="multiple of 4"):
        check_size(width, height)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback out of gfootball's import where the extra is missing."""
    libraries.cache_clear()
    monkeypatch.setattr(football_grf_renderer, "NEEDED", ("no_such_gfootball",))
    with pytest.raises(EngineError, match="no_such_gfootball") as caught:
        GoogleFootball()
    assert "lmm-r1[football]" in str(caught.value) and "docs/football.md" in str(caught.value)
    assert isinstance(caught.value, LmmR1Error) and "\n" not in str(caught.value)
    libraries.cache_clear()


def test_where_pictures_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a display that is not there, and a fallback nobody is told of."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":7")
    assert place("auto") == place("display") == "display"
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(EngineError, match="apt-get install xvfb"):
        place("xvfb")
    with pytest.raises(EngineError, match="DISPLAY"):
        place("display")
    with pytest.raises(ValueError, match="egl"):
        place("screen")
    with pytest.warns(RuntimeWarning, match="brightened"):
        assert place("auto") == "egl"
    (tmp_path / "Xvfb").write_text("#!/bin/sh\necho no screens found >&2\nexit 1\n")
    (tmp_path / "Xvfb").chmod(0o755)
    assert place("auto") == "xvfb"
    with pytest.raises(EngineError, match="no screens found"):
        Renderer(64, 64, "xvfb", start=20.0)


FAKE = """
import sys, time
from lmm_r1.envs.football.grf_renderer import packed, unpacked
read, write = sys.stdin.buffer, sys.stdout.buffer
def answer(*message):
    write.write(packed(*message))
    write.flush()
answer({"ready": True})
while (message := unpacked(read.read)) is not None:
    head, state = message
    if head["level"] == "sleep":
        time.sleep(100)
    if head["level"] == "die":
        print("Segmentation something", file=sys.stderr, flush=True)
        sys.exit(9)
    side = 32 if head["level"] == "small" else 64
    answer({"shape": [side, side, 3]}, bytes([state[-1]]) * (side * side * 3))
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """In the place of Python: a program that speaks the protocol, and draws nothing."""
    script, program = tmp_path / "fake.py", tmp_path / "python"
    script.write_text(FAKE)
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(football_grf_renderer.sys, "executable", str(program))
    return program


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process that is not waited for here is gone, or goes soon."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def process_of(renderer: Renderer) -> subprocess.Popen[bytes]:
    assert renderer._process is not None
    return renderer._process


def test_large_states_go_through_the_pipe(fake: Path) -> None:
    """Catches a deadlock on a pipe that is full, and a picture that arrives in pieces."""
    renderer = Renderer(64, 64, "egl")
    for value in (1, 200):
        frame = renderer.frame("x", b"\0" * 3_000_000 + bytes([value]))
        assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and (frame == value).all()
    pid = process_of(renderer).pid
    renderer.close()
    assert ended(pid, 0.2)
    with pytest.raises(EngineError, match="closed"):
        renderer.frame("x", b"1")


def test_a_renderer_that_fails_says_why_and_is_gone(fake: Path) -> None:
    """Catches a wait without end, a lost reason, and a process left behind."""
    for level, words in (("die", r"status 9\): Segmentation something"), ("small", "another size")):
        renderer = Renderer(64, 64, "egl")
        with pytest.raises(EngineError, match=words):
            renderer.frame(level, b"1")
        renderer.close()
    renderer = Renderer(64, 64, "egl")
    started = time.monotonic()
    with pytest.raises(EngineError, match="did not answer within 0 s"):
        renderer.frame("sleep", b"1", seconds=0.3)
    pid = process_of(renderer).pid
    renderer.close()
    assert ended(pid, 0.2) and time.monotonic() - started < 5.0
    fake.write_text("#!/bin/sh\necho the wrong library >&2\nexit 3\n")
    with pytest.raises(EngineError, match=r"status 3\): the wrong library .*docs/football.md"):
        Renderer(64, 64, "egl")
    fake.write_text("#!/bin/sh\nexec sleep 100\n")
    with pytest.raises(EngineError, match="did not answer"):
        Renderer(64, 64, "egl", start=0.3)


def test_one_renderer_for_all_and_none_when_they_are_done(fake: Path) -> None:
    """Catches a process per engine, one that outlives its users, and one that stays broken."""
    shared, first, second = SharedRenderer(), object(), object()
    kind = (64, 64, "egl")
    assert (shared.frame(first, "x", b"\5", kind) == 5).all()
    pid = process_of(shared._renderer).pid  # type: ignore[arg-type]
    shared.frame(second, "y", b"\6", kind)
    shared.release(first)
    shared.release(first)
    assert process_of(shared._renderer).pid == pid  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="status 9"):
        shared.frame(second, "die", b"1", kind)
    assert (shared.frame(second, "x", b"\7", kind) == 7).all()
    shared.release(second)
    assert shared._renderer is None


def test_a_renderer_ends_with_its_owner(fake: Path) -> None:
    """Catches a process that stays when its owner was killed: all it sees of that is the end of its input."""
    renderer = Renderer(64, 64, "egl")
    pid = process_of(renderer).pid
    renderer.let_go()
    assert ended(pid)


# Where gfootball is installed


def trace(engine: GoogleFootball, scenario: str, seed: int, ticks: int = 25) -> list[State]:
    words = ("right", "sprint", None, "short_pass", None, "top", "shot")
    states = [engine.reset(scenario, seed)]
    for tick in range(ticks):
        if engine.over:
            break
        states.append(engine.step(words[tick % len(words)]))
    return states


def places(states: list[State]) -> list[list[float]]:
    return [[*s.ball.tolist(), *s.left_team.ravel().tolist(), *s.right_team.ravel().tolist()] for s in states]


@pytest.mark.parametrize("scenario", ["3_vs_1_with_keeper", "11_vs_11"])
def test_a_seed_fixes_the_episode(engine: GoogleFootball, scenario: str) -> None:
    """Catches chance that comes from outside, or from what the recycled engine played before."""
    once = places(trace(engine, scenario, 5))
    other = GoogleFootball()
    trace(other, "counterattack_easy", 1)
    assert places(trace(engine, scenario, 6)) != once
    assert places(trace(other, scenario, 5)) == once
    assert places(trace(engine, scenario, np.int64(5))) == once  # type: ignore[arg-type]
    other.close()


@pytest.mark.parametrize("level", LEVELS)
def test_states_are_in_range(engine: GoogleFootball, level: str) -> None:
    """Catches a scenario that gfootball refuses, and coordinates in other units."""
    for state in trace(engine, level, 3, ticks=40):
        assert abs(state.ball[0]) <= 1.1 and abs(state.ball[1]) <= 0.5 and -0.5 <= state.ball[2] < 30.0
        for team, moves in (
            (state.left_team, state.left_team_direction),
            (state.right_team, state.right_team_direction),
        ):
            assert team.shape == moves.shape and np.isfinite(team).all()
            assert (np.abs(team) <= [1.15, 0.6]).all() and (np.abs(moves) <= 0.05).all()
        assert 0 <= state.active < len(state.left_team)
        assert state.ball_owned_team in (-1, 0, 1) and set(state.sticky) <= set(STICKY)


def test_the_start_is_ours(engine: GoogleFootball) -> None:
    """Catches a start that shows the keeper as the player to move, with nobody at the ball."""
    for scenario in set(OURS) & set(SCENARIOS) - {"empty_goal_close"}:
        assert engine.reset(scenario, 2).has_ball, scenario
    state = engine.reset("empty_goal_close", 2)
    assert state.active == 1 and abs(state.ball[0] - state.left_team[1][0]) < 0.05


def test_every_action_is_taken(engine: GoogleFootball) -> None:
    """Catches a word with another's number: what is sticky shows which one arrived."""
    for word in ACTIONS[:8]:
        engine.reset("11_vs_11", 1)
        assert engine.step(word).sticky == (word,)
        assert engine.step(None).heading == word
    for word in ("sprint", "dribble"):
        engine.reset("11_vs_11", 1)
        assert word in engine.step(word).sticky
        assert word not in engine.step(f"release_{word}").sticky
    state = engine.reset("pass_and_shoot_with_keeper", 1)
    for word in ("short_pass", "high_pass", "long_pass", "shot"):
        state = engine.reset("pass_and_shoot_with_keeper", 1)
        assert run_turn(engine, state, word).state.ball_owned_team != 1 or engine.over
    with pytest.raises(ValueError, match="no action"):
        engine.step("builtin_ai")


@pytest.mark.parametrize(
    ("scenario", "words", "why"),
    [
        ("empty_goal_close", ("right",), "goal"),
        ("empty_goal", ("left",), "conceded"),
        ("empty_goal_close", ("top_right",), "out"),
        ("3_vs_1_with_keeper", ("right",), "stolen"),
    ],
)
def test_an_episode_ends(engine: GoogleFootball, scenario: str, words: tuple[str, ...], why: str) -> None:
    """Catches an end without its reason, and a step behind it that would crash the engine."""
    with pytest.raises(RuntimeError, match="not started"):
        engine.step("right")
    with pytest.raises(RuntimeError, match="nothing to draw"):
        engine.frame(320, 180)
    engine.reset(scenario, 0)
    for tick in range(300):
        engine.step(words[tick % len(words)])
        if engine.over:
            break
    assert engine.over == why
    with pytest.raises(RuntimeError, match="ended"):
        engine.step("right")
    engine.reset(scenario, 0)
    assert engine.over == ""


def test_gfootball_leaves_no_second_gym(engine: GoogleFootball) -> None:
    """Catches the stand-in for the retired package staying where other code would find it."""
    engine.reset("empty_goal", 0)
    assert "gym" not in sys.modules


def test_pictures(engine: GoogleFootball) -> None:
    """Catches dark or upside-down pictures, ones of the moment before, and processes left behind."""
    engine.reset("3_vs_1_with_keeper", 1)
    frame = engine.frame(320, 180)
    assert frame.shape == (180, 320, 3) and frame.dtype == np.uint8
    red, green, blue = frame.reshape(-1, 3).mean(0)
    assert 80 < green < 180 and green > red > 40 and green > blue, "grass in daylight"
    radar = frame[140:173, 134:186].astype(int)
    assert (radar.max(-1) - radar.min(-1)).mean() < 60, "the map is at the bottom"
    other = GoogleFootball()
    other.reset("corner", 3)
    second = other.frame(320, 180)
    assert np.abs(frame.astype(int) - second).mean() > 5
    assert np.array_equal(engine.frame(320, 180), frame), "the same state, after another match"
    for _ in range(5):
        engine.step("top")
    assert not np.array_equal(engine.frame(320, 180), frame)
    renderer = SHARED._renderer
    assert renderer is not None
    pids = [process_of(renderer).pid, *([renderer._xvfb.pid] if renderer._xvfb else [])]
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(EngineError, match="status -9"):
        engine.frame(320, 180)
    engine.close()
    other.close()
    assert all(ended(pid) for pid in pids) and SHARED._renderer is None


def test_pictures_without_a_display(engine: GoogleFootball) -> None:
    """Catches the dark pictures of off-screen drawing."""
    off_screen = GoogleFootball(display="egl")
    off_screen.reset("3_vs_1_with_keeper", 1)
    red, green, blue = off_screen.frame(320, 180).reshape(-1, 3).mean(0)
    off_screen.close()
    assert 80 < green < 180 and green > red > 40 and green > blue


def test_it_is_an_engine_of_the_game(engine: GoogleFootball) -> None:
    """Catches the environment of the game meeting states that it cannot show, score or end."""
    check_env(Football(engine=engine, width=320, height=180), skip_render_check=True)
    game = Football("empty_goal_close", picture="grid", engine=engine)
    game.reset(seed=0)
    paid, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, info = game.step(ACTIONS.index("right"))
        paid, over = paid + reward, terminated or truncated
    assert paid == 1.0 and terminated and info["over"] == "goal" and info["score"] > 0
    game.close()
