"""Named algorithms and token weights on made-up groups, against values computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmm_r1.algorithms.named import ALGORITHMS, make_algorithm
from lmm_r1.algorithms.token_weights import sequence_mean, token_mean
from lmm_r1.config import AlgorithmConfig
from lmm_r1.errors import RecipeError
from lmm_r1.types import Anchors, Credit, Group, Problem, Rollout, Sample, Score, Turn


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


def anchors_of(groups: list[Group], old: float = 0.0, ref: float | None = None, value: float = 0.0) -> list[Anchors]:
    out = []
    for r in (r for g in groups for r in g.rollouts):
        on = r.trainable.astype(np.float32)
        out.append(Anchors(on * old, None if ref is None else on * ref, on * value))
    return out


def samples_of(groups: list[Group]) -> list[Sample]:
    rollouts = [r for g in groups for r in g.rollouts]
    return [Sample(r, a, Credit(a.old_logprobs)) for r, a in zip(rollouts, anchors_of(groups), strict=True)]


#: name -> (baseline, dealt, ratio, clip range, KL coefficient, estimator and place, reduction), as the papers have them.
PUBLISHED = {
    "ppo": ("none", "gae", "token", (0.2, 0.2), 1e-3, "k1", "reward", "token"),
    "grpo": ("group_z", "episodes", "token", (0.2, 0.2), 0.04, "k3", "loss", "sequence"),
    "dr_grpo": ("group_mean", "episodes", "token", (0.2, 0.2), 0.0, "k3", "loss", "constant"),
    "rloo": ("leave_one_out", "episodes", "none", (0.2, 0.2), 0.03, "k1", "reward", "sum"),
    "remax": ("greedy", "episodes", "none", (0.2, 0.2), 0.0, "k3", "loss", "sum"),
    "reinforce_pp": ("none", "tokens", "token", (0.2, 0.2), 1e-3, "k1", "reward", "token"),
    "reinforce_pp_baseline": ("group_mean", "tokens", "token", (0.2, 0.2), 1e-3, "k1", "reward", "token"),
    "dapo": ("group_z", "episodes", "token", (0.2, 0.28), 0.0, "k3", "loss", "token"),
    "gspo": ("group_z", "episodes", "sequence", (3e-4, 4e-4), 0.0, "k3", "loss", "sequence"),
    "cispo": ("group_z", "episodes", "weight", (None, 4.0), 0.0, "k3", "loss", "token"),
    "sft": ("imitate", "episodes", "none", (0.2, 0.2), 0.0, "k3", "loss", "token"),
}


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_a_name_alone_is_the_algorithm_as_published(name: str) -> None:
    """Catches a changed default, and an algorithm without a row here."""
    p = make_algorithm(AlgorithmConfig(name=name)).parameters
    found = (
        p["baseline"], p["dealt"], p["ratio"], (p["clip_low"], p["clip_high"]), p["kl_coef"], p["kl_estimator"], p["kl_place"], p["reduction"],
    )  # fmt: skip
    assert found == PUBLISHED[name]
    assert set(PUBLISHED) == set(ALGORITHMS)
    assert (p["keep_all"], p["overlong_buffer"]) == ((False, 0.2) if name == "dapo" else (True, 0.0))
    assert (p["dual_clip"], p["entropy_coef"], p["importance"]) == (None, 0.0, "none")
    assert (p["gamma"], p["lam"], p["value_clip"]) == (1.0, 1.0, 0.2)


def test_what_an_algorithm_needs() -> None:
    """Catches a reference model or a forward pass that nobody asked for."""
    assert (
        make_algorithm(AlgorithmConfig()).needs == {"old", "ref"} and make_algorithm(AlgorithmConfig()).kl_coef == 0.04
    )
    assert make_algorithm(AlgorithmConfig(kl_coef=0.0)).needs == {"old"}
    assert make_algorithm(AlgorithmConfig(kl_coef=0.0), minibatches=1).needs == frozenset()
    assert make_algorithm(AlgorithmConfig(name="ppo"), minibatches=1).needs == {"ref", "values"}
    assert make_algorithm(AlgorithmConfig(name="ppo", kl_coef=0.0)).needs == {"old", "values"}
    assert make_algorithm(AlgorithmConfig(name="dapo")).needs == {"old"}
    assert make_algorithm(AlgorithmConfig(name="remax")).needs == {"greedy"}
    assert make_algorithm(AlgorithmConfig(name="sft"), minibatches=2).needs == {"solution"}
    assert make_algorithm(AlgorithmConfig(name="rloo"), minibatches=2).needs == {"old", "ref"}
    assert make_algorithm(AlgorithmConfig(name="rloo"), minibatches=1).needs == {"ref"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grpo", {"kl_estimator": "k1"}),
        ("gspo", {"dual_clip": 3.0}),
        ("reinforce_pp", {"overlong_buffer": 0.2}),
        ("grpo", {"lam": 0.95}),
        ("dapo", {"kl_target": 0.1}),
        ("sft", {"importance": "truncate"}),
        ("sft", {"kl_coef": 0.1, "kl_place": "reward"}),
        ("sft", {"overlong_buffer": 0.2}),
        ("grpo", {"kl_horizon": 100}),
    ],
)
def test_values_that_mean_nothing_together_are_refused(name: str, values: dict[str, object]) -> None:
    """Catches a recipe that runs and does not do what it says."""
    with pytest.raises(RecipeError):
        make_algorithm(AlgorithmConfig.model_validate({"name": name, **values}))


def test_leave_one_out_with_kl_by_hand() -> None:
    """Catches KL taken off per token, after the baseline, or of the wrong sign.

    Rewards 1, 0, 0; KL of 0.1 * (0 - -1) a token off replies of 1, 2 and 3 tokens: 0.9, -0.2, -0.3.
    """
    groups = [group("a", [1, 2, 3], [1.0, 0.0, 0.0])]
    algorithm = make_algorithm(AlgorithmConfig(name="rloo", kl_coef=0.1))
    credits = algorithm.credit(groups, anchors_of(groups, old=0.0, ref=-1.0))
    wanted = [0.9 + 0.25, -0.2 - 0.3, -0.3 - 0.35]
    for credit, value in zip(credits, wanted, strict=True):
        np.testing.assert_allclose(credit.advantages[2:], value, rtol=1e-6)
        assert (credit.advantages[:2] == 0).all()


def test_greedy_baseline_by_hand() -> None:
    """Catches a group mean in place of the greedy reply's reward, and its absence that goes unnoticed."""
    (made,) = [replace(group("a", [1, 2], [1.5, 0.0]), greedy=0.5)]
    algorithm = make_algorithm(AlgorithmConfig(name="remax"))
    credits = algorithm.credit([made], anchors_of([made]))
    np.testing.assert_allclose(credits[0].advantages, [0, 0, 1.0])
    np.testing.assert_allclose(credits[1].advantages, [0, 0, -0.5, -0.5])
    with pytest.raises(ValueError, match="greedy"):
        algorithm.credit([replace(made, greedy=None)], anchors_of([made]))


def test_reinforce_pp_by_hand() -> None:
    """Catches a baseline where there is none: rewards 1 and 0 whitened over three tokens are (2, 2, -4) / sqrt(8)... of
    mean 2/3 and population deviation sqrt(2)/3."""
    groups = [group("a", [2, 1], [1.0, 0.0])]
    credits = make_algorithm(AlgorithmConfig(name="reinforce_pp", kl_coef=0.0)).credit(groups, anchors_of(groups))
    found = np.concatenate([c.advantages[2:] for c in credits])
    np.testing.assert_allclose(found, np.array([1 / 3, 1 / 3, -2 / 3]) / (math.sqrt(2) / 3), rtol=1e-6)


def test_dapo_by_hand() -> None:
    """Catches an overlong punishment without its ramp, and a filter that keeps what teaches nothing.

    Longest reply 10, buffer 2 tokens: lengths 8, 9, 10 lose 0, 0.5 and 1.
    """
    groups = [group("a", [8, 9, 10], [1.0, 1.0, 1.0])]
    algorithm = make_algorithm(AlgorithmConfig(name="dapo"), longest=10)
    credits = algorithm.credit(groups, anchors_of(groups))
    rewards = np.array([1.0, 0.5, 0.0])
    wanted = (rewards - 0.5) / (rewards.std(ddof=1) + 1e-9)
    np.testing.assert_allclose([c.advantages[-1] for c in credits], wanted, atol=1e-6)
    assert algorithm.keep is not None
    parts = [Score(1.5, {"accuracy": 1.0}, {}), Score(1.0, {"accuracy": 1.0}, {})]
    assert not algorithm.keep(replace(group("a", [1, 1], [0, 0]), scores=tuple(parts)))  # all right, formats differ
    assert algorithm.keep(group("a", [1, 1], [0.0, 1.0])) and not algorithm.keep(group("a", [1, 1], [1.0, 1.0]))


def test_constant_weights_by_hand() -> None:
    """Catches a constant that depends on the lengths: Dr. GRPO divides by the longest reply allowed."""
    samples = samples_of([group("a", [1, 3], [0, 0])])
    dr_grpo = make_algorithm(AlgorithmConfig(name="dr_grpo"), longest=10)
    for weights, length in zip(dr_grpo.token_weights(samples), (1, 3), strict=True):
        np.testing.assert_allclose(weights[2:], [1 / 20] * length)
        assert (weights[:2] == 0).all()
    summed = make_algorithm(AlgorithmConfig(name="rloo"), longest=10).token_weights(samples)
    np.testing.assert_allclose([w.sum() for w in summed], [0.5, 1.5])


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("sft", "ppo")])
def test_a_group_of_equal_rewards_has_no_credit(name: str) -> None:
    """Catches rounding that is blown up by a small deviation: the gradient must be exactly zero."""
    groups = [
        replace(group("a", [1, 2, 3], [0.1, 0.1, 0.1]), greedy=0.1),
        replace(group("b", [2, 2, 2], [0.1] * 3), greedy=0.1),
    ]
    credits = make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0)).credit(groups, anchors_of(groups))
    assert all((c.advantages == 0.0).all() for c in credits)


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


def test_ppo_credit_by_hand() -> None:
    """Catches a value of the wrong token, rewards on the wrong one, and returns that are whitened too.

    gamma 1, lambda 0.5, values 0.2 everywhere, KL 0.1 * (0 - -1) off every token. Reply of 2 with reward 1: rewards
    -0.1, 0.9; deltas -0.1 + 0.2 - 0.2 and 0.9 - 0.2; advantages -0.1 + 0.5 * 0.7 = 0.25 and 0.7. Reply of 1 with
    reward 0: -0.1 - 0.2 = -0.3. Returns are these plus 0.2.
    """
    groups = [group("a", [2, 1], [1.0, 0.0])]
    algorithm = make_algorithm(AlgorithmConfig(name="ppo", lam=0.5, kl_coef=0.1))
    credits = algorithm.credit(groups, anchors_of(groups, old=0.0, ref=-1.0, value=0.2))
    raw = np.array([0.25, 0.7, -0.3])
    white = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(np.concatenate([c.advantages[2:] for c in credits]), white, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([c.returns[2:] for c in credits]), raw + 0.2, rtol=1e-5)
    assert all((c.advantages[:2] == 0).all() and (c.returns[:2] == 0).all() for c in credits)
    assert algorithm.value_loss is not None and algorithm.kl_coef == 0.0
    loss = algorithm.value_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0]))
    np.testing.assert_allclose(loss, 0.5 * (2.0 - 0.2) ** 2)  # held within 0.2 of its old value
    with pytest.raises(ValueError, match="critic"):
        algorithm.credit(groups, [replace(a, values=None) for a in anchors_of(groups, ref=0.0)])


@pytest.mark.parametrize("name", ["reinforce_pp", "ppo"])
def test_a_turn_is_paid_at_its_end(name: str) -> None:
    """Catches per-turn rewards that reach the turns after them, and environment tokens that are paid.

    Two turns of 2 and 1 tokens, 3 tokens of environment between; 0.5 for the first, 0.25 for the second and 1 for the
    whole episode (1.75 together): from the first turn on 1.75 is still to come, from the second 1.25.
    """
    problem = Problem(id="a", messages=(), answer="")
    flags = np.array([False, True, True, False, False, False, True])
    turns = (Turn(1, 3, "", reward=0.5), Turn(6, 7, "", reward=0.25))
    made = Rollout(problem, 0, 0, 0, np.arange(7, dtype=np.int32), flags, np.zeros(7, np.float32), (), turns, "eos", ())
    one = Group(problem, ((made,),), (Score(1.75, {}, {}, per_turn=(0.5, 0.25)),))
    algorithm = make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0))
    credit = algorithm.credit([one], anchors_of([one], value=0.0))[0]
    raw = np.array([1.75, 1.75, 1.25])
    np.testing.assert_allclose(credit.advantages[flags], (raw - raw.mean()) / raw.std(), rtol=1e-5)
    assert (credit.advantages[~flags] == 0).all()
    # The same two turns as two segments of one episode (a memory with a window): the same credit.
    pieces = []
    for segment, length in enumerate((2, 1)):
        part = rollout(problem, 0, length, segment)
        pieces.append(replace(part, turns=(Turn(2, 2 + length, ""),)))
    chain = Group(problem, (tuple(pieces),), one.scores)
    credits = algorithm.credit([chain], anchors_of([chain], value=0.0))
    found = np.concatenate([c.advantages[2:] for c in credits])
    np.testing.assert_allclose(found, credit.advantages[flags], rtol=1e-6)


def game_group(per_turn: list[list[float]], success: list[float]) -> Group:
    """Episodes of one-token turns with these rewards, as one stream each."""
    problem = Problem(id="g", messages=(), answer="", env="sokoban")
    episodes, scores = [], []
    for g, earned in enumerate(per_turn):
        flags = np.array([False] + [True, False] * len(earned))
        turns = tuple(Turn(1 + 2 * k, 2 + 2 * k, "", reward=r) for k, r in enumerate(earned))
        n = len(flags)
        made = Rollout(
            problem, g, g, 0, np.arange(n, dtype=np.int32), flags, np.zeros(n, np.float32), (), turns, "eos", ()
        )
        episodes.append((made,))
        scores.append(Score(sum(earned), {"accuracy": success[g]}, {}, per_turn=tuple(earned)))
    return Group(problem, tuple(episodes), tuple(scores))


def test_equal_siblings_of_a_game_teach_nothing() -> None:
    """Catches a group's mean taken off the last turn alone: four equal episodes had advantages then."""
    for name in ("grpo", "rloo", "reinforce_pp_baseline", "dr_grpo"):
        same = game_group([[0.3, 0.0, 0.0, 0.7]] * 4, [1.0] * 4)
        algorithm = make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0))
        assert all((c.advantages == 0).all() for c in algorithm.credit([same], anchors_of([same]))), name


def test_the_best_sibling_of_a_game_is_pushed_up_at_every_turn() -> None:
    """Catches a scoring turn that is pushed down because its pay came late."""
    group_ = game_group([[0.1, 0.1, 0.1, 0.7]] * 3 + [[0.0] * 4], [1.0] * 3 + [0.0])
    algorithm = make_algorithm(AlgorithmConfig(name="reinforce_pp_baseline", kl_coef=0.0))
    credits = algorithm.credit([group_], anchors_of([group_]))
    assert (credits[0].advantages[group_.episodes[0][0].trainable] > 0).all()
    assert (credits[3].advantages[group_.episodes[3][0].trainable] < 0).all()


def test_dapo_learns_from_a_game_that_nobody_won() -> None:
    """Catches a filter that throws away every group of a game until somebody succeeds."""
    keep = make_algorithm(AlgorithmConfig(name="dapo")).keep
    assert keep is not None
    assert keep(game_group([[0.1], [0.3]], [0.0, 0.0])) and not keep(game_group([[0.1], [0.1]], [0.0, 0.0]))


def test_long_play_is_not_an_overlong_reply() -> None:
    """Catches DAPO's punishment of an episode for its many short replies."""
    algorithm = make_algorithm(AlgorithmConfig(name="dapo", overlong_buffer=0.5), 1, 8)
    group_ = game_group([[0.0] * 30, [0.0, 0.5]], [0.0, 0.0])
    plain = make_algorithm(AlgorithmConfig(name="dapo", overlong_buffer=0.0), 1, 8)
    ours, theirs = (a.credit([group_], anchors_of([group_])) for a in (algorithm, plain))
    assert all(np.array_equal(a.advantages, b.advantages) for a, b in zip(ours, theirs, strict=True))


def test_the_kl_coefficient_is_steered() -> None:
    """Catches a controller of the wrong sign, one without bounds, and one that ends at 0 for good."""
    algorithm = make_algorithm(AlgorithmConfig(name="reinforce_pp", kl_coef=0.1, kl_target=0.05, kl_horizon=1000))
    assert algorithm.steer_kl is not None and algorithm.with_kl is not None
    assert algorithm.steer_kl(0.055, 100) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert algorithm.steer_kl(0.5, 100) == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert algorithm.steer_kl(0.0, 100) == pytest.approx(0.1 * (1 - 0.2 * 0.1))
    assert algorithm.steer_kl(0.0, 10**6) == pytest.approx(0.01)
    moved = algorithm.with_kl(0.2)
    assert moved.parameters == {**algorithm.parameters, "kl_coef": 0.2} and moved.needs == algorithm.needs
    groups = [group("a", [2, 1], [1.0, 0.0])]
    weak, strong = (a.credit(groups, anchors_of(groups, ref=-1.0))[0].advantages for a in (algorithm, moved))
    assert not np.allclose(weak, strong)
    assert make_algorithm(AlgorithmConfig(kl_coef=0.1, kl_target=0.05)).with_kl(0.3).kl_coef == 0.3
    assert make_algorithm(AlgorithmConfig()).steer_kl is None


def test_a_sampler_that_computes_otherwise_is_corrected_for() -> None:
    """Catches a correction that must be asked for where it is needed, and one where there is nothing to correct."""

    def importance(exact: bool, **chosen: object) -> object:
        return make_algorithm(AlgorithmConfig.model_validate(chosen), exact_sampler=exact).parameters["importance"]

    assert importance(True) == "none" and importance(False) == "truncate"
    assert importance(False, name="sft") == "none"
    assert importance(False, importance="none") == "none" and importance(True, importance="mask") == "mask"


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
    scores = (Score(1.0, {}, {}), Score(0.0, {}, {}))
    groups = [Group(problem, (chain, (rollout(problem, 1, 1),)), scores, greedy=0.5)]
    for name in ALGORITHMS:
        credits = make_algorithm(AlgorithmConfig(name=name, kl_coef=0.0)).credit(groups, anchors_of(groups))
        own = {round(float(v), 5) for c, r in zip(credits[:2], chain, strict=True) for v in c.advantages[r.trainable]}
        assert len(credits) == 3 and len(own) == 1 and own.pop() > 0


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_anchors_must_fit_the_groups(name: str) -> None:
    """Catches anchors of another step paired with these groups."""
    groups = [replace(group("a", [1, 1], [1.0, 0.0]), greedy=0.5)]
    with pytest.raises(ValueError, match="anchors"):
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
