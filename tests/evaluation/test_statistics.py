"""Intervals, against values computed by hand."""

from __future__ import annotations

import pytest

from lmm_r1.evaluation.statistics import paired_difference, wilson


def test_wilson_matches_hand_computed_values() -> None:
    """Catches a normal interval in disguise: 0 of 10 would then be (0, 0)."""
    low, high = wilson(0, 10)
    assert low == 0.0
    assert high == pytest.approx(0.2775327998628892, abs=1e-12)
    low, high = wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038315303659956, 0.5961684696340044), abs=1e-12)


def test_wilson_of_nothing_knows_nothing() -> None:
    """Catches a division by zero for an empty set."""
    assert wilson(0, 0) == (0.0, 1.0)


def test_paired_difference_by_hand() -> None:
    """Catches an unpaired interval: differences 1, 0, 0, 1 have mean 0.5 and deviation 1/sqrt(3)."""
    mean, low, high = paired_difference([1, 1, 0, 1], [0, 1, 0, 0])
    half = 1.959963984540054 * (1 / 3) ** 0.5 / 2
    assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-12)


def test_paired_difference_needs_the_same_items() -> None:
    """Catches arms compared on different numbers of items."""
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1, 0, 1], [1, 0])
