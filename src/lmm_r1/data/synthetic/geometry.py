"""Geometry pictures of the micro task: the numbers stand only in the picture and must be combined.

Five families: lengths on a line, rectangles, triangles, angles, circles. Every label glyph lies in one
cell of the canvas (see drawing.py); sizes drawn are not to scale, as in a textbook sketch.
"""

from __future__ import annotations

import numpy as np

from lmm_r1.data.synthetic.items import Item, Maker, add, mul, number, pick, sub
from lmm_r1.drawing import INKS, Canvas


def _ink(rng: np.random.Generator) -> tuple[int, int, int]:
    return INKS[number(rng, 0, len(INKS) - 1)]


def _letters(rng: np.random.Generator, count: int) -> str:
    start = number(rng, 0, 20 - count)
    return "ABCDEFGHKLMNPQRSTUVW"[start : start + count]


def segments(rng: np.random.Generator) -> Item:
    """Points on a line with labelled pieces: a whole from its parts, or a part from the whole."""
    ink = _ink(rng)
    three = number(rng, 0, 2) == 0
    names = _letters(rng, 4 if three else 3)
    whole = not three and bool(number(rng, 0, 1))
    a, b, c = number(rng, 2, 15), number(rng, 2, 15), number(rng, 2, 15)
    cols = 3 * (len(names) - 1) + 1
    canvas = Canvas(cols, 4 if whole else 3)
    canvas.line((0.5, 1.5), (cols - 0.5, 1.5), ink=ink)
    for k, name in enumerate(names):
        x = 3 * k + 0.5
        canvas.line((x, 1.3), (x, 1.7), ink=ink)
        canvas.text(3 * k, 2, name, ink)
    first, last = names[0], names[-1]
    if whole:
        total = a + b
        canvas.text(1, 0, str(a), ink)
        canvas.line((0.5, 3.1), (0.5, 3.4), (cols - 0.5, 3.4), (cols - 0.5, 3.1), ink=ink, width=1)
        canvas.text(3, 3, str(total), ink)
        question = f"Find {names[1]}{last}."
        return Item(
            "segments", question, str(b), (sub(total, a),), add(b, a), f"segments:part:{a}:{total}",
            canvas.pixels(), (str(a), names[0], names[1], names[2], str(total)),
        )  # fmt: skip
    parts = [a, b, c] if three else [a, b]
    for k, part in enumerate(parts):
        canvas.text(3 * k + 1, 0, str(part), ink)
    question = pick(rng, ("Find {}{}.", "How long is {}{}?")).format(first, last)
    steps = (add(a, b), add(a + b, c)) if three else (add(a, b),)
    value = sum(parts)
    return Item(
        "segments", question, str(value), steps, sub(value, parts[-1]), f"segments:{parts}",
        canvas.pixels(), (*map(str, parts), *names),
    )  # fmt: skip


def rectangle(rng: np.random.Generator) -> Item:
    """Perimeter or area of a rectangle with two labelled sides."""
    ink = _ink(rng)
    wide, tall = number(rng, 3, 5), number(rng, 2, 3)
    canvas = Canvas(wide + 3, tall + 1)
    area = bool(number(rng, 0, 1))
    a, b = (number(rng, 2, 6), number(rng, 2, 9)) if area else (number(rng, 2, 15), number(rng, 2, 15))
    fill = None if number(rng, 0, 1) else (235, 240, 250)
    canvas.box(0.2, 1.05, wide + 0.8, tall + 0.95, ink, fill)
    canvas.text(number(rng, 1, wide - 2), 0, str(a), ink)
    canvas.text(wide + 1, number(rng, 1, tall), str(b), ink)
    labels = (str(a), str(b))
    if area:
        extra = number(rng, 2, 9)
        # A plain product has only 64 cases; tiles at a price make a second step and enough variety.
        question = f"Find the area and add {extra}."
        value = a * b + extra
        steps, check = (mul(a, b), add(a * b, extra)), sub(value, extra)
        return Item(
            "rectangle", question, str(value), steps, check, f"rectangle:area:{a}:{b}:{extra}", canvas.pixels(), labels
        )
    question = pick(rng, ("Find the perimeter.", "What is the perimeter of the rectangle?"))
    half = a + b
    steps, check = (add(a, b), add(half, half)), sub(2 * half, half)
    return Item(
        "rectangle", question, str(2 * half), steps, check, f"rectangle:perimeter:{a}:{b}", canvas.pixels(), labels
    )


def triangle(rng: np.random.Generator) -> Item:
    """The third angle of a triangle, or its perimeter from three sides."""
    ink = _ink(rng)
    if number(rng, 0, 1):
        canvas = Canvas(8, 5)
        a, b = 5 * number(rng, 4, 18), 5 * number(rng, 4, 14)
        if a + b >= 170:
            a = 165 - b
        top = number(rng, 3, 5)
        canvas.polygon((0.1, 4.9), (7.9, 4.9), (top, 0.1), ink=ink, fill=None)
        canvas.text(1, 4, f"{a}°", ink)
        canvas.text(4, 4, f"{b}°", ink)
        canvas.text(top - (1 if top > 3 else 0), 1, "x", ink)
        steps = (add(a, b), sub(180, a + b))
        question = pick(rng, ("Find angle x.", "How large is x?"))
        value = 180 - a - b
        return Item(
            "triangle", question, str(value), steps, add(value, a + b), f"triangle:angles:{min(a, b)}:{max(a, b)}",
            canvas.pixels(), ("x", f"{a}°", f"{b}°"),
        )  # fmt: skip
    canvas = Canvas(8, 5)
    a, b, c = number(rng, 2, 15), number(rng, 2, 15), number(rng, 2, 15)
    canvas.polygon((2, 3.9), (6, 3.9), (4, 0.2), ink=ink, fill=None)
    canvas.text(1, 1, str(a), ink)
    canvas.text(5, 1, str(b), ink)
    canvas.text(3, 4, str(c), ink)
    steps = (add(a, b), add(a + b, c))
    value = a + b + c
    return Item(
        "triangle", "Find the perimeter of the triangle.", str(value), steps, sub(value, c),
        f"triangle:sides:{a}:{b}:{c}", canvas.pixels(), (str(a), str(b), str(c)),
    )  # fmt: skip


def angles(rng: np.random.Generator) -> Item:
    """The missing angle on a straight line or in a right angle, with one or two rays."""
    ink = _ink(rng)
    right = number(rng, 0, 2) == 0
    canvas = Canvas(9, 4)
    if right:
        a, b = 5 * number(rng, 2, 9), 5 * number(rng, 2, 8)
        total, foot = 90, 1.0
        canvas.line((foot, 0.1), (foot, 3.9), (8.9, 3.9), ink=ink)
        canvas.box(foot, 3.6, foot + 0.3, 3.9, ink)
        canvas.line((foot, 3.9), (4.6, 0.1), ink=ink)
        canvas.line((foot, 3.9), (8.7, 1.9), ink=ink)
        canvas.text(1, 0, f"{a}°", ink)
        canvas.text(5, 1, f"{b}°", ink)
        canvas.text(7, 3, "x", ink)
    else:
        a, b = 5 * number(rng, 4, 16), 5 * number(rng, 4, 16)
        total = 180
        canvas.line((0.1, 3.9), (8.9, 3.9), ink=ink)
        canvas.line((4.5, 3.9), (2.9, 0.1), ink=ink)
        canvas.line((4.5, 3.9), (6.6, 0.1), ink=ink)
        canvas.text(0, 2, f"{a}°", ink)
        canvas.text(3, 0, f"{b}°", ink)
        canvas.text(6, 2, "x", ink)
    steps = (add(a, b), sub(total, a + b))
    value = total - a - b
    labels = (f"{a}°", f"{b}°", "x") if right else (f"{b}°", f"{a}°", "x")
    question = pick(rng, ("Find angle x.", "How large is x?"))
    return Item(
        "angles", question, str(value), steps, add(value, a + b), f"angles:{total}:{min(a, b)}:{max(a, b)}",
        canvas.pixels(), labels,
    )  # fmt: skip


def circles(rng: np.random.Generator) -> Item:
    """Two touching circles or two rings with labelled radii."""
    ink = _ink(rng)
    kind = number(rng, 0, 2)
    a, b = number(rng, 2, 15), number(rng, 2, 15)
    if kind < 2:
        canvas = Canvas(8, 4)
        canvas.circle(2, 2, 1.9, ink)
        canvas.circle(6, 2, 1.9, ink)
        canvas.dot(2, 2, ink)
        canvas.dot(6, 2, ink)
        canvas.line((2, 2), (6, 2), ink=ink, width=1)
        canvas.text(2, 1, str(a), ink)
        canvas.text(5, 1, str(b), ink)
        labels = (str(a), str(b))
        steps: tuple[str, ...]
        if kind == 0:
            question, steps, value = "How far apart are the centres?", (add(a, b),), a + b
            check = sub(value, b)
        else:
            question, steps = "How wide are both circles together?", (add(a, b), add(a + b, a + b))
            value = 2 * (a + b)
            check = sub(value, a + b)
        return Item("circles", question, str(value), steps, check, f"circles:{kind}:{a}:{b}", canvas.pixels(), labels)
    big, small = max(a, b) + 2, min(a, b)
    canvas = Canvas(8, 5)
    canvas.circle(2.5, 2.5, 2.4, ink)
    canvas.circle(2.5, 2.5, 1.2, ink)
    canvas.line((2.5, 2.5), (4.2, 0.8), (6, 0.5), ink=ink, width=1)
    canvas.line((2.5, 2.5), (3.6, 2.5), (6, 2.5), ink=ink, width=1)
    canvas.text(6, 0, str(big), ink)
    canvas.text(6, 2, str(small), ink)
    value = big - small
    return Item(
        "circles", "How wide is the ring?", str(value), (sub(big, small),), add(value, small), f"circles:ring:{big}:{small}",
        canvas.pixels(), (str(big), str(small)),
    )  # fmt: skip


GEOMETRY_FAMILIES: dict[str, Maker] = {
    "segments": segments,
    "rectangle": rectangle,
    "triangle": triangle,
    "angles": angles,
    "circles": circles,
}
