"""The shaped score of MageBench on states made by hand, term by term, and on the academy's idle player."""

from __future__ import annotations

import numpy as np
import pytest

from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.score import ShapedScore, clearness, goal, passed
from lmm_r1.envs.football.state import State


def moment(
    ball: tuple[float, float] = (0.0, 0.0),
    owner: tuple[int, int] = (0, 1),
    right: tuple[tuple[float, float], ...] = ((0.5, 0.0), (0.7, 0.1)),
    steps_left: int = 400,
    score: tuple[int, int] = (0, 0),
) -> State:
    """Three left players; nothing of them counts but who has the ball."""
    left, others = np.zeros((3, 2)), np.array(right, np.float64).reshape(-1, 2)
    return State(
        np.array([*ball, 0.0]), np.zeros(3), left, others, left, others * 0.0, np.zeros(3), np.zeros(len(others)),
        owner[0], owner[1], 1, score, steps_left, 0, (),
    )  # fmt: skip


def test_forward_pays_only_for_a_new_best() -> None:
    """Catches a walk to and fro that is paid twice, and way made while nobody has the ball."""
    score = ShapedScore()
    assert score.update(moment((0.1, 0.0)), moment((0.2, 0.0)), "right") == pytest.approx(20 * 0.8 * 0.1)
    assert score.update(moment((0.2, 0.0)), moment((0.15, 0.0)), "left") == 0.0
    assert score.update(moment((0.15, 0.0)), moment((0.2, 0.0)), "right") == 0.0
    assert score.update(moment((0.2, 0.0)), moment((0.22, 0.0)), "right") == pytest.approx(20 * 0.8 * 0.02)
    assert score.update(moment((0.22, 0.0)), moment((0.4, 0.0), owner=(-1, -1)), None) == 0.0
    assert score.total == pytest.approx(20 * 0.8 * 0.12)


def test_the_first_position_is_no_gain() -> None:
    """Catches a game that is paid for where it begins."""
    assert ShapedScore().update(moment((0.6, 0.0)), moment((0.6, 0.0)), None) == 0.0


def test_opponents_that_are_passed() -> None:
    """Catches another divisor than 11, and a passed opponent that is paid again when it is lost and passed again."""
    score = ShapedScore()
    behind, ahead = moment((0.49, 0.0)), moment((0.51, 0.0))
    assert passed(behind) == 0 and passed(ahead) == 1 and passed(moment((0.9, 0.0))) == 2
    forward = 20 * 0.8 * 0.02
    assert score.update(behind, ahead, "right") == pytest.approx(20 / 11 + forward)
    assert score.update(ahead, behind, "left") == pytest.approx(-20 / 11)
    assert score.update(behind, ahead, "right") == pytest.approx(20 / 11)
    assert score.total == pytest.approx(20 / 11 + forward)


def test_a_goal_pays_once() -> None:
    """Catches an engine that shows the goal for several ticks and is paid for each."""
    score = ShapedScore()
    before, after = moment(owner=(-1, -1)), moment(owner=(-1, -1), score=(1, 0))
    assert goal(after) and not goal(before) and not goal(moment(score=(0, 1)))
    assert score.update(before, after, None) == 40.0
    assert score.update(after, after, None) == 0.0


def test_a_steal_ends_the_score() -> None:
    """Catches a stolen ball that pays early and late alike, or goes on paying."""
    score = ShapedScore()
    assert score.update(moment(), moment(owner=(1, 0), steps_left=300), None) == pytest.approx(20 * 0.25)
    assert score.update(moment(), moment((0.9, 0.0), score=(1, 0)), None) == 0.0


def test_no_pay_for_a_steal_after_a_shot() -> None:
    """Catches a keeper that holds a shot and pays for it."""
    score = ShapedScore()
    score.update(moment((0.9, 0.0)), moment((0.95, 0.0), owner=(-1, -1)), "shot")
    assert score.update(moment(owner=(-1, -1)), moment(owner=(1, 0), steps_left=100), None) == 0.0


def test_clearness_by_hand() -> None:
    """Catches an angle or a distance that is taken wrong: in the way, beside, behind."""
    ahead = moment(right=((0.5, 0.0),))
    assert clearness(ahead, 1.0, 0.0) == pytest.approx(0.5 / 11)
    assert clearness(ahead, 0.0, 1.0) == pytest.approx(0.5)
    assert clearness(ahead, -1.0, 0.0) == pytest.approx(0.5)
    assert clearness(ahead, 1.0, 1.0) == pytest.approx(0.5 / (10 * 0.5**0.5 + 1))
    assert clearness(moment(right=((0.5, 0.0), (0.0, 0.01))), 1.0, 0.0) == pytest.approx(0.01)
    assert clearness(moment(right=()), 1.0, 0.0) == pytest.approx(1 / 11)
    assert clearness(ahead, 0.0, 0.0) == 0.0


def test_passes_pay_less_each_time_and_only_when_they_arrive() -> None:
    """Catches passes to and fro that pay for ever, a pass to oneself, and one that is intercepted."""
    score = ShapedScore()
    one = ((0.5, 0.0),)
    start, flying = moment(right=one), moment((0.0, 0.05), owner=(-1, -1), right=one)
    arrived = moment((0.0, 0.3), owner=(0, 2), right=one)
    assert score.update(start, flying, "short_pass") == 0.0
    assert score.update(flying, arrived, None) == pytest.approx(20 * 20 * 0.5)
    clear = clearness(arrived, 0.0, -1.0)
    assert score.update(arrived, moment((0.0, 0.2), owner=(-1, -1)), "high_pass") == 0.0
    assert score.update(moment((0.0, 0.2), owner=(-1, -1)), start, None) == pytest.approx(20 * 20 * clear * 0.75)
    score.update(start, flying, "long_pass")
    assert score.update(flying, start, None) == 0.0  # back to who kicked it
    score.update(start, flying, "long_pass")
    assert score.update(flying, moment(owner=(1, 0), steps_left=400), None) == 0.0
    assert ShapedScore().update(start, moment(owner=(0, 2)), "right") == 0.0  # no pass: handed over


def test_only_the_first_shot_pays() -> None:
    """Catches shots from anywhere that pay, the cap of 2/3, and a second shot that is paid."""
    gone = moment((0.0, 0.0), owner=(-1, -1))
    assert ShapedScore().update(moment((-0.5, 0.0)), gone, "shot") == 0.0
    assert ShapedScore().update(moment((0.9, 0.0), right=((0.95, 0.0),)), gone, "shot") == pytest.approx(
        20 * 100 * 0.05 / 11
    )
    score = ShapedScore()
    far = moment((0.5, 0.0), right=((0.6, 0.0),))
    assert score.update(far, gone, "shot") == pytest.approx(20 * min(100 * 0.1 / 11 * 0.5, 2 / 3))
    assert score.update(moment((0.8, 0.0)), gone, "shot") == 0.0
    assert ShapedScore().update(moment((0.8, 0.3)), gone, "shot") == pytest.approx(20 * 2 / 3)
    assert ShapedScore().update(moment((0.8, 0.3)), moment((0.8, 0.3)), "shot") == 0.0  # asked for, not yet gone


def test_idling_is_worth_the_time_until_the_ball_is_lost() -> None:
    """Catches terms that pay a player who does nothing: all it gets is the share of the time it kept the ball."""
    engine, score = Academy(), ShapedScore()
    state = engine.reset("11_vs_11", 1)
    while not engine.over:
        before, state = state, engine.step(None)
        score.update(before, state, None)
    assert engine.over == "stolen"
    assert score.total == pytest.approx(20 * (1 - state.steps_left / 400), abs=20 * 3 / 11)
