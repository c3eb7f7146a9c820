"""Pictures of football: everybody is seen, no mark means two things, and the controlled player never hides."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from lmm_r1.drawing import CELL, Canvas
from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.picture import GRID, MARKS, cell_of, full_picture, grid_marks, grid_picture, pixel
from lmm_r1.envs.football.scenarios import SCENARIOS
from lmm_r1.envs.football.state import ACTIONS, State

ME = "controlled player with the ball"


def scene(
    left: tuple[tuple[float, float], ...] = ((0.3, 0.1),),
    right: tuple[tuple[float, float], ...] = (),
    ball: tuple[float, float, float] = (0.3, 0.1, 0.0),
    owner: tuple[int, int] = (0, 0),
    keepers: tuple[bool, bool] = (False, True),
    **more: object,
) -> State:
    """A state by hand; left player 0 is controlled."""
    ours, theirs = np.array(left, np.float64), np.array(right, np.float64).reshape(-1, 2)
    state = State(
        np.array(ball), np.zeros(3), ours, theirs, ours * 0.0, theirs * 0.0, np.zeros(len(ours)), np.zeros(len(theirs)),
        *owner, 0, (0, 0), 400, 0, (), keepers,
    )  # fmt: skip
    return dataclasses.replace(state, **more)  # type: ignore[arg-type]


def states() -> list[State]:
    """Moments of all set-ups, from games at random."""
    found = []
    for seed, scenario in enumerate(SCENARIOS):
        engine, rng = Academy(), random.Random(seed)
        found.append(engine.reset(scenario, seed))
        while not engine.over:
            state = engine.step(rng.choice(ACTIONS))
            if state.steps_left % 7 == 0 or engine.over:
                found.append(state)
    return found


def test_a_full_picture_shows_every_player() -> None:
    """Catches a player that is not drawn, in the other team's colour, or elsewhere."""
    spots = (-0.9, -0.5, -0.1, 0.3, 0.6, 0.95)
    state = scene(
        left=tuple((x, -0.3) for x in spots), right=tuple((x, 0.3) for x in spots), ball=(0.0, 0.0, 0.0), owner=(-1, -1)
    )
    for width, height in ((640, 360), (320, 180), (1280, 720)):
        shown = full_picture(state, width, height)
        assert shown.shape == (height, width, 3) and shown.dtype == np.uint8
        for (x, y), blue in [((x, -0.3), True) for x in spots] + [((x, 0.3), False) for x in spots]:
            column, row = pixel(x, y, width, height)
            red, _, azure = shown[row, column].astype(int).tolist()
            assert (azure > 150 and red < 90) if blue else (red > 150 and azure < 90), (x, y, width)
        column, row = pixel(0.0, 0.0, width, height)
        assert shown[row, column].min() > 230  # the ball


def changed(one: State, other: State) -> int:
    """Pixels in which the pictures of two states differ."""
    return int((full_picture(one) != full_picture(other)).any(axis=2).sum())


def test_a_full_picture_tells_apart_what_matters() -> None:
    """Catches what cannot be seen: who is controlled, the ball's height, who is keeper, the way of a run, time, score."""
    state = scene(left=((0.1, 0.1), (-0.3, -0.2)), right=((0.9, 0.0), (0.5, 0.0)), ball=(0.4, 0.2, 0.0), owner=(-1, -1))
    for other, least in (
        (dataclasses.replace(state, active=1), 100), (dataclasses.replace(state, ball=np.array([0.4, 0.2, 5.0])), 60),
        (dataclasses.replace(state, keepers=(False, False)), 20), (dataclasses.replace(state, steps_left=300), 20),
        (dataclasses.replace(state, left_team_direction=np.full((2, 2), 0.01)), 30),
        (dataclasses.replace(state, score=(1, 0)), 20), (dataclasses.replace(state, score=(0, 1)), 20),
    ):  # fmt: skip
        assert changed(state, other) >= least
    high = full_picture(dataclasses.replace(state, ball=np.array([0.4, 0.2, 6.0])))
    column, row = pixel(0.4, 0.2)
    assert high[row, column].max() < 110  # its shadow
    assert high[: row - 10, column].min(axis=1).max() > 230  # the ball above
    assert (full_picture(state) == full_picture(state)).all()
    full_picture(state)[:] = 0  # a picture is its caller's own
    assert full_picture(state).any()


def test_the_grid_puts_each_thing_in_its_cell() -> None:
    """Catches a column or row that is off by one, at the edges above all."""
    assert cell_of(0.0, -0.42) == (0, 0) and cell_of(1.0, 0.42) == (12, 7) and cell_of(0.5, 0.0) == (6, 4)
    assert cell_of(0.999, -0.001) == (12, 3) and cell_of(-0.4, 0.5) == (0, 7)
    state = scene(
        left=((0.5, 0.0), (0.7, 0.3), (-0.2, 0.0)), right=((0.97, 0.0), (0.6, -0.2), (-0.1, 0.1)), ball=(0.5, 0.0, 0.0)
    )
    assert grid_marks(state) == {
        (6, 4): ME, (9, 6): "team mate", (12, 4): "opponents' keeper", (7, 2): "opponent", (13, 3): "goal", (13, 4): "goal",
    }  # fmt: skip
    shown = grid_picture(state)
    assert shown.shape == (GRID[1] * CELL, GRID[0] * CELL, 3) == (224, 392, 3) and shown.dtype == np.uint8
    canvas = Canvas(*GRID)
    for (column, row), mark in grid_marks(state).items():
        canvas.shape(column, row, *MARKS[mark])
    assert (shown == canvas.pixels()).all()


def test_no_mark_means_two_things() -> None:
    """Catches two kinds of objects that look alike."""
    assert len(set(MARKS.values())) == len(MARKS)
    patches = set()
    for look in MARKS.values():
        canvas = Canvas(1, 1)
        canvas.shape(0, 0, *look)
        patches.add(canvas.pixels().tobytes())
    assert len(patches) == len(MARKS)


def test_every_mark_can_be_seen() -> None:
    """Catches a mark that no state brings about, and a stronger one that is hidden by a weaker."""
    right = ((0.97, 0.0), (0.6, -0.2))
    mate = ((0.5, 0.0), (0.7, 0.3))
    seen: set[str] = set()
    for state in (
        scene(mate, right), scene(mate, right, (0.8, -0.2, 0.0), (-1, -1)), scene(mate, right, (0.51, 0.01, 0.0), (-1, -1)),
        scene(mate, right, owner=(1, 0)), scene(mate, right, owner=(1, 1)), scene(mate, right, owner=(0, 1)),
    ):  # fmt: skip
        seen |= set(grid_marks(state).values())
    assert seen == set(MARKS)
    crowd = ((0.5, 0.0),) * 2
    assert grid_marks(scene(crowd, crowd))[6, 4] == ME
    assert grid_marks(scene(crowd, crowd, owner=(1, 0)))[6, 4] == "controlled player without the ball"
    away = ((0.1, 0.0), (0.5, 0.0))
    assert grid_marks(scene(away, crowd, (0.5, 0.0, 0.0), (-1, -1)))[6, 4] == "free ball"
    assert grid_marks(scene(away, crowd))[6, 4] == "opponents' keeper"
    assert grid_marks(scene(away, crowd, keepers=(False, False)))[6, 4] == "opponent"
    assert grid_marks(scene(away, (), (1.02, 0.01, 0.5), (-1, -1)))[13, 4] == "free ball"  # in the net


def test_the_controlled_player_never_hides() -> None:
    """Catches a picture in which a model looks for itself in vain: in the left half, in a crowd, at the end."""
    for state in [*states(), scene(((-0.7, 0.2),)), scene(((-0.7, 0.2), (0.0, 0.2)), owner=(0, 1))]:
        marks = grid_marks(state)
        mine = [cell for cell, mark in marks.items() if mark.startswith("controlled")]
        assert mine == [cell_of(*state.left_team[state.active].tolist())]
        if state.ball_owned_team == 0 and state.ball_owned_player == state.active:
            assert marks[mine[0]] == ME


def test_a_picture_of_nothing_is_refused() -> None:
    """Catches pictures too small to read."""
    with pytest.raises(ValueError, match="at least 160 x 90"):
        full_picture(scene(), 159, 90)
