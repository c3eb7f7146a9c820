"""Verbs about one model, outside a run: evaluate, difficulty, sample, play, build-base."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from lmm_r1.check import require_evaluation, require_model
from lmm_r1.config import PLAYERS, Window
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.recipes import options_from
from lmm_r1.runs.sanitise import sanitise
from lmm_r1.terminal import show_episode, show_results, show_turn, whisper_settings, write_json
from lmm_r1.verbs import loading
from lmm_r1.verbs.options import (
    Json,
    MaxPixels,
    MinPixels,
    ModelName,
    NewTokens,
    Profile,
    Seed,
    Temperature,
    Threads,
    TopP,
    prompt_faults,
    require_prompt,
    use_threads,
)


def evaluate(
    model: ModelName,
    sets: Annotated[
        str, typer.Option("--sets", help="Held-out sets, separated by commas.")
    ] = "text,geometry,perception",
    items: Annotated[int, typer.Option("--items", min=1, help="Items of each set.")] = 500,
    blind: Annotated[int, typer.Option("--blind", min=0, help="So many also with blank pictures.")] = 0,
    prompt: Profile = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_new_tokens: NewTokens = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Accuracy, format rate and length of a model on held-out sets."""
    names = [name.strip() for name in sets.split(",") if name.strip()]
    require_evaluation(model, names, prompt_faults(prompt, model))
    use_threads(threads)
    results = loading.work("ask").evaluate_model(
        model,
        sets=names,
        items=items,
        blind=blind,
        prompt=prompt,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        seed=seed,
    )
    write_json(json_out, results)
    whisper_settings(results)
    show_results(results)


def difficulty(
    model: ModelName,
    data: Annotated[str, typer.Argument(help="A problems.jsonl, or synthetic:DOMAIN or synthetic:DOMAIN:FAMILY,...")],
    out: Annotated[Path, typer.Option("--out", help="JSON lines, one per row; rows that it holds are not sampled.")],
    items: Annotated[
        int | None, typer.Option("--items", min=1, help="Only the first rows; default: all, 500 synthetic ones.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Replies per row.")] = 8,
    prompt: Profile = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_new_tokens: NewTokens = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-prompt-tokens", min=1, help="Default: as the model's folder says, else 512.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the replies, and of synthetic problems.")] = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """How often a model solves each row: what a recipe's difficulty, keep_between and order go by."""
    require_model(model)
    use_threads(threads)
    require_prompt(prompt, model)
    result = loading.work("difficulty").measure_model(
        model,
        data,
        out,
        items=items,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        max_prompt_tokens=max_prompt_tokens,
        prompt=prompt,
        seed=seed,
        say=lambda line: typer.echo(line, err=True),
    )
    write_json(json_out, result)
    whisper_settings(result)
    typer.echo(json.dumps(result, indent=2, ensure_ascii=True))


def sample(
    model: ModelName,
    prompt: Annotated[str, typer.Option("--prompt", help="What is asked.")],
    image: Annotated[list[Path] | None, typer.Option("--image", help="A picture; may be given again.")] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", help="System prompt; empty for none. Default: as the model's folder says.", show_default=False
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Replies.")] = 1,
    seed: Seed = 0,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_new_tokens: NewTokens = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Ask a model; the JSON holds token ids and log-probs."""
    require_model(model)
    use_threads(threads)
    result = loading.work("ask").sample_model(
        model,
        prompt=prompt,
        images=list(image or []),
        system=system,
        n=n,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    write_json(json_out, result)
    whisper_settings(result)
    for reply in result["samples"]:
        typer.echo(sanitise(reply["text"]))


def play(
    player: Annotated[str, typer.Argument(help='A model folder, a hub id, "micro", or idle, random, expert.')],
    game: Annotated[str, typer.Option("--game", help="sokoban, football, or your own as module:attribute.")],
    level: Annotated[str, typer.Option("--level", help="A level file, a size, or a scenario; default: drawn.")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="An option of the game (docs/games.md).")
    ] = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Which level of the file, or which draw.")] = 0,
    gif: Annotated[Path | None, typer.Option("--gif", help="Film the episode into this file.")] = None,
    prompt: Profile = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="full|P,A",
            help="Everything, or the last P pictures and A actions. Default: as the model's folder says, else 1,5.",
            show_default=False,
        ),
    ] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_new_tokens: NewTokens = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Look on while a model, or a scripted player, plays an episode of a game; --gif films it."""
    if player not in PLAYERS:
        require_model(player)
    use_threads(threads)
    require_prompt(prompt, player)
    told = loading.work("playing").play_game(
        player,
        game,
        level=level,
        options=options_from(option or []),
        episode=episode,
        seed=seed,
        prompt=prompt,
        memory=_remembered(memory),
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        gif=gif,
        watch=show_turn,
    )
    write_json(json_out, told)
    whisper_settings(told)
    show_episode(told)


def _remembered(memory: str | None) -> Literal["full"] | Window | None:
    """What --memory says; None when it is not given. RecipeError for anything else."""
    if memory is None or memory == "full":
        return None if memory is None else "full"
    found = re.fullmatch(r"([1-9]\d*),(\d+)", memory)
    if found is None:
        raise RecipeError(Fault(f"must be full or PICTURES,ACTIONS, not {memory!r}", field="--memory"))
    return Window(pictures=int(found[1]), actions=int(found[2]))


def build_base(
    out: Annotated[Path, typer.Option("--out", help="Folder of the new model.")],
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps; default: as shipped.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Fixes the weights; default: as shipped.")] = None,
    start: Annotated[Path | None, typer.Option("--start", help="An earlier build, to go on from.")] = None,
    done: Annotated[int, typer.Option("--done", min=1, help="Cycles of the recipe that --start stands for.")] = 1,
    threads: Threads = None,
) -> None:
    """Make the micro base model anew, by supervision from nothing but a seed (hours)."""
    use_threads(threads)
    typer.echo(loading.work("build").build_base(out, steps=steps, seed=seed, start=start, done=done))
