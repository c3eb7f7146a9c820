"""Games by name, users' own games, and the conformance test with games that break each of its rules."""

from __future__ import annotations

import pytest

from lmm_r1.envs.check import check_game
from lmm_r1.envs.games import GAMES, game, open_environment
from lmm_r1.errors import EngineError, RecipeError
from lmm_r1.types import Image
from tests.own_game import GuessOptions, guess

NAME = "tests.own_game:guess"


@pytest.mark.parametrize("name", [*GAMES, NAME])
def test_good_games_pass(name: str) -> None:
    """Catches a conformance test that finds fault with a game that keeps to the contract."""
    assert check_game(name) == {"ok": True, "errors": [], "pending": [], "exit_code": 0}


@pytest.mark.parametrize(
    ("fault", "field", "said"),
    [
        ("restless", "problems", "another problem the second time"),
        ("no key", "problems", 'no text "key"'),
        ("many lives", "once", "started twice"),
        ("endless", "once", "does not end"),
        ("random pay", "repeats", "another episode"),
        ("brittle", "hostile", "ZeroDivisionError"),
        ("generous", "hostile", "earns"),
        ("chatty", "repeats", "feedback after the end"),
        ("too good", "players", "a success of 2"),
        ("fool", "players", "the expert succeeds"),
    ],
)
def test_each_broken_rule_is_found(fault: str, field: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rule that is written down and never tried."""
    monkeypatch.setattr(guess, "fault", fault)
    report = check_game(NAME)
    assert not report["ok"] and report["exit_code"] == 2
    assert any(e["field"] == field and said in e["message"] for e in report["errors"]), report["errors"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nogame", "there are: sokoban, football"),
        ("no.such.module:x", "cannot be imported: ModuleNotFoundError"),
        ("json:nothing", "cannot be imported: AttributeError"),
        ("json:dumps", "has no name, options"),
    ],
)
def test_a_game_that_is_none_is_named(name: str, said: str) -> None:
    """Catches a misspelt game that fails with a traceback, or late."""
    with pytest.raises(RecipeError, match=said):
        game(name)
    assert not check_game(name)["ok"]


def test_a_fault_of_a_users_game_names_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a user's traceback in the middle of a run, and a fault that is taken for the model's."""
    monkeypatch.setattr(guess, "fault", "brittle")
    kind = game(NAME)
    problem = kind.problem("p7", 1, GuessOptions(), lambda pixels: Image("s", 28, 28))
    env = open_environment(lambda pixels: Image("s", 28, 28))(problem)
    assert env.start() == problem.messages
    where = r"environment tests\.own_game:guess failed in step, turn 1, reply 'nan', on problem p7 \(level 40\)"
    with pytest.raises(EngineError, match=where + r": ZeroDivisionError: what a reply \(tests/own_game\.py:\d+\)"):
        env.step("nan")
    with pytest.raises(EngineError, match="once"):
        env.start()
