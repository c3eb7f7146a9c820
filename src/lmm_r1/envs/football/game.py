"""The Football Game for Gymnasium: pictures in, one of sixteen actions out, a goal pays 1.

One step is one tick of the engine; play by replies, with many ticks to a word, is turn.py. The engine is our own
(academy.py) or any other that keeps the contract of state.Engine.
Leaves out: engines, set-ups (scenarios.py), pictures (picture.py), scores (score.py), policies
(policies.py), and the turn-by-turn layer over a language model.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lmm_r1.drawing import Picture
from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.picture import GRID_SHAPE, SMALLEST, full_picture, grid_picture
from lmm_r1.envs.football.scenarios import SCENARIOS, setup_of
from lmm_r1.envs.football.score import ShapedScore
from lmm_r1.envs.football.state import ACTIONS, Engine, State

__all__ = ["ACTIONS", "PICTURES", "SCENARIOS", "Football"]

PICTURES = ("full", "grid")
RENDER_MODES = ("rgb_array",)
#: What the end of an episode pays; the others pay 0.
PAY = {"goal": 1.0, "conceded": -1.0}


class Football(gymnasium.Env[Picture, int]):
    """Actions 0 to 15 are the words of ACTIONS. Observations: uint8[H, W, 3] pictures.

    scenario: one of SCENARIOS, or of the engine's own. picture: "full" (width x height pixels; the engine's own where it
    has a renderer) or "grid" (28 pixels a cell). engine: None = our own. An episode is terminated by a goal, the ball out
    of play or lost, and truncated by time. info: "state" under gfootball's keys, "score", the shaped score so far, and
    "over", why it ended. ValueError for an unknown scenario, picture, render mode or size.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012  Gymnasium's own name

    def __init__(
        self,
        scenario: str = "3_vs_1_with_keeper",
        picture: str = "full",
        width: int = 640,
        height: int = 360,
        engine: Engine | None = None,
        render_mode: str | None = None,
    ) -> None:
        if picture not in PICTURES:
            raise ValueError(f'no picture "{picture}" (there are: {", ".join(PICTURES)})')
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f'no render mode "{render_mode}" (there are: {", ".join(RENDER_MODES)})')
        if engine is None:
            setup_of(scenario)
        if picture == "full" and (width < SMALLEST[0] or height < SMALLEST[1]):
            raise ValueError(f"{width} x {height} pixels show nothing: at least {SMALLEST[0]} x {SMALLEST[1]}")
        self.scenario, self._picture, self._size = scenario, picture, (width, height)
        self.engine: Engine = engine if engine is not None else Academy()
        self.render_mode = render_mode
        shape = GRID_SHAPE if picture == "grid" else (height, width, 3)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.state: State | None = None
        self._score = ShapedScore()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """A new episode: the instance of the scenario that belongs to the seed; without one, the next that is drawn."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        self.state = self.engine.reset(self.scenario, drawn)
        self._score = ShapedScore()
        return self._seen(self.state), self._info(self.state)

    def step(self, action: int) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """One tick. ValueError for another action than 0 to 15, RuntimeError before a reset and after the end."""
        if not 0 <= int(action) < len(ACTIONS):
            raise ValueError(f"action {action} is none of 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)})")
        if self.state is None:
            raise RuntimeError("no episode: reset starts one")
        word = ACTIONS[int(action)]
        before, self.state = self.state, self.engine.step(word)
        self._score.update(before, self.state, word)
        over = self.engine.over
        return (
            self._seen(self.state), PAY.get(over, 0.0), over not in ("", "time"), over == "time", self._info(self.state),
        )  # fmt: skip

    def render(self) -> Picture | None:  # type: ignore[override]  # Gymnasium's type wants a parameter
        """The picture of the moment."""
        return self._seen(self.state) if self.render_mode == "rgb_array" and self.state is not None else None

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _info(self, state: State) -> dict[str, Any]:
        return {"state": state.as_dict(), "score": self._score.total, "over": self.engine.over}

    def _seen(self, state: State) -> Picture:
        if self._picture == "grid":
            return grid_picture(state)
        own = self.engine.frame(*self._size)
        return full_picture(state, *self._size) if own is None else own
