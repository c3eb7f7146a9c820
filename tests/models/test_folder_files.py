"""Small files of a model folder: every layout that there is, the same word from `check` and run, settings and hashes of exports."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, GenerationConfig

from lmm_r1.check import check_model, model_notes
from lmm_r1.config import Data, Model, Recipe, Stage, Window
from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.delivery import publish
from lmm_r1.errors import CheckpointError
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.folder_files import (
    CARD,
    Card,
    CardPrompt,
    card_of,
    folder_faults,
    limit_pictures,
    processor_of,
    verify_files,
    without_text,
    write_card,
)
from lmm_r1.models.load import export_model, load_model
from lmm_r1.models.logprobs import masked_logits
from lmm_r1.models.micro import random_micro
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.runs.checkpoint import save_checkpoint, write_tensors
from lmm_r1.runs.folder import RunFolder
from lmm_r1.types import Message, Request, Text

SIZES = {"hidden": 64, "layers": 1, "intermediate": 64, "vision_hidden": 32, "vision_layers": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return random_micro(tmp_path / "model", seed=3, **SIZES)


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**content(path), **values}), encoding="utf-8")


def nest(folder: Path, **more: Any) -> None:
    """Make the folder one that transformers 5 saves: all settings of the processor in processor_config.json."""
    plain = folder / "preprocessor_config.json"
    settings = content(plain)
    plain.unlink()
    size = {"shortest_edge": settings.pop("min_pixels"), "longest_edge": settings.pop("max_pixels")}
    nested = {"processor_class": "Qwen2_5_VLProcessor", "image_processor": {**settings, "size": size, **more}}
    (folder / "processor_config.json").write_text(json.dumps(nested), encoding="utf-8")


def legacy(folder: Path) -> None:
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}', encoding="utf-8")


def template_in_config(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    change(folder / "tokenizer_config.json", chat_template=template.read_text(encoding="utf-8"))
    template.unlink()


@pytest.mark.parametrize("layout", [nest, legacy, template_in_config, lambda folder: None])
def test_every_layout_is_read_alike(folder: Path, tmp_path: Path, layout: Callable[[Path], None]) -> None:
    """Catches a folder of current transformers that `check` calls right and no run can start from."""
    plain = make_adapter(random_micro(tmp_path / "plain", seed=3, **SIZES), ImageStore(), Model())
    layout(folder)
    assert check_model(Model(base=str(folder))) == ([], [])
    images = ImageStore()
    adapter = make_adapter(folder, images, Model())
    picture = images.put(np.random.default_rng(0).integers(0, 256, (84, 56, 3), dtype=np.uint8))
    plain.images.put(images.get(picture.sha))  # type: ignore[attr-defined]
    ours, theirs = (a.vision_inputs([picture])["pixel_values"] for a in (adapter, plain))
    assert torch.equal(ours, theirs)
    ours_ids, theirs_ids = (a.encode((Message("user", (Text("1+1?"),)),)).token_ids for a in (adapter, plain))
    assert np.array_equal(ours_ids, theirs_ids)


def test_of_two_places_transformers_order_counts(folder: Path) -> None:
    """Catches a product that cuts pictures by one file while transformers and vLLM go by the other."""
    plain = content(folder / "preprocessor_config.json")
    nest(folder, image_mean=[0.1, 0.2, 0.3], size={"shortest_edge": 3136, "longest_edge": 31360})
    (folder / "preprocessor_config.json").write_text(json.dumps(plain), encoding="utf-8")
    found = processor_of(folder)
    theirs = AutoImageProcessor.from_pretrained(folder)
    assert found.mean == tuple(theirs.image_mean) == (0.1, 0.2, 0.3)
    assert (found.min_pixels, found.max_pixels) == (theirs.size["shortest_edge"], theirs.size["longest_edge"])
    assert (found.min_pixels, found.max_pixels) == (3136, 31360)


def nothing_of_pictures(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def index_of_more(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "none": (nothing_of_pictures, "has no preprocessor_config.json or processor_config.json"),
    "legacy alone": (lambda f: (legacy(f), nothing_of_pictures(f)), "has no image_processor"),  # type: ignore[dict-item]
    "nested null": (
        lambda f: (f / "processor_config.json").write_text('{"image_processor": null}') and None,
        "is no table",
    ),
    "no JSON": (lambda f: (f / "preprocessor_config.json").write_text("{") and None, "cannot be read"),
    "a list": (lambda f: (f / "preprocessor_config.json").write_text("[]") and None, "holds no JSON object"),
    "two means": (lambda f: change(f / "preprocessor_config.json", image_mean=[0.5, 0.5]), "three numbers"),
    "words": (lambda f: change(f / "preprocessor_config.json", image_std=["a", "b", "c"]), "three numbers"),
    "no number": (
        lambda f: change(f / "preprocessor_config.json", image_mean=[10**400, 0, float("nan")]),
        "three numbers",
    ),
    "no spread": (lambda f: change(f / "preprocessor_config.json", image_std=[1, 0, 1]), "above 0"),
    "patches": (lambda f: change(f / "preprocessor_config.json", patch_size=16), "do not belong together"),
    "a limit": (lambda f: change(f / "preprocessor_config.json", max_pixels="many"), "whole number"),
    "no limit": (lambda f: change(f / "preprocessor_config.json", max_pixels=10**15), "whole number"),
    "template": (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}") and None, "is no tokenizer"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "its config": (lambda f: (f / "tokenizer_config.json").unlink(), "no tokenizer_config.json"),
    "image token": (lambda f: change(f / "config.json", image_token_id=5), "do not belong together"),
    "cut weights": (cut_weights, "cut off"),
    "a lost shard": (index_of_more, "names model-00002-of-00002.safetensors, which is not here"),
    "family": (lambda f: change(f / "config.json", model_type="llama"), "no adapter for model_type 'llama'"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_check_says_what_the_run_says(folder: Path, fault: str) -> None:
    """Catches a `check` that calls a folder right that the run refuses, or says something else of it."""
    damage, said = BROKEN[fault]
    damage(folder)
    wrong, _ = check_model(Model(base=str(folder)))
    with pytest.raises(CheckpointError) as caught:
        make_adapter(folder, ImageStore(), Model())
    assert any(said in fault.message for fault in wrong), wrong
    told = {(fault.file, fault.message) for fault in caught.value.faults}
    assert told <= {(fault.file, fault.message) for fault in wrong}
    assert all(str(folder) in line for line in str(caught.value).splitlines())


# ---- ids without text


def widen(folder: Path, rows: int) -> torch.nn.Module:
    model = load_model(folder)
    model.resize_token_embeddings(rows)
    with torch.no_grad():  # the new rows are by far the likeliest
        model.lm_head.weight[640:] = 40 * model.lm_head.weight[:rows].abs().max()
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("rows", [641, 704])
def test_ids_without_text_are_never_sampled(folder: Path, rows: int) -> None:
    """Catches a reply of ids that no text shows: a head wider than its tokenizer, by one row or by many."""
    model = widen(folder, rows)
    adapter = make_adapter(folder, ImageStore(), Model())
    assert set(range(640, rows)) <= set(adapter.banned_ids)
    engine = EmbeddedEngine(model.config, adapter, slots=4, max_context=128)
    engine.load_weights(((name, p.detach()) for name, p in model.named_parameters()), version=0)
    prompt = adapter.encode((Message("user", (Text("1+1?"),)),))
    engine.submit([Request(k, prompt.token_ids, (), k, 24, 3.0, 1.0) for k in range(4)])
    sampled = np.concatenate([reply.token_ids for reply in engine.finished()])
    assert len(sampled) and sampled.max() < 640
    logits = masked_logits(torch.zeros(2, rows), 1.0, adapter.banned_ids)
    assert torch.isneginf(logits[:, 640:]).all() and torch.isfinite(logits[:, :620]).all()
    recipe = Recipe(name="x", model=Model(base=str(folder)), stage={"s": Stage(steps=1, data=(Data(domain="text"),))})
    assert without_text(folder) == rows - 640
    assert any(f"{rows - 640} ids that its tokenizer has no text for" in note.message for note in model_notes(recipe))


def test_a_tokenizer_wider_than_the_head_is_refused(folder: Path) -> None:
    """Catches an index error in the middle of a run: a tokenizer of another model."""
    model = load_model(folder)
    model.resize_token_embeddings(636)
    model.save_pretrained(folder)
    wrong, _ = check_model(Model(base=str(folder)))
    assert any("has the id 639, the model only 636 rows" in fault.message for fault in wrong)
    with pytest.raises(CheckpointError, match="only 636 rows"):
        make_adapter(folder, ImageStore(), Model())


def test_the_micro_base_has_text_for_every_id() -> None:
    """Catches a ban that would change what the shipped model samples."""
    adapter = make_adapter("src/lmm_r1/models/micro_base", ImageStore(), Model())
    assert adapter.banned_ids == (631, 632, 633, 634, 635)


# ---- modes


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_and_folders_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """Catches weights that nobody else may read beside configurations that everybody may."""
    made = random_micro(tmp_path / "model", seed=3, **SIZES)
    out = export_model(load_model(made), made, tmp_path / "out", pictures=(784, 15680))
    write_card(out, card())

    def write(folder: Path) -> dict[str, int]:
        write_tensors(folder, {"model": {"a": torch.zeros(3)}, "optimizer": {"a": torch.ones(3)}})
        os.close(os.open(folder / "shard-00001.safetensors", os.O_CREAT | os.O_WRONLY, 0o600))  # as of a rank
        return {}

    saved = save_checkpoint(tmp_path / "checkpoints", 1, write, {}, keep=1)
    staging = Path(tempfile.mkdtemp(dir=tmp_path))
    (staging / "problems.jsonl").write_text("")
    publish(staging, tmp_path / "prepared", {}, None)
    assert (tmp_path / "prepared").stat().st_mode & 0o777 == 0o777 & ~umask
    with RunFolder(tmp_path / "run").lock():
        assert (tmp_path / "run" / "lock").stat().st_mode & 0o777 == 0o666 & ~umask
    for place in (made, out, saved):
        assert place.stat().st_mode & 0o777 == 0o777 & ~umask, place
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in place.iterdir()}
        assert set(modes.values()) == {oct(0o666 & ~umask)}, modes
        assert any(name.endswith(".safetensors") for name in modes)


# ---- exports


@pytest.mark.parametrize(
    "inherited",
    [
        {"temperature": 0.1, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.9, "max_new_tokens": 3},
        {"do_sample": False, "temperature": 1e-6, "repetition_penalty": 1.05, "no_repeat_ngram_size": 2},
    ],
)
def test_an_export_samples_as_its_rollouts_did(folder: Path, tmp_path: Path, inherited: dict[str, Any]) -> None:
    """Catches a trained model that everybody's tools sample near-greedily, because its base said so."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**content(path), "do_sample": True, **inherited}), encoding="utf-8")
    ids = {name: value for name, value in content(path).items() if name.endswith("token_id")}
    model = load_model(folder)
    before = model.generation_config
    out = export_model(model, folder, tmp_path / "out", temperature=0.7, top_p=0.9)
    written = content(out / "generation_config.json")
    assert {k: v for k, v in written.items() if k != "transformers_version"} == {
        "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, **ids,
    }  # fmt: skip
    assert model.generation_config is before
    loaded = GenerationConfig.from_pretrained(out)
    assert (loaded.top_k, loaded.repetition_penalty, loaded.eos_token_id) == (0, None, ids["eos_token_id"])


@pytest.mark.parametrize("layout", [nest, legacy, lambda folder: None])
def test_an_export_holds_the_picture_bounds_of_its_training(
    folder: Path, tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    """Catches an export whose pictures transformers makes as large as the base's."""
    layout(folder)
    out = export_model(load_model(folder), folder, tmp_path / "out", pictures=(3136, 15680))
    theirs = AutoImageProcessor.from_pretrained(out)
    assert (theirs.size["shortest_edge"], theirs.size["longest_edge"]) == (3136, 15680)
    picture = np.random.default_rng(0).integers(0, 256, (420, 420, 3), dtype=np.uint8)
    grid = theirs(images=[picture], return_tensors="np")["image_grid_thw"][0]
    adapter = make_adapter(out, ImageStore(), Model(min_pixels=3136, max_pixels=15680))
    assert int(grid.prod()) // 4 == adapter.tokens_of(adapter.images.put(adapter.canonical(picture)))  # type: ignore[attr-defined]
    found = processor_of(out)
    assert (found.min_pixels, found.max_pixels) == (3136, 15680)


def test_bounds_reach_both_files_when_there_are_two(folder: Path) -> None:
    """Catches two files of one folder that disagree after an export."""
    plain = content(folder / "preprocessor_config.json")
    nest(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(plain), encoding="utf-8")
    limit_pictures(folder, 784, 31360)
    size = {"shortest_edge": 784, "longest_edge": 31360}
    assert content(folder / "processor_config.json")["image_processor"]["size"] == size
    assert content(folder / "preprocessor_config.json")["size"] == size
    assert content(folder / "preprocessor_config.json")["max_pixels"] == 31360


def card(**more: Any) -> Card:
    settings: dict[str, Any] = {
        "format": 1, "lmm_r1": "0.1.0", "recipe": "r", "stage": "s", "steps": 2,
        "prompt": {"profile": "mine", "system": "Look, then \"answer\"."},
        "pictures": {"min_pixels": 784, "max_pixels": 15680},
        "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 24, "max_prompt_tokens": 99, "max_context": 256},
        "reward": {}, "data": [], "weights_sha256": "0" * 64, **more,
    }  # fmt: skip
    return Card.model_validate_json(json.dumps(settings))


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"])
def test_one_flipped_bit_is_found_before_the_export_is_used(folder: Path, name: str) -> None:
    """Catches a damaged export that is loaded in silence: another model, tokenizer or prompt than was trained."""
    write_card(folder, card())
    make_adapter(folder, ImageStore(), Model())
    before = content(folder / CARD)["files"][name]
    flip(folder / name)
    for load in (load_model, lambda f: make_adapter(f, ImageStore(), Model())):
        with pytest.raises(CheckpointError) as caught:
            load(folder)
        lines = [line for line in str(caught.value).splitlines() if "has changed since it was exported" in line]
        if name == "config.json" and not lines:  # no longer JSON, or of another family: said so
            continue
        (line,) = lines
        assert str(folder / name) in line and before in line and 'delete "files"' in line
    if name != "config.json":
        change(folder / CARD, files={})  # accepted on purpose
        verify_files(folder)


@pytest.mark.parametrize(("old", "new"), [("15680", "15681"), ("mine", "minf"), ('"steps": 2', '"steps": 3')])
def test_a_changed_card_is_found(folder: Path, old: str, new: str) -> None:
    """Catches settings that changed under way and would be taken as those of the training."""
    write_card(folder, card())
    path = folder / CARD
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    (fault,) = folder_faults(folder)
    assert fault.file == str(path) and "has changed since it was exported" in fault.message


def test_files_that_are_lost_or_come_along_are_found(folder: Path) -> None:
    """Catches a second processor file that outvotes the exported one, and a shard that is gone."""
    write_card(folder, card())
    nested = {"image_processor": {**content(folder / "preprocessor_config.json"), "max_pixels": 999_999}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    (folder / "notes.md").write_text("any other file is the user's own")
    (folder / "model.safetensors").unlink()
    said = {Path(fault.file).name: fault.message for fault in folder_faults(folder)}
    assert said.keys() == {"processor_config.json", "model.safetensors"}
    assert "was added" in said["processor_config.json"] and "is missing" in said["model.safetensors"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "no JSON object"),
        ("{", "cannot be read"),
        ('{"format": 99}', "format 99"),
        ('{"format": 1}', "no card of a model"),
        (json.dumps({**card().model_dump(mode="json"), "pictures": {"min_pixels": 1, "max_pixels": -5}}), "no card"),
        (
            json.dumps({**card().model_dump(mode="json"), "pictures": {"min_pixels": 1, "max_pixels": 10**15}}),
            "no card",
        ),
        (json.dumps({**card().model_dump(mode="json"), "files": {"../../etc/passwd": "0"}}), "leaves the folder"),
    ],
)
def test_a_broken_card_is_one_line(folder: Path, text: str, said: str) -> None:
    """Catches a traceback, a path that leaves the folder, and settings that are believed unread."""
    (folder / CARD).write_text(text)
    with pytest.raises(CheckpointError, match=said) as caught:
        make_adapter(folder, ImageStore(), Model())
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_card_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    """Catches hand-made and foreign folders that are refused, and a card that an export inherits from its source."""
    assert card_of(folder) is None
    verify_files(folder)
    shutil.copytree(folder, tmp_path / "carded")
    write_card(tmp_path / "carded", card())
    out = export_model(load_model(tmp_path / "carded"), tmp_path / "carded", tmp_path / "out")
    assert card_of(out) is None


@pytest.mark.parametrize("profile", ["think", "my own: \u00fc \x1b[2J"])
@pytest.mark.parametrize("memory", ["full", Window(pictures=2, actions=3)])
def test_a_card_comes_back_as_it_was(folder: Path, profile: str, memory: Any) -> None:
    """Catches a setting that is lost on the way, and a recipe's name for a profile that ends a run at its hand-off."""
    made = card()
    prompt = CardPrompt(profile=profile, system="Look.")
    sampling = made.sampling.model_copy(update={"memory": memory})
    written = write_card(folder, made.model_copy(update={"prompt": prompt, "sampling": sampling}))
    assert card_of(folder) == written
    verify_files(folder)
