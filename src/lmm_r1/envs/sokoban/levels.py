"""Sokoban levels from a seed: carved rooms, boxes pulled away from their targets, each proved solvable with its exact
difficulty.

The room is a random walk of wide steps; the boxes start on the targets and are pulled at random (reverse play), so a
solution is known to exist, and the solver then says how many pushes the shortest one takes. As in gym-sokoban's levels,
neither the player nor a box starts on a target, so a picture of the start shows everything.
Leaves out: files of other people's levels (level.parse reads them).
Source of the idea and of the sizes: gym-sokoban (github.com/mpSchrader/gym-sokoban); the code is ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lmm_r1.envs.sokoban.level import DIRECTIONS, Level
from lmm_r1.envs.sokoban.solver import Solution, solution

#: name -> (height, width, boxes): the sizes of gym-sokoban, and those of the micro model.
SIZES = {
    "micro_5x5": (5, 5, 1),
    "micro_5x6": (5, 6, 1),
    "micro_6x6": (6, 6, 1),
    "micro_7x7": (7, 7, 1),
    "small_v0": (7, 7, 2),
    "small_v1": (7, 7, 3),
    "v0": (10, 10, 3),
    "v1": (10, 10, 4),
    "v2": (10, 10, 5),
    "large_v0": (11, 13, 3),
    "large_v1": (11, 13, 4),
    "large_v2": (11, 13, 5),
    "huge_v0": (13, 13, 5),
}
TRIES = 2000
#: Positions that the solver looks at before a drawn level is thrown away.
NODES = 20_000
_STEPS = tuple(DIRECTIONS)


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A level and the proof that it can be solved."""

    level: Level
    solution: Solution

    @property
    def pushes(self) -> int:
        """Its difficulty: the pushes of a shortest solution."""
        return self.solution.pushes


def generate(size: str, seed: int, least: int = 1, most: int | None = None, longest: int | None = None) -> Puzzle:
    """A puzzle of a size whose shortest solution takes `least` to `most` pushes (None = any number), and at most `longest`
    moves, walks included.

    The same seed gives the same puzzle. ValueError for an unknown size, and when no such level is found in TRIES draws.
    """
    if size not in SIZES:
        raise ValueError(f"no size '{size}' (there are: {', '.join(SIZES)})")
    height, width, boxes = SIZES[size]
    rng = random.Random(f"sokoban/{size}/{seed}/{least}/{most}")
    for _ in range(TRIES):
        level = _draw(rng, height, width, boxes, most)
        if level is None:
            continue
        found = solution(level, NODES)
        if found is None or found.pushes < least or (most is not None and found.pushes > most):
            continue
        if longest is None or len(found.moves) <= longest:
            return Puzzle(level, found)
    raise ValueError(f"no level of size {size} with {least} to {most} pushes in {TRIES} draws")


def puzzles(size: str, seed: int, least: int = 1, most: int | None = None) -> Iterator[Puzzle]:
    """Endless distinct puzzles."""
    seen: set[str] = set()
    number = 0
    while True:
        puzzle = generate(size, seed * 1_000_003 + number, least, most)
        number += 1
        if (text := str(puzzle.level)) not in seen:
            seen.add(text)
            yield puzzle


def _draw(rng: random.Random, height: int, width: int, boxes: int, most: int | None) -> Level | None:
    """A room with its boxes pulled away from the targets; None when this draw does not work out."""
    floor = _room(rng, height, width)
    if len(floor) < 2 * boxes + 3:
        return None
    places = sorted(floor)
    targets = frozenset(rng.sample(places, boxes))
    player = rng.choice([cell for cell in places if cell not in targets])
    walls = frozenset(range(height * width)) - floor
    level = Level(height, width, walls, targets, targets, player)
    pulls = rng.randint(2 * boxes, 10 * boxes) if most is None else rng.randint(1, 2 * most + 1)
    level = _pulled(rng, level, pulls)
    level = _wandered(rng, level)
    return None if level.boxes & targets or level.player in targets else level


def _room(rng: random.Random, height: int, width: int) -> frozenset[int]:
    """Floor: what a walker with wide feet trod on. The border stays wall."""
    floor: set[int] = set()
    row, column = rng.randint(1, height - 2), rng.randint(1, width - 2)
    feet = rng.choice((((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (0, 1), (1, 0)), ((0, 0), (0, 1), (1, 0), (1, 1))))
    heading = rng.choice(_STEPS)
    for _ in range(int(1.7 * (height + width))):
        floor.update(
            (row + r) * width + column + c
            for r, c in feet
            if 1 <= row + r <= height - 2 and 1 <= column + c <= width - 2
        )
        if rng.random() < 0.35:
            heading = rng.choice(_STEPS)
        down, right = DIRECTIONS[heading]
        row, column = min(max(row + down, 1), height - 2), min(max(column + right, 1), width - 2)
    return frozenset(floor)


def _pulled(rng: random.Random, level: Level, pulls: int) -> Level:
    """Reverse play: walk to a box and pull it, `pulls` times, away from the targets where it can be."""
    boxes, player = set(level.boxes), level.player
    last = None
    for _ in range(pulls):
        area = _area(level, player, boxes)
        choices = []
        for box in sorted(boxes):
            for direction in _STEPS:
                step = level.delta(direction)
                # The player stands beside the box and steps back: both cells must be free.
                if box + step in area and box + 2 * step not in level.walls and box + 2 * step not in boxes:
                    choices.append((box, step))
        if not choices:
            break
        forward = [c for c in choices if c != last] or choices  # straight back is no progress
        box, step = rng.choice(forward)
        boxes.remove(box)
        boxes.add(box + step)
        player, last = box + 2 * step, (box + step, -step)
    return Level(level.height, level.width, level.walls, level.targets, frozenset(boxes), player)


def _wandered(rng: random.Random, level: Level) -> Level:
    """The player somewhere else that it can walk to, on no target."""
    places = sorted(_area(level, level.player, set(level.boxes)) - level.targets)
    player = rng.choice(places) if places else level.player
    return Level(level.height, level.width, level.walls, level.targets, level.boxes, player)


def _area(level: Level, player: int, boxes: set[int]) -> set[int]:
    """Where the player can walk."""
    seen, waiting = {player}, [player]
    while waiting:
        cell = waiting.pop()
        for step in (1, -1, level.width, -level.width):
            to = cell + step
            if to not in seen and to not in level.walls and to not in boxes:
                seen.add(to)
                waiting.append(to)
    return seen
