"""Named algorithms and token weights on made-up groups, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lmm_r1.algorithms.named import ALGORITHMS, make_algorithm
from lmm_r1.algorithms.token_weights import sequence_mean, token_mean
from lmm_r1.config import AlgorithmConfig
from lmm_r1.types import Anchors, Credit, Group, Problem, Rollout, Sample, Score


def rollout(problem: Problem, sibling: int, reply: int, segment: int = 0, prompt: int = 2) -> Rollout:
    flags = np.array([False] * prompt + [True] * reply)
    n = len(flags)
    return Rollout(
        problem, sibling, 0, segment, np.arange(n, dtype=np.int32), flags, np.zeros(n, np.float32), (), (), "eos", ()
    )


def group(name: str, lengths: list[int], rewards: list[float]) -> Group:
    problem = Problem(id=name, messages=(), answer="")
    episodes = tuple((rollout(problem, g, n),) for g, n in enumerate(lengths))
    return Group(problem, episodes, tuple(Score(r, {}, {}) for r in rewards))


def anchors_of(groups: list[Group], old: float = 0.0, ref: float | None = None) -> list[Anchors]:
    out = []
    for r in (r for g in groups for r in g.rollouts):
        on = r.trainable.astype(np.float32)
        out.append(Anchors(on * old, None if ref is None else on * ref))
    return out


def samples_of(groups: list[Group]) -> list[Sample]:
    rollouts = [r for g in groups for r in g.rollouts]
    return [Sample(r, a, Credit(a.old_logprobs)) for r, a in zip(rollouts, anchors_of(groups), strict=True)]


def test_grpo_is_as_published() -> None:
    """Catches a changed default: clip 0.2, 0.04 * k3 in the loss, sequence mean, reference needed."""
    algorithm = make_algorithm(AlgorithmConfig(name="grpo"))
    assert algorithm.parameters == {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl_coef": 0.04,
        "kl_estimator": "k3",
        "reduction": "sequence",
    }
    assert algorithm.needs == {"old", "ref"} and algorithm.kl_coef == 0.04
    assert make_algorithm(AlgorithmConfig(kl_coef=0.0)).needs == {"old"}
    assert make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1).needs == frozenset()


def test_grpo_credit_by_hand() -> None:
    """Catches advantages outside the reply, and a group whose equal rewards do not give exactly 0."""
    groups = [group("a", [1, 3], [1.5, 0.5]), group("b", [2, 2], [0.1, 0.1])]
    credits = make_algorithm(AlgorithmConfig()).credit(groups, anchors_of(groups))
    z = 0.5 / (math.sqrt(0.5) + 1e-9)
    np.testing.assert_allclose(credits[0].advantages, [0, 0, z], rtol=1e-6)
    np.testing.assert_allclose(credits[1].advantages, [0, 0, -z, -z, -z], rtol=1e-6)
    assert all((c.advantages == 0).all() for c in credits[2:])


def test_reinforce_pp_baseline_credit_by_hand() -> None:
    """Catches KL of the wrong sign, reward on every token, whitening per group, and a division by the deviation.

    Rewards 1 and 0: +-0.5 on the last token; KL 0.1 * (0 - -1) = 0.1 off every token; reward-to-go:
    reply of 2: [0.3, 0.4]; reply of 1: [-0.6]. Then mean 1/30 and population deviation over all three.
    """
    groups = [group("a", [2, 1], [1.0, 0.0])]
    algorithm = make_algorithm(AlgorithmConfig(name="reinforce_pp_baseline", kl_coef=0.1))
    credits = algorithm.credit(groups, anchors_of(groups, old=0.0, ref=-1.0))
    raw = np.array([0.3, 0.4, -0.6])
    white = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(np.concatenate([c.advantages[2:] for c in credits]), white, rtol=1e-6)
    assert all((c.advantages[:2] == 0).all() for c in credits)
    assert algorithm.kl_coef == 0.0 and algorithm.needs == {"old", "ref"}


def test_reinforce_pp_baseline_without_kl_needs_no_reference() -> None:
    """Catches a reference model loaded for nothing, and a crash over anchors without it."""
    groups = [group("a", [1, 1], [1.0, 0.0]), group("b", [1, 1], [0.0, 0.0])]
    algorithm = make_algorithm(AlgorithmConfig(name="reinforce_pp_baseline", kl_coef=0.0))
    credits = algorithm.credit(groups, anchors_of(groups))
    assert algorithm.needs == {"old"}
    values = [float(c.advantages[2]) for c in credits]
    np.testing.assert_allclose(values, [math.sqrt(2), -math.sqrt(2), 0, 0], atol=1e-6)


def test_credit_reaches_every_segment() -> None:
    """Catches credit that stops at the first segment of a game; reward-to-go runs through the chain."""
    problem = Problem(id="a", messages=(), answer="")
    chain = (rollout(problem, 0, 2), rollout(problem, 0, 1, segment=1))
    groups = [Group(problem, (chain, (rollout(problem, 1, 1),)), (Score(1.0, {}, {}), Score(0.0, {}, {})))]
    for name in ALGORITHMS:
        credits = make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0)).credit(groups, anchors_of(groups))
        own = {round(float(v), 5) for c, r in zip(credits[:2], chain, strict=True) for v in c.advantages[r.trainable]}
        assert len(credits) == 3 and len(own) == 1 and own.pop() > 0


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_anchors_must_fit_the_groups(name: str) -> None:
    """Catches anchors of another step paired with these groups."""
    groups = [group("a", [1, 1], [1.0, 0.0])]
    with pytest.raises(ValueError, match=r"anchors|zip"):
        make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0)).credit(groups, anchors_of(groups) * 2)


def test_token_weights_by_hand() -> None:
    """Catches swapped reductions and weights on prompts; both sum to 1."""
    samples = samples_of([group("a", [1, 3], [0, 0])])
    one, three = token_mean(samples)
    np.testing.assert_allclose(one, [0, 0, 0.25])
    np.testing.assert_allclose(three, [0, 0, 0.25, 0.25, 0.25])
    one, three = sequence_mean(samples)
    np.testing.assert_allclose(one, [0, 0, 0.5])
    np.testing.assert_allclose(three, [0, 0, 1 / 6, 1 / 6, 1 / 6], rtol=1e-6)


def test_an_episode_weighs_the_same_in_one_segment_or_many() -> None:
    """Catches games in many segments that outweigh the others, and two draws of one problem taken for one."""
    problem = Problem(id="a", messages=(), answer="")
    chain = [rollout(problem, 0, 2), rollout(problem, 0, 1, segment=1)]
    other = [rollout(problem, 1, 3)]
    again = [rollout(problem, 0, 2), rollout(problem, 0, 1, segment=1)]
    rollouts = chain + other + again
    samples = [Sample(r, Anchors(r.logprobs), Credit(r.logprobs)) for r in rollouts]
    weights = [float(w.sum()) for w in sequence_mean(samples)]
    np.testing.assert_allclose(weights, [2 / 9, 1 / 9, 1 / 3, 2 / 9, 1 / 9], rtol=1e-6)
