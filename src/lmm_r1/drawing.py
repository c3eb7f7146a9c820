"""A canvas of 28-pixel cells: every label glyph lies inside one cell, lines go where they like.

The vision tower of Qwen2.5-VL merges 2 x 2 patches of 14 pixels into one token, so one cell is one
token; a micro model learns to read such pictures in minutes and did not learn free placement.
Coordinates are (column, row) in cells; floats are positions, integers name cells. Synthetic problems and games draw on it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

#: uint8[H, W, 3], RGB.
Picture = NDArray[np.uint8]
CELL = 28

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 88, 190),
    "yellow": (240, 200, 30),
    "orange": (250, 130, 20),
    "purple": (140, 70, 190),
    "pink": (240, 130, 190),
    "brown": (130, 80, 50),
    "gray": (140, 140, 140),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}
INKS = ((20, 20, 20), (20, 40, 120), (110, 20, 20), (20, 80, 40))
SHAPES = ("disc", "ring", "square", "triangle", "diamond", "cross")


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow without FreeType cannot draw the pictures"
    return font


class Canvas:
    """A picture of cols x rows cells."""

    def __init__(self, cols: int, rows: int, background: tuple[int, int, int] = (255, 255, 255)) -> None:
        self.cols, self.rows = cols, rows
        self._image = PillowImage.new("RGB", (cols * CELL, rows * CELL), background)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, col: int, row: int, text: str, ink: tuple[int, int, int] = (20, 20, 20)) -> None:
        """Write left to right, a glyph a cell; `text` must fit into the row."""
        if not (0 <= row < self.rows and col >= 0 and col + len(text) <= self.cols):
            raise ValueError(f"'{text}' at ({col}, {row}) leaves the {self.cols} x {self.rows} canvas")
        for k, glyph in enumerate(text):
            centre = ((col + k) * CELL + CELL / 2, row * CELL + CELL / 2)
            if glyph == "°":
                x, y = (col + k) * CELL, row * CELL
                self._draw.ellipse((x + 2, y + 3, x + 10, y + 11), outline=ink, width=2)
            else:
                self._draw.text(centre, glyph, fill=ink, font=_font(24), anchor="mm")

    def line(self, *points: tuple[float, float], ink: tuple[int, int, int] = (20, 20, 20), width: int = 2) -> None:
        """A polyline through points in cells."""
        self._draw.line([(x * CELL, y * CELL) for x, y in points], fill=ink, width=width)

    def polygon(
        self, *points: tuple[float, float], ink: tuple[int, int, int], fill: tuple[int, int, int] | None
    ) -> None:
        """A closed outline, filled or not."""
        pixels = [(x * CELL, y * CELL) for x, y in points]
        if fill is not None:
            self._draw.polygon(pixels, fill=fill)
        self._draw.line([*pixels, pixels[0]], fill=ink, width=2)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        ink: tuple[int, int, int] = (20, 20, 20),
        fill: tuple[int, int, int] | None = None,
    ) -> None:
        """An upright rectangle."""
        self._draw.rectangle((x0 * CELL, y0 * CELL, x1 * CELL - 1, y1 * CELL - 1), outline=ink, fill=fill, width=2)

    def circle(
        self,
        x: float,
        y: float,
        radius: float,
        ink: tuple[int, int, int] = (20, 20, 20),
        fill: tuple[int, int, int] | None = None,
        width: int = 2,
    ) -> None:
        """A circle with its centre and radius in cells."""
        edges = ((x - radius) * CELL, (y - radius) * CELL, (x + radius) * CELL, (y + radius) * CELL)
        self._draw.ellipse(edges, outline=ink, fill=fill, width=width)

    def dot(self, x: float, y: float, ink: tuple[int, int, int] = (20, 20, 20)) -> None:
        """A point."""
        self.circle(x, y, 0.12, ink, ink)

    def shape(self, col: int, row: int, shape: str, colour: str) -> None:
        """One of SHAPES in one of COLOURS, filling a cell."""
        x, y, paint = col + 0.5, row + 0.5, COLOURS[colour]
        ink = (60, 60, 60)
        if shape == "disc":
            self.circle(x, y, 0.38, ink, paint, width=1)
        elif shape == "ring":
            self.circle(x, y, 0.38, paint, None, width=5)
        elif shape == "square":
            self.box(x - 0.36, y - 0.36, x + 0.36, y + 0.36, ink, paint)
        elif shape == "triangle":
            self.polygon((x, y - 0.4), (x + 0.4, y + 0.36), (x - 0.4, y + 0.36), ink=ink, fill=paint)
        elif shape == "diamond":
            self.polygon((x, y - 0.42), (x + 0.42, y), (x, y + 0.42), (x - 0.42, y), ink=ink, fill=paint)
        elif shape == "cross":
            self.line((x - 0.34, y - 0.34), (x + 0.34, y + 0.34), ink=paint, width=6)
            self.line((x - 0.34, y + 0.34), (x + 0.34, y - 0.34), ink=paint, width=6)
        else:
            raise ValueError(f"no shape '{shape}' (there are: {', '.join(SHAPES)})")

    def pixels(self) -> Picture:
        """The picture, uint8[H, W, 3]."""
        return np.asarray(self._image, dtype=np.uint8).copy()
