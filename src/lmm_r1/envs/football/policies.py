"""Players without a model: what a number of the Football Game is compared with.

A policy looks at a state and says an action word, or None to do nothing; it is asked once per turn (turn.py) or
once per tick, and knows nothing of the engine. `idle`, `always_shoot`, `run_and_shoot` and random actions are what a
reward must not pay for; `expert` shows what can be reached: it weighs its own shot, a pass to every mate, and eight ways
to run. Leaves out: the built-in players of an engine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from lmm_r1.envs.football.state import (
    ACTIONS,
    DIRECTIONS,
    HALF_GOAL,
    HALF_LENGTH,
    HALF_WIDTH,
    METRES,
    TICK,
    Float64,
    State,
)

Policy = Callable[[State], str | None]

_LENGTH, _WIDTH, _GOAL = HALF_LENGTH * METRES[0], HALF_WIDTH * METRES[1], HALF_GOAL * METRES[1]
_TARGET = complex(_LENGTH, 0.0)
_UNITS = {word: complex(*unit) for word, unit in DIRECTIONS.items()}
#: Seconds that a run is looked ahead.
_TIMES = (0.3, 0.6, 0.9, 1.2, 1.6, 2.0)
#: Way of running -> (metres per second, chance to get past an opponent in the way).
_GAITS = {"": (5.2, 0.49), "sprint": (6.5, 0.45), "dribble": (3.6, 0.68)}
#: What room at a place is worth: from the side of the goal, per metre away, per opponent ahead.
_FLAT, _FAR, _AHEAD = 0.77, 0.01, 0.894
#: What it is worth to go on as before, to keep one's gait; what a pass must be better by; what a shot may be worse by.
_STEADY, _GAIT, _BETTER, _WORSE = 0.011, 0.05, 0.075, 0.95
#: Room that a pass along the ground needs beside it, and around the mate; chance of a pass through the air.
_LANE, _AROUND, _AIR = 2.6, 4.5, 0.45


def idle(state: State) -> None:
    """Do nothing."""


def random_action(rng: random.Random) -> Policy:
    """Any action, each as likely."""
    return lambda state: rng.choice(ACTIONS)


def always_shoot(state: State) -> str:
    """Shoot."""
    return "shot"


def run_and_shoot(state: State) -> str:
    """To the right, and shoot near the goal line."""
    return "shot" if state.has_ball and state.ball[0] > 0.82 else "right"


@dataclass(frozen=True, slots=True)
class _View:
    """A state in metres, places and movements (metres per second) as complex numbers."""

    me: complex
    speed: complex
    mates: list[complex]
    running: list[complex]
    others: list[complex]
    moving: list[complex]
    keeper: complex | None


def _complex(rows: Float64) -> list[complex]:
    return [complex(x * METRES[0], y * METRES[1]) for x, y in rows.tolist()]


def _view(state: State) -> _View:
    left, right = _complex(state.left_team), _complex(state.right_team)
    speeds = [v / TICK for v in _complex(state.left_team_direction)]
    moving = [v / TICK for v in _complex(state.right_team_direction)]
    first = 1 if state.keepers[0] else 0
    free = [n for n in range(first, len(left)) if n != state.active]
    keeper = right[0] if state.keepers[1] and right else None
    if keeper is not None:
        right, moving = right[1:], moving[1:]
    return _View(
        left[state.active],
        speeds[state.active],
        [left[n] for n in free],
        [speeds[n] for n in free],
        right,
        moving,
        keeper,
    )


def _from_line(start: complex, end: complex, place: complex) -> float:
    """Distance of a place from the way start to end; far away for what lies behind the start."""
    way = end - start
    length = abs(way)
    if length < 1e-6:
        return abs(place - start)
    along = ((place - start) * way.conjugate()).real / length
    if along < -0.5:
        return 99.0
    return abs(start + way / length * min(max(along, 0.0), length) - place)


def _promise(spot: complex, view: _View) -> float:
    """Rough chance that a shot from a place scores."""
    way = _TARGET - spot
    distance = max(abs(way), 0.5)
    # Seen from the side the goal is narrow; a shot from afar flies wide, and over the bar.
    noise = distance * (0.05 + 0.0006 * max(0.0, distance - 8.0) ** 2)
    chance = math.erf(0.7 * _GOAL * max(0.0, way.real) / distance / noise)
    chance *= math.erf(1.4 / (0.3 + 0.004 * distance * distance))
    if view.keeper is not None:
        # How far the keeper stands from the way to the better corner, in reaches.
        gap = max(_from_line(spot, _TARGET + side * 0.68j * _GOAL, view.keeper) for side in (-1.0, 1.0))
        reach = 1.15 + min(1.5, 4.0 * max(0.0, abs(view.keeper - spot) / 25.0 - 0.2))
        chance *= min(0.95, max(0.1, 1.6 * (gap / reach - 0.6)))
    blocked = sum(_from_line(spot, _TARGET, other) < 1.2 for other in view.others)
    return chance * 0.45**blocked


def _word(way: complex) -> str:
    """The direction word nearest to a way."""
    return max(_UNITS, key=lambda word: (way * _UNITS[word].conjugate()).real)


def _outlook(spot: complex, view: _View, others: list[complex]) -> float:
    """Rough chance of a goal with the ball and some room at a place, with these opponents still in play."""
    way = _TARGET - spot
    distance = max(abs(way), 0.5)
    ahead = sum(abs(_TARGET - other) < distance - 1.0 for other in others)
    angle = _FLAT + (1.0 - _FLAT) * max(0.0, way.real) / distance
    return (0.95 if view.keeper is None else 0.78) * math.exp(-_FAR * max(0.0, distance - 9.0)) * _AHEAD**ahead * angle


def _run(state: State, view: _View, pace: float, win: float) -> tuple[float, str]:
    """(worth, word) of the best run at a pace, metres per second; `win`: chance to get past one who is in the way."""
    best = (-1.0, "right")
    others = [n for n, other in enumerate(view.others) if abs(other - view.me) < 20.0]
    soon = [other + 0.25 * moving for other, moving in zip(view.others, view.moving, strict=True)]
    for word, unit in _UNITS.items():
        gone, end, chance = 0.0, view.me, 1.0
        passed: set[int] = set()
        turning = 0.15 * (view.speed - pace * unit)  # what is lost by turning
        for time in _TIMES:
            spot = view.me + unit * pace * time + turning
            wide = abs(spot.imag) > _WIDTH - 1.5 and unit.imag * spot.imag > 0.0
            if wide or (spot.real > _LENGTH - 2.0 and unit.real > 0.0 and abs(spot.imag) > 0.8 * _GOAL):
                break
            reach = 1.6 + 5.6 * max(0.0, time - 0.25)
            met = [n for n in others if n not in passed and abs(soon[n] - spot) < reach]
            passed.update(met)
            # Who is far now may do something else meanwhile.
            chance *= (1.0 - (1.0 - win) * (1.0 if time < 1.0 else 0.5)) ** min(len(met), 2)
            if view.keeper is not None and abs(view.keeper - spot) < 2.0 + 4.0 * max(0.0, time - 0.25):
                break
            gone, end = time, spot
        left = [other for n, other in enumerate(view.others) if n not in passed]
        worth = _outlook(end, view, left) * chance * (0.15 + 0.85 * min(1.0, gone / 1.2))
        best = max(best, (worth + _STEADY * (word == state.heading), word))
    return best


def _pass(view: _View) -> tuple[float, str, complex]:
    """(worth, kind of pass, way) of the best pass; the worth is the chance to arrive times what it leads to."""
    best: tuple[float, str, complex] = (0.0, "", 1 + 0j)
    others = view.others if view.keeper is None else [*view.others, view.keeper]
    for mate, running in zip(view.mates, view.running, strict=True):
        spot = mate + 0.8 * running
        distance = abs(spot - view.me)
        if not 5.0 < distance < 45.0:
            continue
        free = min((abs(other - spot) for other in others), default=99.0)
        clear = min((_from_line(view.me, spot, other) for other in others), default=99.0)
        room = _outlook(spot, view, view.others) * min(1.0, 0.4 + free / 10.0)
        room = max(room, 0.85 * _promise(spot, view))
        ground = min(0.95, max(0.05, (clear - 0.3) / _LANE)) * min(1.0, max(0.2, free / _AROUND))
        air = min(0.85, _AIR + free / 12.0) * (1.0 if distance > 15.0 else 0.5)
        far = "high_pass" if distance < 31.0 else "long_pass"
        for kind, arrives in (("short_pass", ground if distance < 28.0 else 0.5 * ground), (far, air)):
            if arrives * room > best[0]:
                best = (arrives * room, kind, mate - view.me)
    return best


def _turned(state: State, view: _View, way: complex) -> bool:
    """Whether a pass now would go that way: there is a heading, it is near the way, and much nearer to no other mate."""
    if not state.heading:
        return False
    unit = _UNITS[state.heading]

    def off(to: complex) -> float:
        return -(to * unit.conjugate()).real / max(abs(to), 1e-6)

    return off(way) < -0.8 and off(way) <= min(off(mate - view.me) for mate in view.mates) + 0.15


def expert(state: State) -> str | None:
    """The best of a shot, a pass and a run, judged by distances and speeds alone."""
    view = _view(state)
    if not state.has_ball:
        ball = complex(state.ball[0] * METRES[0], state.ball[1] * METRES[1])
        return _word(ball - view.me) if abs(ball - view.me) > 0.5 else None
    gait = "dribble" if "dribble" in state.sticky else "sprint" if "sprint" in state.sticky else ""
    runs = {name: _run(state, view, *numbers) for name, numbers in _GAITS.items()}
    # A change of gait costs time.
    chosen = max(runs, key=lambda name: runs[name][0] + _GAIT * (name == gait))
    run, word = runs[chosen]
    mine = _promise(view.me, view)
    worth, kind, way = _pass(view)
    if mine > _WORSE * max(run, worth) or abs(_TARGET - view.me) < 6.0:
        return "shot"
    if kind and worth > run + _BETTER:
        return kind if _turned(state, view, way) else _word(way)
    if chosen != gait:
        return chosen if chosen != "" and gait != "dribble" else f"release_{gait}"
    return word


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "idle": lambda rng: idle,
    "random": random_action,
    "always_shoot": lambda rng: always_shoot,
    "run_and_shoot": lambda rng: run_and_shoot,
    "expert": lambda rng: expert,
}
