"""Verbs that say what can be known of a recipe, or of a game, without training: check, plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmm_r1.check import examine_file
from lmm_r1.envs.check import check_game
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.planning.assumptions import EngineKind, Layout, Setting, paces
from lmm_r1.planning.gpus import GPUS, gpu_named
from lmm_r1.planning.planner import grown
from lmm_r1.planning.planner import plan as plan_recipe
from lmm_r1.planning.show import show_plan, show_scaling
from lmm_r1.recipes import load_recipe
from lmm_r1.terminal import one_line, write_json
from lmm_r1.verbs import loading
from lmm_r1.verbs.options import Json, Overlays, Overrides, RecipeFile


def check(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (TOML).")] = None,
    env: Annotated[
        str, typer.Option("--env", metavar="NAME", help="Check a game instead: a name or module:attribute.")
    ] = "",
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage and those it starts from.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The run's folder: whether it takes this recipe; default: as train.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    overlays: Overlays = None,
    json_out: Json = None,
) -> None:
    """Check a recipe, and all that a run of it needs, without training anything; or whether a game keeps to its contract."""
    if (recipe is None) != bool(env):
        raise RecipeError("check takes a recipe, or --env NAME")
    if recipe is not None:
        _, found = examine_file(recipe, overrides or [], loading.count_tokens, overlays or [], out=out, stage=stage)
        report = found.report()
    else:
        report = check_game(env)
    write_json(json_out, report)
    for kind, lines in (("error", report["errors"]), ("pending", report["pending"]), ("note", report.get("notes", []))):
        for line in lines:
            typer.echo(one_line(f"{kind}: {Fault(**line)}"), err=kind == "error")
    if not report["ok"]:
        raise typer.Exit(report["exit_code"])
    if not report.get("ready", True):
        typer.echo(f"{recipe}: no fault, but not ready: a run would refuse it here ({len(report['pending'])} pending)")
    else:
        typer.echo(f"{recipe or env}: ok" + (f", {len(report['pending'])} to obtain" if report["pending"] else ""))


def plan(
    recipe: RecipeFile,
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="N[,N...]", help="How many; several give a table of scaling.")
    ] = "8",
    gpu: Annotated[str, typer.Option("--gpu", help=f"Which: {', '.join(GPUS)}.")] = "a100-80g",
    layout: Annotated[
        Layout, typer.Option("--layout", help="Sampling and learning on the same GPUs, or split.")
    ] = "colocated",
    engines: Annotated[int, typer.Option("--engines", min=0, help="split: GPUs that sample; 0 = half.")] = 0,
    ahead: Annotated[int, typer.Option("--ahead", min=0, help="split: steps that sampling runs ahead.")] = 0,
    shard: Annotated[int, typer.Option("--shard", min=0, help="Ranks that hold one copy of the trainer; 0 = all.")] = 0,
    grow_batch: Annotated[
        bool, typer.Option("--grow-batch", help="Of several --gpus: prompts a step grow with them, steps shrink.")
    ] = False,
    engine: Annotated[
        EngineKind | None,
        typer.Option("--engine", help="Default: the recipe's on one GPU, vllm on more.", show_default=False),
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Of one GPU for one hour.")] = None,
    reply_tokens: Annotated[float, typer.Option("--reply-tokens", min=1, help="Mean length of a reply.")] = 800,
    longest_tokens: Annotated[
        float | None,
        typer.Option("--longest-tokens", min=1, help="Longest reply of a step; default: the recipe's limit."),
    ] = None,
    prompt_tokens: Annotated[
        float, typer.Option("--prompt-tokens", min=1, help="Mean of a prompt without pictures.")
    ] = 250,
    picture_tokens: Annotated[float, typer.Option("--picture-tokens", min=1, help="Mean of a picture.")] = 300,
    turns: Annotated[float, typer.Option("--turns", min=1, help="Mean turns of a game's episode.")] = 1,
    assume: Annotated[
        list[str] | None, typer.Option("--assume", metavar="NAME=NUMBER", help="Replace an assumption (docs/scale.md).")
    ] = None,
    overrides: Overrides = None,
    overlays: Overlays = None,
    json_out: Json = None,
) -> None:
    """Predict memory by part, seconds by phase, hours and cost, without weights: what does not fit, and which knob helps."""
    counts = [int(text) if text.strip().isdecimal() else 0 for text in gpus.split(",")]
    if min(counts) < 1:
        raise RecipeError(Fault(f"must be whole numbers of at least 1, not {gpus!r}", field="--gpus"))
    loaded, assumed = load_recipe(recipe, overrides or [], overlays or []), paces(assume or [])
    plans = []
    for count in counts:
        setting = Setting(
            gpu=gpu_named(gpu),
            gpus=count,
            layout=layout,
            engines=engines,
            ahead=ahead,
            shard=shard,
            engine=engine or ("vllm" if count > 1 else loaded.engine.kind),
            reply_tokens=reply_tokens,
            prompt_tokens=prompt_tokens,
            picture_tokens=picture_tokens,
            longest_tokens=longest_tokens,
            turns=turns,
        )
        sized = grown(loaded, count / counts[0]) if grow_batch else loaded
        plans.append(plan_recipe(sized, setting, assumed, price))
    records = [found.record() for found in plans]
    write_json(json_out, records[0] if len(records) == 1 else records)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if len(plans) == 1:
        show_plan(plans[0], console, price)
        return
    for name in loaded.order():
        show_scaling(plans, console, name)
