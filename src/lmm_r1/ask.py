"""What is asked of one model outside a run: an evaluation, some replies, the length of prompts.

Left out: runs (chain.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from lmm_r1.build import Workshop, base_folder, device_of, evaluate_with
from lmm_r1.config import PLAYERS, Data, Engine, Evaluate, Model, Recipe, Stage
from lmm_r1.data.images import ImageStore
from lmm_r1.evaluation.evaluate import evaluate_player
from lmm_r1.evaluation.results import blind_findings
from lmm_r1.evaluation.suites import suite
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.load import resolve_folder
from lmm_r1.recipes import PROMPTS
from lmm_r1.rollout.play import seed_of
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.live import LiveView
from lmm_r1.settings import Asked, AskedOnce, Used, settle
from lmm_r1.train import Signals
from lmm_r1.types import Image, Message, Problem, Request, Text

#: Tokens that an evaluation leaves for a prompt, whatever a reply may take.
PROMPT_ROOM = 960


def evaluate_model(
    model: str,
    *,
    sets: Sequence[str],
    items: int,
    blind: int = 0,
    seed: int = 0,
    **asked: Unpack[Asked],
) -> dict[str, Any]:
    """Evaluate a model folder (or "micro"); {"weights_sha256", "arms": {model: {set: summary}}, and the settings}."""
    used = settle_for(model, asked)
    recipe = ad_hoc(model, seed, used)
    knobs = Evaluate(
        sets=tuple(sets),
        items=items,
        blind=blind,
        temperature=used.temperature,
        max_new_tokens=used.max_new_tokens,
    )
    shop = workshop(recipe.model_copy(update={"evaluate": knobs}))
    for name in sets:
        suite(name)  # a misspelt set stops before the model loads
    engine, adapter, sha = shop.loaded(base_folder(model))
    results = {name: evaluate_with(shop, name, engine, adapter, used.system, used.top_p) for name in sets}
    games = [name for name in sets if suite(name).game]
    players = {
        player: {name: evaluate_player(name, items, player, shop.images).summary() for name in games}
        for player in (PLAYERS if games else ())
    }
    return {
        "arms": {model: {name: result.summary() for name, result in results.items()}, **players},
        "findings": blind_findings({model: results}),
        "weights_sha256": sha,
        "seed": seed,
        **used.told(),
    }


def sample_model(
    model: str,
    prompt: str,
    *,
    images: Sequence[Path] = (),
    n: int = 1,
    seed: int = 0,
    **asked: Unpack[AskedOnce],
) -> dict[str, Any]:
    """Sample n replies: {"samples": [{prompt_token_ids, token_ids, logprobs, stop, text, weights_sha256}], and the settings}.

    token_ids hold the placeholders expanded, as the model ran them; logprobs are in nats at the temperature.
    """
    used = settle_for(model, asked, prompt="none")
    recipe = ad_hoc(model, seed, used)
    knobs = recipe.engine.model_copy(update={"slots": min(n, recipe.engine.slots), "max_context": 32768})
    shop = workshop(recipe.model_copy(update={"engine": knobs}))
    engine, adapter, sha = shop.loaded(base_folder(model))
    content: tuple[Text | Image, ...] = (*(shop.images.put_file(path) for path in images), Text(prompt))
    messages = ((Message("system", (Text(used.system),)),) if used.system else ()) + (Message("user", content),)
    encoded = adapter.encode(messages)
    requests = [
        Request(
            k,
            encoded.token_ids,
            encoded.images,
            seed_of("sample", seed, k),
            used.max_new_tokens,
            used.temperature,
            used.top_p,
        )
        for k in range(n)
    ]
    engine.submit(requests)
    replies = sorted(engine.finished(), key=lambda r: r.id)
    return {
        "model": model,
        "weights_sha256": sha,
        "prompt_token_ids": encoded.token_ids.tolist(),
        "images": [i.sha for i in encoded.images],
        "seed": seed,
        **used.told(),
        "samples": [
            {
                "prompt_token_ids": encoded.token_ids.tolist(),
                "token_ids": r.token_ids.tolist(),
                "logprobs": [float(x) for x in r.logprobs],
                "stop": r.stop,
                "text": adapter.decode(r.token_ids),
                "weights_sha256": sha,
            }
            for r in replies
        ],
    }


def prompt_tokens(model: Model, images: ImageStore, problems: Sequence[Problem]) -> list[int]:
    """Tokens of each problem's prompt, pictures included, as the model of a recipe would see them."""
    adapter = make_adapter(base_folder(model.base), images, model)
    return [len(adapter.encode(problem.messages).token_ids) for problem in problems]


def settle_for(model: str, asked: Mapping[str, object], **usual: Any) -> Used:
    """The settings for a model folder, a hub id, "micro", or a scripted player. usual: the command's own defaults.

    RecipeError for an unknown profile, CheckpointError for a folder that is not there or broken.
    """
    return settle(None if model in PLAYERS else resolve_folder(base_folder(model)), asked, usual, PROMPTS)


def ad_hoc(model: str, seed: int, used: Used) -> Recipe:
    """A recipe around a model that is only sampled from, at the settings that are used."""
    never = Stage(steps=1, data=(Data(domain="text"),))
    knobs = Model(base=model, min_pixels=used.min_pixels, max_pixels=used.max_pixels)
    room = max(used.max_context or 0, PROMPT_ROOM + used.max_new_tokens)
    return Recipe(name="ad_hoc", seed=seed, model=knobs, engine=Engine(max_context=room), stage={"never": never})


def workshop(recipe: Recipe) -> Workshop:
    """What is needed beside a run: no folder, no live view, pictures of its own."""
    device = device_of(recipe.model)
    return Workshop(
        recipe, Path(), RunFolder(Path()), LiveView(), Signals(), ImageStore(), device, recipe.model.dtype
    )  # fmt: skip
