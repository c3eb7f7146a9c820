"""Our own football engine: a small match seen from above, one tick of 0.1 s at a time.

`Academy` takes the actions of gfootball for one left player: directions, sprint and dribble stay in force until they are
replaced or released; passes and shots act at once, and only with the ball. The controlled player is the owner, else the
one that a pass goes to, else the one nearest the ball; a player that a pass goes to runs to meet it whatever the
direction, and without a direction a controlled player goes for a free ball by itself. An episode ends with a goal, the
ball off the pitch, the ball taken by the right team, or when its steps are over. There is no offside, and right players
never play the ball: with it in their hands the episode has ended.
Same scenario, seed and actions: the same states to the bit. Leaves out: numbers (rules.py), who runs where
(scripts.py), set-ups (scenarios.py), pictures (picture.py).
"""

from __future__ import annotations

import random

import numpy as np

from lmm_r1.drawing import Picture
from lmm_r1.envs.football.rules import (
    AWAY,
    BAR,
    BLOCK,
    BOUNCE,
    CLOSE,
    CUT,
    GOAL,
    GRAVITY,
    HANDS,
    HEAD,
    LENGTH,
    ROLL,
    SETTLE,
    TACKLE,
    TAKE,
    TOUCH,
    WIDTH,
    cut_chance,
    leaving,
    nearest,
    passed,
    pressing,
    receiver,
    save_chance,
    shot,
    stretch,
    tackle_chance,
)
from lmm_r1.envs.football.scenarios import setup_of
from lmm_r1.envs.football.scripts import World, beat, begin, lead, move
from lmm_r1.envs.football.state import DIRECTIONS, METRES, TICK, State, checked

_COURSE = {word: complex(*unit) for word, unit in DIRECTIONS.items()}
_SCALE = np.array(METRES)
_STEP = np.array(METRES) / TICK


class Academy:
    """An engine (state.Engine) without a renderer. `over` is "time" until the first reset."""

    def __init__(self) -> None:
        self.over = "time"
        self._world: World | None = None
        self._heading = ""
        self._sticky: tuple[str, ...] = ()
        self._score = (0, 0)
        self._left = 0

    def reset(self, scenario: str, seed: int) -> State:
        """The start of an episode. ValueError for an unknown scenario."""
        setup = setup_of(scenario)
        self._world = begin(setup, random.Random(f"football/{scenario}/{seed}"))
        self.over, self._heading, self._sticky, self._score, self._left = "", "", (), (0, 0), setup.steps
        return self._state(self._world)

    def step(self, action: str | None) -> State:
        """One tick. ValueError for a word that is no action, RuntimeError when the episode is over."""
        world = self._world
        checked(action)
        if self.over or world is None:
            raise RuntimeError(f"the episode is over ({self.over}): reset starts another")
        if action is not None:
            self._order(world, action)
        lead(world)
        move(world)
        world.ticks += 1
        if world.owner >= 0:
            self._carry(world)
        else:
            self._fly(world)
        self._left -= 1
        if not self.over:
            world.look()
            world.active = _controlled(world)
            if self._left <= 0:
                self.over = "time"
        return self._state(world)

    def frame(self, width: int, height: int) -> Picture | None:
        """None: picture.full_picture draws the states."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""

    def _order(self, world: World, action: str) -> None:
        if action in _COURSE:
            world.course, self._heading = _COURSE[action], action
        elif action.endswith("sprint"):
            world.sprint = action == "sprint"
        elif action.endswith("dribble"):
            world.dribble = action == "dribble"
        elif world.owner == world.active:
            _kick(world, action)
            return
        words = [self._heading] if self._heading else []
        self._sticky = (*words, *(["sprint"] if world.sprint else []), *(["dribble"] if world.dribble else []))

    def _carry(self, world: World) -> None:
        """The ball goes with its owner; opponents within reach tackle."""
        number = world.owner
        speed = complex(world.speed[number])
        pace = abs(speed)
        if pace > 0.5:
            world.facing[number] = speed / pace
        before = world.ball
        spot = complex(world.place[number])
        world.ball = spot + world.facing[number] * (CLOSE if world.dribble else TOUCH)
        world.roll = (world.ball - before) / TICK
        world.height = 0.0
        if self._ended(world, before, world.ball, 0.0, 0.0):
            return
        world.settling = max(0, world.settling - 1)
        if world.settling:
            return
        for other in range(world.left, len(world.spots)):
            if world.gaps[other] > TACKLE + 3.0 or world.beaten[other]:
                continue
            place = complex(world.place[other])
            gap = min(abs(place - world.ball), abs(place - spot))
            keeper = other == world.left and world.setup.keepers[1]
            if gap > TACKLE + 0.3 * keeper:
                continue
            behind = ((place - spot) * world.facing[number].conjugate()).real < -0.2
            chance = tackle_chance(world.dribble, world.sprint, behind)
            if world.rng.random() < (max(chance, 0.7) if keeper else chance):
                self._lost(world, other)
                return
            beat(world, other)

    def _fly(self, world: World) -> None:
        """The free ball goes on; whoever gets at it first takes it."""
        world.since += 1
        world.away = max(0, world.away - 1)
        before, low = world.ball, world.height
        world.ball = before + world.roll * TICK
        if low > 0.0 or world.lift > 0.0:
            world.lift -= GRAVITY * TICK
            world.height = low + (world.lift + 0.5 * GRAVITY * TICK) * TICK
            if world.height <= 0.0:
                world.height = 0.0
                world.lift = -0.4 * world.lift if world.lift < -4.0 else 0.0
                world.roll *= BOUNCE
        else:
            pace = abs(world.roll)
            world.roll *= max(0.0, 1.0 - ROLL * TICK / max(pace, 1e-6))
        taker = _taker(world, before, low)
        if taker < 0:
            self._ended(world, before, world.ball, low, world.height)
        elif taker < world.left:
            world.owner, world.receiver, world.flight = taker, -1, ""
            world.settling = SETTLE
            world.height = world.lift = 0.0
            way = world.ball - complex(world.place[taker])
            world.facing[taker] = way / abs(way) if abs(way) > 0.3 else world.facing[taker]
            world.ball = complex(world.place[taker]) + world.facing[taker] * CLOSE
        else:
            self._stopped(world, taker)

    def _stopped(self, world: World, number: int) -> None:
        """A right player got at the free ball: it keeps it, or a shot bounces off."""
        if world.flight == "shot" and world.rng.random() < (0.3 if number == world.left else 0.5):
            rng = world.rng
            world.roll = complex(-rng.uniform(1.0, 5.0), rng.choice((-1.0, 1.0)) * rng.uniform(2.0, 8.0))
            world.flight, world.height, world.lift, world.since = "", 0.0, 0.0, 0
            beat(world, number)
            return
        self._lost(world, number)

    def _lost(self, world: World, number: int) -> None:
        world.owner, world.receiver, world.flight = number, -1, ""
        world.ball = complex(world.place[number]) + world.facing[number] * CLOSE
        world.height = world.lift = 0.0
        self.over = "stolen"

    def _ended(self, world: World, before: complex, after: complex, low: float, high: float) -> bool:
        """Whether the ball left the pitch on its way, and how; low, high: its heights before and after."""
        share = leaving(before, after)
        if abs(after.real) <= LENGTH and abs(after.imag) <= WIDTH:
            return False
        line = before + share * (after - before)
        self.over = "out"
        if abs(line.imag) < GOAL and low + share * (high - low) < BAR:
            ours = after.real < 0.0
            self.over, self._score = ("conceded", (0, 1)) if ours else ("goal", (1, 0))
        return True

    def _state(self, world: World) -> State:
        n = world.left
        place = world.place.view(np.float64).reshape(-1, 2) / _SCALE
        speed = world.speed.view(np.float64).reshape(-1, 2) / _STEP
        tired = world.tired.copy()
        owner = world.owner
        ball, roll = world.ball, world.roll
        return State(
            np.array((ball.real / METRES[0], ball.imag / METRES[1], world.height)),
            np.array((roll.real / METRES[0] * TICK, roll.imag / METRES[1] * TICK, world.lift * TICK)),
            place[:n],
            place[n:],
            speed[:n],
            speed[n:],
            tired[:n],
            tired[n:],
            -1 if owner < 0 else int(owner >= n),
            owner - n if owner >= n else owner,
            world.active,
            self._score,
            self._left,
            0,
            self._sticky,
            world.setup.keepers,
        )


def _controlled(world: World) -> int:
    """Number of the left player that the actions move."""
    if world.owner >= 0:
        return world.owner
    if world.receiver >= 0:
        return world.receiver
    first = 1 if world.setup.keepers[0] and world.left > 1 else 0
    gaps = world.gaps[first : world.left]
    return first + gaps.index(min(gaps))


def _kick(world: World, action: str) -> None:
    """The owner sends the ball away."""
    owner, left, ball = world.owner, world.left, world.ball
    spots = world.spots
    pressed = pressing(min(world.gaps[left:], default=99.0))
    world.kicker, world.away, world.owner, world.since, world.dived = owner, AWAY, -1, 0, False
    if action == "shot":
        keeper = spots[left] if world.setup.keepers[1] else None
        world.roll, world.lift = shot(ball, keeper, pressed, world.rng)
        world.flight, world.receiver = "shot", -1
    else:
        heading = world.course or world.facing[owner]
        first = 1 if world.setup.keepers[0] else 0
        mates = [(n, spots[n]) for n in range(first, left) if n != owner]
        world.receiver = receiver(action, ball, heading, mates)
        aim, running = ball + heading * (14.0 if action == "short_pass" else 28.0), 0j
        if world.receiver >= 0:
            aim, running = spots[world.receiver], complex(world.speed[world.receiver])
        world.roll, world.lift = passed(action, ball, aim, running, pressed, world.rng)
        world.flight = "pass"


def _taker(world: World, before: complex, low: float) -> int:
    """Number of who gets at the free ball on its way of this tick, before it leaves the pitch; -1 for nobody."""
    pace, shooting = abs(world.roll), world.flight == "shot"
    if world.flight == "pass" and world.lift > 0.0:
        return -1  # on its way up, over everybody
    share_out = leaving(before, world.ball)
    after, high = before + share_out * (world.ball - before), low + share_out * (world.height - low)
    reach = abs(world.ball - before) + 4.0
    takers: list[tuple[float, float, int]] = []
    for number, gap in enumerate(world.gaps):
        if gap > reach or (number == world.kicker and world.away):
            continue
        near, share = nearest(before, after, complex(world.place[number]))
        height = low + share * (high - low)
        if number < world.left:
            # Mates leave a shot alone.
            taken = near < TAKE and height < HEAD and not (shooting and pace > 9.0)
        elif number > world.left or not world.setup.keepers[1]:
            close = near < (BLOCK if shooting else TAKE if low > 0.3 else CUT) and height < HEAD
            taken = close and world.rng.random() < cut_chance(pace)
        elif world.beaten[number]:
            taken = False
        elif not shooting:
            taken = near < TAKE + 0.3 and height < HANDS
        else:
            # A keeper dives once, when the ball passes it.
            taken = False
            if not world.dived and (share < 1.0 or share_out < 1.0 or near < 0.4):
                world.dived = True
                time = (world.since - 1 + share * share_out) * TICK
                taken = world.rng.random() < save_chance(near, stretch(time), height)
        if taken:
            takers.append((share, near, number))
    return min(takers)[2] if takers else -1
