"""Boxes and points stay on what they name, whatever becomes of their picture."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmm_r1.places import numbers, place_fault, with_pictures
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.boxes import intersection_over_union as iou
from lmm_r1.types import Image, Message, Problem, Text


def picture(width: int, height: int, name: str = "p") -> Image:
    return Image(name * 64, width, height)


def asked(answer: str, *pictures: Image, **meta: object) -> Problem:
    content = (*pictures, Text("Where?"))
    return Problem("p", (Message("user", content),), answer, "boxes", meta=meta)


def paid(problem: Problem, answer: str) -> bool:
    return VERIFIERS["boxes"](problem, f"<answer>{answer}</answer>").value == 1.0


@pytest.mark.parametrize(
    ("size", "gold", "seen", "right", "wrong"),
    [
        ((840, 840), "[200, 200, 600, 600]", (252, 252), "[60, 60, 180, 180]", "[200, 200, 600, 600]"),
        ((20, 20), "[2, 4, 10, 12]", (112, 112), "[11, 22, 56, 67]", "[2, 4, 10, 12]"),
        ((1200, 500), "[0, 100, 1200, 500]", (532, 224), "(0, 45), (532, 224)", "[0, 100, 1200, 500]"),
        ((100, 200), "[10, 20, 30, 40]", (140, 140), "[14, 14, 42, 28]", "[10, 20, 30, 40]"),
        ((100, 200), "x1=10, y1=20, x2=30, y2=40", (140, 140), "x1=14, y1=14, x2=42, y2=28", "[14, 28, 42, 56]"),
    ],
)
def test_a_box_goes_with_its_picture(size: Any, gold: str, seen: Any, right: str, wrong: str) -> None:
    """Catches a gold that stays behind when its picture shrinks, grows or is stretched: what is true is never paid."""
    changed = with_pictures(asked(gold, picture(*size)), [picture(*seen, "q")])
    assert paid(changed, right) and not paid(changed, wrong)
    assert changed.images == (picture(*seen, "q"),) and place_fault(changed) is None
    assert with_pictures(changed, changed.images) is changed, "who scales twice scales once"


@pytest.mark.parametrize(
    ("seen", "right", "wrong"),
    [
        ((50, 50), ["(25, 25)", "(29, 25)", "(25, 21)"], ["(31, 25)", "(50, 50)"]),
        ((200, 200), ["(100, 100)", "(119, 100)"], ["(121, 100)", "(50, 50)"]),
        ((200, 50), ["(100, 25)", "(119, 25)", "(100, 29)"], ["(100, 31)", "(121, 25)", "(115, 29)"]),
    ],
)
def test_a_point_keeps_its_radius(seen: tuple[int, int], right: list[str], wrong: list[str]) -> None:
    """Catches a radius in the pixels of another picture, and a circle that a stretched picture keeps round."""
    changed = with_pictures(asked("(50, 50)", picture(100, 100), radius=10), [picture(*seen, "q")])
    assert [paid(changed, answer) for answer in right] == [True] * len(right)
    assert [paid(changed, answer) for answer in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("gold", "right"), [("(51, 20)", "(15, 6)"), ("(100, 100)", "(30, 30)"), ("(99, 1)", "(30, 0)")]
)
def test_a_point_without_a_radius_is_a_pixel(gold: str, right: str) -> None:
    """Catches a gold between two pixels, which no answer in whole numbers hits."""
    assert paid(with_pictures(asked(gold, picture(100, 100)), [picture(30, 30, "q")]), right)


@given(
    st.tuples(*[st.integers(1, 3000)] * 4),
    st.lists(st.integers(0, 1000), min_size=4, max_size=4),
    st.lists(st.integers(0, 1000), min_size=4, max_size=4),
)
def test_scaling_changes_no_overlap(sizes: tuple[int, int, int, int], one: list[int], two: list[int]) -> None:
    """Catches a box whose overlap with another one depends on the size of the picture that both are seen in."""
    old, new = picture(*sizes[:2]), picture(*sizes[2:], "q")

    def box(shares: list[int]) -> list[float]:
        (left, right), (top, bottom) = sorted(shares[::2]), sorted(shares[1::2])
        return [left * old.width / 1000, top * old.height / 1000, right * old.width / 1000, bottom * old.height / 1000]

    gold, answer = (f"[{', '.join(f'{v:.6f}' for v in box(shares))}]" for shares in (one, two))
    problem = asked(gold, old, iou=0.5)
    if numbers(gold) is None or numbers(answer) is None or place_fault(problem) is not None:
        return
    both = [with_pictures(asked(text, old), [new]) for text in (gold, answer)]
    places = [numbers(p.answer) for p in both]
    if any(p is None or p[2] - p[0] < 1 or p[3] - p[1] < 1 for p in places):
        return  # rounded to a ten-thousandth: overlap of what is smaller than a pixel is not meant
    before = iou(numbers(gold) or (), numbers(answer) or ())
    assert iou(places[0] or (), places[1] or ()) == pytest.approx(before, abs=2e-3)


def test_shares_of_a_picture_do_not_move() -> None:
    """Catches coordinates that already are shares of the picture being scaled like pixels."""
    for coordinates, gold in (("0-1", "[0.2, 0.2, 0.6, 0.6]"), ("0-1000", "[200, 200, 600, 600]")):
        problem = asked(gold, picture(840, 840), coordinates=coordinates)
        assert place_fault(problem) is None
        changed = with_pictures(problem, [picture(252, 112, "q")])
        assert changed.answer == gold and paid(changed, gold)


def test_the_picture_that_is_meant_decides() -> None:
    """Catches a box that is scaled by another picture's size, where a problem has several."""
    old, new = [picture(100, 100), picture(400, 200, "r")], [picture(50, 50, "q"), picture(100, 100, "s")]
    first = with_pictures(asked("[10, 10, 20, 20]", *old, image=1), new)
    second = with_pictures(asked("[10, 10, 20, 20]", *old, image=2), new)
    assert (first.answer, second.answer) == ("[5, 5, 10, 10]", "[2.5, 5, 5, 10]")


def test_a_solution_does_not_speak_of_other_pixels() -> None:
    """Catches a supervised stage that imitates the places of a picture that the model does not see."""
    problem = asked("[10, 10, 20, 20]", picture(100, 100), solution="The square is at [10, 10, 20, 20].")
    assert "solution" not in with_pictures(problem, [picture(50, 50, "q")]).meta
    assert with_pictures(problem, [picture(100, 100, "q")]).meta == problem.meta, "another file of the same size"
    words = Problem("p", problem.messages, "7", meta={"solution": "7 of them."})
    assert with_pictures(words, [picture(50, 50, "q")]).meta == words.meta
