"""Games by name, and environments from problems: the shipped games, and users' own as "module:attribute".

`open_environment(put)` is what the turn loop gets; `game(name)` what makes problems and conformance tests, `player_of`
who plays by a script. A user's own game is foreign code: whatever it raises, and what it returns that a run cannot use,
becomes one line that names the problem, the turn and the line of the user's file.
Leaves out: the games themselves, and the conformance test (check.py). Never imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lmm_r1.envs.football.turns import FootballGame
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.envs.sokoban.turns import SokobanGame
from lmm_r1.errors import EngineError, Fault, LmmR1Error, RecipeError, defined_at, first_line, printable, raised
from lmm_r1.seams import Environment, Game, MakeEnvironment, Player, Put, Step
from lmm_r1.types import Image, Message, Problem

Pixels = NDArray[np.uint8]

GAMES: dict[str, Game] = {"sokoban": SokobanGame(), "football": FootballGame()}

#: What an object must have to be a game.
_PARTS = ("name", "options", "problem", "environment", "player")
#: Methods of an environment that who looks on may call.
_LOOKED_ON = ("film", "board")
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
    except (Exception, SystemExit) as error:  # noqa: BLE001  a user's module may raise anything while it is imported
        raise RecipeError(Fault(f"game '{name}' cannot be imported: {raised(error)}")) from None
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
    except LmmR1Error:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  a user's options may check themselves by any code
        raise RecipeError(Fault(f"game '{name}' cannot read its options: {raised(error)}")) from None


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
        except (LmmR1Error, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  a user's may raise anything; a shipped one has no such level
            shipped = kind.name in GAMES and isinstance(error, ValueError)
            what = first_line(error) if shipped else raised(error, kind.problem)
            raise RecipeError(f"game '{kind.name}' made no problem of seed {drawn}: {what}") from None
        if not isinstance(problem, Problem) or not isinstance(problem.meta.get("key"), str):
            what = (
                f"{type(problem).__name__}, not a Problem"
                if not isinstance(problem, Problem)
                else 'no text meta["key"]'
            )
            place = defined_at(kind.problem)
            raise RecipeError(f"game '{kind.name}' made {what}, of seed {drawn}{f' ({place})' if place else ''}")
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


def player_of(name: str, problem: Problem) -> Player:
    """Who plays a problem's game by a script: "idle", "random" or "expert". EngineError for what a user's own raises."""
    kind = game(problem.env)
    if problem.env in GAMES:
        return kind.player(name, problem)
    made: Player = _guarded(f"player {name!r}", problem, lambda: kind.player(name, problem), kind.player)

    def player(env: Any) -> str:
        said = _guarded(f"player {name!r}", problem, lambda: made(env), made)
        if not isinstance(said, str):
            raise EngineError(_failure(f"player {name!r}", problem, f"returned {type(said).__name__}, not a reply"))
        return said

    return player


def unusable(step: object) -> Iterator[str]:
    """What a run cannot use of an environment's answer: another type, and figures that are none."""
    if not isinstance(step, Step):
        yield f"returned {reprlib.repr(step)} ({type(step).__name__}); a Step is wanted"
        return
    for name, value in (("reward", step.reward), ("success", step.success), ("score", step.score)):
        if value is None and name == "score":
            continue
        if not isinstance(value, int | float | np.floating | np.integer) or not math.isfinite(value):
            yield f"a {name} of {reprlib.repr(value)}: a finite number is wanted"
    if not all(isinstance(text, str) for text in (step.action, step.outcome)):
        yield "an action or an outcome that is no text"
    if not (isinstance(step.feedback, tuple) and all(isinstance(message, Message) for message in step.feedback)):
        yield "feedback that is not a tuple of Messages"


def _guarded(what: str, problem: Problem, call: Callable[[], Any], called: object) -> Any:
    """Run a user's code; EngineError for whatever it raises, an attempt to exit included."""
    try:
        return call()
    except (LmmR1Error, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise EngineError(_failure(what, problem, raised(error, called))) from error


def _failure(what: str, problem: Problem, why: str) -> Fault:
    level = printable(str(problem.meta.get("key", "")))[:60]
    at = f"{what}, on problem {problem.id}{f' (level {level})' if level else ''}"
    return Fault(f"the environment {problem.env} failed in {at}: {printable(why)}", remedy="see docs/games.md")


class _Foreign:
    """A user's environment, whose faults name the problem and the turn, and are no fault of the reply."""

    def __init__(self, problem: Problem, make: Callable[[], Environment]) -> None:
        self._problem, self._turn = problem, 0
        self._inner: Environment = _guarded("environment", problem, make, None)

    def start(self) -> tuple[Message, ...]:
        """See Environment."""
        return self._asked("start", lambda: self._inner.start())  # type: ignore[no-any-return]

    def step(self, reply: str) -> Step:
        """See Environment. EngineError also for an answer that a run cannot use."""
        self._turn += 1
        at = f"step, turn {self._turn}, reply {reply[:80]!r}"
        found: Step = self._asked(at, lambda: self._inner.step(reply))
        for wrong in unusable(found):
            place = defined_at(getattr(self._inner, "step", None))
            raise EngineError(_failure(at, self._problem, f"{wrong} ({place})" if place else wrong))
        return found

    def close(self) -> None:
        """See Environment."""
        self._asked("close", lambda: self._inner.close())

    def __getattr__(self, name: str) -> Any:
        """What else the environment has: its own scripted player looks into it, and a film is taken of it."""
        found = getattr(self.__dict__["_inner"], name)
        return (lambda: self._asked(name, found)) if name in _LOOKED_ON else found

    def _asked(self, what: str, call: Callable[[], Any]) -> Any:
        return _guarded(what, self._problem, call, getattr(self._inner, what.partition(",")[0], None))
