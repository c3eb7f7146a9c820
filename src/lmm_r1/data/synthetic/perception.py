"""Perception-reasoning pictures of the micro task, four families as in PerceReason's four domains:
visual question answering, documents, charts and science diagrams. And what only the base model is
taught: reading the labels of a picture, and naming the objects of a row and the object in a cell.

Worked solutions list what stands in the picture in reading order, then repeat what the question names, then
combine it: a micro model learns to look for the next thing and to continue what it wrote before, and did not
learn to jump to a named place (docs/log.md, bases 4 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmm_r1.data.synthetic.items import Item, Maker, Picture, add, div, mul, number, pick, sub
from lmm_r1.drawing import COLOURS, INKS, SHAPES, Canvas

_ITEMS = ("TEA", "PIE", "JAM", "HAM", "EGG", "FIG", "OIL", "NUT")
_BRIGHT = ("red", "green", "blue", "yellow", "orange", "purple")
#: What a reading lesson asks of any picture.
READ_QUESTION = "Read the labels."
_PLURALS = {"disc": "discs", "square": "squares", "triangle": "triangles", "diamond": "diamonds", "cross": "crosses"}


def scene(rng: np.random.Generator) -> Item:
    """Visual QA: count two kinds of objects in a scene and combine the counts, with a price tag each."""
    kinds = [
        (str(c), str(s)) for c, s in zip(rng.permutation(_BRIGHT)[:2], rng.permutation(list(_PLURALS))[:2], strict=True)
    ]
    a = number(rng, 1, 4)
    counts = [a, number(rng, 1, 5 - a)]
    prices = [number(rng, 2, 9), number(rng, 2, 9)]
    canvas = Canvas(7, 4, (252, 252, 246))
    cells = iter(rng.permutation(5 * 4).tolist())
    placed = sorted((next(cells), kind) for kind, count in enumerate(counts) for _ in range(count))
    seen = [0, 0]
    listed = []
    for cell, kind in placed:
        colour, shape = kinds[kind]
        canvas.shape(cell % 5, cell // 5, shape, colour)
        seen[kind] += 1
        listed.append(f"{colour} {seen[kind]}")  # colours differ, so they name the kinds
    for k, ((colour, shape), price) in enumerate(zip(kinds, prices, strict=True)):
        canvas.shape(5, 2 * k, shape, colour)
        canvas.text(6, 2 * k, str(price))
    canvas.line((5, 0), (5, 4), width=1)
    names = [f"{colour} {_PLURALS[shape]}" for colour, shape in kinds]
    key = f"scene:{counts}:{prices}:{sorted(names)}"
    shown = (str(prices[0]), str(prices[1]))
    if number(rng, 0, 1):
        which = number(rng, 0, 1)
        n, p = counts[which], prices[which]
        tags = ", ".join(f"{colour} at {price}" for (colour, _), price in zip(kinds, prices, strict=True))
        question = f"The tags show prices. What do all {names[which]} on the left cost?"
        return Item(
            "scene",
            question,
            str(n * p),
            (", ".join(listed), tags, f"{kinds[which][0]} {n} at {p}", mul(n, p)),
            div(n * p, p),
            key,
            canvas.pixels(),
            shown,
        )
    b = counts[1]
    question = f"How many {names[0]} and {names[1]} are on the left?"
    steps = (", ".join(listed), f"{kinds[0][0]} {a}, {kinds[1][0]} {b}", add(a, b))
    return Item("scene", question, str(a + b), steps, sub(a + b, b), key, canvas.pixels(), shown)


def receipt(rng: np.random.Generator) -> Item:
    """Document: a receipt with three lines; two of its prices are combined."""
    ink = INKS[number(rng, 0, len(INKS) - 1)]
    names = [str(n) for n in rng.permutation(_ITEMS)[:3]]
    prices = [number(rng, 2, 20) for _ in names]
    canvas = Canvas(7, 4, (255, 253, 240))
    canvas.box(0, 0, 7, 4, (150, 150, 150))
    for row, (name, price) in enumerate(zip(names, prices, strict=True)):
        canvas.text(0, row, name, ink)
        canvas.text(5 if price > 9 else 6, row, str(price), ink)
    canvas.line((0.3, 3.1), (6.7, 3.1), ink=ink, width=1)
    labels = tuple(text for pair in zip(names, map(str, prices), strict=True) for text in pair)
    more, total = "How much more does {} cost than {}?", "What do {} and {} cost together?"
    return _two_of(rng, ("receipt", "receipt"), names, prices, (more, total), canvas.pixels(), labels)


def bar_chart(rng: np.random.Generator) -> Item:
    """Chart: three labelled bars; a total or a difference of two of them."""
    names = "ABC" if number(rng, 0, 1) else "KLM"
    values = [number(rng, 2, 20) for _ in names]
    canvas = Canvas(9, 6)
    canvas.line((0.1, 0.2), (0.1, 5), (8.9, 5), width=2)
    top = max(values)
    for k, (name, value) in enumerate(zip(names, values, strict=True)):
        colour = _BRIGHT[number(rng, 0, 5)]
        height = max(1, round(4 * value / top))
        col = 1 + 3 * k
        canvas.box(col, 5 - height, col + 1.6, 5, (40, 40, 40), COLOURS[colour])
        canvas.text(col, 0, str(value))
        canvas.text(col, 5, name)
    more, total = "How much higher is bar {} than bar {}?", "What do bars {} and {} show together?"
    shown = (*map(str, values), *names)
    return _two_of(rng, ("bar_chart", "bar"), names, values, (more, total), canvas.pixels(), shown)


def _two_of(
    rng: np.random.Generator,
    family: tuple[str, str],
    names: Sequence[str],
    values: Sequence[int],
    questions: tuple[str, str],
    picture: Picture,
    labels: tuple[str, ...],
) -> Item:
    """Three named values, two of which are subtracted or added. family: its name and that of its keys; questions: (more, sum)."""
    i, j = (int(k) for k in rng.permutation(3)[:2])
    more = bool(number(rng, 0, 1)) and values[i] != values[j]
    if more and values[i] < values[j]:
        i, j = j, i
    a, b = values[i], values[j]
    question = questions[0 if more else 1].format(names[i], names[j])
    result, step, check = (a - b, sub(a, b), add(a - b, b)) if more else (a + b, add(a, b), sub(a + b, b))
    listed = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    steps = (listed, f"{names[i]} {a}, {names[j]} {b}", step)
    key = f"{family[1]}:more:{a}:{b}" if more else f"{family[1]}:sum:{min(a, b)}:{max(a, b)}"
    return Item(family[0], question, str(result), steps, check, key, picture, labels)


def science(rng: np.random.Generator) -> Item:
    """Science diagram: a balance with an unknown weight, or resistors in series."""
    labels: tuple[str, ...]
    if number(rng, 0, 1):
        a, b = number(rng, 2, 15), number(rng, 2, 15)
        c = number(rng, 1, min(15, a + b - 1))
        canvas = Canvas(11, 4)
        canvas.text(0, 0, str(a))
        canvas.text(3, 0, str(b))
        canvas.text(6, 0, str(c))
        canvas.text(9, 0, "x")
        canvas.line((0.1, 1.1), (4.9, 1.1), width=4)
        canvas.line((6.1, 1.1), (10.9, 1.1), width=4)
        canvas.line((2.5, 1.1), (2.5, 2), (8.5, 2), (8.5, 1.1))
        canvas.polygon((5.5, 2), (4.6, 3.8), (6.4, 3.8), ink=(40, 40, 40), fill=(225, 225, 225))
        value = a + b - c
        steps = (add(a, b), sub(a + b, c))
        question = pick(rng, ("The balance is level. How heavy is x?", "Find the weight x of the level balance."))
        labels = (str(a), str(b), str(c), "x")
        return Item(
            "science", question, str(value), steps, add(value, c), f"balance:{a}:{b}:{c}", canvas.pixels(), labels
        )
    a, b, c = number(rng, 2, 15), number(rng, 2, 15), number(rng, 2, 15)
    canvas = Canvas(10, 4)
    canvas.line((0.2, 1.5), (9.8, 1.5), (9.8, 3.5), (5.4, 3.5))
    canvas.line((4.6, 3.5), (0.2, 3.5), (0.2, 1.5))
    canvas.line((4.6, 3.1), (4.6, 3.9))
    canvas.line((5.4, 3.3), (5.4, 3.7), width=4)
    for k, value in enumerate((a, b, c)):
        canvas.box(1 + 3 * k, 1.25, 3 + 3 * k, 1.75, fill=(255, 255, 255))
        canvas.text(1 + 3 * k, 0, str(value))
    total = a + b + c
    steps = (add(a, b), add(a + b, c))
    question = "The resistors are in series. What is the total resistance?"
    labels = (str(a), str(b), str(c))
    return Item("science", question, str(total), steps, sub(total, c), f"series:{a}:{b}:{c}", canvas.pixels(), labels)


def _board(rng: np.random.Generator, cols: int, rows: int) -> tuple[Canvas, list[list[str]]]:
    """A ruled board with objects in three of four cells, and the names of its cells by row."""
    canvas = Canvas(cols, rows, (246, 246, 246))
    colours = list(COLOURS)
    names: list[list[str]] = []
    for row in range(rows):
        names.append([])
        for col in range(cols):
            if number(rng, 0, 3) == 0:
                names[-1].append("nothing")
                continue
            colour, shape = pick(rng, colours), pick(rng, list(SHAPES))
            canvas.shape(col, row, shape, colour)
            names[-1].append(f"{colour} {shape}")
    for x in range(1, cols):
        canvas.line((x, 0), (x, rows), ink=(205, 205, 205), width=1)
    for y in range(1, rows):
        canvas.line((0, y), (cols, y), ink=(205, 205, 205), width=1)
    return canvas, names


def shapes(rng: np.random.Generator) -> Item:
    """Base model only: name all objects of a small board, or those of one of its rows."""
    cols, rows = number(rng, 3, 6), number(rng, 1, 4)
    canvas, names = _board(rng, cols, rows)
    whole = cols * rows <= 12 and bool(number(rng, 0, 1))
    row = number(rng, 0, rows - 1)
    cells = [name for line in names for name in line] if whole else names[row]
    question = "Name the objects." if whole else f"Name the objects of row {row + 1}."
    value = ", ".join(cells)
    return Item(
        "shapes",
        question,
        value,
        ("objects",),
        value,
        f"shapes:{question}:{value}",
        canvas.pixels(),
        (),
        verifier="text",
    )


def grid(rng: np.random.Generator) -> Item:
    """Base model only: name the object in a cell of a grid of coloured objects (up to 14 x 8 cells)."""
    large = number(rng, 0, 3) == 0
    cols, rows = (number(rng, 6, 14), number(rng, 5, 8)) if large else (number(rng, 3, 7), number(rng, 2, 6))
    canvas, names = _board(rng, cols, rows)
    row, col = number(rng, 0, rows - 1), number(rng, 0, cols - 1)
    name = names[row][col]
    question = f"What is in row {row + 1}, column {col + 1}?"
    key = f"grid:{cols}:{rows}:{row}:{col}:{name}:{number(rng, 0, 999)}"
    told = tuple(f"{k} {cell}" for k, cell in enumerate(names[row][: col + 1], start=1))
    return Item("grid", question, name, told, name, key, canvas.pixels(), (), verifier="text")


def strip(rng: np.random.Generator) -> Item:
    """Base model only: one or two full rows of digits. Where to look next is plain, so what a digit is comes first."""
    cols, rows = number(rng, 3, 9), 1 if number(rng, 0, 2) else 2
    canvas = Canvas(cols, rows)
    ink = INKS[number(rng, 0, len(INKS) - 1)]
    lines = ["".join(str(number(rng, 0, 9)) for _ in range(cols)) for _ in range(rows)]
    for row, line in enumerate(lines):
        canvas.text(0, row, line, ink)
    value = "".join(lines)
    return Item(
        "strip", "Read the digits.", value, ("digits",), value, f"strip:{value}", canvas.pixels(), (value,), "text"
    )


def glyphs(rng: np.random.Generator) -> Item:
    """Base model only: numbers and letters on a line drawing, to be read in order. The densest lesson in seeing."""
    cols, rows = number(rng, 5, 9), number(rng, 1, 3)
    ink = INKS[number(rng, 0, len(INKS) - 1)]
    canvas = Canvas(cols, rows)
    for _ in range(number(rng, 0, 2)):
        points = [(float(rng.uniform(0, cols)), float(rng.uniform(0, rows))) for _ in range(number(rng, 2, 3))]
        canvas.line(*points, ink=ink, width=number(rng, 1, 2))
    labels: list[str] = []
    for row in range(rows):
        col = number(rng, 0, 1)
        while col < cols:
            label = pick(rng, list("ABCDEFGHKLMNPQRSTUVWx")) if number(rng, 0, 4) == 0 else str(number(rng, 0, 60))
            if label.isdigit() and number(rng, 0, 5) == 0:
                label += "°"
            if col + len(label) > cols:
                break
            canvas.text(col, row, label, ink)
            labels.append(label)
            col += len(label) + 1
    if not labels:
        canvas.text(0, 0, "7", ink)
        labels.append("7")
    value = ", ".join(labels)
    return Item(
        "glyphs", READ_QUESTION, value, ("labels",), value, f"glyphs:{value}", canvas.pixels(), tuple(labels), "text"
    )


PERCEPTION_FAMILIES: dict[str, Maker] = {
    "scene": scene,
    "receipt": receipt,
    "bar_chart": bar_chart,
    "science": science,
}
