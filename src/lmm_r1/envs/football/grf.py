"""Google Research Football as an engine of the Football Game: the real one, an extra ("football", docs/football.md).

Play runs in this process, without pictures; pictures come from one process beside it (grf_renderer.py). An
episode is a function of the scenario, the seed and the actions. A picture is a function of the state.
The C++ engine ends its process on a fault of its own: who plays untrusted set-ups should play them in a worker.
Leaves out: our own engine (academy.py), turns, scores.
Source: "Google Research Football", arXiv 1907.11180; its package gfootball 2.10.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmm_r1.drawing import Picture
from lmm_r1.envs.football.grf_renderer import SHARED, check_size, config_of, libraries, place
from lmm_r1.envs.football.state import STICKY, Float64, State, checked

#: gfootball's scenarios that one left player can be controlled in.
LEVELS = (
    "academy_empty_goal_close",
    "academy_empty_goal",
    "academy_run_to_score",
    "academy_run_to_score_with_keeper",
    "academy_pass_and_shoot_with_keeper",
    "academy_run_pass_and_shoot_with_keeper",
    "academy_3_vs_1_with_keeper",
    "academy_corner",
    "academy_counterattack_easy",
    "academy_counterattack_hard",
    "academy_single_goal_versus_lazy",
    "11_vs_11_stochastic",
    "11_vs_11_easy_stochastic",
    "11_vs_11_hard_stochastic",
    "11_vs_11_competition",
    "11_vs_11_kaggle",
)
#: The project's names of scenarios -> gfootball's.
SCENARIOS: dict[str, str] = {
    **{level.removeprefix("academy_"): level for level in LEVELS if level.startswith("academy_")},
    "11_vs_11": "11_vs_11_stochastic",
}
#: The place of every action word in gfootball's action set "full"; it does nothing new at 0.
ACTION_IDS: dict[str, int] = {
    "left": 1,
    "top_left": 2,
    "top": 3,
    "top_right": 4,
    "right": 5,
    "bottom_right": 6,
    "bottom": 7,
    "bottom_left": 8,
    "long_pass": 9,
    "high_pass": 10,
    "short_pass": 11,
    "shot": 12,
    "sprint": 13,
    "release_sprint": 15,
    "dribble": 17,
    "release_dribble": 18,
}
IDLE = 0
#: gfootball's role of a goalkeeper.
KEEPER = 0
#: A start has nobody at the ball for some ticks, and the keeper as the player that moves: so many ticks are waited.
SETTLE = 10


def level_of(scenario: str) -> str:
    """gfootball's name of a scenario: one of ours, or its own. ValueError for what is neither."""
    if scenario in LEVELS:
        return scenario
    if scenario not in SCENARIOS:
        there = ", ".join((*SCENARIOS, *LEVELS))
        raise ValueError(f"no scenario '{scenario}' in gfootball (there are: {there})")
    return SCENARIOS[scenario]


def state_of(raw: Mapping[str, Any]) -> State:
    """A raw observation of gfootball as a State."""

    def array(key: str) -> Float64:
        return np.array(raw[key], dtype=np.float64)

    return State(
        ball=array("ball"),
        ball_direction=array("ball_direction"),
        left_team=array("left_team"),
        right_team=array("right_team"),
        left_team_direction=array("left_team_direction"),
        right_team_direction=array("right_team_direction"),
        left_team_tired_factor=array("left_team_tired_factor"),
        right_team_tired_factor=array("right_team_tired_factor"),
        ball_owned_team=int(raw["ball_owned_team"]),
        ball_owned_player=int(raw["ball_owned_player"]),
        active=int(raw["active"]),
        score=(int(raw["score"][0]), int(raw["score"][1])),
        steps_left=int(raw["steps_left"]),
        game_mode=int(raw["game_mode"]),
        # The full action set has sticky actions of its own behind those of STICKY.
        sticky=tuple(word for word, on in zip(STICKY, raw["sticky_actions"], strict=False) if on),
        keepers=(int(raw["left_team_roles"][0]) == KEEPER, int(raw["right_team_roles"][0]) == KEEPER),
    )


def end_of(before: State, after: State) -> str:
    """Why gfootball ended an episode with the tick between two states: one of ENDS."""
    if after.score[0] > before.score[0]:
        return "goal"
    if after.score[1] > before.score[1]:
        return "conceded"
    if after.game_mode != 0:
        return "out"
    return "stolen" if after.ball_owned_team == 1 and after.steps_left > 0 else "time"


class GoogleFootball:
    """The engine of gfootball (Engine). EngineError where gfootball or a library of its is not installed.

    Scenarios: SCENARIOS and LEVELS; the academy's end with a goal, the ball out, the ball lost or the time, 11 against 11
    with the time alone. An episode starts once the left team has the ball, a few ticks in. After a goal, or with the ball
    out, gfootball shows the ball where it is played next. display: where pictures are drawn, see `place`.
    Close it: the renderer lives until the last engine is closed, and takes seconds to start.
    """

    def __init__(self, display: str = "auto") -> None:
        if display != "auto":
            place(display)
        libraries()
        self.over = ""
        self._display = display
        self._level = ""
        self._match: Any = None
        self._state: State | None = None

    def reset(self, scenario: str, seed: int) -> State:
        """See Engine; seeds are taken modulo 2^31."""
        level = level_of(scenario)
        self._end_match()
        self._match = libraries().env.FootballEnv(config_of(level, int(seed) % 2**31))
        self._level, self.over = level, ""
        self._state = state_of(self._match.observation()[0])
        for _ in range(SETTLE):
            if self.over or self._state.ball_owned_team == 0:
                break
            self.step(None)
        return self._state

    def step(self, action: str | None) -> State:
        """See Engine. RuntimeError before the first reset and after the end."""
        word = checked(action)
        if self._match is None or self._state is None or self.over:
            when = f'ended ("{self.over}")' if self.over else "not started"
            raise RuntimeError(f"the episode has {when}: reset the engine first")
        raw, _, done, _ = self._match.step(IDLE if word is None else ACTION_IDS[word])
        before, self._state = self._state, state_of(raw[0])
        if done:
            self.over = end_of(before, self._state)
        return self._state

    def frame(self, width: int, height: int) -> Picture:
        """gfootball's own picture, uint8[height, width, 3].

        ValueError for a size that cannot be drawn, RuntimeError before the first reset, EngineError when the renderer
        cannot be started or is lost.
        """
        check_size(width, height)
        if self._match is None:
            raise RuntimeError("there is nothing to draw: reset the engine first")
        # Two levels down is the C++ engine: its state, with nothing packed beside it.
        state = self._match._env._env.get_state(b"")
        return SHARED.frame(self, self._level, state, (width, height, self._display))

    def close(self) -> None:
        """Lets go of the match, and of the renderer if nobody else uses it."""
        self._end_match()
        SHARED.release(self)

    def _end_match(self) -> None:
        if self._match is not None:
            self._match.close()
        self._match = self._state = None
