"""A model is used as it was trained, and it is the model that was trained: settings and hashes from a run to every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pil
from PIL import ImageDraw
from safetensors.torch import load_file, save_file

import lmm_r1.models.load as load
from lmm_r1.check import check
from lmm_r1.cli import run as command
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.recipes import PROMPTS, load_recipe
from lmm_r1.types import Encoded, Message

IMAGE_TOKEN = 634
MINE = "Look closely. Think, then answer."
RECIPE = """
name = "travel"
seed = 5
prompts = { mine = "Look closely. Think, then answer." }
model = { base = "BASE", max_pixels = MAX_PIXELS }
engine = { slots = 8, max_context = 256 }
evaluate = { sets = SETS, items = 6, max_new_tokens = 8, prompt = "mine", also_without_prompt = false }
save = { every = 1 }

[stage.a]
from = "base"
steps = 2
prompt = "mine"
data = [{ source = "problems", path = "rows.jsonl" }]
rollout = { prompts = 2, siblings = 4, max_new_tokens = 24, max_prompt_tokens = 130, temperature = 0.9, top_p = 0.95 }
update = { lr = 1e-4 }

[stage.b]
from = "a"
steps = 1
prompt = "mine"
data = [{ source = "synthetic", domain = "text" }]
rollout = { prompts = 4, siblings = 8, max_new_tokens = 40, max_prompt_tokens = 130 }
update = { lr = 1e-3 }
"""


def recipe_in(folder: Path, base: str = "micro", max_pixels: int = 15680, sets: str = "[]") -> Path:
    """A recipe over two rows with one picture of 420 x 420 pixels."""
    picture = Pil.new("RGB", (420, 420), (240, 240, 240))
    ImageDraw.Draw(picture).rectangle((50, 50, 200, 200), fill=(200, 0, 0))
    picture.save(folder / "p.png")
    rows = [
        {
            "id": f"row{n}",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "p.png"},
                        {"type": "text", "text": f"How many are red? {n}"},
                    ],
                }
            ],
            "answer": "1",
            "verifier": "math",
        }
        for n in range(2)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = RECIPE.replace("BASE", base).replace("MAX_PIXELS", str(max_pixels)).replace("SETS", sets)
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


def train(path: Path, *more: str) -> int:
    """Exit code of `lmm-r1 train` into run/ beside the recipe."""
    return command(["train", str(path), "--out", str(path.parent / "run"), "--threads", "1", *more])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Image tokens of every prompt with a picture that any adapter encodes, in order."""
    counts: list[int] = []
    encode = QwenVLAdapter.encode

    def spy(self: QwenVLAdapter, messages: list[Message]) -> Encoded:
        found = encode(self, messages)
        if found.images:
            counts.append(int((found.token_ids == IMAGE_TOKEN).sum()))
        return found

    monkeypatch.setattr(QwenVLAdapter, "encode", spy)
    return counts


def written(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("max_pixels", "tokens"), [(15680, 16), (39200, 49)])
def test_a_picture_has_the_same_tokens_in_every_command(
    tmp_path: Path, seen: list[int], max_pixels: int, tokens: int
) -> None:
    """Catches a model that is sampled, measured or used for rating rows at another picture size than it was trained at."""
    path = recipe_in(tmp_path, max_pixels=max_pixels, sets='["geometry"]')
    assert train(path, "--stage", "a") == 0
    run, out = tmp_path / "run" / "a", tmp_path / "out.json"
    model = str(run / "model")
    rollouts = [json.loads(line) for line in (run / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    assert {r["token_ids"].count(IMAGE_TOKEN) for r in rollouts} == {tokens}
    in_the_run = seen[-6:]  # of the arm "a"; the base's were encoded before the stage
    picture = str(tmp_path / "p.png")

    seen.clear()
    assert command(["sample", model, "--image", picture, "--prompt", "How many?", "--json", str(out)]) == 0
    sampled = written(out)
    assert seen == [tokens] and sampled["prompt_token_ids"].count(IMAGE_TOKEN) == tokens
    assert (sampled["system"], sampled["temperature"], sampled["top_p"]) == (MINE, 0.9, 0.95)
    assert (sampled["max_pixels"], sampled["settings_from"]["max_pixels"]) == (max_pixels, "lmm_r1.json")

    seen.clear()
    assert command(["evaluate", model, "--sets", "geometry", "--items", "6", "--json", str(out)]) == 0
    assert seen[-6:] == in_the_run and max(in_the_run) <= max_pixels // 784
    card = written(run / "model" / "lmm_r1.json")
    measured = written(out)
    assert measured["weights_sha256"] == card["weights_sha256"] == written(run / "model.json")["weights_sha256"]
    assert {k: measured[k] for k in ("prompt", "max_new_tokens", "max_pixels")} == {
        "prompt": "mine", "max_new_tokens": 24, "max_pixels": max_pixels,
    }  # fmt: skip

    seen.clear()
    rates = [
        "difficulty",
        model,
        str(tmp_path / "rows.jsonl"),
        "--samples",
        "2",
        "--out",
        str(tmp_path / "rates.jsonl"),
    ]
    assert command(rates) == 0
    assert seen and set(seen) == {tokens}
    line = json.loads((tmp_path / "rates.jsonl").read_text().splitlines()[0])
    assert (line["n"], line["max_pixels"], line["max_prompt_tokens"], line["prompt"]) == (2, max_pixels, 130, "mine")

    seen.clear()
    game = ["play", model, "--game", "sokoban", "--level", "micro_5x5", "--option", "picture=grid"]
    game += ["--option", "max_turns=1", "--option", "moves=1"]
    assert command([*game, "--json", str(out)]) == 0
    at_training = seen[0]
    assert (written(out)["max_pixels"], written(out)["prompt"]) == (max_pixels, "mine")
    seen.clear()
    assert command([*game, "--max-pixels", "200000"]) == 0
    assert at_training <= max_pixels // 784 and (seen[0] > at_training) == (max_pixels == 15680)


def test_an_option_overrides_what_the_folder_says(
    tmp_path: Path, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a flag that is accepted and then lost to the folder's own setting."""
    assert train(recipe_in(tmp_path), "--stage", "a") == 0
    model, out = str(tmp_path / "run" / "a" / "model"), tmp_path / "out.json"
    asked = ["--image", str(tmp_path / "p.png"), "--prompt", "How many?", "--json", str(out)]
    seen.clear()
    options = ["--max-pixels", "87808", "--temperature", "0.5", "--system", "", "--max-new-tokens", "3"]
    assert command(["sample", model, *asked, *options]) == 0
    found = written(out)
    assert seen == [100] and len(found["samples"][0]["token_ids"]) <= 3
    assert (found["max_pixels"], found["temperature"], found["top_p"], found["system"]) == (87808, 0.5, 0.95, "")
    sources = found["settings_from"]
    assert (sources["max_pixels"], sources["system"], sources["top_p"]) == ("option", "option", "lmm_r1.json")
    measured = ["evaluate", model, "--sets", "geometry", "--items", "2", "--json", str(out)]
    assert command([*measured, "--prompt", "none", "--min-pixels", "3136"]) == 0
    assert (written(out)["prompt"], written(out)["system"], written(out)["min_pixels"]) == ("none", "", 3136)
    assert "max_pixels = 15680 (lmm_r1.json)" in capsys.readouterr().err
    assert command([*measured, "--prompt", "mine"]) == 0  # the model's own profile has a name like any other
    assert written(out)["system"] == MINE
    assert command([*measured, "--prompt", "yours"]) == 2


@pytest.mark.parametrize("nested", [False, True])
def test_a_foreign_folders_processor_is_heard(tmp_path: Path, seen: list[int], nested: bool) -> None:
    """Catches a bound that is written into a folder by hand, or by another trainer, and changes nothing."""
    recipe_in(tmp_path)
    model = tmp_path / "foreign"
    shutil.copytree(MICRO_DIR, model)
    plain = model / "preprocessor_config.json"
    settings = {**written(plain), "max_pixels": 15680}
    plain.write_text(json.dumps(settings))
    if nested:
        plain.unlink()
        (model / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    out = tmp_path / "out.json"
    asked = ["--image", str(tmp_path / "p.png"), "--prompt", "How many?", "--json", str(out)]
    assert command(["sample", str(model), *asked]) == 0
    assert seen == [16]
    assert written(out)["settings_from"]["max_pixels"] == ("processor_config.json" if nested else plain.name)


def test_the_next_recipe_starts_as_the_base_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a second recipe that goes on from an export at the default picture size and with the default prompt."""
    assert train(recipe_in(tmp_path), "--stage", "a") == 0
    base = tmp_path / "run" / "a" / "model"
    after = 'name = "n"\nevaluate = { sets = [] }\n[model]\nbase = "BASE"\nMORE\n[stage.s]\nsteps = 1\nPROMPT\n'
    after += 'rollout = { prompts = 4, siblings = 4, max_new_tokens = 24 }\ndata = [{ source = "synthetic", domain = "text" }]\n'
    path = tmp_path / "next.toml"
    for more, prompt, pixels, profile in (
        ("", "", 15680, "mine"),
        ("max_pixels = 31360", 'prompt = "none"', 31360, "none"),
    ):
        text = after.replace("BASE", str(base)).replace("MORE", more).replace("PROMPT", prompt)
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe(path)
        assert (recipe.model.max_pixels, recipe.stage["s"].prompt) == (pixels, profile)
        assert {**PROMPTS, **recipe.prompts}["mine"] == MINE
        notes = [note["message"] for note in check(path)["notes"]]
        said = "as the start model was trained" if profile == "mine" else "but the start model"
        assert sum(said in note for note in notes if "max_pixels" in note or "stage.s.prompt" in note) == 2, notes
    capsys.readouterr()
    assert command(["train", str(path), "--out", str(tmp_path / "second"), "--threads", "1"]) == 0
    assert "model.max_pixels = 31360, but the start model's lmm_r1.json has 15680" in "".join(capsys.readouterr())
    assert written(tmp_path / "second" / "s" / "model" / "lmm_r1.json")["pictures"]["max_pixels"] == 31360


# ---- what is loaded is what was made


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_export_is_not_gone_on_from(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a second stage that starts from, or is held to, another model than the first one made."""
    path = recipe_in(tmp_path)
    assert train(path, "--stage", "a") == 0
    damaged = tmp_path / "run" / "a" / "model" / name
    before = written(tmp_path / "run" / "a" / "model.json")["files"][name]
    flip(damaged)
    for again in (("--stage", "a"), ()):  # nothing left to do in a, and b starts from it
        capsys.readouterr()
        assert train(path, *again) == 4
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "has changed since" in line]
        assert str(damaged) in line and before in line and "if it was changed on purpose" in line
    for asked in (["evaluate", "--sets", "text", "--items", "1"], ["sample", "--prompt", "1+1?"]):
        assert command([asked[0], str(damaged.parent), *asked[1:]]) == 4
    assert command(["play", str(damaged.parent), "--game", "sokoban"]) == 4
    flip(damaged)
    assert train(path) == 0


def test_a_changed_export_can_be_accepted(tmp_path: Path) -> None:
    """Catches a user's own deliberate change that nothing can make good."""
    path = recipe_in(tmp_path)
    assert train(path, "--stage", "a") == 0
    run = tmp_path / "run" / "a"
    flip(run / "model" / "model.safetensors")
    card = run / "model" / "lmm_r1.json"
    card.write_text(json.dumps({k: v for k, v in written(card).items() if k != "files"}))
    assert command(["sample", str(run / "model"), "--prompt", "1+1?"]) == 0
    assert train(path) == 4  # the run has its own record
    (run / "model.json").unlink()
    assert train(path) == 0


def swap(run: Path) -> str:
    (run / "a").rename(run / "t")
    (run / "b").rename(run / "a")
    (run / "t").rename(run / "b")
    return "is the model of stage 'b', and lies in the folder of 'a'"


def change_without_a_trace(run: Path) -> str:
    flip(run / "a" / "model" / "model.safetensors")
    (run / "a" / "model.json").unlink()
    (run / "a" / "model" / "lmm_r1.json").unlink()
    return "stage b began with another file"


@pytest.mark.parametrize("change", [swap, change_without_a_trace])
def test_a_stage_that_began_with_another_model_is_no_finished_one(
    tmp_path: Path, change: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches stage folders, each whole in itself, that no longer follow from one another; and a check that says ok to them."""
    path = recipe_in(tmp_path)
    assert train(path) == 0
    said = change(tmp_path / "run")
    for verb in ("check", "train"):
        capsys.readouterr()
        assert command([verb, str(path), "--out", str(tmp_path / "run")]) == 4
        assert said in capsys.readouterr().err


def test_a_model_without_hashes_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an export that lost its hashes and is gone on from as if it had been compared."""
    path = recipe_in(tmp_path)
    assert train(path, "--stage", "a") == 0
    change_without_a_trace(tmp_path / "run")
    for verb in ("check", "train"):
        capsys.readouterr()
        assert command([verb, str(path), "--out", str(tmp_path / "run")]) == 0
        assert "has no hashes of its hand-off" in "".join(capsys.readouterr())


def scale(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    save_file({k: v * 1.001 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    return weights


def reword(folder: Path) -> Path:
    template = folder / "chat_template.jinja"
    template.write_text("{# reworded #}" + template.read_text())
    return template


@pytest.mark.parametrize("change", [scale, reword])
@pytest.mark.parametrize("hub", [False, True])
def test_a_base_that_changed_is_refused(
    tmp_path: Path,
    change: Callable[[Path], Path],
    hub: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a run that goes on from other start weights, or another template, than it began with."""
    base = tmp_path / "base"
    shutil.copytree(MICRO_DIR, base)
    monkeypatch.setattr(load, "snapshot_download", lambda *_, **__: str(base))
    path = recipe_in(tmp_path, base="somebody/a-model" if hub else str(base))
    assert train(path, "--stage", "a") == 0
    provenance = written(tmp_path / "run" / "provenance.json")
    known = provenance["base_weights"] | provenance["base_files"]
    changed = change(base)
    capsys.readouterr()
    assert train(path) == 4
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert str(changed) in line and known[changed.name] in line and "sha256 is" in line
    assert not (tmp_path / "run" / "b" / "metrics.jsonl").exists()
    shutil.copyfile(MICRO_DIR / changed.name, changed)
    assert train(path) == 0


def test_provenance_is_written_when_it_is_absent(tmp_path: Path) -> None:
    """Catches a run that nobody can trace, because its first second was cut short."""
    path = recipe_in(tmp_path)
    assert train(path, "--stage", "a") == 0
    provenance = tmp_path / "run" / "provenance.json"
    before = written(provenance)
    for _ in range(2):
        provenance.unlink()
        assert train(path, "--stage", "a") == 0
        assert {k: written(provenance)[k] for k in ("seed", "recipe_sha256", "base_weights")} == {
            k: before[k] for k in ("seed", "recipe_sha256", "base_weights")
        }
    provenance.write_text("{")
    assert train(path, "--stage", "a") == 4


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The command sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
