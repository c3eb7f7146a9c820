"""What a stage hands over, and the proof that what is loaded later is what was made.

An export gets its card (lmm_r1.json) and its name only when it was reloaded and its log-probs were the trainer's. Its hashes stand
in it and, beside it, in the run folder; the start weights' hashes stand in provenance.json. Both are compared before a session uses
them.
Leaves out: the order of a run (chain.py), and what a card holds (models/folder_files.py).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lmm_r1 import rewards
from lmm_r1.build import Workshop, base_folder, probes
from lmm_r1.config import Data, Recipe, Stage
from lmm_r1.disk import fsync, sha256_of
from lmm_r1.errors import CheckpointError, Fault
from lmm_r1.models.folder_files import (
    CARD,
    CARD_FORMAT,
    Card,
    CardPictures,
    CardPrompt,
    CardSampling,
    hash_once,
    loader_files,
    read_object,
    verify_files,
    write_card,
)
from lmm_r1.models.load import DTYPES, export_model, fill, resolve_folder
from lmm_r1.recipes import system_prompt
from lmm_r1.rollout.weights import TOLERANCES, ScoringTrainer, digest
from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.jsonl import write_json
from lmm_r1.runs.provenance import installed, provenance
from lmm_r1.seams import ModelAdapter
from lmm_r1.train import StageRun
from lmm_r1.trainers.local import LocalTrainer, score_stream
from lmm_r1.types import Bound

#: The largest log-prob difference between a stage's trainer and its exported, reloaded model.
HAND_OFF_TOLERANCE = Bound(1e-5, 1e-5)


def hand_off(shop: Workshop, stage: Stage, run: StageRun, model: Any, start: str) -> None:
    """Export a trained stage; proved before it gets its name: a model/ that is there is taken for finished by every later call."""
    trainer = cast(ScoringTrainer, run.trainer)  # as Workshop.trainer makes them
    unproved, knobs = run.folder.path / ".model_unproved", shop.recipe.model
    if not isinstance(trainer, LocalTrainer):  # whose model this is
        fill(model, trainer.weights())
    export_model(
        model,
        resolve_folder(start),
        unproved,
        pictures=(knobs.min_pixels, knobs.max_pixels),
        temperature=stage.rollout.temperature,
        top_p=stage.rollout.top_p,
    )
    weights = check_hand_off(shop, stage, trainer, unproved, run.adapter)
    card = write_card(unproved, card_of_stage(shop.recipe, run, weights, unproved))
    for name in card.files:
        fsync(unproved / name)
    write_json(run.folder.exported, {"weights_sha256": weights, "files": card.files})
    unproved.rename(run.folder.model)
    fsync(run.folder.path)


def check_hand_off(shop: Workshop, stage: Stage, trainer: ScoringTrainer, exported: Path, adapter: ModelAdapter) -> str:
    """Reload an exported model and compare its log-probs with the trainer's on the probes, at the stage's temperature; returns the
    digest of its weights."""
    reloaded = shop.model(str(exported))
    for probe in probes(adapter, shop.images):
        ours = trainer.score(probe.token_ids, probe.images)
        theirs = score_stream(
            reloaded, adapter, probe.token_ids, probe.images, stage.rollout.temperature, reloaded.device
        )  # fmt: skip
        gaps = np.abs(ours.astype(np.float64) - theirs)
        # Merged adapters are rounded anew, and ranks may compute on another device: the export is then held to what the engine
        # is held to.
        alike = stage.lora is None and isinstance(trainer, LocalTrainer)
        allowed = HAND_OFF_TOLERANCE if alike else TOLERANCES[DTYPES[shop.dtype]]
        if allowed.broken_by(gaps):
            said = f"the exported model's log-probs differ from the trainer's by {gaps.max():.3g} nats, {gaps.mean():.3g} in the mean"
            raise CheckpointError(Fault(said, file=str(exported)))
    return digest((name, parameter.detach()) for name, parameter in reloaded.named_parameters())


def card_of_stage(recipe: Recipe, run: StageRun, weights_sha256: str, exported: Path) -> Card:
    """What an export says of its training; its hashes come when it is written."""
    stage, knobs, rollout = run.stage, recipe.model, run.stage.rollout
    template = exported / "chat_template.jinja"
    fingerprints: list[str] = list(cast(Any, run.stream.state()["fingerprints"]))
    return Card(
        format=CARD_FORMAT,
        lmm_r1=installed()["lmm-r1"],
        recipe=recipe.name,
        stage=run.name,
        steps=stage.steps,
        prompt=CardPrompt(
            profile=stage.prompt,
            system=system_prompt(recipe, stage.prompt),
            chat_template=template.name if template.is_file() else "tokenizer_config.json",
        ),
        pictures=CardPictures(min_pixels=knobs.min_pixels, max_pixels=knobs.max_pixels),
        sampling=CardSampling(
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_new_tokens=rollout.max_new_tokens,
            max_prompt_tokens=rollout.max_prompt_tokens,
            max_context=recipe.engine.max_context,
            memory=rollout.memory,
        ),
        reward=_verifier(stage),
        data=[
            {"source": _named(data), "weight": data.weight, "sha256": found}
            for data, found in zip(stage.data, fingerprints, strict=True)
        ],
        weights_sha256=weights_sha256,
    )


def _named(data: Data) -> str:
    """A source of a stage without the folders of the machine that it lay on."""
    if data.source == "problems":
        return Path(data.path).name
    return data.game or ":".join(filter(None, (data.domain, ",".join(data.families))))


def _verifier(stage: Stage) -> dict[str, Any]:
    """Which verifier judged, and what it was: the package's version, and a hash of the code that is at hand."""
    reward = stage.reward
    own = [Path(file) for file in [_source_of(reward.verifier)] if file]
    shipped = sorted(Path(rewards.__file__).parent.glob("*.py"))
    told = hashlib.sha256("".join(sha256_of(path) for path in (own or shipped)).encode()).hexdigest()
    elsewhere = bool(reward.verifier) and not own  # a server's code is not here
    return {
        "verifier": reward.verifier or "as each row names it",
        "built_in": sorted(rewards.VERIFIERS),
        "version": installed()["lmm-r1"],
        "sha256": "" if elsewhere else told,
        "compat": reward.compat,
        "format": reward.format,
        "accuracy": reward.accuracy,
        "shuffle": reward.shuffle,
    }


def _source_of(verifier: str) -> str:
    """The file of "module:function", found without running any of it; "" for another verifier or when it is nowhere."""
    module = verifier.partition(":")[0]
    if not module or verifier.startswith(("http://", "https://")):
        return ""
    places: Any = [place or "." for place in sys.path]
    spec = None
    for at, _ in enumerate(module.split(".")):
        spec = PathFinder.find_spec(".".join(module.split(".")[: at + 1]), places)
        if spec is None:
            return ""
        places = spec.submodule_search_locations
    return (spec.origin or "") if spec is not None else ""


def verify_export(folder: StageFolder) -> None:
    """Compare a finished stage's model with the hashes of its hand-off. CheckpointError, naming the file and both digests."""
    listed: Mapping[str, str] | None = None
    remedy = f"restore it, or remove {folder.model} to train the stage's end again"
    if folder.exported.is_file():
        listed = read_object(folder.exported).get("files")
        if not isinstance(listed, dict) or not all(isinstance(value, str) for value in listed.values()):
            raise CheckpointError(Fault("names no files", file=str(folder.exported), field="files"))
        remedy += f'; if it was changed on purpose, delete {folder.exported} and "files" in {folder.model / CARD}'
    verify_files(folder.model, listed, remedy)


def keep_provenance(run: RunFolder, recipe: Recipe, text: str, new: bool, say: Callable[[str], None]) -> None:
    """Write where a run comes from, or compare its start weights with what is written.

    text: the effective recipe. new: whether this session began the run. CheckpointError when weights or other files that loaders
    read are not those that the run began with; all of them are named, with both digests.
    """
    folder = _here(base_folder(recipe.model.base))
    found = {path.name: hash_once(path) for path in loader_files(folder)} if folder is not None else {}
    if not run.provenance.is_file():
        run.write_json("provenance.json", provenance(sys.argv, text, found, torch.get_num_threads(), recipe.seed))
        if not new:
            say("provenance.json was missing and is written anew: it tells of this session, not of the run's beginning")
        return
    stored = read_object(run.provenance)
    before = {**_hashes(stored, "base_weights"), **_hashes(stored, "base_files")}
    if (
        folder is None or not before
    ):  # nothing is loaded that is not here; an older version kept no hashes of a hub's files
        return
    only_weights = "base_files" not in stored
    faults = []
    remedy = "put the old file back, or use another --out to begin a run with this one"
    for name in sorted(before.keys() | found.keys()):
        was, now = before.get(name), found.get(name)
        if was == now or (only_weights and not name.endswith(".safetensors")):
            continue
        what = f"the start model has changed since the run began: sha256 is {now}, was {was}"
        if was is None or now is None:
            what = (
                f"the start model has changed since the run began: the file was {'added' if was is None else 'removed'}"
            )
        faults.append(Fault(what, file=str(folder / name), remedy=remedy))
    if faults:
        raise CheckpointError(*faults)


def _hashes(stored: Mapping[str, Any], field: str) -> dict[str, str]:
    found = stored.get(field)
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _here(base: str) -> Path | None:
    """The folder of the start weights, a hub id's fetched; None when they cannot be had: what needs them will say so."""
    try:
        return resolve_folder(base)
    except CheckpointError:
        return None
