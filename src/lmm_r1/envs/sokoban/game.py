"""Sokoban: the game for Gymnasium, its rewards, and what a written plan is worth.

The game pays as gym-sokoban does: -0.1 a step, +1 for a box pushed onto a target, -1 for one pushed off, +10 when all are
on. `paper_reward` is the released reward of LMM-R1 to the digit; `plan_reward` is the default, which pays for solving and
for boxes brought home, and never for moves. `score` is MageBench's.
Leaves out: levels (level.py, levels.py), the solver (solver.py), pictures (picture.py),
and the turns of a language model (turns.py).
Sources: gym-sokoban (github.com/mpSchrader/gym-sokoban); arXiv 2503.07536 and its sokoban_verifier.py; MageBench, arXiv
2412.04531.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lmm_r1.drawing import CELL, Picture
from lmm_r1.envs.episode import answer_of
from lmm_r1.envs.sokoban.level import DIRECTIONS, Level, parse
from lmm_r1.envs.sokoban.levels import SIZES, generate
from lmm_r1.envs.sokoban.picture import full_picture, grid_picture
from lmm_r1.envs.sokoban.solver import solution, solve

__all__ = ["ACTIONS", "Sokoban", "paper_reward", "plan_of", "plan_reward", "progress", "score", "solve", "worth"]

ACTIONS = tuple(DIRECTIONS)
RENDER_MODES = ("rgb_array", "ansi")
STEP, ON, OFF, DONE = -0.1, 1.0, -1.0, 10.0
#: Steps of an episode of the game (gym-sokoban).
MAX_STEPS = 120
#: The released reward looks at so many actions, and takes a step that pays more than 3 for the end of the level.
PAPER_ACTIONS, PAPER_SOLVED = 50, 3.0
#: Share of the default reward for boxes brought home in a level that is not solved.
PROGRESS = 0.3
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def paid(before: Level, after: Level) -> float:
    """What the game pays for a step."""
    moved = len(after.boxes & after.targets) - len(before.boxes & before.targets)
    solved = after.solved and not before.solved  # once
    return STEP + (ON if moved > 0 else OFF if moved < 0 else 0.0) + (DONE if solved else 0.0)


class Sokoban(gymnasium.Env[Picture, int]):
    """Actions 0 to 3: up, down, left, right. Observations: uint8[H, W, 3] pictures.

    level: ASCII or a Level, played at every reset; None = one of `size` from each reset's seed. picture: "grid" (28 pixels
    a cell) or "full" (`cell` pixels a cell). An episode ends when all boxes are on targets, or after MAX_STEPS.
    DataError for a text that is no level, ValueError for an unknown size or picture.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012  Gymnasium's own name

    def __init__(
        self,
        level: str | Level | None = None,
        size: str = "small_v0",
        picture: str = "full",
        cell: int = 48,
        render_mode: str | None = None,
    ) -> None:
        if picture not in ("grid", "full"):
            raise ValueError(f'no picture "{picture}" (there are: grid, full)')
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f'no render mode "{render_mode}" (there are: {", ".join(RENDER_MODES)})')
        if cell < 8:
            raise ValueError(f"a cell of {cell} pixels shows nothing: at least 8")
        if level is None and size not in SIZES:
            raise ValueError(f"no size '{size}' (there are: {', '.join(SIZES)})")
        self._fixed = parse(level) if isinstance(level, str) else level
        self._size, self._picture, self._cell = size, picture, CELL if picture == "grid" else cell
        self.render_mode = render_mode
        height, width = (self._fixed.height, self._fixed.width) if self._fixed else SIZES[size][:2]
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = spaces.Box(0, 255, (height * self._cell, width * self._cell, 3), np.uint8)
        self.level: Level = self._fixed or generate(size, 0).level
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Picture, dict[str, Any]]:
        """A new episode; info has the level as text."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31))
        self.level = self._fixed or generate(self._size, drawn).level
        self._steps = 0
        return self._seen(), {"level": str(self.level)}

    def step(self, action: int) -> tuple[Picture, float, bool, bool, dict[str, Any]]:
        """One step; info says whether the level is solved. ValueError for another action than 0 to 3."""
        if not 0 <= int(action) < len(ACTIONS):
            raise ValueError(f"action {action} is none of 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)})")
        before = self.level
        self.level = before.move(ACTIONS[int(action)])
        self._steps += 1
        done = self.level.solved
        info = {"solved": done, "moved": self.level is not before}
        return self._seen(), paid(before, self.level), done, self._steps >= MAX_STEPS and not done, info

    def render(self) -> Picture | str | None:  # type: ignore[override]  # Gymnasium's type wants a parameter
        """The picture, or the level as text."""
        if self.render_mode == "ansi":
            return str(self.level)
        return self._seen() if self.render_mode == "rgb_array" else None

    def _seen(self) -> Picture:
        return grid_picture(self.level) if self._picture == "grid" else full_picture(self.level, self._cell)


def rewards_of(level: Level, directions: Sequence[str]) -> list[float]:
    """What the game pays for each step, up to the one that solves the level. ValueError for what is no direction."""
    odd = [direction for direction in directions if direction not in DIRECTIONS]
    if odd:
        raise ValueError(f"no direction {odd[0]!r} (there are: {', '.join(ACTIONS)})")
    found = []
    for direction in directions:
        after = level.move(direction)
        found.append(paid(level, after))
        level = after
        if level.solved:
            break
    return found


def plan_of(reply: str) -> list[str] | None:
    """The directions of a reply's answer; None unless it ends in one answer that holds nothing but directions and commas."""
    answer = answer_of(reply)
    if answer is None:
        return None
    words = [word.strip().lower() for word in answer.split(",")]
    return words if all(word in DIRECTIONS for word in words) else None


def plan_reward(level: str | Level, reply: str, most: int = PAPER_ACTIONS) -> dict[str, float]:
    """The default: {"reward", "solved", "progress", "actions"}.

    1 for a plan that solves the level; else PROGRESS times the share of boxes that stand on targets at its end and did
    not at its start, at least 0. Moves pay nothing, of a plan only the first `most` count, and what stands in the thoughts
    is no plan. A reply without a plan: all 0.
    """
    start = parse(level) if isinstance(level, str) else level
    plan = plan_of(reply)
    if plan is None:
        return {"reward": 0.0, "solved": 0.0, "progress": 0.0, "actions": 0.0}
    end = start
    for direction in plan[:most]:
        end = end.move(direction)
        if end.solved:
            break
    return {
        "reward": worth(start, end), "solved": float(end.solved), "progress": progress(start, end),
        "actions": float(len(plan)),
    }  # fmt: skip


def progress(start: Level, end: Level) -> float:
    """Share of the boxes off their targets at the start that `end` brought home, in all; at least 0."""
    away = len(start.boxes - start.targets)
    brought = len(end.boxes & end.targets) - len(start.boxes & start.targets)
    return max(0.0, brought / away) if away else 1.0


def worth(start: Level, end: Level) -> float:
    """What the default reward gives for having come from `start` to `end`: 1 when solved, else PROGRESS * progress.

    Turns are paid by differences of it, so that going in circles, and pushing a box on and off, pays nothing.
    """
    return 1.0 if end.solved else PROGRESS * progress(start, end)


def paper_reward(level: str | Level, reply: str) -> dict[str, float]:
    """The released reward, its holes included: {"reward", "task", "actions", "thinking_words"}.

    Gate: one of each tag, in any order, and only directions in the answer; else all 0. Then max(0, the best running sum
    of the game's pay over the first 50 actions, ending at a step that pays more than 3) + 0.5 + a bonus for the number of
    actions + one for the words of the thoughts.
    """
    start = parse(level) if isinstance(level, str) else level
    nothing = {"reward": 0.0, "task": 0.0, "actions": 0.0, "thinking_words": 0.0}
    if any(reply.count(tag) != 1 for tag in _TAGS):
        return nothing
    actions = [token.strip().lower() for token in reply.partition("<answer>")[2].partition("</answer>")[0].split(",")]
    if not all(action in DIRECTIONS for action in actions):
        return nothing
    best = total = 0.0
    for pay in rewards_of(start, actions[:PAPER_ACTIONS]):
        total += pay
        best = max(best, total)
        if pay > PAPER_SOLVED:
            break
    n = len(actions)
    length = 0.05 * n if n < 20 else 1.0 - 0.2 * ((n - 20) / 30) ** 2
    if repeats(actions):
        length = min(0.0, length - 0.2)
    words = sum(len(word) > 1 for word in reply.partition("<think>")[2].partition("</think>")[0].split(" "))
    reward = best + 0.5 + length + min(0.2, 0.001 * words)
    return {"reward": reward, "task": best, "actions": float(n), "thinking_words": float(words)}


def repeats(actions: Sequence[str], most: int = 7) -> bool:
    """Whether a run of 1 to 5 actions comes more than `most` times in a row."""
    for size in range(1, 6):
        for start in range(len(actions) - size):
            gram, count = actions[start : start + size], 1
            while actions[start + count * size : start + (count + 1) * size] == gram:
                count += 1
                if count > most:
                    return True
    return False


def score(level: str | Level, directions: Sequence[str]) -> float:
    """MageBench's score of a game: (best running sum of the pay - the level's upper bound) * 5 + 100.

    The bound is what a shortest solution by pushes earns, so another solution with fewer moves may pass 100.
    ValueError for a level that cannot be solved.
    """
    start = parse(level) if isinstance(level, str) else level
    found = solution(start)
    if found is None:
        raise ValueError("the level has no solution that was found: there is no bound to score against")
    return (best_sum(rewards_of(start, directions)) - best_sum(rewards_of(start, found.directions))) * 5.0 + 100.0


def best_sum(rewards: Sequence[float]) -> float:
    """The best running sum, at least 0: doing nothing is always possible."""
    return max(0.0, *np.cumsum(rewards).tolist()) if rewards else 0.0
