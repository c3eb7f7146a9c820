"""A user's game that fails in the middle of a run: one line that names where, never a traceback, never a strange number."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lmm_r1 import cli
from lmm_r1.envs.games import draw_problem, game, open_environment, options_of, player_of
from lmm_r1.errors import EngineError, LmmR1Error, RecipeError
from lmm_r1.playing import play_game
from lmm_r1.rollout.scripted import scripted
from lmm_r1.seams import Step
from lmm_r1.types import Image, Message, Text
from tests.sick_game import Doing, Sick, leaves, misuses, own, raises

HERE = r"tests/sick_game\.py:\d+"


NAME = "tests.sick_game:sick"


def put(pixels: np.ndarray) -> Image:
    return Image("0" * 64, pixels.shape[1], pixels.shape[0])


def played(where: str, doing: Doing, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said when an episode is played: a wrong word, then the right one."""
    monkeypatch.setattr(Sick, "where", where)
    monkeypatch.setattr(Sick, "doing", staticmethod(doing))

    def play() -> None:
        problem = draw_problem(game(NAME), options_of(NAME, {}), "train", 0, 0, put)
        words = iter(("wrong", "dark", "light"))
        player = player_of("expert", problem) if where == "player" else lambda env: next(words)
        scripted(problem, open_environment(put), player)

    with pytest.raises(LmmR1Error) as caught:
        play()
    assert isinstance(caught.value, RecipeError if where == "problem" else EngineError)
    told = str(caught.value)
    assert told.isprintable() and NAME in told
    return told


@pytest.mark.parametrize("where", ["problem", "environment", "start", "step", "player"])
@pytest.mark.parametrize(
    ("doing", "said"),
    [
        (raises, r"ZeroDivisionError: in the game .*"),
        (leaves, r"SystemExit: 0 "),
        (own, r"OfItsOwn: none of the usual ones "),
        (misuses, r"(PatternError|error): .*"),
    ],
)
def test_what_a_game_raises_is_one_line_with_its_place(
    where: str, doing: Doing, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback, an exception without its line, and a game that ends the run as if it were done."""
    told = played(where, doing, monkeypatch)
    assert re.search(rf"{said}\({HERE}\)", told), told
    if where != "problem":
        assert "problem train/" in told and "(level " in told
    if where == "step":
        assert "step, turn 2, reply 'dark'" in told


@pytest.mark.parametrize("where", ["step", "start", "problem", "player"])
@pytest.mark.parametrize(("doing", "said"), [(leaves, "SystemExit: 0"), (own, "OfItsOwn: none of the usual ones")])
def test_the_contract_test_survives_every_exit(
    doing: Doing, said: str, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a check that a game ends without a word, with an exit code of the game's own."""
    monkeypatch.setattr(Sick, "where", where)
    monkeypatch.setattr(Sick, "doing", staticmethod(doing))
    assert cli.run(["check", "--env", NAME]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (("no", 1.0, True), r"returned \('no', 1\.0, True\) \(tuple\); a Step is wanted"),
        (None, r"returned None \(NoneType\); a Step is wanted"),
        (Step((), float("nan"), True), r"a reward of nan: a finite number is wanted"),
        (Step((), "1", True), r"a reward of '1': a finite number is wanted"),  # type: ignore[arg-type]
        (Step((), 1.0, True, score=float("inf")), r"a score of inf: a finite number is wanted"),
        (Step((), 1.0, True, outcome=3), r"an outcome that is no text"),  # type: ignore[arg-type]
        (Step([Message("user", (Text("no"),))], 0.0, False), r"feedback that is not a tuple of Messages"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_a_run_cannot_use_is_named(found: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a reward that is no number and gets into training, and an answer of another type."""
    told = played("step", lambda: found, monkeypatch)
    assert re.search(rf"turn 2, reply 'dark', on problem .*{said} \({HERE}\)", told), told


@pytest.mark.parametrize(("where", "said"), [("problem", "made NoneType, not a Problem"), ("player", "returned NoneType, not a reply")])  # fmt: skip
def test_nothing_where_something_is_wanted(where: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a method that forgets its return."""
    assert said in played(where, lambda: None, monkeypatch)


def test_the_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a fault that is one line in a library and a traceback on a terminal."""
    monkeypatch.setattr(Sick, "doing", staticmethod(raises))
    for where in ("start", "board"):
        monkeypatch.setattr(Sick, "where", where)
        assert cli.run(["play", "expert", "--game", NAME]) == EngineError.exit_code
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert re.search(rf"failed in {where}, on problem .*ZeroDivisionError: .*\({HERE}\)", told), told
    monkeypatch.setattr(Sick, "where", "options")
    assert cli.run(["play", "expert", "--game", NAME]) == RecipeError.exit_code
    assert re.search(rf"cannot read its options: ZeroDivisionError: .*\({HERE}\)", capsys.readouterr().err)


@pytest.mark.parametrize(("player", "success"), [("expert", 1.0), ("random", 0.0)])
def test_play_tells_no_score_of_a_game_without_one(
    player: str, success: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a blank title, and "score 0.0" after a win."""
    name = "tests.own_game:guess"
    assert cli.run(["play", player, "--game", name]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"{name}: success {success:.2f} after [13] turns?, reward {success:.2f}", last), last
    assert play_game(player, name)["score"] is None


def test_play_tells_the_score_of_a_game_that_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a score that is left out where there is one, zero included."""
    assert cli.run(["play", "idle", "--game", "football", "--option", 'scenarios=["micro_keeper"]']) == 0
    assert re.search(r": \w+ after \d+ turns?, reward -?\d\.\d\d, score -?\d+\.\d$", capsys.readouterr().out.rstrip())
