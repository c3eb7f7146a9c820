"""Shortest solutions of Sokoban levels, in pushes: A* over (boxes, where the player can walk), with deadlocks cut off.

A level's difficulty is the number of pushes of such a solution; it is exact, since the estimate (the cheapest pairing of
boxes with targets, each distance that of a box alone on the board) never exceeds it.
Sets of cells are the bits of one integer: flooding the player's area is a handful of shifts.
Leaves out: solutions shortest in moves.
Source: A* with dead squares and frozen boxes is the standard of the field (sokobano.de/wiki).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush

from lmm_r1.envs.sokoban.level import Level, parse

LETTERS = {"up": "u", "down": "d", "left": "l", "right": "r"}
WORDS = {letter: word for word, letter in LETTERS.items()}
#: Positions looked at before a level is given up.
NODES = 400_000


@dataclass(frozen=True, slots=True)
class Solution:
    """`moves`: the standard notation u d l r, upper case where a box is pushed. `pushes`: the fewest there are."""

    moves: str
    pushes: int
    nodes: int

    @property
    def directions(self) -> tuple[str, ...]:
        """The moves as words."""
        return tuple(WORDS[letter] for letter in self.moves.lower())


def solve(ascii: str, nodes: int = NODES) -> str | None:
    """Moves (u d l r, upper case for pushes) that solve a level with the fewest pushes; None when there are none, or when
    `nodes` positions did not suffice. DataError when the text is no level."""
    found = solution(parse(ascii), nodes)
    return None if found is None else found.moves


def solution(level: Level, nodes: int = NODES) -> Solution | None:
    """As `solve`, of a level."""
    return _Search(level).run(nodes)


def dead_cells(level: Level) -> frozenset[int]:
    """Cells from which no box ever comes to a target again, such as corners: a box there has lost the level."""
    dead = _Search(level).dead
    return frozenset(c for c in range(level.height * level.width) if dead >> c & 1 and c not in level.walls)


class _Search:
    """One search: what is fixed over it, and the queue."""

    def __init__(self, level: Level) -> None:
        self.level, self.width = level, level.width
        self.steps = tuple(level.delta(direction) for direction in LETTERS)
        self.walls = _bits(level.walls)
        self.floor = (1 << level.height * level.width) - 1 & ~self.walls
        self.targets = tuple(sorted(level.targets))
        self.target_bits = _bits(level.targets)
        self.distances = self._distances()
        self.dead = _bits(
            cell for cell in range(level.height * level.width) if not any(cell in d for d in self.distances)
        )
        self.blocks = self._blocks()
        self.estimate = lru_cache(maxsize=1 << 18)(self._estimate)

    def _distances(self) -> list[dict[int, int]]:
        """Of each target: cell -> fewest pushes that bring a box from there to it, with no other box on the board."""
        found = []
        for target in self.targets:
            distance, waiting = {target: 0}, deque([target])
            while waiting:
                cell = waiting.popleft()
                for step in self.steps:  # a box pulled from `cell` to `to`: the player stands one further
                    to, player = cell - step, cell - 2 * step
                    if to not in distance and to not in self.level.walls and player not in self.level.walls:
                        distance[to] = distance[cell] + 1
                        waiting.append(to)
            found.append(distance)
        return found

    def _blocks(self) -> dict[int, tuple[int, ...]]:
        """Cell -> the four squares of 2 x 2 cells that it is a corner of, as bits."""
        w = self.width
        corners = (0, -1, -w, -w - 1)
        return {
            cell: tuple(sum(1 << cell + c + d for d in (0, 1, w, w + 1)) for c in corners)
            for cell in range(self.level.height * w)
            if cell not in self.level.walls
        }

    def _estimate(self, boxes: tuple[int, ...]) -> int | None:
        """The cheapest pairing of boxes with targets, pushes; None when a box can reach no target that is left."""
        best = {0: 0}
        for box in boxes:
            following: dict[int, int] = {}
            for taken, cost in best.items():
                for k, distance in enumerate(self.distances):
                    if not taken >> k & 1 and box in distance:
                        key, total = taken | 1 << k, cost + distance[box]
                        if total < following.get(key, 1 << 30):
                            following[key] = total
            best = following
        return min(best.values(), default=None)

    def area(self, player: int, boxes: int) -> int:
        """Where the player can walk, as bits."""
        free, w = self.floor & ~boxes, self.width
        area, grown = 0, 1 << player
        while grown != area:
            area = grown
            grown = (area | area << 1 | area >> 1 | area << w | area >> w) & free
        return area

    def stuck(self, box: int, boxes: int) -> bool:
        """Whether the push that brought a box here made the level unsolvable: it is frozen, and not all it freezes is on
        targets."""
        solid = boxes | self.walls
        for block in self.blocks[box]:
            if block & solid == block and block & boxes & ~self.target_bits:
                return True
        frozen = self._frozen(box, boxes, self.walls)
        return bool(frozen & ~self.target_bits)

    def _frozen(self, box: int, boxes: int, walls: int) -> int:
        """The boxes (bits) that can never move again if `box` cannot, itself included; 0 when it can."""
        walls |= 1 << box  # for its neighbours it is a wall: it moves only if one of them does
        held = 1 << box
        for step in (1, self.width):
            near, far = 1 << box + step, 1 << box - step
            if walls & (near | far):
                continue
            if self.dead & near and self.dead & far:
                continue
            for side, cell in ((near, box + step), (far, box - step)):
                if boxes & side and (more := self._frozen(cell, boxes, walls)):
                    held |= more
                    break
            else:
                return 0
        return held

    def run(self, nodes: int) -> Solution | None:
        """The search."""
        start, player = tuple(sorted(self.level.boxes)), self.level.player
        first = self.estimate(start)
        if first is None:
            return None
        # (estimate of the whole, -pushes so far: the deeper first among equals, tie-break, boxes, player)
        queue = [(first, 0, 0, start, player)]
        came: dict[tuple[tuple[int, ...], int], tuple[tuple[tuple[int, ...], int], int, int] | None] = {}
        best = {(start, player): 0}
        parent: dict[tuple[tuple[int, ...], int], tuple[tuple[tuple[int, ...], int], int, int]] = {}
        count = looked = 0
        while queue:
            _, depth, _, boxes, player = heappop(queue)
            bits = _bits(boxes)
            area = self.area(player, bits)
            key = (boxes, (area & -area).bit_length())
            if key in came:
                continue
            came[key] = parent.get((boxes, player))
            if not bits & ~self.target_bits:
                return self._told(boxes, player, parent, looked)
            looked += 1
            if looked > nodes:
                return None
            for at, box in enumerate(boxes):
                for step in self.steps:
                    to = box + step
                    if not area >> box - step & 1 or (self.walls | bits | self.dead) >> to & 1:
                        continue
                    moved = tuple(sorted((*boxes[:at], to, *boxes[at + 1 :])))
                    pushes = 1 - depth
                    if pushes >= best.get((moved, box), 1 << 30):
                        continue
                    left = self.estimate(moved)
                    if left is None or self.stuck(to, bits & ~(1 << box) | 1 << to):
                        continue
                    best[moved, box] = pushes
                    parent[moved, box] = ((boxes, player), box, step)
                    count += 1
                    heappush(queue, (pushes + left, -pushes, count, moved, box))
        return None

    def _told(
        self,
        boxes: tuple[int, ...],
        player: int,
        parent: dict[tuple[tuple[int, ...], int], tuple[tuple[tuple[int, ...], int], int, int]],
        looked: int,
    ) -> Solution:
        """The moves that led here, walks between the pushes included."""
        state, pushes = (boxes, player), []
        while state in parent:
            before, box, step = parent[state]
            pushes.append((before, box, step))
            state = before
        moves = []
        for (stood, at), box, step in reversed(pushes):
            moves.append(self._walk(at, box - step, _bits(stood)))
            moves.append(self._letter(step).upper())
        return Solution("".join(moves), len(pushes), looked)

    def _walk(self, start: int, end: int, boxes: int) -> str:
        """A shortest walk of the player."""
        free = self.floor & ~boxes
        came, waiting = {start: (start, 0)}, deque([start])
        while end not in came:
            cell = waiting.popleft()
            for step in self.steps:
                to = cell + step
                if free >> to & 1 and to not in came:
                    came[to] = (cell, step)
                    waiting.append(to)
        letters = []
        while end != start:
            end, step = came[end]
            letters.append(self._letter(step))
        return "".join(reversed(letters))

    def _letter(self, step: int) -> str:
        return next(letter for word, letter in LETTERS.items() if self.level.delta(word) == step)


def _bits(cells: object) -> int:
    total = 0
    for cell in cells:  # type: ignore[attr-defined]
        total |= 1 << cell
    return total
