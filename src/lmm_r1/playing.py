"""`lmm-r1 play`: a model, or a scripted player, plays a game while a person looks on; and the film of it as a GIF.

Left out: evaluation (evaluation/) and training; nothing is kept but what the caller asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from lmm_r1.ask import ad_hoc, settle_for, workshop
from lmm_r1.build import base_folder
from lmm_r1.config import PLAYERS, Window
from lmm_r1.data.stream import with_system
from lmm_r1.envs.games import draw_problem, game, open_environment, options_of, player_of
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.rollout.play import Sampling, play, turns_of
from lmm_r1.rollout.scripted import scripted
from lmm_r1.seams import Environment, Put
from lmm_r1.settings import Asked
from lmm_r1.types import Problem, Turn

Pixels = NDArray[np.uint8]
#: Milliseconds of a film's frame, and of its last one.
FRAME_MS, LAST_MS = 120, 1500
#: Tokens of an episode that a model plays with full memory.
MAX_CONTEXT = 32768


def play_game(
    player: str,
    name: str,
    *,
    level: str = "",
    options: Mapping[str, Any] | None = None,
    episode: int = 0,
    seed: int = 0,
    gif: Path | None = None,
    watch: Callable[[Environment, Turn], None] = lambda env, turn: None,
    **asked: Unpack[Asked],
) -> dict[str, Any]:
    """Play one episode; {"player", "game", "problem_id", "success", "score", "reward", "turns": [...], "gif"}, of a model also its settings.

    player: a model folder, a hub id, "micro", or one of PLAYERS. level: a level file of the game, or what its own option
    calls a level (a size, a scenario); "" draws one of the evaluation split, the `episode`-th. watch is called after
    each turn. RecipeError for an unknown game, option or level.
    """
    films: list[Pixels] = []

    def looked_on(env: Environment, turn: Turn) -> None:
        film = getattr(env, "film", None)
        if gif is not None and film is not None:
            films.extend(film())
        watch(env, turn)

    used = settle_for(player, asked, prompt="none", max_new_tokens=256, memory=Window())
    recipe = ad_hoc(player, seed, used)
    knobs = recipe.engine.model_copy(update={"slots": 1, "max_context": MAX_CONTEXT})
    shop = workshop(recipe.model_copy(update={"engine": knobs}))
    problem = _problem(name, level, options or {}, episode, seed, shop.images.put)
    films += [shop.images.get(image.sha) for image in problem.images]
    make = open_environment(shop.images.put)
    if player in PLAYERS:
        turns = scripted(problem, make, player_of(player, problem), looked_on)
    else:
        problem = with_system(problem, used.system)
        engine, adapter, _ = shop.loaded(base_folder(player))
        window = None if isinstance(used.memory, str) else (used.memory.pictures, used.memory.actions)
        sampling = Sampling(used.max_new_tokens, used.temperature, used.top_p, MAX_CONTEXT, window)
        (played,) = play([(problem, 0)], engine, adapter, make, sampling, ("play", seed), watch=looked_on)
        turns = turns_of(played)
    if gif is not None:
        write_gif(gif, films)
    return _told(player, problem, turns, gif) | ({} if player in PLAYERS else used.told())


def _told(player: str, problem: Problem, turns: Sequence[Turn], gif: Path | None) -> dict[str, Any]:
    return {
        "player": player,
        "game": problem.env,
        "problem_id": problem.id,
        "source": problem.source,
        "success": turns[-1].success,
        "outcome": turns[-1].outcome,
        "score": turns[-1].score,
        "reward": sum(turn.reward for turn in turns),
        "turns": [
            {"reply": t.reply, "action": t.action, "outcome": t.outcome, "reward": t.reward, "success": t.success}
            for t in turns
        ],
        "gif": None if gif is None else str(gif),
    }


def _problem(name: str, level: str, settings: Mapping[str, Any], episode: int, seed: int, put: Put) -> Problem:
    kind, options = game(name), options_of(name, settings)
    if not level:
        return draw_problem(kind, options, "evaluation", seed, episode, put)
    of_level = getattr(kind, "of_level", None)
    if of_level is None:
        raise RecipeError(Fault(f"game '{name}' has no levels to choose from", field="--level"))
    try:
        problem: Problem = of_level(f"play/{name}/{seed}/{episode}", level, episode, options, put)
    except ValueError as error:
        raise RecipeError(Fault(str(error), field="--level")) from None
    return replace(problem, source=f"{problem.source} ({level})")


def write_gif(path: Path, frames: Sequence[Pixels]) -> None:
    """The film of an episode, its last picture held. RecipeError without a picture."""
    if not frames:
        raise RecipeError(Fault("the game showed no picture: there is nothing to film", field="--gif"))
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    pictures = [
        PillowImage.fromarray(frame).resize((width, height), PillowImage.Resampling.NEAREST) for frame in frames
    ]
    durations = [FRAME_MS] * (len(pictures) - 1) + [LAST_MS]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
