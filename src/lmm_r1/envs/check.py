"""`lmm-r1 check --env NAME`: whether a game keeps to the contract of seams.Game and seams.Environment.

Every rule that training relies on is tried on a few seeds: problems and episodes repeat to the last byte, an episode is
played once and ends, whatever a model writes is answered rather than raised, and nothing that is no move pays. A game that
offers `gymnasium()` must also pass Gymnasium's own check_env.
Leaves out: whether the game is worth learning.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from lmm_r1.envs.games import game, open_environment, unusable
from lmm_r1.errors import EngineError, Fault, LmmR1Error, raised
from lmm_r1.seams import Environment, Game, Step
from lmm_r1.types import Image, Problem

SEEDS = (0, 1, 2, 3, 4, 5, 6, 7)
#: Replies after which an episode that has not ended never will.
MAX_TURNS = 2000
#: Longest side of a picture, pixels.
MAX_SIDE = 4096
#: What a model may write. None of it is a move.
HOSTILE = (
    "",
    " \n\t",
    "\x00\x1b[2J\u202e",
    "<answer>",
    "</answer><answer>",
    "<think></think><answer></answer>",
    "<think>" * 500 + "<answer>" * 500,
    "<|im_end|><|vision_start|><|image_pad|><|vision_end|>",
    "<answer>__import__('os').system('true')</answer>",
    "<answer>9" + "9" * 5000 + "</answer>",
    "<answer>nan</answer>",
    "\ud800 half a character",
    "x" * 100_000,
)


def check_game(name: str) -> dict[str, Any]:
    """{"ok", "errors": [fault], "exit_code"} of a game's conformance; never raises for what the game does."""
    try:
        kind = game(name)
    except LmmR1Error as error:
        return _report(list(error.faults), error.exit_code)
    faults: list[Fault] = []
    for rule in (_options, _problems, _once, _repeats, _hostile, _players, _gymnasium):
        try:
            faults += [Fault(message, field=rule.__name__[1:]) for message in rule(kind)]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a user's game may raise anything: that is a finding
            faults.append(Fault(f"raised {raised(error)}", field=rule.__name__[1:]))
    return _report(faults, 2 if faults else 0)


def _report(faults: list[Fault], exit_code: int) -> dict[str, Any]:
    return {"ok": not faults, "errors": [asdict(f) for f in faults], "pending": [], "exit_code": exit_code}


class _Pictures:
    """A store that only names pictures."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def put(self, pixels: NDArray[np.uint8]) -> Image:
        """The name of a picture; notes what is wrong with it."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            self.faults.append(f"a picture is {pixels.dtype}{list(pixels.shape)}, not uint8[H, W, 3]")
        elif max(pixels.shape) > MAX_SIDE or min(pixels.shape) < 1:
            self.faults.append(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels")
        return Image(hashlib.sha256(pixels.tobytes()).hexdigest(), pixels.shape[1], pixels.shape[0])


def _problem(kind: Game, seed: int) -> Problem:
    return kind.problem(f"check/{seed}", seed, kind.options(), _Pictures().put)


def _options(kind: Game) -> Iterator[str]:
    try:
        kind.options(no_game_has_this_option=1)
    except ValueError:  # pydantic's error is one
        return
    yield 'options take an unknown key: model_config = ConfigDict(extra="forbid", frozen=True)'


def _problems(kind: Game) -> Iterator[str]:
    pictures = _Pictures()
    keys = set()
    for seed in SEEDS:
        first, again = (kind.problem(f"check/{seed}", seed, kind.options(), pictures.put) for _ in range(2))
        if first != again:
            yield f"seed {seed} gives another problem the second time"
        if first.env != kind.name:
            yield f'problem.env is "{first.env}", not the game\'s name "{kind.name}"'
        if not any(message.role == "user" for message in first.messages):
            yield f"the problem of seed {seed} has no user message"
        if not isinstance(first.meta.get("key"), str):
            yield 'problem.meta has no text "key": training and evaluation cannot be told apart'
        json.dumps(dict(first.meta))  # raises for what is not JSON
        keys.add(first.meta.get("key"))
    if len(keys) < 2:
        yield f"{len(SEEDS)} seeds give the same task"
    yield from dict.fromkeys(pictures.faults)


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except (RuntimeError, EngineError):  # a user's own comes wrapped
        return True
    return False


def _once(kind: Game) -> Iterator[str]:
    problem = _problem(kind, 0)
    env = kind.environment(problem, _Pictures().put)
    if not _refused(lambda: env.step("")):
        yield "a reply before the start is taken (RuntimeError wanted)"
    env = kind.environment(problem, _Pictures().put)
    if env.start() != problem.messages:
        yield "the first messages are not the problem's"
    if not _refused(env.start):
        yield "an episode can be started twice (RuntimeError wanted)"
    _, ended = _run(kind, problem, "idle")
    if not ended:
        yield f"an idle player's episode does not end in {MAX_TURNS} replies"
    elif not _refused(lambda: ended.step("")):
        yield "a reply after the end is taken (RuntimeError wanted)"
    env.close()
    env.close()


def _run(kind: Game, problem: Problem, player: str) -> tuple[list[Step], Environment | None]:
    """(steps of an episode as a scripted player plays it, its environment at the end; None when it never ended)."""
    # As the turn loop opens it: a player that looks into its environment must find what it looks for.
    env = open_environment(_Pictures().put)(problem)
    reply_to = kind.player(player, problem)
    env.start()
    steps: list[Step] = []
    while len(steps) < MAX_TURNS:
        steps.append(env.step(reply_to(env)))
        if steps[-1].done:
            return steps, env
    return steps, None


def _repeats(kind: Game) -> Iterator[str]:
    for seed in SEEDS[:3]:
        problem = _problem(kind, seed)
        first, again = _run(kind, problem, "random")[0], _run(kind, problem, "random")[0]
        if first != again:
            yield f"the same replies to seed {seed} give another episode: randomness must hang on the problem's id"
        for step in first:
            yield from _step_faults(step)


def _step_faults(step: Step) -> Iterator[str]:
    wrong = list(unusable(step))
    if wrong:
        yield from wrong
        return
    if not re.fullmatch(r"[a-z_]*", step.outcome):
        yield f"an outcome {step.outcome[:40]!r}: a reason code is small letters and underscores"
    if not 0.0 <= step.success <= 1.0:
        yield f"a success of {step.success}, not in [0, 1]"
    if step.done and step.feedback:
        yield "feedback after the end"
    if not step.done and not any(part for message in step.feedback for part in message.content):
        yield "no feedback, though the episode goes on"
    if any(message.role != "user" for message in step.feedback):
        yield 'feedback that is not of the role "user"'


def _hostile(kind: Game) -> Iterator[str]:
    """The same episode for each reply, as long as it lasts."""
    for number, reply in enumerate(HOSTILE):
        env = kind.environment(_problem(kind, number), _Pictures().put)
        env.start()
        paid, turns, done = 0.0, 0, False
        while not done and turns < 5:
            step = env.step(reply)
            yield from _step_faults(step)
            paid, turns, done = paid + step.reward, turns + 1, step.done
        if paid > 0:
            yield f"the reply {reply[:40]!r}, which is no move, earns {paid:.3g}"


def _players(kind: Game) -> Iterator[str]:
    won: dict[str, list[float]] = {}
    for player in ("idle", "random", "expert"):
        episodes = [_run(kind, _problem(kind, seed), player)[0] for seed in SEEDS]
        yield from dict.fromkeys(fault for steps in episodes for step in steps for fault in _step_faults(step))
        won[player] = [steps[-1].success for steps in episodes]
        if player == "idle" and any(sum(step.reward for step in steps) > 0 for steps in episodes):
            yield "an idle player earns"
    if sum(won["expert"]) <= sum(won["random"]):
        yield f"the expert succeeds in {sum(won['expert']):g} of {len(SEEDS)} episodes, a random player in {sum(won['random']):g}"


def _gymnasium(kind: Game) -> Iterator[str]:
    make = getattr(kind, "gymnasium", None)
    if make is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(make(), skip_render_check=True)
    except AssertionError as error:
        yield f"Gymnasium's check_env: {str(error).splitlines()[0]}"
