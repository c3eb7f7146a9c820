"""Several verifiers as one, with weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lmm_r1.seams import Verifier
from lmm_r1.types import Problem, Verdict


def weighted(parts: Mapping[str, tuple[Verifier, float]]) -> Verifier:
    """A verifier whose value is the weighted mean of the parts' values.

    parts: name -> (verifier, weight > 0). The reason is that of the heaviest part that is not "correct", the first
    of equals. Raises ValueError for no part or a weight that is not positive and finite.
    """
    total = sum(weight for _, weight in parts.values())
    if not parts or not all(0.0 < weight < math.inf for _, weight in parts.values()):
        raise ValueError("weights must be positive, and there must be one")
    order = sorted(parts.values(), key=lambda part: -part[1])

    def verdict(problem: Problem, reply: str) -> Verdict:
        found = [(verifier(problem, reply), weight) for verifier, weight in order]
        value = math.fsum(verdict.value * weight for verdict, weight in found) / total
        reason = next((verdict.reason for verdict, _ in found if verdict.reason != "correct"), "correct")
        return Verdict(min(1.0, value), reason)

    return verdict
