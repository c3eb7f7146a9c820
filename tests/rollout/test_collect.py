"""Collecting groups: order, drops, dynamic sampling, the shuffled control, and what is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from lmm_r1.config import RolloutConfig
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.errors import DataError
from lmm_r1.rollout.collect import collect, describe, shuffled
from lmm_r1.types import Group, Message, Problem, Score, Text, Turn
from tests.fakes import CharAdapter, ScriptedEngine


def stream(texts: list[str]):  # type: ignore[no-untyped-def]
    at = 0

    def take(n: int) -> list[Problem]:
        nonlocal at
        taken = [
            Problem(f"p{(at + i) % len(texts)}", (Message("user", (Text(texts[(at + i) % len(texts)]),)),), "1")
            for i in range(n)
        ]
        at += n
        return taken

    return take


def score(problem: Problem, turns: Sequence[Turn], stop: str) -> Score:
    right = float(turns[-1].reply == "1")
    return Score(
        0.5 + right, {"format": 1.0, "accuracy": right}, {"format": "ok", "accuracy": "correct" if right else "wrong"}
    )


def run(texts: list[str], config: RolloutConfig, **more):  # type: ignore[no-untyped-def]
    engine = ScriptedEngine(lambda r: "1" if r.seed % 3 else "0")
    return collect(stream(texts), engine, CharAdapter(), SingleTurn, score, config, max_context=100, seed=(0,), **more)


def test_groups_keep_their_problem_and_their_size() -> None:
    """Catches replies dealt to the wrong problem."""
    got = run(["a", "b", "c"], RolloutConfig(prompts=3, siblings=4))
    assert [g.problem.id for g in got.groups] == ["p0", "p1", "p2"]
    assert all(len(g.episodes) == len(g.scores) == 4 for g in got.groups)
    assert all(r.problem is g.problem for g in got.groups for r in g.rollouts)


def test_a_prompt_over_the_limit_is_dropped_whole_and_counted() -> None:
    """Catches truncation (trial 28): image tokens must never be cut."""
    got = run(["a", "x" * 60, "c"], RolloutConfig(prompts=2, siblings=2, max_prompt_tokens=10))
    assert [g.problem.id for g in got.groups] == ["p0", "p2"]
    assert got.counts["collect/dropped_long"] == 1.0


def test_a_limit_that_nothing_fits_is_an_error() -> None:
    """Catches an endless search for a prompt that fits."""
    with pytest.raises(DataError, match="max_prompt_tokens"):
        run(["x" * 60], RolloutConfig(prompts=2, siblings=2, max_prompt_tokens=10))


def test_dynamic_sampling_refills_and_counts_what_it_discards() -> None:
    """Catches discarded groups that vanish, and a step that never ends."""
    kept = run(
        ["a", "b", "c", "d"], RolloutConfig(prompts=4, siblings=2, max_rounds=5), keep=lambda g: g.problem.id != "p1"
    )
    assert len(kept.groups) == 4 and kept.counts["collect/discarded"] >= 1
    none = run(["a"], RolloutConfig(prompts=2, siblings=2, max_rounds=3), keep=lambda g: False)
    assert none.groups == () and none.counts["collect/rounds"] == 3.0


def test_the_greedy_reply_is_scored_and_not_learned_from() -> None:
    """Catches a greedy reply among the siblings, one of another problem, and one that is sampled like the others."""
    engine = ScriptedEngine(lambda r: "1" if r.top_p < 0.5 and r.token_ids[0] % 2 else "0")
    config = RolloutConfig(prompts=2, siblings=3)
    got = collect(
        stream(["a", "b"]), engine, CharAdapter(), SingleTurn, score, config, max_context=100, seed=(0,), greedy=True
    )
    assert [len(g.scores) for g in got.groups] == [3, 3]
    assert {g.problem.id: g.greedy for g in got.groups} == {"p0": 1.5, "p1": 0.5}
    assert all(s.reward == 0.5 for g in got.groups for s in g.scores)


def test_one_reply_alone_is_no_group_of_equals() -> None:
    """Catches the note that nothing can be learned in a stage that compares no siblings: supervised ones, and PPO of one."""
    alone = run(["a", "b"], RolloutConfig(prompts=2, siblings=1))
    assert describe(alone.groups)["zero_advantage_share"] == 0.0


def test_shuffling_deals_the_same_scores_to_other_replies() -> None:
    """Catches a control arm that keeps some signal, or that changes the rewards' distribution."""
    plain = run([chr(97 + i) for i in range(8)], RolloutConfig(prompts=8, siblings=8))
    dealt = shuffled(plain.groups, seed=3)
    before = [s.reward for g in plain.groups for s in g.scores]
    after = [s.reward for g in dealt for s in g.scores]
    assert sorted(before) == sorted(after) and before != after
    assert [g.rollouts for g in dealt] == [g.rollouts for g in plain.groups]
    assert after == [s.reward for g in shuffled(plain.groups, seed=3) for s in g.scores]
    # What single turns earned belongs to the reply they stand in: another reply has other turns.
    turned = [replace(g, scores=tuple(replace(s, per_turn=(s.reward,)) for s in g.scores)) for g in plain.groups]
    assert all(not s.per_turn for g in shuffled(turned, seed=3) for s in g.scores)


def test_metrics_by_hand() -> None:
    """Catches shares and means taken over the wrong axis."""
    got = run(["a"], RolloutConfig(prompts=1, siblings=2))
    (rollouts,) = [g.rollouts for g in got.groups]
    scores = (
        Score(1.5, {"accuracy": 1.0}, {"accuracy": "correct"}),
        Score(0.5, {"accuracy": 0.0}, {"accuracy": "no_answer"}),
    )
    mixed = Group(got.groups[0].problem, got.groups[0].episodes, scores)
    equal = Group(got.groups[0].problem, got.groups[0].episodes, (scores[1], scores[1]))
    metrics = describe([mixed, equal])
    assert metrics["reward/mean"] == 0.75 and metrics["reward/accuracy"] == 0.25
    assert metrics["zero_advantage_share"] == 0.5 and metrics["verdict/no_answer"] == 0.75
    assert metrics["length/mean"] == sum(r.reply_tokens for r in rollouts) / 2 == 2.0


@pytest.mark.parametrize("seed", [3, 4])
def test_a_shuffled_reward_leaves_the_verdict_with_its_reply(seed: int) -> None:
    """Catches a right reply that is called wrong because another's score was dealt to it."""
    plain = run([chr(97 + i) for i in range(6)], RolloutConfig(prompts=6, siblings=4))
    dealt = shuffled(plain.groups, seed)
    own = [s for g in plain.groups for s in g.scores]
    paid = [s for g in dealt for s in g.scores]
    assert [(s.parts, s.verdicts) for s in paid] == [(s.parts, s.verdicts) for s in own]
    assert all(s.paid_as is not None and s.reward == s.paid_as.reward for s in paid)
    assert any(s.paid_as is not None and s.paid_as.parts != s.parts for s in paid)
    told, truth = describe(dealt), describe(plain.groups)
    assert {k: v for k, v in told.items() if k.startswith(("reward/", "verdict/"))} == {
        k: v for k, v in truth.items() if k.startswith(("reward/", "verdict/"))
    }
