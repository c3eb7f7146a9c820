"""What several verbs ask for: each option is declared here once. Leaves out options of a single verb."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lmm_r1.errors import Fault, RecipeError
from lmm_r1.recipes import PROMPTS
from lmm_r1.verbs import loading

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field of the recipe.")]
Overlays = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="FILE", help="Lay a part of a recipe over it: another machine's settings, say."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write into.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Fixes every random number.")]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe (TOML).")]
RecipeSeed = Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the recipe's seed.")]
ModelName = Annotated[str, typer.Argument(help='A model folder, a hub id, or "micro".')]
Profile = Annotated[str, typer.Option("--prompt", help=f"Prompt profile: {', '.join(PROMPTS)}.")]
Temperature = Annotated[float, typer.Option("--temperature", min=1e-6)]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1)]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; default $LMM_R1_THREADS, else 2.", show_default=False),
]


def prompt_faults(prompt: str) -> list[Fault]:
    """What is wrong with the name of a prompt profile."""
    if prompt in PROMPTS:
        return []
    return [Fault(f'no prompt profile "{prompt}"', field="--prompt", remedy=f"known: {', '.join(PROMPTS)}")]


def require_prompt(prompt: str) -> None:
    """Raise RecipeError unless there is such a prompt profile."""
    if faults := prompt_faults(prompt):
        raise RecipeError(*faults)


def require_threads(threads: int | None) -> int:
    """How many CPU threads this process is to have. RecipeError when the environment says no number."""
    text = str(threads) if threads is not None else os.environ.get("LMM_R1_THREADS", "2")
    if not text.isdecimal() or int(text) < 1:
        raise RecipeError(Fault(f"must be a whole number of at least 1, not {text!r}", field="LMM_R1_THREADS"))
    return int(text)


def use_threads(threads: int | None) -> None:
    """Fix the CPU threads of this process: a part of what fixes the numbers."""
    count = require_threads(threads)
    os.environ["LMM_R1_THREADS"] = str(count)
    loading.work("build").set_threads(count)
