"""Settings that travel with a model: what a command on a model folder uses, and what a recipe takes over from its base.

Of each setting an option counts first, then what an export says of its training (lmm_r1.json), then, for the size of pictures,
the folder's processor files, then the command's own default. In a run the recipe's values hold for all stages; what a recipe
does not set of pictures and prompts is taken from a base that is an export.
Leaves out: reading the files (models/folder_files.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from lmm_r1.config import Model, Recipe, Window
from lmm_r1.errors import CheckpointError, Fault, RecipeError
from lmm_r1.models.folder_files import CARD, Card, card_of, processor_of

SHIPPED = Path(__file__).parent / "models" / "micro_base"
PICTURES = ("min_pixels", "max_pixels")
#: What commands use when nobody says anything.
USUAL: Mapping[str, Any] = {
    "prompt": "think", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 64, "max_prompt_tokens": 512, "memory": "full",
}  # fmt: skip


class AskedOnce(TypedDict, total=False):
    """Settings of a command that asks one model; None or absent = not given."""

    system: str | None  # text, in place of a profile's
    temperature: float | None
    top_p: float | None
    max_new_tokens: int | None
    min_pixels: int | None
    max_pixels: int | None
    max_prompt_tokens: int | None  # of a problem's prompt
    memory: Literal["full"] | Window | None


class Asked(AskedOnce, total=False):
    """Those of a command whose questions stand elsewhere."""

    prompt: str | None  # name of a profile


@dataclass(frozen=True, slots=True)
class Used:
    """Settings that a command uses. sources: {setting: where its value comes from}. max_context: tokens of prompt and reply that the
    training allowed; None = unknown."""

    prompt: str
    system: str
    temperature: float
    top_p: float
    max_new_tokens: int
    min_pixels: int
    max_pixels: int
    max_prompt_tokens: int
    memory: Literal["full"] | Window
    max_context: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For a command's JSON: the settings, and settings_from."""
        names = ("prompt", "system", "temperature", "top_p", "max_new_tokens", *PICTURES)
        return {**{name: getattr(self, name) for name in names}, "settings_from": {n: self.sources[n] for n in names}}


def local_folder(base: str) -> Path | None:
    """The folder of `model.base` on this disk; None when it is a hub id, or not here."""
    folder = SHIPPED if base == "micro" else Path(base).expanduser()
    return folder if folder.is_dir() else None


def settle(
    folder: Path | None, asked: Mapping[str, object], usual: Mapping[str, Any], profiles: Mapping[str, str]
) -> Used:
    """The settings for a model of a folder (None: a player without one).

    usual: the command's own defaults where they are not `USUAL`, by the names of `Asked`. profiles: {name: system prompt}.
    RecipeError for an unknown profile, CheckpointError for broken files.
    """
    card = card_of(folder) if folder is not None else None
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    pictures = Model()
    ways: list[tuple[str, Mapping[str, object]]] = [
        ("option", asked),
        (CARD, _of_card(card) if card is not None else {}),
    ]
    if folder is not None:
        processor = processor_of(folder)
        ways.append((processor.file.name, {name: getattr(processor, name) for name in PICTURES}))
    ways.append(("default", {**{name: getattr(pictures, name) for name in PICTURES}, **USUAL, **usual}))
    for name in (*AskedOnce.__annotations__, "prompt"):
        for source, values in ways:
            if values.get(name) is not None:
                found[name], sources[name] = values[name], source
                break
    if asked.get("system") is not None:
        found["prompt"], sources["prompt"] = "", "option"
    else:
        known = known_profiles(card, profiles)
        if found["prompt"] not in known:
            what = f'no prompt profile "{found["prompt"]}"'
            raise RecipeError(Fault(what, field="--prompt", remedy=f"known: {', '.join(known)}"))
        found["system"], sources["system"] = known[found["prompt"]], sources["prompt"]
    return Used(**found, max_context=card.sampling.max_context if card is not None else None, sources=sources)


def known_profiles(card: Card | None, profiles: Mapping[str, str]) -> dict[str, str]:
    """{name: system prompt} of the built-in profiles and the model's own, which wins."""
    return {**profiles, **({card.prompt.profile: card.prompt.system} if card is not None else {})}


def _of_card(card: Card) -> dict[str, Any]:
    sampling = card.sampling
    return {
        "prompt": card.prompt.profile,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
        "max_prompt_tokens": sampling.max_prompt_tokens,
        "min_pixels": card.pictures.min_pixels,
        "max_pixels": card.pictures.max_pixels,
        "memory": sampling.memory,
    }


def adopted(recipe: Recipe, profiles: Mapping[str, str]) -> Recipe:
    """The recipe with the picture bounds and prompts of a base that is an export, where it sets none itself.

    A broken folder changes nothing here: `check` and the run refuse it.
    """
    folder = local_folder(recipe.model.base)
    try:
        card = card_of(folder) if folder is not None else None
    except CheckpointError:
        return recipe
    if card is None:
        return recipe
    bounds = {n: getattr(card.pictures, n) for n in PICTURES if n not in recipe.model.model_fields_set}
    known = {**profiles, **recipe.prompts}
    name = card.prompt.profile
    if known.get(name, card.prompt.system) != card.prompt.system:
        name = f"{name}_of_the_base"  # the recipe has another profile of that name
    stages = {
        key: stage if "prompt" in stage.model_fields_set else stage.model_copy(update={"prompt": name})
        for key, stage in recipe.stage.items()
    }
    own = recipe.evaluate
    evaluate = own if "prompt" in own.model_fields_set else own.model_copy(update={"prompt": name})
    taken = evaluate is not own or any(stages[key] is not stage for key, stage in recipe.stage.items())
    prompts = {**recipe.prompts, name: card.prompt.system} if taken and name not in known else recipe.prompts
    changes = {"stage": stages, "evaluate": evaluate, "prompts": prompts}
    return recipe.model_copy(update={**changes, "model": recipe.model.model_copy(update=bounds)})


def settings_notes(recipe: Recipe, folder: Path, profiles: Mapping[str, str]) -> list[str]:
    """Where a recipe uses its base as it was trained, and where otherwise, a line each. CheckpointError for broken files."""
    card, own = card_of(folder), processor_of(folder)
    known, notes = {**profiles, **recipe.prompts}, []
    for name in PICTURES:
        ours = getattr(recipe.model, name)
        theirs = getattr(own if card is None else card.pictures, name)
        where = own.file.name if card is None else CARD
        if theirs not in (None, ours):
            notes.append(f"model.{name} = {ours}, but the start model's {where} has {theirs}")
        elif card is not None:
            notes.append(f"model.{name} = {ours}, as the start model was trained ({where})")
    if card is None:
        return notes
    used = {f"stage.{key}": stage.prompt for key, stage in recipe.stage.items()} | {"evaluate": recipe.evaluate.prompt}
    for place, profile in used.items():
        if known.get(profile) == card.prompt.system:
            notes.append(f'{place}.prompt = "{profile}", as the start model was trained ({CARD})')
        else:
            notes.append(
                f'{place}.prompt = "{profile}", but the start model was trained with "{card.prompt.profile}" ({CARD})'
            )
    return notes
