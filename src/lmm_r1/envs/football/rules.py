"""The numbers and the chances of our own football: speeds, shots, passes, tackles, interceptions, saves.

Everything here is in metres, seconds and metres per second. A place or a movement is one complex number, right + down *
1j, with the middle of the pitch at 0; the left team's goal to shoot at lies at x = 54.4. The numbers are our own; they were
set so that who shoots from anywhere, or acts at random, rarely scores, and who gets near or finds the free man often does.
Leaves out: who moves where (scripts.py) and the course of a tick (academy.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from lmm_r1.envs.football.state import HALF_GOAL, HALF_LENGTH, HALF_WIDTH, METRES

LENGTH, WIDTH, GOAL = HALF_LENGTH * METRES[0], HALF_WIDTH * METRES[1], HALF_GOAL * METRES[1]
#: Height of the bar.
BAR = 2.44
TARGET = complex(LENGTH, 0.0)

#: Top speeds: free, free and sprinting, then with the ball.
RUN, SPRINT, RUN_BALL, SPRINT_BALL, DRIBBLE = 5.6, 7.4, 5.2, 6.7, 3.6
#: Of the right team: after the ball, marking, the keeper at its line and coming out.
CHASE, MARK, KEEP, RUSH = 6.0, 5.0, 4.2, 5.6
#: Change of speed per tick.
THRUST = 0.9
#: Top speed lost by a player that is wholly tired; tiredness gained per tick at a sprint, at a run; lost at rest.
HEAVY, TIRING, RUNNING, RESTING = 0.35, 0.0026, 0.0003, 0.001
#: From this speed on a player sprints.
FAST = 5.75

#: The ball before its owner's feet: running, dribbling.
TOUCH, CLOSE = 0.7, 0.4
#: Slowing of a rolling ball per second; gravity; share of its speed that a ball keeps when it lands.
ROLL, GRAVITY, BOUNCE = 3.5, 9.8, 0.55
#: Height up to which a player gets at the ball, and a keeper with its hands.
HEAD, HANDS = 1.9, 2.5
#: Distance from which a player takes a ball: a mate, an opponent, an opponent when it is shot, a tackle.
TAKE, CUT, BLOCK, TACKLE = 1.4, 1.0, 0.7, 1.3
SHOT_SPEED = 25.0
#: The distance that each pass is made for, metres.
SUITS = {"short_pass": 14.0, "high_pass": 24.0, "long_pass": 38.0}
#: Ticks in which the kicker cannot take the ball again; a beaten tackler cannot try again; a new owner is not tackled.
AWAY, BEATEN, SETTLE = 6, 16, 4


def spread(distance: float, pressure: float) -> float:
    """Standard deviation of a shot's direction, in radians.

    distance: to the goal's middle, metres; grows slowly at first and quickly from some 20 m on. pressure: 0 to 1.
    """
    return 0.05 + 0.0006 * max(0.0, distance - 8.0) ** 2 + 0.08 * pressure


def shot(ball: complex, keeper: complex | None, pressure: float, rng: random.Random) -> tuple[complex, float]:
    """(velocity on the ground, upward speed) of a shot at the goal at TARGET.

    Aimed between the post and the middle on the side that the keeper leaves open, or at the middle of an empty goal.
    """
    aim = TARGET
    if keeper is not None:
        # The side on which more of the goal is open, as seen from the ball.
        way = TARGET - ball
        side = ((keeper - ball) * way.conjugate()).imag
        aim += complex(0.0, -math.copysign(0.68 * GOAL, side))
    way = aim - ball
    distance = abs(way)
    noise = spread(abs(TARGET - ball), pressure)
    angle = rng.gauss(0.0, noise)
    unit = way / max(distance, 1e-6) * complex(math.cos(angle), math.sin(angle))
    height = abs(rng.gauss(0.5, 0.3 + 0.004 * distance * distance))
    flight = max(distance, 1.0) / SHOT_SPEED
    return unit * SHOT_SPEED, height / flight + 0.5 * GRAVITY * flight


def receiver(word: str, ball: complex, heading: complex, mates: Sequence[tuple[int, complex]]) -> int:
    """Index of the mate that a pass goes to, -1 for nobody: near the heading, at a distance that suits the pass.

    mates: (index, place). heading: unit vector. Nobody more than 75 degrees off the heading gets the ball.
    """
    best, found = math.inf, -1
    for index, place in mates:
        way = place - ball
        distance = abs(way)
        if distance < 1.5 or distance > (32.0 if word == "short_pass" else 65.0):
            continue
        turn = math.acos(max(-1.0, min(1.0, (way * heading.conjugate()).real / distance)))
        if turn > 1.31:
            continue
        cost = turn / 0.35 + abs(distance - SUITS[word]) / 15.0
        if cost < best:
            best, found = cost, index
    return found


def passed(
    word: str, ball: complex, aim: complex, running: complex, pressure: float, rng: random.Random
) -> tuple[complex, float]:
    """(velocity on the ground, upward speed) of a pass to `aim`, which moves with velocity `running`."""
    distance = abs(aim - ball)
    if word == "short_pass":
        speed = math.sqrt(36.0 + 2.0 * ROLL * distance)
        time = (speed - 6.0) / ROLL
    else:
        # A long pass is lower and quicker than a high one.
        time = max(0.7, distance / 17.0) if word == "long_pass" else max(1.3, distance / 13.0)
        speed = distance / time
    way = aim + 0.8 * running * time - ball
    if word != "short_pass":
        speed = abs(way) / time
    angle = rng.gauss(0.0, (0.025 if word == "short_pass" else 0.035) + 0.06 * pressure)
    unit = way / max(abs(way), 1e-6) * complex(math.cos(angle), math.sin(angle))
    return unit * speed, 0.0 if word == "short_pass" else 0.5 * GRAVITY * time


def tackle_chance(dribbling: bool, sprinting: bool, behind: bool) -> float:
    """Chance that a tackler within reach wins the ball."""
    return max(0.08, 0.66 - 0.34 * dribbling + 0.12 * sprinting - 0.25 * behind)


def leaving(start: complex, end: complex) -> float:
    """Share of the way start to end at which a ball leaves the pitch; 1 when it does not."""
    share = 1.0
    for here, there, edge in ((start.real, end.real, LENGTH), (start.imag, end.imag, WIDTH)):
        if abs(there) > edge and there != here:
            share = min(share, max(0.0, (math.copysign(edge, there) - here) / (there - here)))
    return share


def nearest(start: complex, end: complex, place: complex) -> tuple[float, float]:
    """(distance of a place from the way start to end, share of the way at which it is nearest)."""
    way = end - start
    length = (way * way.conjugate()).real
    share = 0.0 if length < 1e-12 else min(1.0, max(0.0, ((place - start) * way.conjugate()).real / length))
    return abs(start + share * way - place), share


def cut_chance(speed: float) -> float:
    """Chance per tick that an opponent in reach stops a ball of this speed."""
    return 0.9 if speed < 7.0 else max(0.35, 0.9 - 0.04 * (speed - 7.0))


def stretch(time: float) -> float:
    """How far a keeper reaches so long after the shot, seconds: it needs a moment to react, then dives."""
    return 1.15 + min(1.5, 4.0 * max(0.0, time - 0.2))


def save_chance(gap: float, reach: float, height: float) -> float:
    """Chance that a keeper stops a shot that passes it at distance `gap`, with its reach, at a height."""
    if gap > reach or height > HANDS:
        return 0.0
    return max(0.3, 0.95 - 0.4 * gap / reach - 0.1 * (height > 1.8))


def pressing(distance: float) -> float:
    """How hard an opponent at this distance makes a kick, 0 to 1."""
    return min(1.0, max(0.0, (4.0 - distance) / 3.0))
