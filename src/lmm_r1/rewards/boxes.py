"""The `boxes` verifier: a bounding box or a point in a picture.

The gold is a box "[x1, y1, x2, y2]". An answer of four numbers is right when its intersection over union with
the gold reaches `meta["iou"]` (default 0.5); an answer of two numbers is a point and right inside the gold.
A gold of two numbers is a point: an answer is right within `meta["radius"]` of it, which is [x, y] where a resize has
made an ellipse of the circle. Gold and answer are in pixels of the picture that the model sees: a problem's gold is
scaled with its picture before it comes here (places.py), unless `meta["coordinates"]` says that both are shares of it.
"""

from __future__ import annotations

import math

from lmm_r1.places import Numbers, numbers, radii
from lmm_r1.rewards.math import checked
from lmm_r1.types import Problem, Verdict

DEFAULT_IOU = 0.5


def intersection_over_union(a: Numbers, b: Numbers) -> float:
    """IoU of two boxes (x1, y1, x2, y2)."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, tall)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def judge_box(
    gold: str, answer: str, iou: float = DEFAULT_IOU, radius: tuple[float, float] | None = (0.0, 0.0)
) -> Verdict:
    """Compare two places in a picture. radius: of a gold point, along x and y; None = it cannot be read."""
    wanted = numbers(gold)
    if wanted is None or not 0.0 < iou <= 1.0 or radius is None:
        return Verdict(0.0, "error")
    found = numbers(answer)
    if found is None:
        return Verdict(0.0, "unparsable_answer")
    if len(wanted) == 2:
        right = len(found) == 2 and _near(wanted, found, radius)
    elif len(found) == 2:
        right = wanted[0] <= found[0] <= wanted[2] and wanted[1] <= found[1] <= wanted[3]
    else:
        right = intersection_over_union(wanted, found) >= iou
    return Verdict(1.0, "correct") if right else Verdict(0.0, "wrong")


def _near(wanted: Numbers, found: Numbers, radius: tuple[float, float]) -> bool:
    """Whether a point lies within the ellipse around another one."""
    if radius[0] == radius[1]:
        return math.dist(wanted, found) <= radius[0]
    if min(radius) == 0:
        return wanted == found
    return math.hypot(*((f - w) / r for w, f, r in zip(wanted, found, radius, strict=True))) <= 1.0


def boxes_verdict(problem: Problem, reply: str) -> Verdict:
    """The `boxes` verifier."""
    iou, radius = problem.meta.get("iou", DEFAULT_IOU), radii(problem.meta)
    if not isinstance(iou, int | float):
        return Verdict(0.0, "error")
    return checked(lambda gold, answer: judge_box(gold, answer, iou, radius), problem.answer, reply)
