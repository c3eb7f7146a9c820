"""Pictures of Qwen2.5-VL: resizing to the patch grid, cutting into patches, and rotary positions. Numpy and Pillow.

A picture is resized once, to a whole number of merged patches (28 x 28 pixels as published), and everybody uses that
canonical picture: two preprocessors that each resize differ by up to 0.1 nats of log-prob.
Axis legend: H, W = pixels; h, w = patches; T = tokens of a stream; P = patches.
Leaves out: videos, and batches of models (qwen_vl.py).
Sources: arXiv 2409.12191 (M-RoPE, dynamic resolution); the published Qwen2VLImageProcessor, whose numbers on canonical
pictures the tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from lmm_r1.errors import DataError, RecipeError

Pixels = NDArray[np.uint8]
#: Sides further apart than this are refused, as in the published processor.
MAX_ASPECT = 200


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The geometry of the vision tower. min_pixels and max_pixels bound H * W of a canonical picture."""

    patch: int
    merge: int
    temporal: int
    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        cell = self.cell**2
        if self.max_pixels < cell or -(-self.min_pixels // cell) > self.max_pixels // cell:
            raise RecipeError(
                f"model.min_pixels = {self.min_pixels} and model.max_pixels = {self.max_pixels} leave no size of "
                f"whole {self.cell} x {self.cell} cells"
            )

    @property
    def cell(self) -> int:
        """Side of the square of pixels that becomes one token."""
        return self.patch * self.merge

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a canonical picture."""
        return (height // self.cell) * (width // self.cell)

    def is_canonical(self, height: int, width: int) -> bool:
        """Whether a picture of this size is used as it is."""
        whole = height % self.cell == 0 and width % self.cell == 0
        return whole and self.min_pixels <= height * width <= self.max_pixels

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the canonical picture: nearest whole cells, scaled into the bounds with the aspect kept.

        DataError when one side is more than 200 times the other.
        """
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise DataError(f"a picture of {width} x {height} pixels is too narrow (more than {MAX_ASPECT} : 1)")
        if self.is_canonical(height, width):
            return height, width
        cell = self.cell
        rows, columns = round(height / cell), round(width / cell)
        if rows * columns * cell * cell > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(1, math.floor(height / shrink / cell))
            columns = max(1, math.floor(width / shrink / cell))
        elif rows * columns * cell * cell < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = math.ceil(height * grow / cell), math.ceil(width * grow / cell)
        if not self.is_canonical(rows * cell, columns * cell):  # narrow pictures, or bounds that nearly touch
            rows, columns = self._nearest(height / width)
        return rows * cell, columns * cell

    def _nearest(self, aspect: float) -> tuple[int, int]:
        """(rows, columns) within the bounds whose aspect is nearest, the larger one of equals."""
        cell = self.cell**2
        low, high = max(1, -(-self.min_pixels // cell)), self.max_pixels // cell
        best = min(
            (abs(math.log(rows / columns / aspect)), -rows * columns, rows, columns)
            for rows in range(1, high + 1)
            for columns in {max(1, -(-low // rows)), high // rows}
            if low <= rows * columns <= high
        )
        return best[2], best[3]


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """uint8[height, width, 3] by Pillow's bicubic filter; the same array when the size is right already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Pil.fromarray(pixels).resize((width, height), Pil.Resampling.BICUBIC))


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """float32[3, 256]: a byte's normalised value, by channel. (byte / 255 - mean) / std, rounded as published."""
    values = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    return (values[None] - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


def patches_of(pixels: Pixels, grid: PatchGrid, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[P, 3 * temporal * patch * patch] of a canonical picture, in the tower's order: merged cells row by row,
    and inside a cell its patches row by row. A still picture repeats along the temporal axis."""
    height, width, _ = pixels.shape
    p, m = grid.patch, grid.merge
    normal = np.stack([table[c][pixels[:, :, c]] for c in range(3)])
    cut = normal.reshape(3, height // grid.cell, m, p, width // grid.cell, m, p).transpose(1, 4, 2, 5, 0, 3, 6)
    still = np.broadcast_to(cut[:, :, :, :, :, None], (*cut.shape[:5], grid.temporal, p, p))
    return still.reshape((height // p) * (width // p), -1)


def rotary_positions(
    token_ids: NDArray[np.int32], image_token: int, cells: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """int64[3, T] (time, height, width). Text counts up on all three axes; a picture of (rows, columns) cells starts
    where the text before it ended, spreads over height and width, and the text after it goes on past its longer side.

    ValueError when the runs of placeholders do not hold exactly the pictures' cells.
    """
    is_image = token_ids == image_token
    if int(is_image.sum()) != sum(rows * columns for rows, columns in cells):
        raise ValueError(
            f"{int(is_image.sum())} image placeholders, but the {len(cells)} pictures have "
            f"{sum(rows * columns for rows, columns in cells)} cells"
        )
    out = np.empty((3, len(token_ids)), np.int64)
    at, position = 0, 0
    for rows, columns in cells:
        start = at + int(is_image[at:].argmax())
        end = start + rows * columns
        if not is_image[start:end].all():
            raise ValueError("a picture's placeholders are not in one run")
        out[:, at:start] = np.arange(position, position + start - at)
        position += start - at
        out[0, start:end] = position
        out[1, start:end] = position + np.arange(rows).repeat(columns)
        out[2, start:end] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        at = end
    out[:, at:] = np.arange(position, position + len(token_ids) - at)
    return out
