"""What a game of football is worth: MageBench's shaped score, and whether the left team scored.

The shaped score is a sum over ticks, in points; a goal alone is 40 of them. It pays for getting forward, for passing
opponents and for trying, so it is no share of games won. Both work on the states of any engine.
Source: MageBench, arXiv 2412.04531 (its football agent); the code is ours. Leaves out: rewards for training.
"""

from __future__ import annotations

import math

from lmm_r1.envs.football.state import PASSES, State

#: Points of one unit.
SCALE = 20.0
FORWARD, OPPONENTS, GOAL, STEPS = 0.8, 11.0, 2.0, 400.0
PASS, DECAY = 20.0, 0.75
SHOT, MOST, NEAR = 100.0, 2.0 / 3.0, 0.3
#: How clear the way is where there is no opponent: as with one in the middle of the way, a whole unit off.
EMPTY = 1.0 / 11.0


def goal(state: State) -> bool:
    """Whether the left team scored."""
    return state.score[0] > 0


def clearness(state: State, dx: float, dy: float) -> float:
    """How free the way (dx, dy) from the ball is, in coordinates: the least d / (10 * max(cos, 0) + 1) of any opponent.

    d: its distance; cos: of the angle between the way and the opponent. EMPTY without opponents, 0 for no way.
    """
    x, y = float(state.ball[0]), float(state.ball[1])
    length = math.hypot(dx, dy)
    if length == 0.0:
        return 0.0
    best = math.inf
    for u, v in state.right_team.tolist():
        distance = math.hypot(u - x, v - y)
        cosine = ((u - x) * dx + (v - y) * dy) / (distance * length) if distance > 0.0 else 1.0
        best = min(best, distance / (10.0 * max(cosine, 0.0) + 1.0))
    return EMPTY if best == math.inf else best


def passed(state: State) -> int:
    """Opponents that are behind the ball, seen from the left team."""
    return sum(x < state.ball[0] for x in state.right_team[:, 0].tolist())


class ShapedScore:
    """MageBench's score of a game, tick by tick; `total` is the points so far.

    SCALE times the sum of: 0.8 * what the ball's x gains over its best so far, and (opponents behind the ball now - a tick
    ago) / 11, both only while the left team has the ball; 2 for a goal; 1 - steps_left / 400 when the ball is stolen
    before any shot, and nothing after that; for the k-th successful pass (k from 0) 20 * clearness * 0.75^k; for the
    first shot min(100 * clearness * distance, 2/3), where distance is 1 within 0.3 of the goal line, else max(x, 0).
    The source leaves open, and we chose: the best x starts at the ball's x of the first state; "has the ball" means
    before and after the tick; a loss of passed opponents counts, too; the goal pays once; clearness is that of the state
    before the kick, in coordinates as they are, along the ball's way for a pass and towards the goal's middle for a shot, EMPTY
    without opponents; a pass is successful when another left player is the next owner; k counts successful ones.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._best: float | None = None
        self._passes = 0
        self._pending: tuple[int, float] | None = None
        self._shot = self._scored = self._over = False

    def update(self, before: State, after: State, action: str | None) -> float:
        """The points of one tick: the states around it, and the action word in force (of the tick or of its turn)."""
        if self._best is None:
            self._best = float(before.ball[0])
        if self._over:
            return 0.0
        units = 0.0
        if before.ball_owned_team == 0 and after.ball_owned_team == 0:
            ball = float(after.ball[0])
            units += FORWARD * max(0.0, ball - self._best) + (passed(after) - passed(before)) / OPPONENTS
            self._best = max(self._best, ball)
        units += self._kicks(before, after, action)
        if goal(after) and not self._scored:
            self._scored = True
            units += GOAL
        if after.ball_owned_team == 1:
            self._over = True
            if not self._shot:
                units += 1.0 - after.steps_left / STEPS
        points = SCALE * units
        self.total += points
        return points

    def _kicks(self, before: State, after: State, action: str | None) -> float:
        """Units for a pass that arrived, and for the first shot."""
        units = 0.0
        left = before.ball_owned_team == 0
        gone = left and (after.ball_owned_team, after.ball_owned_player) != (0, before.ball_owned_player)
        if gone and action == "shot":
            self._pending = None
            if not self._shot:
                self._shot = True
                x, y = float(before.ball[0]), float(before.ball[1])
                distance = 1.0 if 1.0 - x <= NEAR else max(x, 0.0)
                units += min(SHOT * clearness(before, 1.0 - x, -y) * distance, MOST)
        elif gone and action in PASSES:
            dx, dy = (after.ball[:2] - before.ball[:2]).tolist()
            self._pending = (before.ball_owned_player, clearness(before, dx, dy))
        if self._pending is not None and after.ball_owned_team >= 0:
            passer, clear = self._pending
            self._pending = None
            if after.ball_owned_team == 0 and after.ball_owned_player != passer:
                units += PASS * clear * DECAY**self._passes
                self._passes += 1
        return units
