"""Places in pictures, VQA metrics, and verifiers put together."""

from __future__ import annotations

import math

import pytest

from lmm_r1 import verify
from lmm_r1.places import numbers
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.boxes import intersection_over_union
from lmm_r1.rewards.compose import weighted
from lmm_r1.rewards.text import edit_distance
from lmm_r1.types import Problem


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("[0, 0, 10, 10]", "[0, 0, 10, 10]", "correct"), ("[0, 0, 10, 10]", "(1, 1), (10, 10)", "correct"),
        ("[0, 0, 10, 10]", "x1=0, y1=0, x2=10, y2=9", "correct"), ("[0, 0, 10, 10]", "{\"bbox_2d\": [0, 0, 10, 10]}", "correct"),
        ("[0, 0, 10, 10]", "[0, 0, 10, 4]", "wrong"), ("[0, 0, 10, 10]", "[20, 20, 30, 30]", "wrong"), ("[0, 0, 10, 10]", "(5, 5)", "correct"),
        ("[0, 0, 10, 10]", "(11, 5)", "wrong"), ("[0, 0, 10, 10]", "[10, 10, 0, 0]", "unparsable_answer"),
        ("[0, 0, 10, 10]", "[0, 0, 10]", "unparsable_answer"), ("[0, 0, 10, 10]", "[0, 0, 10, 10] or so", "unparsable_answer"),
        ("[0, 0, 0, 10]", "[0, 0, 10, 10]", "error"), ("somewhere", "[0, 0, 10, 10]", "error"),
    ],
)  # fmt: skip
def test_boxes(gold: str, answer: str, reason: str) -> None:
    """Catches an empty or turned box, and numbers with words around them."""
    assert verify(gold, f"<answer>{answer}</answer>", "boxes").reason == reason


def test_points_need_a_stated_radius() -> None:
    """Catches a point that is right anywhere."""
    for radius, answer, value in ((2, "(5, 6)", 1.0), (2, "(5, 8)", 0.0), (0, "(5, 5)", 1.0), (2, "(0, 0, 9, 9)", 0.0)):
        problem = Problem("p", (), "(5, 5)", "boxes", meta={"radius": radius})
        assert VERIFIERS["boxes"](problem, f"\\boxed{{{answer}}}").value == value
    for meta in ({"radius": "far"}, {"radius": -1}, {"iou": 0}, {"iou": math.nan}):
        assert VERIFIERS["boxes"](Problem("p", (), "(5, 5)", "boxes", meta=meta), "\\boxed{(5, 5)}").reason == "error"


def test_intersection_over_union() -> None:
    """Catches areas counted twice."""
    assert intersection_over_union((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert intersection_over_union((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0
    assert numbers("1e400, 2") is None


def text(gold: str, answer: str, **meta: object) -> float:
    return VERIFIERS["text"](Problem("p", (), gold, "text", meta=meta), f"<answer>{answer}</answer>").value


def test_anls() -> None:
    """Catches a distance over the wrong length, and partial credit below the threshold."""
    assert text("abcd", "abcd", metric="anls") == 1.0
    assert text("abcd", "abce", metric="anls") == 0.75
    assert text("abcd", "abxy", metric="anls") == 0.0
    assert text("colour", "color", metric="anls", golds=["color"]) == 1.0
    assert text("a" * 300, "b" * 600, metric="anls") == 0.0
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3


def test_relaxed_and_yes_no() -> None:
    """Catches a tolerance on words, and a hedge between yes and no."""
    assert text("100", "104.9", metric="relaxed") == 1.0
    assert text("100", "106", metric="relaxed") == 0.0
    assert text("2010", "2010", metric="relaxed") == 1.0
    assert text("red", "rod", metric="relaxed") == 0.0
    assert text("yes", "Yes, it is.") == 1.0
    assert text("yes", "Yes and no") == 0.0
    assert text("yes", "No, yes") == 0.0
    assert text("no", "Not at all") == 0.0
    assert text("red", "red", metric="vibes") == 0.0


def test_weighted() -> None:
    """Catches weights that do not add up, and a reason that hides the failing part."""
    both = weighted({"number": (VERIFIERS["math"], 3.0), "word": (VERIFIERS["text"], 1.0)})
    assert both(Problem("p", (), "7"), "<answer>7</answer>").value == 1.0
    half = both(Problem("p", (), "7"), "<answer>14/2</answer>")
    assert (half.value, half.reason) == (0.75, "wrong")
    for weight in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive"):
            weighted({"a": (VERIFIERS["math"], weight)})
    with pytest.raises(ValueError, match="must be one"):
        weighted({})
