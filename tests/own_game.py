"""A user's own game, as docs/games.md shows one, which can be told to break the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from lmm_r1.seams import Player, Put, Step
from lmm_r1.types import Message, Problem, Text


class GuessOptions(BaseModel):
    """Options of the game below."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Guess:
    """A user's own game: name the shade of a picture, dark or light, within three replies."""

    name = "guess"
    options: type[Any] = GuessOptions
    fault = ""

    def problem(self, identity: str, seed: int, options: Any, put: Put) -> Problem:
        shade = 30 + 10 * (seed % 20)
        if self.fault == "restless":
            shade = int(np.random.default_rng().integers(255))
        picture = put(np.full((28, 28, 3), shade, np.uint8))
        meta = {"shade": shade} if self.fault == "no key" else {"key": str(shade), "shade": shade}
        return Problem(identity, (Message("user", (picture, Text("dark or light?"))),), "", "", self.name, meta=meta)

    def environment(self, problem: Problem, put: Put) -> GuessEpisode:
        return GuessEpisode(problem, put, self.fault)

    def player(self, name: str, problem: Problem) -> Player:
        shade = int(problem.meta["shade"])  # type: ignore[call-overload]
        right = "dark" if shade < 128 else "light"
        wrong = "dark" if right == "light" else "light"
        said = {"idle": "", "random": wrong, "expert": wrong if self.fault == "fool" else right}
        if name not in said:
            raise ValueError(name)

        def player(env: GuessEpisode) -> str:
            assert env.problem is not None, "a player may look into its game's environment"
            return said[name]

        return player


class GuessEpisode:
    def __init__(self, problem: Problem, put: Put, fault: str) -> None:
        self.problem, self.put, self.fault = problem, put, fault
        self.turn, self.started, self.over = 0, False, False

    def start(self) -> tuple[Message, ...]:
        if self.started and self.fault != "many lives":
            raise RuntimeError("once")
        self.started = True
        return self.problem.messages

    def step(self, reply: str) -> Step:
        if not self.started or self.over:
            raise RuntimeError("not now")
        if self.fault == "brittle" and "nan" in reply:
            raise ZeroDivisionError("what a reply")
        self.turn += 1
        shade = int(self.problem.meta["shade"])  # type: ignore[call-overload]
        right = reply == ("dark" if shade < 128 else "light")
        self.over = right or (self.turn == 3 and self.fault != "endless")
        reward = 1.0 if right or (self.fault == "generous" and reply == "") else 0.0
        if self.fault == "random pay":
            reward = float(np.random.default_rng().random()) * right
            self.over, reward = self.turn == 3, float(np.random.default_rng().random()) - 1
        feedback = (Message("user", (Text("no"),)),)
        done = self.over
        return Step(
            () if done and self.fault != "chatty" else feedback,
            float("nan") if self.fault == "nan" and right else reward,
            done,
            success=2.0 * right if self.fault == "too good" else float(right),
        )

    def close(self) -> None:
        pass


guess = Guess()
