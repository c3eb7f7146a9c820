"""Exact arithmetic and the parser above it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmm_r1.rewards.exact import Exact, NotExact, TooBig, square_part
from lmm_r1.rewards.latex import parse
from lmm_r1.rewards.spelling import join_thousands, tidy

#: A loaded machine must not fail a test.
calm = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def value(text: str) -> Exact:
    return parse(tidy(text)).value


@calm
@given(st.integers(1, 10**7))
def test_square_part_is_square_free(n: int) -> None:
    """Catches two normal forms of one radical, which would call equal answers different."""
    outer, inner = square_part(n)
    assert outer * outer * inner == n
    assert all(inner % (d * d) for d in range(2, int(inner**0.5) + 1))


@calm
@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 50), st.integers(1, 60), st.integers(1, 60))
def test_field_arithmetic_is_exact(p: int, q: int, over: int, m: int, n: int) -> None:
    """Catches a wrong product or inverse of radicals: (a*sqrt(m)) / (b*sqrt(n)) squared is rational."""
    a, b = Fraction(p, over), Fraction(q, 7)
    x = Exact.number(a) * Exact.number(m).root(2)
    if b == 0:
        with pytest.raises(NotExact):
            x / Exact.number(b)
        return
    quotient = x / (Exact.number(b) * Exact.number(n).root(2))
    assert (quotient * quotient).rational == a * a * m / (b * b * n)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3\\sqrt{3}", "\\sqrt{27}"),
        ("4√2", "\\sqrt{32}"),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt 2}{2}"),
        ("\\frac37", "3/7"),
        ("\\dfrac{3}{7}", "\\frac{6}{14}"),
        ("4\\frac{1}{2}", "4.5"),
        ("-4\\frac{1}{2}", "-4.5"),
        ("4 1/2", "9/2"),
        ("4½", "4.5"),
        ("x²", "x^2"),
        ("(x+1)^2", "x^2+2x+1"),
        ("yx^2", "x^{2}y"),
        ("14+(-1)i", "14-i"),
        ("i^2", "-1"),
        ("1/i", "-i"),
        ("8\\pi+36\\sqrt{3}", "36\\sqrt3+8π"),
        ("2^{10}", "1024"),
        ("2^{-1}", "0.5"),
        ("-2^2", "-4"),
        ("1.5\\times10^{6}", "1500000"),
        ("1e2", "100"),
        ("5!", "120"),
        ("\\binom{5}{2}", "10"),
        ("\\sqrt[3]{-27}", "-3"),
        ("1\\,234\\,567", "1{,}234{,}567"),
        ("１２", "12"),
        ("x_1", "x_{1}"),
        (".5", "1/2"),
    ],
)
def test_two_spellings_have_one_value(a: str, b: str) -> None:
    """Catches a spelling that is read as another number (a mixed number as a product, x² as x2)."""
    assert value(a) == value(b)


@pytest.mark.parametrize(
    "text",
    [
        "1 2",
        "2x 3 4",
        "1/0",
        "east",
        "no",
        "12_{5}",
        "2+",
        "(2",
        "\\infty-\\infty",
        "",
        "2\\frac{3}{2}",
        "a;b",
    ],
)
def test_what_has_no_exact_value_is_refused(text: str) -> None:
    """Catches reading a word as a product of letters, or infinity minus infinity as 0."""
    with pytest.raises(NotExact):
        parse(tidy(text))


@pytest.mark.parametrize(
    "text",
    [
        "9^9^9^9",
        "(10^7)!",
        "2^{99999}",
        "(x+y+z+w)^{200}",
        "1e99999",
        "x^{500}",
        "(" * 200 + "1" + ")" * 200,
        "1+" * 500 + "1",
        "9" * 1500,
    ],
)
def test_size_is_limited_before_work_is_done(text: str) -> None:
    """Catches a reply that stops the run by asking for a tower of powers."""
    with pytest.raises(TooBig):
        parse(tidy(text))


def test_unfinished_computations_are_marked() -> None:
    """Catches an expression copied from the question that passes for its answer."""
    for text in ("27+36-33", "51/3/1", "2*3", "2(3)", "9 \\times 8 \\times 7", "\\log_2 8", "\\sqrt{9+7}"):
        assert parse(tidy(text)).unfinished, text
    for text in ("-30", "3/7", "6/8", "8/2", "4\\frac{1}{2}", "1.5\\times10^{6}", "10^{20}", "2\\sqrt{13}", "14-i", "x^2+1", "5!",
                 "7^2", "\\sqrt{16}", "\\binom{5}{2}", "3 \\cdot 2^{10}", "\\frac{\\ln x}{\\ln 3}"):  # fmt: skip
        assert not parse(tidy(text)).unfinished, text


def test_only_right_grouping_joins_thousands() -> None:
    """Catches 12,34 read as 1234."""
    assert join_thousands("1,234,567") == "1234567"
    assert join_thousands("12,34") == "12,34"
    assert join_thousands("1,2345") == "1,2345"
