"""The `boxes` verifier: a bounding box or a point in a picture.

The gold is a box "[x1, y1, x2, y2]". An answer of four numbers is right when its intersection over union with
the gold reaches `meta["iou"]` (default 0.5); an answer of two numbers is a point and right inside the gold.
A gold of two numbers is a point: an answer is right within `meta["radius"]` of it. Units are those of the gold.
"""

from __future__ import annotations

import math
import re

from lmm_r1.rewards.extract import MAX_ANSWER
from lmm_r1.rewards.math import checked
from lmm_r1.types import Problem, Verdict

DEFAULT_IOU = 0.5
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
    if len(text) > MAX_ANSWER or _REST.sub("", _NUMBER.sub("", text)):
        return None
    found = tuple(float(number) for number in _NUMBER.findall(text))
    if len(found) == 4 and not (found[0] < found[2] and found[1] < found[3]):
        return None
    return found if len(found) in (2, 4) else None


def intersection_over_union(a: Numbers, b: Numbers) -> float:
    """IoU of two boxes (x1, y1, x2, y2)."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, tall)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def judge_box(gold: str, answer: str, iou: float = DEFAULT_IOU, radius: float = 0.0) -> Verdict:
    """Compare two places in a picture."""
    wanted = numbers(gold)
    if wanted is None or not 0.0 < iou <= 1.0 or not 0.0 <= radius < math.inf:
        return Verdict(0.0, "error")
    found = numbers(answer)
    if found is None:
        return Verdict(0.0, "unparsable_answer")
    if len(wanted) == 2:
        right = len(found) == 2 and math.dist(wanted, found) <= radius
    elif len(found) == 2:
        right = wanted[0] <= found[0] <= wanted[2] and wanted[1] <= found[1] <= wanted[3]
    else:
        right = intersection_over_union(wanted, found) >= iou
    return Verdict(1.0, "correct") if right else Verdict(0.0, "wrong")


def boxes_verdict(problem: Problem, reply: str) -> Verdict:
    """The `boxes` verifier."""
    iou, radius = problem.meta.get("iou", DEFAULT_IOU), problem.meta.get("radius", 0.0)
    if not (isinstance(iou, int | float) and isinstance(radius, int | float)):
        return Verdict(0.0, "error")
    return checked(lambda gold, answer: judge_box(gold, answer, iou, radius), problem.answer, reply)
