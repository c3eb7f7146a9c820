"""Prompts that must fit a number of tokens: pictures are made smaller, and what still does not fit is dropped.

A prompt is never cut: one that loses its end, or half of a picture's tokens, asks something else. Tokens are counted by
upper bounds, so that no tokenizer is loaded: the text by a function that is passed in (`text_bound` here: a
byte-level tokenizer has at most one token a byte), a picture by the squares of 28 pixels that it touches, as
Qwen2-VL and Qwen2.5-VL merge their patches.

Left out: the model's own resizing (models/): it makes pictures no larger than `max_pixels` of the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil

from lmm_r1.data.images import ImageStore
from lmm_r1.places import place_fault, with_pictures
from lmm_r1.types import Image, Problem, Text

TOO_LONG = "prompt too long"
WHY = {TOO_LONG: "The text and the smallest usable pictures are more tokens than the prompt may have."}

CELL = 28
#: A picture is not made smaller than so many squares of 28 pixels: figures in it could not be read.
MIN_CELLS = 16
#: Tokens of the chat template: per message, and per picture its start and end.
_PER_MESSAGE, _PER_PICTURE = 8, 2


def text_bound(text: str) -> int:
    """At most so many tokens: the bytes of the text."""
    return len(text.encode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Budget:
    """max_tokens: of a whole prompt. system: of the system prompt that training puts in front. text: upper bound of
    the tokens of a text."""

    max_tokens: int
    text: Callable[[str], int] = text_bound
    system: int = 0


def cells(width: int, height: int) -> int:
    """Squares of 28 pixels that a picture touches: its tokens at most."""
    return math.ceil(width / CELL) * math.ceil(height / CELL)


def shrunk(width: int, height: int, most: int) -> tuple[int, int]:
    """The largest size (width, height) of nearly the same shape with at most `most` squares; at least one a side."""
    if cells(width, height) <= most:
        return width, height
    scale = min(1.0, math.sqrt(most * CELL * CELL / (width * height)))
    wide = max(1, min(most, int(width * scale / CELL)))
    high = max(1, min(most // wide, int(height * scale / CELL)))
    return wide * CELL, high * CELL


def fitted(problem: Problem, images: ImageStore, budget: Budget, made: ImageStore) -> Problem | None:
    """The problem, with smaller pictures if need be; None when it cannot be made to fit.

    Places in the pictures are scaled along (places.py).
    images: holds the problem's pictures. made: takes the smaller ones. Raises DataError for a picture whose file has changed.
    """
    texts = [p.text for m in problem.messages for p in m.content if isinstance(p, Text)]
    pictures = problem.images
    fixed = budget.system + sum(map(budget.text, texts))
    fixed += _PER_MESSAGE * (len(problem.messages) + 1) + _PER_PICTURE * len(pictures)
    room = budget.max_tokens - fixed
    wanted = [cells(image.width, image.height) for image in pictures]
    least = sum(min(MIN_CELLS, cell) for cell in wanted)
    if room < least:
        return None
    if sum(wanted) <= room:
        return problem
    # What is left beyond the least goes to the pictures by their size.
    spare, excess = room - least, sum(wanted) - least
    limits = [min(MIN_CELLS, cell) + (cell - min(MIN_CELLS, cell)) * spare // excess for cell in wanted]
    smaller = {image.sha: _resized(image, images, limit, made) for image, limit in zip(pictures, limits, strict=True)}
    fitting = with_pictures(problem, [smaller[image.sha] for image in pictures])
    return None if place_fault(fitting) else fitting


def _resized(image: Image, images: ImageStore, most: int, made: ImageStore) -> Image:
    size = shrunk(image.width, image.height, most)
    if size == (image.width, image.height):
        return image
    picture = Pil.fromarray(images.get(image.sha)).resize(size, Pil.Resampling.BICUBIC)
    return made.put(np.asarray(picture, dtype=np.uint8))
