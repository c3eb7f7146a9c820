"""Learning rate and dealing of groups."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lmm_r1.config import Update
from lmm_r1.trainers.schedule import lr_at, minibatches, shares_of


def test_warm_up_then_cosine_to_the_floor() -> None:
    """Catches a first step of rate 0, a peak that is never reached, and a cosine that misses its end."""
    update = Update(lr=1.0, warmup=0.1, final_lr=0.1)
    rates = [lr_at(k, 40, update) for k in range(40)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.1) and lr_at(1000, 40, update) == pytest.approx(0.1)
    middle = 4 + 35 / 2
    assert (rates[int(middle)] + rates[int(middle) + 1]) / 2 == pytest.approx(0.55, abs=1e-6)


def test_one_step_stage_has_a_rate() -> None:
    """Catches a division by zero in stages of one step."""
    assert lr_at(0, 1, Update(lr=1.0, warmup=0.0)) == pytest.approx(1.0)
    assert lr_at(0, 1, Update(lr=1.0, warmup=0.03)) == pytest.approx(1.0)


def rollout(problem: str, tokens: int, segment: int = 0) -> SimpleNamespace:
    return SimpleNamespace(problem=SimpleNamespace(id=problem), token_ids=np.zeros(tokens), segment=segment)


@pytest.mark.parametrize("shuffle", ["groups", "samples"])
def test_the_segments_of_an_episode_stay_together(shuffle: str) -> None:
    """Catches an episode whose segments lie in several minibatches, in each of which it weighs like a whole one."""
    rollouts = [rollout(f"p{p}", 9, k) for p in range(6) for turns in (1, 5) for k in range(turns)]
    names = [(p, turns) for p in range(6) for turns in (1, 5) for _ in range(turns)]
    parts = minibatches(rollouts, Update(minibatches=4, shuffle=shuffle), 1)  # type: ignore[arg-type]
    assert sorted(i for part in parts for i in part) == list(range(len(rollouts)))
    where = {name: {n for n, part in enumerate(parts) for i in part if names[i] == name} for name in set(names)}
    assert all(len(found) == 1 for found in where.values())


def test_groups_stay_whole_and_balanced() -> None:
    """Catches split groups (a prompt computed twice) and one minibatch with all the long ones."""
    lengths = {f"p{k}": 10 * (k + 1) for k in range(8)}
    rollouts = [rollout(name, n) for name, n in lengths.items() for _ in range(4)]
    parts = minibatches(rollouts, Update(minibatches=4), seed=(3, 5))
    owners = [{rollouts[i].problem.id for i in part} for part in parts]
    assert sorted(name for o in owners for name in o) == sorted(lengths)
    assert all(len(part) == 8 for part in parts)
    loads = [sum(len(rollouts[i].token_ids) for i in part) for part in parts]
    assert max(loads) - min(loads) <= 40


def test_dealing_is_a_function_of_the_seed() -> None:
    """Catches a resumed run that deals otherwise, and a seed that is ignored."""
    rollouts = [rollout(f"p{k}", 10) for k in range(12)]
    update = Update(minibatches=3)
    assert minibatches(rollouts, update, 1) == minibatches(rollouts, update, 1) != minibatches(rollouts, update, 2)


@pytest.mark.parametrize("shuffle", ["groups", "samples"])
def test_no_empty_minibatch(shuffle: str) -> None:
    """Catches an optimiser step over nothing when groups were discarded; every rollout still comes once."""
    parts = minibatches([rollout("p0", 5), rollout("p1", 5)], Update(minibatches=4, shuffle=shuffle), 0)
    assert sorted(i for p in parts for i in p) == [0, 1] and all(parts)


def test_ranks_get_whole_groups_of_nearly_equal_length() -> None:
    """Catches a rollout that two ranks get, or none, a group that is split, and ranks that wait for the longest one."""
    sizes = [40, 7, 30, 9, 22, 21, 5, 11]
    rollouts = [rollout(f"p{p}", size) for p, size in enumerate(sizes) for _ in range(3)]
    parts = shares_of(rollouts, 3)
    assert sorted(i for part in parts for i in part) == list(range(len(rollouts)))
    groups = [{rollouts[i].problem.id for i in part} for part in parts]
    assert sum(len(g) for g in groups) == len(sizes)
    loads = [sum(len(rollouts[i].token_ids) for i in part) for part in parts]
    assert max(loads) - min(loads) <= 3 * 11 and parts == shares_of(rollouts, 3)
    assert sorted(map(len, shares_of(rollouts[:3], 4))) == [0, 0, 0, 3]
