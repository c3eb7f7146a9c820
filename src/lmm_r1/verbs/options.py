"""What several verbs ask for: each option is declared here once. Leaves out options of a single verb."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lmm_r1.errors import CheckpointError, Fault, RecipeError
from lmm_r1.models.folder_files import card_of
from lmm_r1.recipes import PROMPTS
from lmm_r1.settings import known_profiles, local_folder
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
#: What these are when they are not given: as the model was trained, where its folder says so, else the command's own default.
_AS_TRAINED = "Default: as the model's folder says, else"
Profile = Annotated[
    str | None,
    typer.Option("--prompt", help=f"Prompt profile: {', '.join(PROMPTS)}, or the model's own.", show_default=False),
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=1e-6, help=f"{_AS_TRAINED} 1.", show_default=False)
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=1e-6, max=1, help=f"Nucleus. {_AS_TRAINED} 1, which is off.", show_default=False),
]
NewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help=f"{_AS_TRAINED} 64, or 256 in play.", show_default=False)
]
MinPixels = Annotated[
    int | None, typer.Option("--min-pixels", min=1, help=f"Of a picture. {_AS_TRAINED} 784.", show_default=False)
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help=f"Larger pictures are resized. {_AS_TRAINED} 87808.", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; default $LMM_R1_THREADS, else 2.", show_default=False),
]


def prompt_faults(prompt: str | None, model: str) -> list[Fault]:
    """What is wrong with the name of a prompt profile: it is neither built in nor the model's own."""
    folder = local_folder(model)
    try:
        known = known_profiles(card_of(folder) if folder is not None else None, PROMPTS)
    except CheckpointError:  # of which the check of the model tells
        return []
    if prompt is None or prompt in known:
        return []
    return [Fault(f'no prompt profile "{prompt}"', field="--prompt", remedy=f"known: {', '.join(known)}")]


def require_prompt(prompt: str | None, model: str) -> None:
    """Raise RecipeError unless there is such a prompt profile, built in or the model's own."""
    if faults := prompt_faults(prompt, model):
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
