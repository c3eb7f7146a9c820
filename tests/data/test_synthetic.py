"""The synthetic task: reproducible, exact, split by construction, drawn on the patch grid."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lmm_r1.data.images import ImageStore
from lmm_r1.data.synthetic import habits
from lmm_r1.data.synthetic.items import Item, draw, is_evaluation
from lmm_r1.data.synthetic.perception import grid
from lmm_r1.data.synthetic.problems import DOMAINS, SyntheticSource
from lmm_r1.drawing import CELL, Canvas
from lmm_r1.errors import RecipeError
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Text

FAMILIES = [(domain, family) for domain, families in DOMAINS.items() for family in families]
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}


def items(domain: str, family: str, count: int, split: str = "train") -> list[Item]:
    return [draw(DOMAINS[domain][family], split, 5, i, family) for i in range(count)]


@pytest.mark.parametrize(("domain", "family"), FAMILIES)
def test_every_equation_of_a_worked_solution_is_true_and_ends_in_the_answer(domain: str, family: str) -> None:
    """Catches a wrong step, which would teach the base wrong arithmetic."""
    for item in items(domain, family, 150):
        for text in (*item.steps, item.check):
            for a, op, b, value in EQUATION.findall(text):
                assert OPERATIONS[op](int(a), int(b)) == int(value), (item.question, text)
        assert item.steps[-1].endswith(item.answer), item.question


@pytest.mark.parametrize(("domain", "family"), FAMILIES)
def test_the_gold_answer_verifies_and_another_items_answer_does_not(domain: str, family: str) -> None:
    """Catches a family whose answers the verifier cannot tell apart."""
    source = SyntheticSource(domain, ImageStore(), families=[family], seed=3)
    problems = [source.at(i) for i in range(30)]
    for problem in problems:
        verify = VERIFIERS[problem.verifier]
        other = next(p.answer for p in problems if p.answer != problem.answer)
        assert verify(problem, f"<think>t</think><answer>{problem.answer}</answer>").value == 1.0
        assert verify(problem, f"<think>t</think><answer>{other}</answer>").value == 0.0


@pytest.mark.parametrize(("domain", "family"), FAMILIES)
def test_train_and_evaluation_share_no_key(domain: str, family: str) -> None:
    """Catches an evaluation item that training could meet, in whatever wording."""
    train = {item.key for item in items(domain, family, 400)}
    held_out = {item.key for item in items(domain, family, 100, "evaluation")}
    assert not train & held_out
    assert all(map(is_evaluation, held_out)) and not any(map(is_evaluation, train))


@pytest.mark.parametrize("domain", ["geometry", "perception"])
def test_the_numbers_stand_only_in_the_picture(domain: str) -> None:
    """Catches a question that gives the picture away: a blind model could then answer it."""
    for family in DOMAINS[domain]:
        for item in items(domain, family, 60):
            assert item.picture is not None
            numbers = {n for label in item.labels for n in re.findall(r"\d+", label)}
            allowed = {item.key.split(":")[-1]} if "add" in item.question else set()  # "add 6" is part of the task
            assert not (set(re.findall(r"\d+", item.question)) & numbers) - allowed, item.question


def test_pictures_lie_on_the_patch_grid_and_within_the_base_models_bound() -> None:
    """Catches a drawing that a canonical resize would blur."""
    for maker in (*DOMAINS["geometry"].values(), *DOMAINS["perception"].values(), grid):
        for index in range(40):
            picture = draw(maker, "train", 1, index, "x").picture
            assert picture is not None and picture.dtype == np.uint8
            assert picture.shape[0] % CELL == 0 and picture.shape[1] % CELL == 0
            assert picture.shape[0] * picture.shape[1] <= 14 * 8 * CELL * CELL


def test_each_glyph_stays_inside_its_cell() -> None:
    """Catches a font that grows: labels across cells were not learned."""
    for glyph in "0123456789ABCMQWX°xg":
        canvas = Canvas(3, 3)
        canvas.text(1, 1, glyph)
        ink = (canvas.pixels() < 250).any(-1)
        assert ink[CELL : 2 * CELL, CELL : 2 * CELL].any()
        ink[CELL : 2 * CELL, CELL : 2 * CELL] = False
        assert not ink.any(), glyph


def test_a_source_is_a_pure_function_of_seed_and_index() -> None:
    """Catches hidden state: a resumed run must see the same problems."""
    one = SyntheticSource("geometry", ImageStore(), seed=9)
    two = SyntheticSource("geometry", ImageStore(), seed=9)
    [two.at(i) for i in range(7)]
    for index in (0, 3, 11):
        assert one.at(index) == two.at(index)
    assert SyntheticSource("geometry", ImageStore(), seed=10).at(3) != one.at(3)


def test_an_unknown_family_is_refused_by_name() -> None:
    """Catches a typo that would silently train on everything."""
    with pytest.raises(RecipeError, match="rectangel"):
        SyntheticSource("geometry", ImageStore(), families=["rectangel"])


def test_rl_never_sees_a_worked_solution() -> None:
    """Catches a leak of the solution into a problem."""
    source = SyntheticSource("text", ImageStore(), families=["arithmetic"])
    for index in range(20):
        _, item = source.item(index)
        problem = source.at(index)
        text = "".join(p.text for m in problem.messages for p in m.content if isinstance(p, Text)) + str(problem.meta)
        assert not any(step in text for step in item.steps)


def test_lessons_are_training_items_and_follow_the_mixture_of_habits() -> None:
    """Catches evaluation items in the base's diet, and a mixture that hides nothing."""
    lessons = [habits.lesson(1, i, skill_only=False) for i in range(1500)]
    assert not any(is_evaluation(x.item.key) for x in lessons)
    drills = {*habits.DRILLS, "read"}
    reasoning = [
        x for x in lessons if x.item.family not in drills and x.question != habits.READ_QUESTION and x.prompted
    ]
    worked = [x for x in reasoning if all(step in x.reply for step in x.item.steps)]
    tagged = [x for x in reasoning if x.reply.startswith("<think>")]
    assert 0.26 < len(worked) / len(reasoning) < 0.39
    assert 0.70 < len(tagged) / len(reasoning) < 0.82
