"""Pictures of a football match: the whole pitch from above for large models, an object a cell for small ones.

"full": the pitch to scale, blue discs play to the right, red ones against them; a light tick shows where a player runs,
keepers have a light rim, a yellow ring and a marker show the controlled player; the ball casts a shadow away from it when
it is in the air; above, the score and a bar of the time that is left. "grid": 14 x 8 cells (or another number) of the 28-pixel canvas for
the right half of the pitch, one mark a cell (MARKS).
Leaves out: the picture of an engine with a renderer of its own. The drawings are ours.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from lmm_r1.drawing import CELL, Canvas, Picture
from lmm_r1.envs.football.state import HALF_GOAL, HALF_LENGTH, HALF_WIDTH, METRES, TICK, State

#: Columns and rows of a "grid" picture, and its shape.
GRID = (14, 8)
GRID_SHAPE = (GRID[1] * CELL, GRID[0] * CELL, 3)
#: The marks of a "grid" picture, the stronger first: of two things in a cell the stronger is shown.
MARKS: dict[str, tuple[str, str]] = {
    "controlled player with the ball": ("disc", "orange"),
    "controlled player, the free ball at its feet": ("ring", "orange"),
    "controlled player without the ball": ("ring", "blue"),
    "free ball": ("disc", "yellow"),
    "opponents' keeper with the ball": ("triangle", "purple"),
    "opponents' keeper": ("triangle", "red"),
    "opponent with the ball": ("square", "purple"),
    "opponent": ("square", "red"),
    "team mate with the ball": ("disc", "purple"),
    "team mate": ("disc", "blue"),
    "goal": ("square", "green"),
}
#: Width and height of the smallest full picture, pixels.
SMALLEST = (160, 90)

_STRENGTH = {mark: len(MARKS) - place for place, mark in enumerate(MARKS)}
#: Columns of the pitch; one more is the goal behind the line.

GRASS, STRIPE, APRON = (66, 140, 66), (74, 152, 74), (48, 108, 52)
CHALK, NET, BAR, FRAME = (236, 242, 236), (205, 212, 205), (26, 34, 40), (60, 70, 78)
BLUE, RED, RIM, MARKED = (40, 92, 214), (206, 44, 44), (250, 250, 250), (255, 222, 40)
DARK_BLUE, DARK_RED, INK = (18, 44, 120), (110, 14, 14), (20, 20, 20)
PALE_BLUE, PALE_RED = (190, 214, 255), (255, 200, 190)
#: Sprites are drawn this much larger, then scaled down.
_FINE = 4
_TURNS = 32


def cell_of(x: float, y: float, grid: tuple[int, int] = GRID) -> tuple[int, int]:
    """(column, row) of a place on the right half, in coordinates; what lies outside is moved to the border."""
    columns, rows = grid[0] - 1, grid[1]
    column = math.floor(x * columns / HALF_LENGTH)
    row = math.floor((y + HALF_WIDTH) * rows / (2.0 * HALF_WIDTH))
    return min(max(column, 0), columns - 1), min(max(row, 0), rows - 1)


def grid_marks(state: State, grid: tuple[int, int] = GRID) -> dict[tuple[int, int], str]:
    """(column, row) -> the mark of MARKS shown there. grid: columns and rows, of which there is an even number.

    All columns but the last are x from 0 to 1, the rows are y from -0.42 to 0.42, the last column is the goal behind the
    line, two rows wide. The controlled player and whoever has the ball are always shown, at the border when they are in the left half; all others
    there are left out.
    """
    goal_rows = (grid[1] // 2 - 1, grid[1] // 2)
    found: dict[tuple[int, int], str] = {(grid[0] - 1, row): "goal" for row in goal_rows}

    def put(cell: tuple[int, int], mark: str) -> None:
        if cell not in found or _STRENGTH[mark] > _STRENGTH[found[cell]]:
            found[cell] = mark

    for team, players in enumerate((state.left_team.tolist(), state.right_team.tolist())):
        for number, (x, y) in enumerate(players):
            if team == 0 and number == state.active:
                continue
            ball = (state.ball_owned_team, state.ball_owned_player) == (team, number)
            if x < 0.0 and not ball:
                continue
            name = "team mate" if team == 0 else "opponents' keeper" if number == 0 and state.keepers[1] else "opponent"
            put(cell_of(x, y, grid), f"{name} with the ball" if ball else name)
    x, y = state.left_team[state.active].tolist()
    mine = cell_of(x, y, grid)
    mark = "controlled player with the ball" if state.has_ball else "controlled player without the ball"
    if state.ball_owned_team == -1:
        x, y = state.ball[:2].tolist()
        over = x > HALF_LENGTH and abs(y) < HALF_GOAL
        there = (grid[0] - 1, goal_rows[int(y > 0.0)]) if over else cell_of(x, y, grid)
        if there == mine:
            mark = "controlled player, the free ball at its feet"
        elif x >= 0.0:
            put(there, "free ball")
    put(mine, mark)
    return found


def grid_picture(state: State, grid: tuple[int, int] = GRID) -> Picture:
    """uint8[28 * rows, 28 * columns, 3]: one mark a cell, as `grid_marks` says."""
    canvas = Canvas(*grid)
    for (column, row), mark in grid_marks(state, grid).items():
        canvas.shape(column, row, *MARKS[mark])
    return canvas.pixels()


class _Frame:
    """Where the pitch lies in a picture: `at` turns coordinates into pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.bar = max(10, round(height / 15))
        length, across = 2.0 * METRES[0] * HALF_LENGTH, 2.0 * METRES[1] * HALF_WIDTH
        #: Pixels per metre: the goals behind the lines and a margin have to fit, too.
        self.scale = min(width / (length + 9.0), (height - self.bar) / (across + 4.5))
        self.middle = (width / 2.0, self.bar + (height - self.bar) / 2.0)
        self.radius = max(2.5, 1.55 * self.scale)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a place in coordinates."""
        return self.middle[0] + x * METRES[0] * self.scale, self.middle[1] + y * METRES[1] * self.scale


@lru_cache(maxsize=4)
def _frame(width: int, height: int) -> _Frame:
    return _Frame(width, height)


def pixel(x: float, y: float, width: int = 640, height: int = 360) -> tuple[int, int]:
    """(column, row) of a place, in coordinates, in a full picture."""
    right, down = _frame(width, height).at(x, y)
    return round(right), round(down)


@lru_cache(maxsize=4)
def _pitch(width: int, height: int) -> PillowImage.Image:
    """Grass, lines, goals and the empty bar above."""
    frame, fine = _frame(width, height), 2
    image = PillowImage.new("RGB", (width * fine, height * fine), APRON)
    draw = ImageDraw.Draw(image)
    metre = frame.scale * fine
    line = max(2, round(0.28 * metre))

    def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
        (a, b), (c, d) = frame.at(x0, y0), frame.at(x1, y1)
        return [a * fine, b * fine, c * fine, d * fine]

    stripes = 12
    for number in range(stripes):
        left, right = -1.0 + 2.0 * number / stripes, -1.0 + 2.0 * (number + 1) / stripes
        draw.rectangle(box(left, -HALF_WIDTH, right, HALF_WIDTH), fill=(GRASS, STRIPE)[number % 2])
    draw.rectangle(box(-HALF_LENGTH, -HALF_WIDTH, HALF_LENGTH, HALF_WIDTH), outline=CHALK, width=line)
    draw.line(box(0.0, -HALF_WIDTH, 0.0, HALF_WIDTH), fill=CHALK, width=line)
    for centre, radius, fill in ((0.0, 9.15, None), (0.0, 0.5, CHALK)):
        x, y = frame.at(centre, 0.0)
        edges = [
            (x * fine) - radius * metre,
            y * fine - radius * metre,
            x * fine + radius * metre,
            y * fine + radius * metre,
        ]
        draw.ellipse(edges, outline=CHALK, fill=fill, width=line)
    for side in (-1.0, 1.0):
        for deep, half in ((16.5, 20.16), (5.5, 9.16)):
            inner, outer = sorted((side * (1.0 - deep / METRES[0]), side))
            draw.rectangle(box(inner, -half / METRES[1], outer, half / METRES[1]), outline=CHALK, width=line)
        x, y = frame.at(side * (1.0 - 11.0 / METRES[0]), 0.0)
        arc = [x * fine - 9.15 * metre, y * fine - 9.15 * metre, x * fine + 9.15 * metre, y * fine + 9.15 * metre]
        draw.arc(arc, *((127, 233) if side > 0 else (-53, 53)), fill=CHALK, width=line)
        draw.ellipse([x * fine - line, y * fine - line, x * fine + line, y * fine + line], fill=CHALK)
        inner, outer = sorted((side, side * (1.0 + 2.6 / METRES[0])))
        net = box(inner, -HALF_GOAL, outer, HALF_GOAL)
        draw.rectangle(net, fill=NET, outline=(255, 255, 255), width=line + 1)
        for share in (0.25, 0.5, 0.75):
            y = net[1] + share * (net[3] - net[1])
            draw.line([net[0], y, net[2], y], fill=(150, 160, 150), width=1)
    draw.rectangle([0, 0, width * fine, frame.bar * fine], fill=BAR)
    return image.resize((width, height), PillowImage.Resampling.LANCZOS)


@lru_cache(maxsize=512)
def _player(radius: float, kind: str, turn: int, rim: bool) -> PillowImage.Image:
    """RGBA: a disc with a tick in one of _TURNS directions, -1 for none. kind: left, right."""
    side = math.ceil(radius * 1.9) * 2
    image = PillowImage.new("RGBA", (side * _FINE, side * _FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    centre, r = side * _FINE / 2.0, radius * _FINE
    fill, edge = (BLUE, DARK_BLUE) if kind == "left" else (RED, DARK_RED)
    drop = 0.22 * r
    draw.ellipse([centre - r + drop, centre - r + drop, centre + r + drop, centre + r + drop], fill=(0, 0, 0, 70))
    if turn >= 0:
        angle = 2.0 * math.pi * turn / _TURNS
        x, y = math.cos(angle), math.sin(angle)
        tip, foot, wide = 1.75 * r, 0.6 * r, 0.7 * r
        points = [
            (centre + tip * x, centre + tip * y),
            (centre + foot * x - wide * y, centre + foot * y + wide * x),
            (centre + foot * x + wide * y, centre + foot * y - wide * x),
        ]
        draw.polygon(points, fill=PALE_BLUE if kind == "left" else PALE_RED, outline=edge)
    draw.ellipse([centre - r, centre - r, centre + r, centre + r], fill=RIM if rim else edge)
    inner = r * (0.7 if rim else 0.82)
    draw.ellipse([centre - inner, centre - inner, centre + inner, centre + inner], fill=fill)
    return image.resize((side, side), PillowImage.Resampling.LANCZOS)


@lru_cache(maxsize=64)
def _disc(radius: float, kind: str) -> PillowImage.Image:
    """RGBA: "ball", "shadow", the "ring" around the controlled player, or the "pointer" above it."""
    side = math.ceil(radius * 1.3) * 2
    image = PillowImage.new("RGBA", (side * _FINE, side * _FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    centre, r = side * _FINE / 2.0, radius * _FINE
    edges = [centre - r, centre - r, centre + r, centre + r]
    if kind == "ball":
        draw.ellipse(edges, fill=INK)
        draw.ellipse([centre - 0.78 * r, centre - 0.78 * r, centre + 0.78 * r, centre + 0.78 * r], fill=(255, 255, 255))
    elif kind == "shadow":
        draw.ellipse(edges, fill=(0, 0, 0, 110))
    elif kind == "ring":
        draw.ellipse(edges, outline=MARKED, width=round(0.24 * r))
    else:
        points = [
            (centre - 0.8 * r, centre - 0.7 * r),
            (centre + 0.8 * r, centre - 0.7 * r),
            (centre, centre + 0.6 * r),
        ]
        draw.polygon(points, fill=MARKED, outline=INK)
    return image.resize((side, side), PillowImage.Resampling.LANCZOS)


def full_picture(state: State, width: int = 640, height: int = 360) -> Picture:
    """uint8[height, width, 3]. ValueError for a picture smaller than SMALLEST."""
    if width < SMALLEST[0] or height < SMALLEST[1]:
        raise ValueError(f"{width} x {height} pixels show nothing: at least {SMALLEST[0]} x {SMALLEST[1]}")
    frame = _frame(width, height)
    image = _pitch(width, height).copy()
    radius = frame.radius

    def stamp(sprite: PillowImage.Image, x: float, y: float) -> None:
        image.paste(sprite, (round(x - sprite.width / 2), round(y - sprite.height / 2)), sprite)

    teams = (
        ("right", state.right_team, state.right_team_direction, state.keepers[1]),
        ("left", state.left_team, state.left_team_direction, state.keepers[0]),
    )
    for kind, places, moves, keeper in teams:
        for number, ((x, y), (u, v)) in enumerate(zip(places.tolist(), moves.tolist(), strict=True)):
            u, v = u * METRES[0], v * METRES[1]
            moving = math.hypot(u, v) > 0.8 * TICK
            turn = round(math.atan2(v, u) * _TURNS / (2.0 * math.pi)) % _TURNS if moving else -1
            stamp(_player(radius, kind, turn, keeper and number == 0), *frame.at(x, y))
    x, y = frame.at(*state.left_team[state.active].tolist())
    stamp(_disc(radius * 1.62, "ring"), x, y)
    stamp(_disc(radius * 0.95, "pointer"), x, max(y - 2.7 * radius, frame.bar + radius))
    x, y = frame.at(*state.ball[:2].tolist())
    z = float(state.ball[2])
    if z > 0.3:
        stamp(_disc(0.55 * radius, "shadow"), x, y)
    grown = 0.6 * radius * (1.0 + min(z, 12.0) / 24.0)
    stamp(_disc(round(grown, 1), "ball"), x, y - 1.1 * z * frame.scale)
    _bar(image, state, frame)
    return np.asarray(image, dtype=np.uint8).copy()


def _bar(image: PillowImage.Image, state: State, frame: _Frame) -> None:
    """The goals of either side as dots in its colour, and the time that is left as a bar, of 400 ticks."""
    draw = ImageDraw.Draw(image)
    width, high = image.width, frame.bar
    for side, colour, goals in ((-1, BLUE, state.score[0]), (1, RED, state.score[1])):
        near, far = width / 2 + side * 0.4 * high, width / 2 + side * 1.2 * high
        draw.rectangle([min(near, far), 0.22 * high, max(near, far), 0.78 * high], fill=colour)
        for number in range(min(goals, 9)):
            x = width / 2 + side * (1.75 + 0.75 * number) * high
            draw.ellipse([x - 0.25 * high, 0.25 * high, x + 0.25 * high, 0.75 * high], fill=(255, 255, 255))
    left, right = 0.75 * width, 0.98 * width
    share = min(1.0, max(0.0, state.steps_left / 400.0))
    draw.rectangle([left, 0.36 * high, right, 0.64 * high], fill=FRAME)
    draw.rectangle([left, 0.36 * high, left + share * (right - left), 0.64 * high], fill=(214, 220, 224))
