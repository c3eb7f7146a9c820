"""What an engine of the Football Game shows and takes: the actions, the state of play, and the engine itself.

Coordinates and names are those of Google Research Football ("gfootball"), so that one score, one picture and one prompt
serve our own engine and that one: the pitch is x in [-1, 1], y in [-0.42, 0.42], y grows downwards, the left team attacks
the goal at x = 1, |y| <= 0.044. The two axes have different units (METRES), so distances and angles that mean something
on the grass are taken in metres (`ground`). A tick is 0.1 s; movements are per tick.
Leaves out: engines (academy.py), set-ups (scenarios.py), scores, pictures and policies.
Source of the coordinates, keys and action words: the observation page of gfootball (github.com/google-research/football).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lmm_r1.drawing import Picture

Float64 = NDArray[np.float64]

#: Half the pitch and half a goal's mouth, in coordinates.
HALF_LENGTH, HALF_WIDTH, HALF_GOAL = 1.0, 0.42, 0.044
#: Metres of one unit of x, and of one unit of y.
METRES = (54.4, 83.6)
#: Seconds of a tick.
TICK = 0.1

_SLANT = math.sqrt(0.5)
#: The direction words, each with the unit vector (right, down) that it means on the grass.
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "top_left": (-_SLANT, -_SLANT),
    "top": (0.0, -1.0),
    "top_right": (_SLANT, -_SLANT),
    "right": (1.0, 0.0),
    "bottom_right": (_SLANT, _SLANT),
    "bottom": (0.0, 1.0),
    "bottom_left": (-_SLANT, _SLANT),
}
PASSES = ("long_pass", "high_pass", "short_pass")
#: The words that send the ball away.
KICKS = (*PASSES, "shot")
ACTIONS: tuple[str, ...] = (*DIRECTIONS, *KICKS, "sprint", "release_sprint", "dribble", "release_dribble")
#: What stays in force until it is released or replaced, in the order of gfootball's `sticky_actions`.
STICKY: tuple[str, ...] = (*DIRECTIONS, "sprint", "dribble")
#: Why an episode ended: the left team scored, the right one did, the ball left the pitch, the right team has it, time.
ENDS = ("goal", "conceded", "out", "stolen", "time")


def ground(dx: float, dy: float) -> tuple[float, float]:
    """A difference of coordinates in metres (right, down)."""
    return dx * METRES[0], dy * METRES[1]


def metres(dx: float, dy: float) -> float:
    """The length of a difference of coordinates, in metres."""
    return math.hypot(dx * METRES[0], dy * METRES[1])


def checked(action: str | None) -> str | None:
    """The action; ValueError for a word that is none of ACTIONS."""
    if action is not None and action not in ACTIONS:
        raise ValueError(f"no action {action!r} (there are: {', '.join(ACTIONS)})")
    return action


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """One moment of play. Nobody changes its arrays.

    ball, ball_direction: float64[3], x and y in coordinates, z in metres; movement per tick. left_team: float64[n, 2],
    right_team: float64[m, 2]; their directions are movements per tick; their tired factors float64[n] are 0 fresh to 1.
    ball_owned_team: -1 nobody, 0 left, 1 right; ball_owned_player: index in that team, -1 for nobody. active: index of
    the left player that the actions move. score: (left, right). game_mode: 0 is normal play. sticky: words of STICKY in
    force. keepers: whether player 0 of the left, the right team is its keeper (always so in gfootball).
    """

    ball: Float64
    ball_direction: Float64
    left_team: Float64
    right_team: Float64
    left_team_direction: Float64
    right_team_direction: Float64
    left_team_tired_factor: Float64
    right_team_tired_factor: Float64
    ball_owned_team: int
    ball_owned_player: int
    active: int
    score: tuple[int, int]
    steps_left: int
    game_mode: int
    sticky: tuple[str, ...]
    keepers: tuple[bool, bool] = (True, True)

    @property
    def has_ball(self) -> bool:
        """Whether the controlled player has the ball."""
        return self.ball_owned_team == 0 and self.ball_owned_player == self.active

    @property
    def heading(self) -> str:
        """The direction word in force; "" for none."""
        for word in self.sticky:
            if word in DIRECTIONS:
                return word
        return ""

    def as_dict(self) -> dict[str, object]:
        """The state under gfootball's keys: arrays, numbers, and lists where gfootball has lists."""
        return {
            "ball": self.ball,
            "ball_direction": self.ball_direction,
            "left_team": self.left_team,
            "right_team": self.right_team,
            "left_team_direction": self.left_team_direction,
            "right_team_direction": self.right_team_direction,
            "left_team_tired_factor": self.left_team_tired_factor,
            "right_team_tired_factor": self.right_team_tired_factor,
            "left_team_roles": _roles(len(self.left_team), self.keepers[0]),
            "right_team_roles": _roles(len(self.right_team), self.keepers[1]),
            "ball_owned_team": self.ball_owned_team,
            "ball_owned_player": self.ball_owned_player,
            "active": self.active,
            "score": list(self.score),
            "steps_left": self.steps_left,
            "game_mode": self.game_mode,
            "sticky_actions": [int(word in self.sticky) for word in STICKY],
        }


def _roles(players: int, keeper: bool) -> list[int]:
    """gfootball's numbers: 0 for a keeper; all others are 5, midfield."""
    return [0 if keeper and number == 0 else 5 for number in range(players)]


class Engine(Protocol):
    """A football match that takes one action a tick.

    over: "" while it runs, else one of ENDS; after that, `step` may be refused until the next `reset`.
    """

    over: str

    def reset(self, scenario: str, seed: int) -> State:
        """The start of an episode. ValueError for a scenario that the engine does not have."""
        ...

    def step(self, action: str | None) -> State:
        """One tick. None does nothing new: what is sticky goes on. ValueError for a word that is no action."""
        ...

    def frame(self, width: int, height: int) -> Picture | None:
        """The engine's own picture of the moment, uint8[height, width, 3]; None where it has no renderer."""
        ...

    def close(self) -> None:
        """Let go of what the engine holds."""
        ...
