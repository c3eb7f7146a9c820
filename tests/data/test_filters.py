"""Filter rules: each drops what it names and leaves what only looks like it."""

from __future__ import annotations

import pytest

from lmm_r1.data.preparing.filters import RULES, VERIFIABLE, reason_to_drop, small_picture
from lmm_r1.types import Image, Message, Problem, Text


def problem(
    question: str = "What is it?", answer: str = "7", verifier: str = "math", choices: tuple[str, ...] | None = None,
    meta: dict[str, object] | None = None,
) -> Problem:  # fmt: skip
    verifier = "choice" if choices else verifier
    return Problem("p", (Message("user", (Text(question),)),), answer, verifier, choices=choices, meta=meta or {})


AB = ("one", "two")

DROPPED = [
    ("empty question", problem(question=" \n ")),
    ("proof", problem("Prove that x = x.")),
    ("proof", problem("Show that a < b.", "a<b")),
    ("proof", problem(answer="notfound")),
    ("proof", problem("Let n be even.", "4", meta={"question_type": "proof"})),
    ("long answer", problem(answer="1+" * 120 + "1")),
    ("several parts", problem(answer="(1) 3 (2) 4")),
    ("several parts", problem(answer="(a) x=1, (b) y=2")),
    ("several parts", problem("Given f.\n(1) Find the maximum.\n(2) Determine the minimum.", "4")),
    ("several parts", problem("(i) Prove the lemma. (ii) Calculate the sum.", "4")),
    ("number of choices", problem(answer="A", choices=("only",))),
    ("number of choices", problem(answer="A", choices=tuple(map(str, range(11))))),
    ("equal choices", problem(answer="A", choices=("52", " 52 ", "60"))),
    ("equal choices", problem(answer="A", choices=("Red", "red"))),
    ("letter out of range", problem(answer="C", choices=AB)),
    ("letter out of range", problem(answer="(D)", choices=AB)),
    ("approximate answer", problem(answer="approximately 5")),
    ("approximate answer", problem(answer="\\approx 8.24")),
    ("approximate answer", problem(answer="slightly more than 1:1")),
    ("approximate answer", problem(answer="~30")),
    ("date", problem(answer="March 14, 2015")),
    ("date", problem(answer="3rd of June")),
    ("date", problem(answer="2015-03-14")),
    ("date", problem(answer="14/03/2015")),
    ("phone number", problem(answer="(415) 555-2671")),
    ("range", problem(answer="3-5")),
    ("range", problem(answer="10 to 20 km")),
    ("range", problem(answer="between 1,000 and 2,000")),
    ("range", problem(answer="1990–2000")),
    ("sentence", problem(answer="The man is riding a horse")),
    ("sentence", problem(answer="increasing at first and then not", verifier="text")),
]

KEPT = [
    problem("What does the chart show?", "12"),
    problem("Where do they meet?", "(1, 2)"),
    problem("Solve.", "f(a) = 2"),
    problem("Which of these proves that x = x?", "A", choices=AB),
    problem("Prove that it is so, then choose.", "A", choices=AB),
    problem("Suppose (1) x > 0 and (2) y > 0. Find x + y.", "4"),
    problem("Which are right? (1) Find is a word. (2) Give is a word.", "A", choices=AB),
    problem(answer="A", choices=("52", "52.5")),
    problem(answer="J", choices=tuple(map(str, range(10)))),
    problem(answer="B", choices=("5 to 7", "about 9")),
    problem(answer="5-3"),  # a difference
    problem(answer="1-2x"),
    problem(answer="6 - 5i"),
    problem(answer="1,-2"),
    problem(answer="-2,-1,1,2"),
    problem(answer="[3,5]"),
    problem(answer="\\frac{3}{5}"),
    problem(answer="3/5"),
    problem(answer="12 square centimeters"),
    problem(answer="\\frac{2}{3}\\sqrt{5}+\\sin\\theta\\cos\\phi\\tan\\psi"),
    problem(answer="may", verifier="text"),
    problem(answer="14.03"),
    problem(answer="x=3 or x=5"),
]


@pytest.mark.parametrize(("reason", "bad"), DROPPED, ids=lambda x: x if isinstance(x, str) else x.answer[:20])
def test_a_rule_drops_what_it_names(reason: str, bad: Problem) -> None:
    """Catches a rule that misses its own case, or one that another rule counts under the wrong reason."""
    assert reason_to_drop(bad) == reason


@pytest.mark.parametrize("good", KEPT, ids=lambda p: f"{p.messages[0].content[0].text[:20]} {p.answer[:20]}")
def test_what_only_looks_like_it_is_kept(good: Problem) -> None:
    """Catches a rule that drops expressions for ranges, conditions for parts, units for sentences."""
    assert reason_to_drop(good) is None


def test_every_rule_is_tried_and_explained() -> None:
    """Catches a rule without a positive case here, without words for the report, or with another's reason."""
    assert {rule.reason for rule in RULES} == {reason for reason, _ in DROPPED}
    assert len({rule.reason for rule in RULES}) == len(RULES)
    assert all(rule.why.endswith(".") and rule.drops.__doc__ for rule in RULES)


@pytest.mark.parametrize("answer", ["123", "4.11", "-7", "1,200", ".5", "−3", "1234567"])
def test_plain_numbers_are_verifiable(answer: str) -> None:
    """Catches the paper's rule read too narrowly."""
    assert not VERIFIABLE.drops(problem(answer=answer))


@pytest.mark.parametrize("answer", ["5 cm", "1/2", "yes", "12,34", "1,2", "5%", "$3", "3e8", "1.", "x=4", "A", ""])
def test_what_is_no_plain_number_is_not(answer: str) -> None:
    """Catches the paper's rule read too widely; a letter alone, without options, is a word."""
    assert VERIFIABLE.drops(problem(answer=answer))


def test_option_letters_are_verifiable_where_there_are_options() -> None:
    """Catches that multiple choice is lost, or that an option's text passes for its letter."""
    assert not VERIFIABLE.drops(problem(answer="B", choices=AB))
    assert VERIFIABLE.drops(problem(answer="two", choices=AB))


def test_small_pictures() -> None:
    """Catches the wrong side, or a limit that is off by one pixel."""
    rule = small_picture(28)
    for width, height, small in ((28, 300, False), (27, 300, True), (300, 27, True)):
        shown = Problem("p", (Message("user", (Image("0" * 64, width, height), Text("?"))),), "1")
        assert rule.drops(shown) is small
