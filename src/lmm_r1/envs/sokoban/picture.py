"""Pictures of Sokoban levels: an object a cell for small models, drawn sprites for large ones.

"grid": one shape of the 28-pixel canvas a cell, which is one token of the vision tower: gray squares are walls, brown
squares boxes, green rings targets, a green square a box on a target, a blue disc the player, a blue ring the player on
a target. "full": bricks, crates and a figure, `cell` pixels a cell. Both show the whole state: nothing hides a target.
Leaves out: pictures of other games. The sprites are our own drawings.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from lmm_r1.drawing import Canvas, Picture
from lmm_r1.envs.sokoban.level import Level

#: Largest board of a "grid" picture, columns x rows: what the micro base has learned to see.
MAX_GRID = (14, 8)

FLOOR, MORTAR, BRICK = (238, 232, 220), (120, 72, 56), (178, 100, 76)
CRATE, CRATE_EDGE, CRATE_DONE = (200, 150, 80), (110, 74, 30), (110, 170, 90)
TARGET, SKIN, SHIRT = (200, 40, 40), (250, 210, 170), (40, 90, 190)


def grid_picture(level: Level) -> Picture:
    """uint8[28 * rows, 28 * columns, 3]. ValueError for a board larger than MAX_GRID."""
    if level.width > MAX_GRID[0] or level.height > MAX_GRID[1]:
        raise ValueError(f"a board of {level.width} x {level.height} cells is too large for a grid picture")
    canvas = Canvas(level.width, level.height)
    for cell in range(level.height * level.width):
        row, column = divmod(cell, level.width)
        on = cell in level.targets
        if cell in level.walls:
            canvas.shape(column, row, "square", "gray")
        elif cell in level.boxes:
            canvas.shape(column, row, "square", "green" if on else "brown")
        elif cell == level.player:
            canvas.shape(column, row, "ring" if on else "disc", "blue")
        elif on:
            canvas.shape(column, row, "ring", "green")
    return canvas.pixels()


def full_picture(level: Level, cell: int = 48) -> Picture:
    """uint8[cell * rows, cell * columns, 3]; cell: pixels of a side, at least 8."""
    picture = np.empty((level.height * cell, level.width * cell, 3), np.uint8)
    for number in range(level.height * level.width):
        row, column = divmod(number, level.width)
        picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = _sprite(
            _kind(level, number), cell
        )
    return picture


def _kind(level: Level, cell: int) -> str:
    if cell in level.walls:
        return "wall"
    on = "_on_target" if cell in level.targets else ""
    if cell in level.boxes:
        return f"box{on}"
    if cell == level.player:
        return f"player{on}"
    return "target" if on else "floor"


@lru_cache(maxsize=64)
def _sprite(kind: str, cell: int) -> Picture:
    """uint8[cell, cell, 3]."""
    image = PillowImage.new("RGB", (cell, cell), FLOOR)
    draw = ImageDraw.Draw(image)

    def at(*shares: float) -> list[float]:
        return [share * (cell - 1) for share in shares]

    if kind == "wall":
        draw.rectangle(at(0, 0, 1, 1), fill=MORTAR)
        for row in range(3):
            for left in (-0.25, 0.25, 0.75) if row % 2 else (0.0, 0.5):
                draw.rectangle(at(max(left + 0.03, 0), row / 3 + 0.03, min(left + 0.47, 1), row / 3 + 0.3), fill=BRICK)
    if kind == "target" or kind.endswith("_on_target"):
        draw.ellipse(at(0.12, 0.12, 0.88, 0.88), outline=TARGET, width=max(2, cell // 12))
        draw.ellipse(at(0.4, 0.4, 0.6, 0.6), fill=TARGET)
    if kind.startswith("box"):
        fill = CRATE_DONE if kind.endswith("_on_target") else CRATE
        line = max(2, cell // 14)
        draw.rectangle(at(0.2, 0.2, 0.8, 0.8), fill=fill, outline=CRATE_EDGE, width=line)
        draw.line(at(0.24, 0.24, 0.76, 0.76), fill=CRATE_EDGE, width=line)
        draw.line(at(0.24, 0.76, 0.76, 0.24), fill=CRATE_EDGE, width=line)
    if kind.startswith("player"):
        draw.ellipse(at(0.36, 0.14, 0.64, 0.42), fill=SKIN, outline=(60, 40, 30))
        draw.polygon(at(0.5, 0.4, 0.78, 0.86, 0.22, 0.86), fill=SHIRT, outline=(20, 40, 90))
    return np.asarray(image, dtype=np.uint8)
