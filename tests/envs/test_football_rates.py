"""How often each policy scores: the game must pay for playing, and for nothing else.

Every rate is of fixed seeds, so these tests say the same each time; the bounds leave room for what chance does to samples
of this size, so that a change of the engine fails only when it changes the game.
"""

from __future__ import annotations

import random
from functools import cache

import pytest

from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.policies import POLICIES, always_shoot, expert, idle, run_and_shoot
from lmm_r1.envs.football.scenarios import SCENARIOS
from lmm_r1.envs.football.state import ACTIONS
from lmm_r1.envs.football.turn import run_turn

EMPTY = ("empty_goal_close", "empty_goal", "run_to_score", "micro_empty_goal")
TEAM = ("pass_and_shoot_with_keeper", "run_pass_and_shoot_with_keeper", "3_vs_1_with_keeper", "micro_2_vs_1")
ALONE = ("micro_1_vs_1", "micro_keeper")
HARD = ("corner", "counterattack_easy", "counterattack_hard", "11_vs_11")
#: Who starts in front of an open goal scores by shooting at once.
OPEN = {"empty_goal_close"}
GAMES = 30


@cache
def rate(scenario: str, policy: str, games: int = GAMES) -> float:
    """Share of games that end with a goal, played turn by turn."""
    engine, goals = Academy(), 0
    for seed in range(games):
        state = engine.reset(scenario, seed)
        act = POLICIES[policy](random.Random(seed))
        while not engine.over:
            state = run_turn(engine, state, act(state)).state
        goals += engine.over == "goal"
    return goals / games


def test_the_groups_name_every_scenario() -> None:
    """Catches a new set-up whose rates nobody looks at."""
    assert sorted(EMPTY + TEAM + ALONE + HARD) == sorted(SCENARIOS)


@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_doing_nothing_or_anything_or_shooting_pays_little(scenario: str) -> None:
    """Catches a game that is won without playing: idle scores nothing, random actions and shots at once hardly."""
    assert rate(scenario, "idle", 8) == 0.0
    if scenario not in OPEN:
        assert rate(scenario, "always_shoot") <= 0.3  # 0.15 and what chance adds
        assert rate(scenario, "random") <= 0.35
    assert rate(scenario, "random") < rate(scenario, "expert")


def test_the_means_of_the_poor_policies_are_low() -> None:
    """Catches a drift that no single scenario shows: over all set-ups chance is averaged out."""
    for policy in ("random", "always_shoot"):
        rates = [rate(scenario, policy) for scenario in SCENARIOS if scenario not in OPEN]
        assert sum(rates) / len(rates) <= 0.11, policy


def test_running_at_a_keeper_is_no_way_to_win() -> None:
    """Catches a keeper or defenders that a straight run beats."""
    assert rate("micro_keeper", "run_and_shoot") <= 0.7
    for scenario in (*TEAM, *HARD):
        assert rate(scenario, "run_and_shoot") <= 0.5
        assert rate(scenario, "run_and_shoot") < rate(scenario, "expert")


@pytest.mark.parametrize(
    ("scenarios", "least"), [(EMPTY, 0.85), (TEAM, 0.5), (ALONE, 0.6)], ids=["empty", "team", "alone"]
)
def test_the_expert_wins(scenarios: tuple[str, ...], least: float) -> None:
    """Catches a game that cannot be won by playing well."""
    for scenario in scenarios:
        assert rate(scenario, "expert") >= least, scenario


def test_the_expert_wins_some_hard_games() -> None:
    """Catches a defence that nobody gets through, and one that a run without passes does as well against."""
    rates = {scenario: rate(scenario, "expert") for scenario in HARD}
    assert sum(rates.values()) / len(rates) >= 0.2, rates
    others = [rate(scenario, policy) for scenario in HARD for policy in ("random", "always_shoot", "run_and_shoot")]
    assert sum(rates.values()) / len(rates) >= 3 * sum(others) / len(others)


def test_policies_speak_the_words_and_need_no_engine() -> None:
    """Catches a word that no engine knows; per tick, a policy plays as well as per turn."""
    engine = Academy()
    state = engine.reset("3_vs_1_with_keeper", 0)
    assert idle(state) is None and always_shoot(state) == "shot" and run_and_shoot(state) == "right"
    assert set(POLICIES) == {"idle", "random", "always_shoot", "run_and_shoot", "expert"}
    goals = 0
    for seed in range(12):
        state = engine.reset("empty_goal", seed)
        while not engine.over:
            word = expert(state)
            assert word is None or word in ACTIONS
            state = engine.step(word)
        goals += engine.over == "goal"
    assert goals >= 10
    policy = POLICIES["random"](random.Random(3))
    assert {policy(state) for _ in range(400)} == set(ACTIONS)
