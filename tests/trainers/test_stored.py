"""Ranks that read their part of a model folder alone: the shards of a whole model, bit for bit, without its memory.

Ranks are processes on this machine that talk over gloo (stored_ranks.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_model import random_model
from safetensors.torch import load_file, save_file
from test_fsdp import ranks

from lmm_r1.errors import CheckpointError
from lmm_r1.models.load import load_model
from lmm_r1.models.stored import StoredModel
from lmm_r1.trainers.fsdp import ANOTHER

Weights = dict[str, torch.Tensor]
FILE = "model.safetensors"


def write(folder: Path, change: Callable[[Weights], Weights] = dict, **sizes: int | bool) -> Path:
    """A random model's folder, with the names of today's models; `change` makes its weights anew."""
    model = random_model(3, **sizes)
    model.config.save_pretrained(folder)
    weights = change({name: parameter.detach() for name, parameter in model.named_parameters()})
    save_file(weights, folder / FILE, {"format": "pt"})
    return folder


def narrow(weights: Weights) -> Weights:
    return {name: tensor.bfloat16() for name, tensor in weights.items()}


def older(weights: Weights) -> Weights:
    """The names of the published folders of Qwen2.5-VL-3B, and an entry that no model has."""
    found = {}
    for name, tensor in weights.items():
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        found[name] = tensor
    assert {"model.embed_tokens.weight", "visual.merger.ln_q.weight"} <= found.keys()
    return found | {"model.rotary_emb.inv_freq": torch.zeros(3)}


def head_too(weights: Weights) -> Weights:
    return weights | {"lm_head.weight": weights["model.language_model.embed_tokens.weight"].clone()}


def other_head(weights: Weights) -> Weights:
    return weights | {"lm_head.weight": weights["model.language_model.embed_tokens.weight"] * 2}


def head_alone(weights: Weights) -> Weights:
    return {n.replace("model.language_model.embed_tokens", "lm_head"): t for n, t in weights.items()}


def in_three(folder: Path) -> Path:
    """The same weights in three files with an index."""
    weights = load_file(folder / FILE)
    (folder / FILE).unlink()
    files: dict[str, Weights] = {}
    for at, name in enumerate(weights):
        files.setdefault(f"model-{at % 3 + 1:05d}-of-00003.safetensors", {})[name] = weights[name]
    for file, part in files.items():
        save_file(part, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def told(folder: Path, job: str, world: int) -> list[Any]:
    return [json.loads((folder / f"{job}.{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize("world", [2, 3])
def test_shards_are_those_of_a_whole_model(world: int, tmp_path: Path) -> None:
    """Catches rows of another rank, rows lost where they do not divide, a cast on the way, names of the older layout that are
    missed, a head that is tied by mistake or not at all, buffers without their numbers, and another head of the critic."""
    models = tmp_path / "models"
    write(models / "tied")
    write(models / "untied", tie=False)
    write(models / "older", lambda weights: narrow(older(weights)))
    in_three(write(models / "index", narrow))
    write(models / "head_too", head_too)
    write(models / "other_head", other_head)
    write(models / "head_alone", head_alone)
    ranks(tmp_path, world, "shards", script="stored_ranks.py")
    tied = {"tied", "older", "index", "head_too", "head_alone"}
    for found in told(tmp_path, "shards", world):
        assert found == {
            path.name: ["", "", "", "tied" if path.name in tied else "untied"] for path in models.iterdir()
        }


def test_steps_are_those_of_whole_models(tmp_path: Path) -> None:
    """Catches shards that FSDP does not use (another memory than the one that was filled), weights that do not train, a critic
    without its trunk, and activations that are not recomputed."""
    write(tmp_path / "models" / "tied", layers=2)
    ranks(tmp_path, 2, "steps", script="stored_ranks.py")
    assert told(tmp_path, "steps", 2) == [[True] * 3] * 2


def test_no_rank_holds_a_whole_model(tmp_path: Path) -> None:
    """Catches a whole model, or a whole file's pages, in a rank's memory. The same figure of whole models shows that it would
    be seen."""
    sizes = {"hidden": 1024, "layers": 4, "intermediate": 4096}
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not tell the most memory that a process had")
    write(tmp_path / "models" / "small")
    folder = write(tmp_path / "models" / "large", narrow, **sizes)
    whole = 2 * (folder / FILE).stat().st_size  # of one network in float32; there are a policy and a reference
    assert whole > 200e6
    ranks(tmp_path, 2, "memory", script="stored_ranks.py")
    for found in told(tmp_path, "memory", 2):
        # Half of each network, the half of the bfloat16 file that is mapped while it is read, and a margin.
        assert found["parts"] < (2 / 2 + 1 / 4 + 1 / 4) * whole, found
        assert found["whole"] > 2 * whole, found


def truncate(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1000])


def drop_one(folder: Path) -> None:
    weights = load_file(folder / FILE)
    del weights["model.visual.merger.ln_q.weight"], weights["model.language_model.embed_tokens.weight"]
    save_file(weights, folder / FILE, {"format": "pt"})


def reshape(folder: Path) -> None:
    weights = load_file(folder / FILE)
    save_file(weights | {"model.visual.merger.ln_q.weight": torch.ones(3)}, folder / FILE, {"format": "pt"})


def other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def lose_a_file(folder: Path) -> None:
    (in_three(folder) / "model-00002-of-00003.safetensors").unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (shutil.rmtree, "no such model folder"),
    "config": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "family": (other_family, "model_type 'llama'"),
    "pickle": (lambda folder: (folder / FILE).rename(folder / "pytorch_model.bin"), "no *.safetensors"),
    "named": (lambda folder: (folder / FILE).rename(folder / "other.safetensors"), "there is no model.safetensors"),
    "truncated": (truncate, "cannot be loaded"),
    "missing": (drop_one, "3 weights are missing, the first is lm_head.weight"),
    "shape": (reshape, "ln_q.weight has the shape (3,)"),
    "lost": (lose_a_file, "cannot be loaded"),
    "index": (
        lambda folder: (in_three(folder) / "model.safetensors.index.json").write_text("[]"),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_folder_is_one_clear_line(name: str, tmp_path: Path) -> None:
    """Catches a traceback, or a fault that load_model sees and ranks do not."""
    folder = write(tmp_path / "model", layers=1, vision_layers=1)
    damage, message = FAULTS[name]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        StoredModel(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        load_model(folder)


def test_a_fault_of_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    """Catches a rank that waits for ever for one whose machine has another folder, or whose file goes while it is read."""
    good = write(tmp_path / "good", layers=1, vision_layers=1)
    for name in ("truncated", "missing", "absent"):
        for rank in range(2):
            shutil.copytree(good, tmp_path / "faults" / name / str(rank))
        FAULTS[name][0](tmp_path / "faults" / name / "1")
    for rank in range(2):
        shutil.copytree(good, tmp_path / "late" / str(rank))
    ranks(tmp_path, 2, "faults", script="stored_ranks.py")
    first, second = told(tmp_path, "faults", 2)
    assert first == dict.fromkeys([*(path.name for path in (tmp_path / "faults").iterdir()), "late"], ANOTHER)
    assert second.keys() == first.keys()
    for name, line in second.items():
        assert FAULTS.get(name, (None, "cannot be loaded"))[1] in line and "\n" not in line
