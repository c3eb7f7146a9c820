"""Intervals: Wilson for one share, paired differences for two arms on the same items. 95 % throughout.

Wilson (1927) stays inside [0, 1] near its ends, where the normal interval does not. A paired
difference compares item by item, so that the difficulty of the items cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: Two-sided 95 % quantile of the normal distribution.
Z = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n trials; (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    # Exact at the ends, where rounding would leave 1e-17.
    return 0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) of a - b over the same items; raises ValueError when the lengths differ."""
    if len(a) != len(b):
        raise ValueError(f"paired difference of {len(a)} and {len(b)} items")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n, mean = len(difference), float(np.mean(difference))
    if n < 2:
        return mean, -1.0, 1.0
    half = Z * float(np.std(difference, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half
