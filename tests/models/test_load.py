"""Model folders: one clear line for each broken one, and exports that are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.errors import CheckpointError
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.load import export_model, load_model, load_tokenizer
from lmm_r1.models.micro import random_micro

SIZES = {"hidden": 64, "layers": 1, "intermediate": 64, "vision_hidden": 32, "vision_layers": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return random_micro(tmp_path / "model", seed=3, **SIZES)


@pytest.mark.parametrize("tie", [True, False])
def test_an_export_reloads_bit_for_bit_with_all_its_files(tmp_path: Path, tie: bool) -> None:
    """Would catch a head lost or tied by mistake, changed names, or a forgotten template or processor file."""
    source = random_micro(tmp_path / "model", seed=3, tie=tie, **SIZES)
    model = load_model(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    out = export_model(model, source, tmp_path / "runs" / "out")
    again = load_model(out)
    assert not again.training and {p.dtype for p in again.parameters()} == {torch.float32}
    ours, theirs = dict(model.named_parameters()), dict(again.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {p.name for p in out.iterdir()} == {p.name for p in source.iterdir()}
    assert load_tokenizer(out).chat_template == load_tokenizer(source).chat_template
    make_adapter(out, ImageStore(), Model())
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_an_export_over_an_older_one_replaces_it(folder: Path, tmp_path: Path) -> None:
    """Would catch files of an older export that survive inside a new one."""
    model = load_model(folder)
    out = export_model(model, folder, tmp_path / "out")
    (out / "stale.json").write_text("{}")
    export_model(model, folder, out)
    assert not (out / "stale.json").exists() and (out / "model.safetensors").is_file()


def test_a_failed_export_leaves_the_older_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch half a model under the final name after a full disk."""
    model = load_model(folder)
    out = export_model(model, folder, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(CheckpointError, match="No space left"):
        export_model(model, folder, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def deeper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "cannot be loaded"),
        (drop_weights, "no \\*.safetensors"),
        (other_family, "no adapter for model_type 'llama'"),
        (deeper, "missing"),
        (lambda f: (f / "config.json").unlink(), "is missing"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_broken_folder_is_one_clear_line(folder: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    """Would catch a traceback, a pickle that is loaded, or missing weights that are quietly random."""
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)


def test_absent_folders_and_files(folder: Path, tmp_path: Path) -> None:
    """Would catch a look-up on the network for a path, or a tokenizer fault that names no file."""
    with pytest.raises(CheckpointError, match="no such model folder"):
        load_model(tmp_path / "nothing")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(folder)
    (folder / "preprocessor_config.json").unlink()
    other_family(folder)
    with pytest.raises(CheckpointError, match="no adapter for model_type 'llama'"):
        make_adapter(folder, ImageStore(), Model())
