"""The players that nobody controls: where each of them wants to be, tick by tick.

Left: support in front of the ball, hold the formation behind it, run to meet a pass. Right: one or more go for the ball,
others stand between a left player and the goal, the rest shift with the ball, the keeper covers the goal's angle and comes
out when nobody else is left. Places are complex numbers in metres, as in rules.py.
Leaves out: what happens to the ball (academy.py).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lmm_r1.envs.football.rules import (
    BEATEN,
    CHASE,
    DRIBBLE,
    FAST,
    GOAL,
    GRAVITY,
    HEAVY,
    KEEP,
    LENGTH,
    MARK,
    RESTING,
    ROLL,
    RUN,
    RUN_BALL,
    RUNNING,
    RUSH,
    SPRINT,
    SPRINT_BALL,
    TARGET,
    THRUST,
    TIRING,
    WIDTH,
)
from lmm_r1.envs.football.scenarios import Setup, placed
from lmm_r1.envs.football.state import METRES, TICK

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]

#: How much of the ball's way the formations follow, along and across the pitch: left in front, left behind, right.
FRONT, BACK, LINE = (0.92, 0.25), (0.6, 0.3), (0.62, 0.6)
#: Left players that start less than this behind the ball support it, metres.
BEHIND = 22.0
#: A right player marks left players up to this far behind the ball, and at this distance, metres.
MARKED, TIGHT = 6.0, 2.8
#: Every right player this near to the ball goes for it, metres.
ENGAGE = 4.5
#: Behind who goes for the ball another right player stands at this distance from it, before the goal, metres.
COVER = 9.0
#: Ticks between two looks: at who goes for the ball, who marks whom, and where a left player would be free.
LOOK, ASSIGN, SEEK = 3, 5, 8
#: Where a left player in front looks for room around its place, metres.
ROOM = (0j, 6j, -6j, 5.0 + 0j, -5.0 + 0j)
#: Speed of a tackler that was beaten, m/s.
STUMBLE = 1.5


@dataclass(slots=True)
class World:
    """Everything that moves. Players are numbered through: left 0 to left - 1, then right.

    place, speed, want: complex[n] metres, m/s, metres; top: float[n] m/s; tired: float[n] 0 to 1. home, along, across:
    the formations: want = home + along * (ball's way in x) + across * (its way in y). owner, receiver: numbers, -1 for
    nobody. flight: "" (rolls free), "pass" or "shot"; since: ticks since the kick; away: ticks until the kicker may take
    the ball; settling: ticks for which a new owner is not tackled; dived: whether the keeper had its try. beaten: ticks
    for which a player cannot tackle. course: the active player's direction, 0 for none. spots, gaps: everybody's place
    and distance from the ball at the end of the last tick. room: a left player's step to where it is free.
    """

    setup: Setup
    rng: random.Random
    left: int
    place: Complex
    home: Complex
    along: Floats
    across: Complex
    base: Floats
    front: list[int]
    facing: list[complex]
    beaten: list[int]
    ball: complex
    origin: complex
    owner: int
    active: int
    speed: Complex = field(init=False)
    want: Complex = field(init=False)
    top: Floats = field(init=False)
    tired: Floats = field(init=False)
    spots: list[complex] = field(init=False)
    gaps: list[float] = field(init=False)
    height: float = 0.0
    roll: complex = 0j
    lift: float = 0.0
    flight: str = ""
    since: int = 0
    kicker: int = -1
    away: int = 0
    settling: int = 0
    receiver: int = -1
    dived: bool = False
    course: complex = 0j
    sprint: bool = False
    dribble: bool = False
    ticks: int = 0
    chasers: list[int] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    cover: int = -1
    room: dict[int, complex] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.speed, self.want = np.zeros_like(self.place), self.place.copy()
        self.top, self.tired = self.base.copy(), np.zeros_like(self.base)
        self.look()

    def look(self) -> None:
        """Read off where everybody is, and how far from the ball."""
        self.spots = self.place.tolist()
        self.gaps = np.abs(self.place - self.ball).tolist()


def begin(setup: Setup, rng: random.Random) -> World:
    """A start of a set-up: places drawn, and top and bottom swapped in every second one."""
    left, right = placed(setup.left, rng), placed(setup.right, rng)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    spots = [complex(x * METRES[0], flip * y * METRES[1]) for x, y in left + right]
    n = len(left)
    place = np.array(spots, np.complex128)
    owner = setup.ball
    origin = spots[owner]
    along = np.full(len(spots), LINE[0])
    across = np.full(len(spots), LINE[1])
    front = []
    for number, spot in enumerate(spots[:n]):
        ahead = spot.real > origin.real - BEHIND and not (number == 0 and setup.keepers[0])
        along[number], across[number] = FRONT if ahead else BACK
        if ahead:
            front.append(number)
    for number, there in ((0, setup.keepers[0]), (n, setup.keepers[1])):
        if there:
            along[number] = across[number] = 0.0
    base = np.array([RUN] * n + [MARK] * len(right))
    facing = [complex(1.0, 0.0)] * n + [complex(-1.0, 0.0)] * len(right)
    way = TARGET - origin
    facing[owner] = way / abs(way)
    world = World(
        setup, rng, n, place, place.copy(), along, across * 1j, base, front, facing, [0] * len(spots),
        origin + 0.5 * facing[owner], origin, owner, owner,
    )  # fmt: skip
    return world


def move(world: World) -> None:
    """A tick of running: everybody towards what it wants, no faster than it can."""
    way = world.want - world.place
    distance = np.abs(way)
    pace = world.top * (1.0 - HEAVY * world.tired)
    # Slower when nearly there; a place that is reached is left alone.
    wish = way * (np.minimum(pace, distance * 4.0) / np.maximum(distance, 1e-6))
    change = wish - world.speed
    size = np.abs(change)
    world.speed += change * (THRUST / np.maximum(size, THRUST))
    world.place += world.speed * TICK
    flat = world.place.view(np.float64)
    np.minimum(flat[0::2], LENGTH, out=flat[0::2])
    np.maximum(flat[0::2], -LENGTH, out=flat[0::2])
    np.minimum(flat[1::2], WIDTH, out=flat[1::2])
    np.maximum(flat[1::2], -WIDTH, out=flat[1::2])
    pace = np.abs(world.speed)
    world.tired += np.where(pace > FAST, TIRING, np.where(pace > 1.5, RUNNING, -RESTING))
    np.minimum(world.tired, 1.0, out=world.tired)
    np.maximum(world.tired, 0.0, out=world.tired)


def lead(world: World) -> None:
    """Tell everybody where to go."""
    way = world.ball - world.origin
    world.want = world.home + world.along * way.real + world.across * way.imag
    world.top[:] = world.base
    _left(world)
    if len(world.spots) > world.left:
        _right(world)
    _controlled(world)


def meeting(world: World, number: int) -> complex:
    """Where a player meets a loose ball: where it lands, or the nearest point of its way."""
    ball, roll = world.ball, world.roll
    if world.height > 0.0 or world.lift > 0.0:
        time = (world.lift + math.sqrt(world.lift**2 + 2.0 * GRAVITY * world.height)) / GRAVITY
        return ball + roll * time
    pace = abs(roll)
    if pace < 3.0:
        return ball + roll * 0.3
    unit = roll / pace
    ahead = ((world.spots[number] - ball) * unit.conjugate()).real
    return ball + unit * min(max(ahead, 0.3 * pace), pace * pace / (2.0 * ROLL))


def _left(world: World) -> None:
    ball, spots = world.ball, world.spots
    others = spots[world.left :]
    most = LENGTH * 0.8
    # Into the box from the wings when the ball is near the goal.
    narrow = 1.0 - 0.5 * max(0.0, (ball.real - 25.0) / 30.0)
    for number in world.front:
        want = complex(world.want[number])
        want = complex(min(want.real, most), want.imag * narrow)
        if (world.ticks + number) % SEEK == 0:
            world.room[number] = _free(want, others, ball)
        world.want[number] = want + world.room.get(number, 0j)
        world.top[number] = SPRINT * 0.86 if ball.real > spots[number].real + 2.0 else RUN
    if world.receiver >= 0 and world.owner < 0:
        world.want[world.receiver] = meeting(world, world.receiver)
        world.top[world.receiver] = SPRINT


def _free(want: complex, others: list[complex], ball: complex) -> complex:
    """The step from a place to where there is most room: far from opponents, and not on the carrier's feet."""
    best, found = -1.0, 0j
    for step in ROOM:
        spot = want + step
        if spot.real > LENGTH * 0.85 or abs(spot.imag) > WIDTH - 3.0:
            continue
        gap = min([abs(other - spot) for other in others], default=9.0)
        room = min(gap, 9.0) + min(abs(ball - spot), 9.0)
        if room > best:
            best, found = room, step
    return found


def _controlled(world: World) -> None:
    number = world.active
    if world.owner < 0 and number == world.receiver:
        return  # runs to meet the pass
    spot = world.spots[number]
    if world.course:
        world.want[number] = spot + 20.0 * world.course
    elif world.owner < 0:
        world.want[number] = meeting(world, number)
    else:
        world.want[number] = spot
    if world.owner == number:
        world.top[number] = DRIBBLE if world.dribble else SPRINT_BALL if world.sprint else RUN_BALL
    else:
        world.top[number] = SPRINT if world.sprint else RUN


def _right(world: World) -> None:
    left, spots, gaps, ball = world.left, world.spots, world.gaps, world.ball
    keeper = world.setup.keepers[1]
    first = left + 1 if keeper else left
    if world.ticks % LOOK == 0:
        free = [n for n in range(first, len(spots)) if not world.beaten[n]]
        free.sort(key=gaps.__getitem__)
        press = world.setup.press
        world.chasers = free[:press] + [n for n in free[press:] if gaps[n] < ENGAGE]
    if world.ticks % ASSIGN == 0:
        free = [n for n in range(first, len(spots)) if n not in world.chasers and not world.beaten[n]]
        point = ball + COVER
        world.cover = min(free, key=lambda n: abs(spots[n] - point), default=-1)
        world.marks = _assigned(world, [n for n in free if n != world.cover])
    for number, marked in world.marks:
        spot = spots[marked]
        way = TARGET - spot
        world.want[number] = spot + way * (TIGHT / max(abs(way), TIGHT))
    if world.cover >= 0:
        way = TARGET - ball
        world.want[world.cover] = ball + way * (min(COVER, 0.6 * abs(way)) / max(abs(way), 1e-6))
    carried = complex(world.speed[world.owner]) if world.owner >= 0 else 0j
    for number in world.chasers:
        if world.owner >= 0:
            world.want[number] = ball + carried * min(0.9, gaps[number] / 11.0)
        else:
            world.want[number] = meeting(world, number)
        world.top[number] = CHASE
    for number in range(first, len(spots)):
        if world.beaten[number]:
            world.beaten[number] -= 1
            world.top[number] = STUMBLE
    if keeper:
        _keeper(world, left)


def _assigned(world: World, free: list[int]) -> list[tuple[int, int]]:
    """(right player, left player that it marks): those nearest the goal are marked first, by who is nearest to them."""
    spots, ball = world.spots, world.ball
    start = 1 if world.setup.keepers[0] else 0
    dangerous = [n for n in range(start, world.left) if n != world.owner and spots[n].real > ball.real - MARKED]
    found = []
    for marked in sorted(dangerous, key=lambda n: -spots[n].real):
        if not free:
            break
        spot = spots[marked]
        number = min(free, key=lambda n: abs(spots[n] - spot))
        if abs(spots[number] - spot) > 25.0:
            continue
        free.remove(number)
        found.append((number, marked))
    return found


def _keeper(world: World, number: int) -> None:
    ball, spots = world.ball, world.spots
    if world.beaten[number]:
        world.beaten[number] -= 1
        world.top[number] = STUMBLE
        return
    way = ball - TARGET
    distance = max(abs(way), 1e-6)
    world.top[number] = KEEP
    if world.owner < 0:
        if world.flight == "shot" and world.roll.real > 1.0:
            if world.since < 3:  # not yet seen
                world.want[number] = spots[number]
                return
            # Along the line, to where the ball will pass.
            ahead = max(0.0, (spots[number].real - ball.real) / world.roll.real)
            y = ball.imag + world.roll.imag * ahead
            world.want[number] = complex(spots[number].real, min(max(y, -GOAL), GOAL))
            return
        point = meeting(world, number)
        nearer = all(abs(point - spots[n]) > abs(point - spots[number]) + 1.0 for n in range(world.left))
        if nearer and point.real > LENGTH - 16.0 and abs(point.imag) < 18.0:
            world.want[number] = point
            world.top[number] = RUSH
            return
    out = min(4.0, 0.8 + 0.1 * distance)
    if world.owner >= 0 and distance < 16.0:
        covered = any(abs(TARGET - spots[n]) < distance - 1.0 for n in range(world.left + 1, len(spots)))
        if not covered:
            out = max(out, 0.45 * distance)
            world.top[number] = RUSH
    world.want[number] = TARGET + way * (min(out, 0.8 * distance) / distance)


def beat(world: World, number: int) -> None:
    """A player that tried and failed stumbles for a while."""
    world.beaten[number] = BEATEN
