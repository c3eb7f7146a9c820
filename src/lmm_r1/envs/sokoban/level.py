"""A Sokoban level: walls, targets, boxes and the player, and what a move does to them. Nothing is lost on the way.

The state is complete: a box may stand on a target, and so may the player, at the start as at any time. (The levels of
gym-sokoban keep one number a cell, which loses the target under the player.)
Cells are numbered row * width + column; the border is wall, so a neighbour is always one addition away.
ASCII is that of Boxoban and the XSB files: # wall, space floor, . target, $ box, * box on target, @ player, + player on
target. Leaves out: rewards (game.py), solving (solver.py), pictures (picture.py).
Source of the format: github.com/google-deepmind/boxoban-levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmm_r1.errors import DataError, Fault

#: Direction -> (rows, columns).
DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
MAX_SIDE = 64


@dataclass(frozen=True, slots=True)
class Level:
    """One position. walls, targets, boxes: cells; the border of the `height` x `width` board is wall."""

    height: int
    width: int
    walls: frozenset[int]
    targets: frozenset[int]
    boxes: frozenset[int]
    player: int

    @property
    def solved(self) -> bool:
        """Every box stands on a target."""
        return self.boxes <= self.targets

    def delta(self, direction: str) -> int:
        """What a step adds to a cell's number."""
        rows, columns = DIRECTIONS[direction]
        return rows * self.width + columns

    def move(self, direction: str) -> Level:
        """The position after a step; the same one when a wall, or a box that cannot be pushed, is in the way."""
        step = self.delta(direction)
        to = self.player + step
        if to in self.walls:
            return self
        if to not in self.boxes:
            return replace(self, player=to)
        beyond = to + step
        if beyond in self.walls or beyond in self.boxes:
            return self
        return replace(self, player=to, boxes=self.boxes - {to} | {beyond})

    def play(self, directions: Sequence[str]) -> Level:
        """The position after all of them."""
        level = self
        for direction in directions:
            level = level.move(direction)
        return level

    def __str__(self) -> str:
        """As ASCII, a line a row."""
        rows = []
        for row in range(self.height):
            cells = range(row * self.width, (row + 1) * self.width)
            rows.append("".join(self._glyph(cell) for cell in cells))
        return "\n".join(rows)

    def _glyph(self, cell: int) -> str:
        on = cell in self.targets
        if cell in self.walls:
            return "#"
        if cell in self.boxes:
            return "*" if on else "$"
        if cell == self.player:
            return "+" if on else "@"
        return "." if on else " "


def parse(text: str) -> Level:
    """A level from ASCII. Rows may be of different length, and what lies outside the walls may be open: it becomes wall.

    DataError, in one line, for another character, no or several players, another number of boxes than targets, no box,
    or a floor that the player can leave the board from.
    """
    rows = [line.rstrip() for line in text.strip("\n").splitlines()]
    if not rows or max(map(len, rows)) == 0:
        raise _wrong("is empty")
    height, width = len(rows) + 2, max(map(len, rows)) + 2
    if max(height, width) > MAX_SIDE:
        raise _wrong(f"of {height - 2} x {width - 2} cells is too large (limit: {MAX_SIDE - 2})")
    glyphs = {(r + 1) * width + c + 1: glyph for r, row in enumerate(rows) for c, glyph in enumerate(row)}
    odd = sorted(set(glyphs.values()) - set("# .$*@+-_"))
    if odd:
        raise _wrong(f"holds {odd[0]!r}; a level is written with # space . $ * @ +")
    players = [cell for cell, glyph in glyphs.items() if glyph in "@+"]
    if len(players) != 1:
        raise _wrong(f"has {len(players)} players, not one")
    solid = {cell for cell, glyph in glyphs.items() if glyph == "#"}
    targets = frozenset(cell for cell, glyph in glyphs.items() if glyph in ".*+")
    boxes = frozenset(cell for cell, glyph in glyphs.items() if glyph in "$*")
    if not boxes or len(boxes) != len(targets):
        raise _wrong(f"has {len(boxes)} boxes for {len(targets)} targets")
    inside = _reachable(players[0], solid, width, height)
    if any(cell < width or cell >= (height - 1) * width or cell % width in (0, width - 1) for cell in inside):
        raise _wrong("is open: the player can walk out of it")
    if not boxes | targets <= inside:
        raise _wrong("has a box or a target that the player can never come near")
    walls = frozenset(set(range(height * width)) - inside)
    return _trimmed(Level(height, width, walls, targets, boxes, players[0]))


def read_levels(path: Path) -> list[Level]:
    """The levels of a file: blocks of ASCII rows with blank lines or lines of other text between, as Boxoban and XSB have
    them. DataError, with its line, for a block that is no level, and for a file without any."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(Fault(f"cannot be read: {error}", file=str(path))) from None
    levels: list[Level] = []
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip() and "#" in line and not set(line) - set("# .$*@+-_"):
            block.append(line)
        elif block:
            try:
                levels.append(parse("\n".join(block)))
            except DataError as error:
                row = number - len(block)
                raise DataError(Fault(error.faults[0].message, file=str(path), row=row)) from None
            block = []
    if not levels:
        raise DataError(Fault("holds no Sokoban level", file=str(path)))
    return levels


def _wrong(what: str) -> DataError:
    return DataError(Fault(f"the Sokoban level {what}"))


def _reachable(start: int, solid: set[int], width: int, height: int) -> set[int]:
    """Cells that the player could come to if no box stood in the way."""
    seen, waiting = {start}, [start]
    while waiting:
        cell = waiting.pop()
        for step in (1, -1, width, -width):
            to = cell + step
            if 0 <= to < width * height and to not in solid and to not in seen:
                seen.add(to)
                waiting.append(to)
    return seen


def _trimmed(level: Level) -> Level:
    """Without the rows and columns of wall around the border that the parser added."""
    inside = [cell for cell in range(level.height * level.width) if cell not in level.walls]
    rows, columns = [c // level.width for c in inside], [c % level.width for c in inside]
    top, left = min(rows) - 1, min(columns) - 1
    height, width = max(rows) - top + 2, max(columns) - left + 2

    def moved(cells: frozenset[int]) -> frozenset[int]:
        return frozenset(place(cell) for cell in cells)

    def place(cell: int) -> int:
        return (cell // level.width - top) * width + cell % level.width - left

    kept = moved(frozenset(inside))
    walls = frozenset(range(height * width)) - kept
    return Level(height, width, walls, moved(level.targets), moved(level.boxes), place(level.player))
