"""Set-ups of the Football Game: who stands where, who has the ball, how long it lasts; every seed is another instance.

The kinds are those of gfootball's academy, placed and sized by ourselves, and small ones ("micro_") for a model that sees
fourteen by eight cells. Every set-up gives the ball to a left player, and ends with a goal, the ball out of play, the ball lost, or after its steps.
Leaves out: the rules (rules.py) and the engine (academy.py).
Source of the kinds: "Google Research Football", arXiv 1907.11180, section on the academy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lmm_r1.envs.football.state import HALF_LENGTH, HALF_WIDTH

#: Where a player may start: x, y, and how far it may be moved either way, in coordinates.
Spot = tuple[float, float, float, float]
#: Moves of a player that stands in a formation.
LOOSE = (0.03, 0.025)
STEPS = 400


@dataclass(frozen=True, slots=True)
class Setup:
    """A kind of start. left, right: spots; keepers: whether player 0 of each is one; ball: index of the left owner.

    press: how many right players go for the ball at once. steps: length in ticks, at most 400.
    """

    left: tuple[Spot, ...]
    right: tuple[Spot, ...] = ()
    keepers: tuple[bool, bool] = (False, False)
    ball: int = 0
    press: int = 1
    steps: int = STEPS


def _spots(*places: tuple[float, float], loose: tuple[float, float] = LOOSE) -> tuple[Spot, ...]:
    return tuple((x, y, *loose) for x, y in places)


_LEFT_KEEPER: Spot = (-0.97, 0.0, 0.01, 0.01)
_RIGHT_KEEPER: Spot = (0.97, 0.0, 0.01, 0.015)
SCENARIOS: dict[str, Setup] = {
    # Near the goal, nobody else.
    "empty_goal_close": Setup(left=((0.78, 0.0, 0.05, 0.08),), steps=150),
    # From the middle of the pitch, nobody else.
    "empty_goal": Setup(left=((0.05, 0.0, 0.05, 0.15),), steps=300),
    # The same with five opponents at the heels: who dawdles is caught.
    "run_to_score": Setup(
        left=((0.08, 0.0, 0.03, 0.04),),
        right=_spots((-0.1, -0.17), (-0.07, -0.08), (-0.05, 0.01), (-0.07, 0.09), (-0.1, 0.18), loose=(0.02, 0.02)),
        press=3,
        steps=300,
    ),
    # One opponent keeps the carrier busy, a free man stands on the other side.
    "pass_and_shoot_with_keeper": Setup(
        left=((0.64, 0.0, 0.03, 0.03), (0.74, -0.24, 0.03, 0.03)),
        right=(_RIGHT_KEEPER, (0.72, 0.01, 0.02, 0.02)),
        keepers=(False, True),
        steps=250,
    ),
    # The free man is in front, the opponent stays with the carrier.
    "run_pass_and_shoot_with_keeper": Setup(
        left=((0.6, 0.22, 0.03, 0.03), (0.72, -0.05, 0.03, 0.04)),
        right=(_RIGHT_KEEPER, (0.7, 0.2, 0.02, 0.03)),
        keepers=(False, True),
        steps=250,
    ),
    "3_vs_1_with_keeper": Setup(
        left=((0.62, 0.0, 0.02, 0.04), (0.7, -0.2, 0.03, 0.03), (0.7, 0.2, 0.03, 0.03)),
        right=(_RIGHT_KEEPER, (0.74, 0.0, 0.02, 0.05)),
        keepers=(False, True),
        steps=300,
    ),
    # The carrier stands at the upper corner flag; a crowd before the goal.
    "corner": Setup(
        left=(
            _LEFT_KEEPER,
            (0.975, -0.4, 0.005, 0.005),
            *_spots((0.84, -0.06), (0.88, 0.09), (0.8, 0.14), (0.76, -0.02), (0.86, -0.2), loose=(0.03, 0.03)),
            *_spots((0.55, -0.1), (0.5, 0.12), (0.1, -0.1), (0.1, 0.1)),
        ),
        right=(
            _RIGHT_KEEPER,
            *_spots((0.88, -0.06), (0.92, 0.06), (0.84, 0.11), (0.82, -0.05), (0.9, -0.14), loose=(0.02, 0.02)),
            *_spots((0.68, 0.02), (0.66, -0.14), (0.64, 0.16), (0.3, -0.1), (0.3, 0.1)),
        ),
        keepers=(True, True),
        ball=1,
        steps=300,
    ),
    # Four against two on the way, all others behind the ball.
    "counterattack_easy": Setup(
        left=(
            _LEFT_KEEPER,
            (0.22, -0.06, 0.03, 0.03),
            *_spots((0.3, 0.12), (0.34, -0.24), (0.28, 0.3)),
            *_spots((-0.4, -0.1), (-0.4, 0.1), (-0.7, -0.2), (-0.75, -0.06), (-0.75, 0.06), (-0.7, 0.2)),
        ),
        right=(
            _RIGHT_KEEPER,
            *_spots((0.5, -0.05), (0.55, 0.12)),
            *_spots((0.02, -0.1), (0.0, 0.02), (0.02, 0.14), (-0.05, -0.24), (-0.05, 0.26)),
            *_spots((-0.3, -0.1), (-0.3, 0.1), (-0.5, 0.0)),
        ),
        keepers=(True, True),
        ball=1,
    ),
    # Four against four.
    "counterattack_hard": Setup(
        left=(
            _LEFT_KEEPER,
            (0.22, -0.06, 0.03, 0.03),
            *_spots((0.3, 0.12), (0.34, -0.24), (0.28, 0.3)),
            *_spots((-0.4, -0.1), (-0.4, 0.1), (-0.7, -0.2), (-0.75, -0.06), (-0.75, 0.06), (-0.7, 0.2)),
        ),
        right=(
            _RIGHT_KEEPER,
            *_spots((0.48, -0.06), (0.54, 0.1), (0.52, -0.22), (0.56, 0.24)),
            *_spots((0.04, -0.1), (0.02, 0.02), (0.04, 0.14)),
            *_spots((-0.3, -0.1), (-0.3, 0.1), (-0.5, 0.0)),
        ),
        keepers=(True, True),
        ball=1,
    ),
    # A moment of open play: the left team has moved up, seven opponents and the keeper are behind the ball.
    "11_vs_11": Setup(
        left=(
            _LEFT_KEEPER,
            (0.2, 0.0, 0.05, 0.2),
            *_spots((0.42, -0.27), (0.48, -0.03), (0.42, 0.25), (0.14, -0.2), (0.12, 0.2), loose=(0.05, 0.05)),
            *_spots((-0.3, -0.2), (-0.36, -0.07), (-0.36, 0.07), (-0.3, 0.2)),
        ),
        right=(
            _RIGHT_KEEPER,
            *_spots((0.64, -0.22), (0.7, -0.07), (0.7, 0.08), (0.64, 0.22), loose=(0.04, 0.03)),
            *_spots((0.4, -0.14), (0.36, 0.0), (0.4, 0.14), loose=(0.04, 0.04)),
            *_spots((0.06, -0.22), (0.0, 0.0), (0.06, 0.22), loose=(0.04, 0.04)),
        ),
        keepers=(True, True),
        ball=1,
    ),
    # One attacker anywhere in the right half.
    "micro_empty_goal": Setup(left=((0.32, 0.0, 0.3, 0.3),), steps=250),
    # A defender stands between the attacker and the empty goal.
    "micro_1_vs_1": Setup(left=((0.4, 0.0, 0.12, 0.2),), right=((0.74, 0.0, 0.06, 0.1),), steps=250),
    "micro_keeper": Setup(left=((0.5, 0.0, 0.15, 0.2),), right=(_RIGHT_KEEPER,), keepers=(False, True), steps=250),
    # The carrier has a defender before it, the other man is free; no keeper.
    "micro_2_vs_1": Setup(
        left=((0.45, -0.12, 0.08, 0.05), (0.5, 0.14, 0.06, 0.06)), right=((0.66, -0.06, 0.04, 0.05),), steps=250
    ),
}


def setup_of(scenario: str) -> Setup:
    """ValueError for an unknown name."""
    if scenario not in SCENARIOS:
        raise ValueError(f"no scenario '{scenario}' (there are: {', '.join(SCENARIOS)})")
    return SCENARIOS[scenario]


def placed(spots: tuple[Spot, ...], rng: random.Random) -> list[tuple[float, float]]:
    """(x, y) of every spot, moved at random and kept on the pitch."""
    found = []
    for x, y, dx, dy in spots:
        x, y = x + rng.uniform(-dx, dx), y + rng.uniform(-dy, dy)
        found.append(
            (min(max(x, 0.005 - HALF_LENGTH), HALF_LENGTH - 0.005), min(max(y, 0.005 - HALF_WIDTH), HALF_WIDTH - 0.005))
        )
    return found
