"""Whether the models that a run goes on from are those that it made, or began with.

`check` and the run call the same functions. Loads no torch. Leaves out: who writes the records (exports.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmm_r1.errors import CheckpointError, Fault
from lmm_r1.models.folder_files import CARD, card_of, hash_once, loader_files, read_object, verify_files
from lmm_r1.runs.folder import RunFolder, StageFolder


def loader_hashes(folder: Path) -> dict[str, str]:
    """{name: sha256} of the files of a model folder that loaders read."""
    return {path.name: hash_once(path) for path in loader_files(folder)}


def verify_export(folder: StageFolder, say: Callable[[str], None]) -> None:
    """Compare a finished stage's model with the hashes of its hand-off, and its card with the stage that it stands in.

    say: is told when there are no hashes. CheckpointError, naming the file and both digests.
    """
    listed: Mapping[str, str] | None = None
    remedy = f"restore it, or remove {folder.model} to train the stage's end again"
    if folder.exported.is_file():
        listed = read_object(folder.exported).get("files")
        if not isinstance(listed, dict) or not all(isinstance(value, str) for value in listed.values()):
            raise CheckpointError(Fault("names no files", file=str(folder.exported), field="files"))
        remedy += f'; if it was changed on purpose, delete {folder.exported} and "files" in {folder.model / CARD}'
    verify_files(folder.model, listed, remedy)
    card, stage = card_of(folder.model), folder.path.name
    if card is not None and card.stage != stage:
        what = f"is the model of stage {card.stage!r}, and lies in the folder of {stage!r}"
        raise CheckpointError(Fault(what, str(folder.model / CARD), None, "stage", "put the folders back as they were"))
    if not listed and (card is None or not card.files):
        say(f"{folder.model} has no hashes of its hand-off: whether it is what stage {stage} made is not known")


def start_faults(folder: StageFolder, start: Path) -> list[Fault]:
    """Files of a stage's start model, `start`, that are not those that its finished work began with; with both digests.

    They would be another reference of the KL term and another arm to compare with. [] when nothing is written of them.
    """
    if not folder.began.is_file():
        return []
    before, found, stage = _hashes(read_object(folder.began), "files"), loader_hashes(start), folder.path.name
    remedy = f"put back what it began with, or to do the stage anew: rm -r {shlex.quote(str(folder.path))}"
    return [
        Fault(
            f"stage {stage} began with another file: sha256 is {found.get(name, 'none')}, was {before.get(name, 'none')}",
            file=str(start / name),
            remedy=remedy,
        )
        for name in sorted(before.keys() | found.keys())
        if before.get(name) != found.get(name)
    ]


def base_faults(run: RunFolder, folder: Path | None) -> list[Fault]:
    """Files of the start weights, in `folder`, that are not those that the run began with; with both digests.

    [] when they are not here (nothing is then loaded from them) or an older version wrote down no hashes.
    """
    if not run.provenance.is_file():
        return []
    stored = read_object(run.provenance)
    before = {**_hashes(stored, "base_weights"), **_hashes(stored, "base_files")}
    if folder is None or not before:
        return []
    found, faults = loader_hashes(folder), []
    only_weights = "base_files" not in stored
    remedy = "put the old file back, or use another --out to begin a run with this one"
    for name in sorted(before.keys() | found.keys()):
        was, now = before.get(name), found.get(name)
        if was == now or (only_weights and not name.endswith(".safetensors")):
            continue
        what = f"sha256 is {now}, was {was}"
        if was is None or now is None:
            what = f"the file was {'added' if was is None else 'removed'}"
        what = f"the start model has changed since the run began: {what}"
        faults.append(Fault(what, file=str(folder / name), remedy=remedy))
    return faults


def origin_faults(
    run: RunFolder, starts: Mapping[str, str], base: Path | None, say: Callable[[str], None]
) -> list[Fault]:
    """All of the above, of a run that goes on. starts: {stage: what it starts from} of the stages asked for; base: of "base"."""
    progress = run.progress()
    if not progress:
        return []
    faults: list[Fault] = []
    try:
        faults += base_faults(run, base)
    except CheckpointError as error:
        faults += error.faults
    for name, start in starts.items():
        folder = StageFolder(run.path / name)
        begins = base if start == "base" else run.path / start / "model"
        try:
            if folder.model.is_dir():
                verify_export(folder, say)
            if name in progress and progress[name].trained and begins is not None and begins.is_dir():
                faults += start_faults(folder, begins)
        except CheckpointError as error:
            faults += error.faults
    return list(dict.fromkeys(faults))


def _hashes(stored: Mapping[str, Any], field: str) -> dict[str, str]:
    found = stored.get(field)
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
