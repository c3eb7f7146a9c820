"""A user's own game that does, at the place named, what it is told: raise, leave, or return what nobody can use."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from lmm_r1.seams import Player, Put, Step
from lmm_r1.types import Message, Problem
from tests.own_game import Guess, GuessEpisode, GuessOptions

Doing = Callable[[], Any]


def raises() -> None:
    raise ZeroDivisionError("in the\ngame \x1b[2J")


def leaves() -> None:
    sys.exit(0)


class OfItsOwn(BaseException):
    """What no `except Exception` sees, as the outcomes of test libraries are."""


def own() -> None:
    raise OfItsOwn("none of the usual ones")


def misuses() -> None:
    re.compile("(")


class Sick(Guess):
    """The good game, with one method of it or of its episodes replaced by `doing`."""

    name = "sick"
    where = ""
    doing: Doing = staticmethod(raises)

    def options(self, **given: Any) -> Any:  # type: ignore[override]
        return self.doing() if self.where == "options" else GuessOptions(**given)

    def problem(self, identity: str, seed: int, options: Any, put: Put) -> Problem:
        return self.doing() if self.where == "problem" else super().problem(identity, seed, options, put)

    def environment(self, problem: Problem, put: Put) -> GuessEpisode:
        return self.doing() if self.where == "environment" else Episode(problem, put, "")

    def player(self, name: str, problem: Problem) -> Player:
        return (lambda env: self.doing()) if self.where == "player" else super().player(name, problem)


class Episode(GuessEpisode):
    def board(self) -> str:
        return sick.doing() if sick.where == "board" else "dark or light"

    def start(self) -> tuple[Message, ...]:
        return sick.doing() if sick.where == "start" else super().start()

    def step(self, reply: str) -> Step:
        return sick.doing() if sick.where == "step" and self.turn == 1 else super().step(reply)


sick = Sick()
