"""Games by name, and environments from problems: the shipped games, and users' own as "module:attribute".

`open_environment(put)` is what the turn loop gets; `game(name)` what makes problems, scripted players and conformance
tests. A user's own environment is foreign code: whatever it raises becomes one line that names the problem.
Leaves out: the games themselves, and the conformance test (check.py). Never imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lmm_r1.envs.football.turns import FootballGame
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.envs.sokoban.turns import SokobanGame
from lmm_r1.errors import EngineError, Fault, LmmR1Error, RecipeError
from lmm_r1.seams import Environment, Game, MakeEnvironment, Put, Step
from lmm_r1.types import Image, Message, Problem

Pixels = NDArray[np.uint8]

GAMES: dict[str, Game] = {"sokoban": SokobanGame(), "football": FootballGame()}

#: What an object must have to be a game.
_PARTS = ("name", "options", "problem", "environment", "player")
#: Seeds drawn for one problem of a split before a game is said to have too few.
MAX_DRAWS = 1000
#: Share of all tasks of a game that belong to evaluation, in 1/256.
EVALUATION_SHARE = 26


def game(name: str) -> Game:
    """The game of that name; "module:attribute" imports a user's own. RecipeError, naming those there are."""
    return GAMES[name] if name in GAMES else _own_game(name)


@lru_cache(maxsize=64)
def _own_game(name: str) -> Game:
    """A user's game, made once. It may lie in the present folder: the command has that on no path of its own."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise RecipeError(
            Fault(f"no game '{name}'", remedy=f'there are: {", ".join(GAMES)}; your own is "module:attribute"')
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
        found = found() if isinstance(found, type) else found
    except Exception as error:  # noqa: BLE001  a user's module may raise anything while it is imported
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RecipeError(Fault(f"game '{name}' cannot be imported: {what}")) from None
    missing = [part for part in _PARTS if not hasattr(found, part)]
    if missing:
        raise RecipeError(Fault(f"game '{name}' has no {', '.join(missing)}", remedy="see docs/games.md"))
    try:
        found.name = name  # as problems call it
    except AttributeError:
        raise RecipeError(
            Fault(f"game '{name}': its name cannot be set", remedy="a plain attribute, no property")
        ) from None
    return found  # type: ignore[no-any-return]  # its parts were looked at


def options_of(name: str, options: Mapping[str, Any]) -> Any:
    """A game's options, checked. RecipeError with a fault for every option that is unknown or wrong."""
    kind = game(name)
    try:
        return kind.options(**options)
    except ValidationError as error:
        faults = []
        for found in error.errors():
            field = ".".join(str(part) for part in found["loc"])
            message = found["msg"].removeprefix("Value error, ")
            known = f"there are: {', '.join(kind.options.model_fields)}"
            unknown = found["type"] == "extra_forbidden"
            faults.append(
                Fault(
                    f"no option '{field}'" if unknown else message,
                    field="" if unknown else field,
                    remedy=known if unknown else "",
                )
            )
        raise RecipeError(*faults) from None


def is_evaluation(key: str) -> bool:
    """Whether a task with this key belongs to the evaluation split: no training ever plays it."""
    return hashlib.sha256(f"game:{key}".encode()).digest()[0] < EVALUATION_SHARE


def draw_problem(kind: Game, options: Any, split: str, seed: int, index: int, put: Put) -> Problem:
    """The `index`-th problem of a split, "train" or "evaluation": a pure function of its arguments.

    RecipeError when no seed of MAX_DRAWS gives a task of the split, the game has too few; and when it makes no problem.
    """
    for attempt in range(MAX_DRAWS):
        text = f"{kind.name}:{split}:{seed}:{index}:{attempt}"
        drawn = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        held: list[Pixels] = []  # pictures of a draw that is thrown away are never kept

        def hold(pixels: Pixels, held: list[Pixels] = held) -> Image:
            held.append(pixels)
            return Image(str(len(held) - 1), pixels.shape[1], pixels.shape[0])

        try:
            problem = kind.problem(f"{split}/{kind.name}/{seed}/{index}", drawn, options, hold)
        except LmmR1Error:
            raise
        except Exception as error:  # noqa: BLE001  a user's game may raise anything; a shipped one has no such level
            what = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise RecipeError(f"game '{kind.name}' made no problem of seed {drawn}: {what.splitlines()[0]}") from None
        if is_evaluation(str(problem.meta["key"])) == (split == "evaluation"):
            messages = tuple(
                replace(m, content=tuple(put(held[int(p.sha)]) if isinstance(p, Image) else p for p in m.content))
                for m in problem.messages
            )
            return replace(problem, messages=messages)
    raise RecipeError(f"game '{kind.name}' has no task for {split} in {MAX_DRAWS} seeds: too few differ in meta.key")


def open_environment(put: Put) -> MakeEnvironment:
    """What makes the environment of a problem, its pictures kept by `put`."""

    def make(problem: Problem) -> Environment:
        if not problem.is_game:
            return SingleTurn(problem)
        if problem.env in GAMES:
            return GAMES[problem.env].environment(problem, put)
        own = game(problem.env)
        return _Foreign(problem, lambda: own.environment(problem, put))

    return make


class _Foreign:
    """A user's environment, whose faults name the problem and are no fault of the reply."""

    def __init__(self, problem: Problem, make: Callable[[], Environment]) -> None:
        self._problem = problem
        self._inner: Environment = self._guarded(make)

    def start(self) -> tuple[Message, ...]:
        """See Environment."""
        return self._guarded(self._inner.start)  # type: ignore[no-any-return]

    def step(self, reply: str) -> Step:
        """See Environment."""
        return self._guarded(self._inner.step, reply)  # type: ignore[no-any-return]

    def close(self) -> None:
        """See Environment."""
        self._guarded(self._inner.close)

    def __getattr__(self, name: str) -> Any:
        """What else the environment has: its own scripted player looks into it, and a film is taken of it."""
        return getattr(self.__dict__["_inner"], name)

    def _guarded(self, call: Callable[..., Any], *arguments: object) -> Any:
        try:
            return call(*arguments)
        except LmmR1Error:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise EngineError(
                f"the environment {self._problem.env} failed on problem {self._problem.id}: {what}"
            ) from error
