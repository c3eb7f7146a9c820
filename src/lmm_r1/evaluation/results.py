"""results.json: every arm on every set, paired differences, and what they show in words.

The words follow from the intervals alone, whether or not they flatter the method: a difference whose
95 % interval includes zero is called undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmm_r1.config import Recipe
from lmm_r1.evaluation.evaluate import SetResult, difference


def results_of(recipe: Recipe, results: Mapping[str, Mapping[str, SetResult]]) -> dict[str, Any]:
    """The content of results.json, for the arms that were evaluated.

    differences: the pairs of `recipe.compare`, and each stage against the one it starts from.
    rollouts: replies sampled by RL on the way to each arm, the stages it builds on included. settings: what all arms share.
    """
    wanted = [*recipe.compare, *((name, stage.start) for name, stage in recipe.stage.items())]
    pairs = [(a, b) for a, b in dict.fromkeys(wanted) if a in results and b in results]
    differences = [difference(a, b, results, name) for a, b in pairs for name in results[a] if name in results[b]]
    return {
        "arms": {arm: {name: r.summary() for name, r in sets.items()} for arm, sets in results.items()},
        "differences": differences,
        "findings": [finding(d) for d in differences] + blind_findings(results),
        "seed": recipe.seed,
        "rollouts": {arm: _rollouts(recipe, arm) for arm in results},
        "settings": recipe.model.model_dump(include={"base", "min_pixels", "max_pixels", "dtype"})
        | recipe.evaluate.model_dump(include={"prompt", "temperature", "max_new_tokens"}),
    }


def blind_findings(results: Mapping[str, Mapping[str, SetResult]]) -> list[str]:
    """What the blind check says of every arm and set on which it was made."""
    found = []
    for arm, sets in results.items():
        for name, result in sets.items():
            check = result.summary().get("blind")
            if check is None:
                continue
            points = f"{100 * check['gain']:+.1f} points [{100 * check['low']:+.1f}, {100 * check['high']:+.1f}]"
            if check["low"] > 0:
                found.append(f"{name}: {arm} needs its pictures, {points} over blank ones")
            else:
                found.append(
                    f"{name}: pictures do not matter to {arm} as far as {check['n']} items tell, {points} over blank ones"
                )
    return found


def finding(d: Mapping[str, Any]) -> str:
    """One difference in words."""
    points = f"{100 * d['mean']:+.1f} points [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
    if d["low"] > 0:
        verdict = f"{d['a']} beats {d['b']}"
    elif d["high"] < 0:
        verdict = f"{d['a']} is worse than {d['b']}"
    else:
        verdict = f"undecided: the interval of {d['a']} minus {d['b']} includes zero"
    return f"{d['set']}: {verdict}, {points}"


def _rollouts(recipe: Recipe, arm: str) -> int:
    total = 0
    while arm in recipe.stage:
        total += recipe.stage[arm].episodes
        arm = recipe.stage[arm].start
    return total
