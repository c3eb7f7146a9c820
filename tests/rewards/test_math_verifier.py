"""The math verifier on pairs: what must be equal, what must never be."""

from __future__ import annotations

import pytest

from lmm_r1 import verify

EQUAL = [
    ("30", "30"), ("30", "30.0"), ("-5", "−5"), ("12", "12."), ("1234", "1,234"), ("1/2", "0.5"), ("50\\%", "0.5"), ("50\\%", "1/2"),
    ("7.41\\%", "7.41"), ("25", "25\\%"), ("30^\\circ", "30"), ("30", "30°"), ("30", "30 degrees"), ("5\\text{ cm}", "5"), ("5", "5 cm"),
    ("12", "12 \\text{ square units}"), ("5 apples", "5"), ("$38.51", "38.51"), ("3", "x = 3"), ("x=3", "3"), ("x=5", "5=x"),
    ("f(x)=x^2", "x^2"), ("(1,2)", "(1, 2)"), ("\\{1,2,3\\}", "\\{3,1,2\\}"), ("1,2,3", "3, 1 and 2"), ("\\pm 2", "-2, 2"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"), ("2x+4y-3=0", "y=-\\frac12x+\\frac34"), ("A", "A"),
    ("\\text{east}", "East"), ("\\frac13", "0.33333333"), ("3.14", "\\pi"), ("2^{100}", "1267650600228229401496703205376"),
    ("\\sin(2x)", "\\sin (2x)"), ("m \\geq 2", "m \\ge 2"), ("\\frac{\\pi}{6}", "\\pi/6"), ("5 m", "5m"), ("m\\angle 1 = 40", "40"),
    ("27+36", "27+36"), ("2516_8", "2516_{8}"),
]  # fmt: skip
DIFFERENT = [
    ("30", "31"), ("1234", "12,34"), ("2", "4\\frac{1}{2}"), ("\\frac13", "0.333"), ("\\sqrt2", "1.414"), ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"), ("1,2", "1,2,3"), ("1,1,2", "1,2,2"), ("a=1,b=2", "a=2,b=1"), ("144", "12\\text{ cm}^2"),
    ("5\\text{ cm}", "5\\text{ m}"), ("0", "2x+4y+3=0"), ("\\pm 2021", "2021"), ("2x+4y-3=0", "2x+4y+3=0"), ("12_5", "12_6"),
    ("8", "8 \\text{ or } 9"), ("5", "5 \\text{ or more}"), ("3", "3 \\neq 4"), ("12:00", "1:00"), ("east", "seat"), ("no", "on"),
    ("30", "27+36-33"), ("6", "3*2"), ("0", "\\infty-\\infty"), ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"), ("1.0\\times10^{-7}", "1.0\\times10^{-8}"), ("C", "\\mathbb{C}"), ("3", "2=3"),
    ("3", "1+1=3=3"), ("5", "5ab"), ("7.41\\%", "0.741"), ("b", "B"), ("1234", "(1,234)"), ("x=5", "xy=5"), ("5", "5 million"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_pay(gold: str, answer: str) -> None:
    """Catches a right answer that is not paid, in a box and in an answer block."""
    assert verify(gold, f"\\boxed{{{answer}}}").reason == "correct"
    assert verify(gold, f"<think>t</think><answer>{answer}</answer>").value == 1.0


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_never_pay(gold: str, answer: str) -> None:
    """Catches a false positive: the policy would find it and exploit it."""
    assert verify(gold, f"\\boxed{{{answer}}}").value == 0.0


@pytest.mark.parametrize("gold", ["", "   ", "$", "1" * 3000])
def test_a_gold_that_cannot_be_read_pays_nothing(gold: str) -> None:
    """Catches the released code's hole: an unreadable gold paid 1.0 for any reply."""
    for answer in (gold, "1", ""):
        verdict = verify(gold, f"\\boxed{{{answer}}}")
        assert verdict.value == 0.0
    assert verify(gold, "\\boxed{1}").reason == "error"


@pytest.mark.parametrize("gold", ["9^{9^{9^9}}", "7^{7^{77}}", "1," * 80 + "1"])
def test_a_gold_over_the_limits_pays_what_is_written_alike(gold: str) -> None:
    """Catches a gold that no reply can be paid for, and one that pays more than itself."""
    assert verify(gold, f"\\boxed{{{gold}}}").value == 1.0
    for answer in ("1", f"{gold}+1", f"-{gold}", ""):
        assert verify(gold, f"\\boxed{{{answer}}}").value == 0.0
    assert verify(gold, "\\boxed{1}").reason == "error"


def test_reason_codes() -> None:
    """Catches reasons that do not say what happened, which the counts of a run rely on."""
    assert verify("3", "\\boxed{4}").reason == "wrong"
    assert verify("3", "three").reason == "no_answer"
    assert verify("3", "\\boxed{what?}").reason == "unparsable_answer"
    assert verify("3", "\\boxed{9^9^9^9}").reason == "too_big"
    assert verify("3", "<answer>3</answer><answer>4</answer>").reason == "ambiguous"


def test_an_unknown_kind_is_the_callers_fault() -> None:
    """Catches a typing error in `kind` that would silently mean another verifier."""
    with pytest.raises(ValueError, match="no verifier 'maths'"):
        verify("3", "\\boxed{3}", kind="maths")
