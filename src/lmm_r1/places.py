"""Boxes and points in pictures: read from text, checked against their picture, and scaled with it.

One rule holds for every problem of the verifier `boxes`: its gold is in pixels of the problem's own picture, as the
problem holds it. Whoever puts another size of the picture into a problem does it by `with_pictures`, which scales the
gold, so that the rule holds again. Preparing does so when it shrinks a picture, and sampling when the model's patch grid
asks for another size; then gold and answer are both in pixels of the picture that the model sees.

Fields of `meta`: `radius` (of a point: a number, or [x, y] once a picture was stretched), `image` (the number of the
picture, from 1, where a problem has several), `coordinates` ("pixels"; "0-1" or "0-1000" for shares of the picture, which
no resizing changes).
Left out: comparing a gold with an answer (rewards/boxes.py); places in the text of a question, which nobody can know.
Axis legend: x to the right, y down, from the upper left corner; a picture of W x H pixels spans [0, W] x [0, H].
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lmm_r1.errors import Fault
from lmm_r1.types import Image, Problem, Text

#: The verifier whose golds are places.
BOXES = "boxes"
#: What the coordinates of a gold and of its answers count: None = pixels, else the extent of any picture.
EXTENTS: Mapping[str, float | None] = {"pixels": None, "0-1": 1.0, "0-1000": 1000.0}
#: How the message of a gold begins that does not lie in its picture.
OUTSIDE = "lies outside its picture"

_LONGEST = 2_000  # characters; no place is longer
_NUMBER = re.compile(r"[-+]?(?:\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})")
#: What may stand between numbers: brackets, separators, and the names of coordinates.
_REST = re.compile(
    r"[\s,;:=()\[\]{}<>|$\"'/]|\\[,;! ]|\b(?:x|y|bbox|bbox_2d|box|point|point_2d)_?[12]?\b", re.IGNORECASE
)
_NAMES = re.compile(r"\b(?:bbox|box|point)_2d\b|\b[xy]_?[12]\b", re.IGNORECASE)

Numbers = tuple[float, ...]


def numbers(text: str) -> Numbers | None:
    """The two or four numbers of a point or a box; None when the text is anything else."""
    text = _NAMES.sub(" ", text)
    if len(text) > _LONGEST or _REST.sub("", _NUMBER.sub("", text)):
        return None
    found = tuple(float(number) for number in _NUMBER.findall(text))
    if len(found) == 4 and not (found[0] < found[2] and found[1] < found[3]):
        return None
    return found if len(found) in (2, 4) else None


def radii(meta: Mapping[str, object]) -> tuple[float, float] | None:
    """How far an answer may lie from a gold point along x and y; None when `meta.radius` says nothing that can be read."""
    stated = meta.get("radius", 0.0)
    pair = stated if isinstance(stated, list | tuple) else (stated, stated)
    if len(pair) != 2:
        return None
    found = [float(r) for r in pair if isinstance(r, int | float) and not isinstance(r, bool) and 0 <= r < math.inf]
    return (found[0], found[1]) if len(found) == 2 else None


def place_fault(problem: Problem) -> Fault | None:
    """What is wrong with the place that a `boxes` problem asks for, in its picture; None for any other problem."""
    if problem.verifier != BOXES:
        return None
    gold = numbers(problem.answer)
    if gold is None:
        what = f"is no box [x1, y1, x2, y2] with x1 < x2 and y1 < y2, and no point (x, y): {problem.answer[:60]!r}"
        return Fault(what, field="answer", remedy="one place, by its corners: neither several nor width and height")
    extent = problem.meta.get("coordinates", "pixels")
    if not isinstance(extent, str) or extent not in EXTENTS:
        return Fault(f"must be one of {', '.join(EXTENTS)}", field="meta.coordinates")
    if radii(problem.meta) is None:
        return Fault("must be a number of at least 0, or [x, y]", field="meta.radius")
    picture = _picture(problem)
    if isinstance(picture, Fault):
        return picture
    size = EXTENTS[extent]
    wide, high = (picture.width, picture.height) if size is None else (size, size)
    if min(gold) < 0 or max(gold[::2]) > wide or max(gold[1::2]) > high:
        kind = "pixels" if size is None else f"(coordinates {extent})"
        return Fault(
            f"{OUTSIDE} of {wide:g} x {high:g} {kind}: {_written(gold)}",
            field="answer",
            remedy="give it in pixels of the picture as it lies here, turned by its EXIF, or in shares of it with "
            'meta.coordinates = "0-1" or "0-1000"',
        )
    if size is None and max(gold) <= 1 and (len(gold) == 4 or any(x % 1 for x in gold)):
        return Fault(
            f"lies inside the first pixel of its picture: {_written(gold)}",
            field="answer",
            remedy='shares of the picture are marked by meta.coordinates = "0-1"',
        )
    return None


def _picture(problem: Problem) -> Image | Fault:
    """The picture that the gold lies in."""
    pictures, number = problem.images, problem.meta.get("image")
    if not pictures:
        return Fault("names a place, and the row has no picture", field="answer")
    if number is None and len(pictures) == 1:
        return pictures[0]
    if number is None:
        what = f"must say in which of the {len(pictures)} pictures the answer lies"
        return Fault(what, field="meta.image", remedy="the picture's number in reading order, from 1")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= len(pictures):
        return Fault(f"must be the number of a picture, from 1 to {len(pictures)}", field="meta.image")
    return pictures[number - 1]


def with_pictures(problem: Problem, pictures: Sequence[Image]) -> Problem:
    """The problem with these pictures for its own, in reading order, and the places in them scaled along.

    Width and height may scale by different factors. A solution to imitate is dropped where places were scaled: it would
    speak of the old ones. ValueError for another number of pictures; a problem that has a `place_fault` keeps its gold.
    """
    if tuple(pictures) == problem.images:
        return problem
    if len(pictures) != len(problem.images):
        raise ValueError(f"problem {problem.id}: {len(pictures)} pictures for {len(problem.images)}")
    following = iter(pictures)
    messages = tuple(
        replace(m, content=tuple(p if isinstance(p, Text) else next(following) for p in m.content))
        for m in problem.messages
    )
    changed = replace(problem, messages=messages)
    if problem.verifier != BOXES or place_fault(problem) is not None:
        return changed
    old, new, gold = _picture(problem), _picture(changed), numbers(problem.answer)
    if gold is None or isinstance(old, Fault) or isinstance(new, Fault):
        return changed
    if EXTENTS[str(problem.meta.get("coordinates", "pixels"))] is not None:
        return changed
    return _scaled(changed, gold, (old.width, old.height), (new.width, new.height))


def _scaled(problem: Problem, gold: Numbers, old: tuple[int, int], new: tuple[int, int]) -> Problem:
    """The problem with its gold, and the radius of a point, taken from a picture of one size to another."""
    if old == new:
        return problem
    meta = {name: value for name, value in problem.meta.items() if name != "solution"}
    moved = tuple(value * new[k % 2] / old[k % 2] for k, value in enumerate(gold))
    if len(gold) == 2:
        reach = radii(problem.meta) or (0.0, 0.0)
        if "radius" in meta:
            meta["radius"] = [round(r * n / o, 6) for r, n, o in zip(reach, new, old, strict=True)]
        if not any(reach):  # a pixel, which an answer must name to the digit: the one that is nearest
            moved = tuple(float(round(value)) for value in moved)
    return replace(problem, answer=_written(moved), meta=meta)


def _written(place: Numbers) -> str:
    """A place as text that `numbers` reads, to a ten-thousandth of a pixel."""
    texts = [f"{value:.4f}".rstrip("0").rstrip(".") for value in place]
    return f"({', '.join(texts)})" if len(texts) == 2 else f"[{', '.join(texts)}]"
