"""Verbs that say what can be known of a recipe, or of a game, without training: check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lmm_r1.check import check as check_recipe
from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.envs.check import check_game
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.terminal import one_line, write_json
from lmm_r1.types import Problem
from lmm_r1.verbs import loading
from lmm_r1.verbs.options import Json, Overlays, Overrides


def check(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (TOML).")] = None,
    env: Annotated[
        str, typer.Option("--env", metavar="NAME", help="Check a game instead: a name or module:attribute.")
    ] = "",
    overrides: Overrides = None,
    overlays: Overlays = None,
    json_out: Json = None,
) -> None:
    """Check a recipe, its data and its model folder without training anything; or whether a game keeps to its contract."""
    if (recipe is None) != bool(env):
        raise RecipeError("check takes a recipe, or --env NAME")
    report = (
        check_recipe(recipe, overrides or [], count_tokens, overlays or []) if recipe is not None else check_game(env)
    )
    write_json(json_out, report)
    for kind, lines in (("error", report["errors"]), ("pending", report["pending"])):
        for line in lines:
            typer.echo(one_line(f"{kind}: {Fault(**line)}"), err=kind == "error")
    if not report["ok"]:
        raise typer.Exit(report["exit_code"])
    typer.echo(f"{recipe or env}: ok" + (f", {len(report['pending'])} to obtain" if report["pending"] else ""))


def count_tokens(model: Model, images: ImageStore, problems: Sequence[Problem]) -> list[int]:
    """Prompt tokens of each problem; loads torch, so only prepared data pay for it."""
    counts: list[int] = loading.work("ask").prompt_tokens(model, images, problems)
    return counts
