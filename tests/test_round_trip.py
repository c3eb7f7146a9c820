"""A picture from its source file to the report, pixel for pixel; and a run whose data change under it.

The picture that a report shows is the canonical one, which the model saw: the source's own pixels when its sides are
multiples of 28 within the recipe's bounds, else those pixels resized once to such a size, under a sha of their own.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageDraw

import lmm_r1.train as train
from lmm_r1.build import base_folder
from lmm_r1.chain import run_recipe
from lmm_r1.cli import run as command
from lmm_r1.data.images import ImageStore, sha_of
from lmm_r1.data.preparing.prepare import prepare
from lmm_r1.errors import CheckpointError
from lmm_r1.models.adapters import make_adapter
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards import VERIFIERS

RECIPE = """
name = "round_trip"
evaluate = { sets = [] }
engine = { slots = 8, max_context = 512 }
save = { every = 1, rollout_groups = 8 }

[stage.only]
from = "base"
steps = STEPS
data = [{ source = "problems", path = "prepared/problems.jsonl" }]
rollout = { prompts = 3, siblings = 2, max_new_tokens = 8, max_prompt_tokens = 400 }
"""


def source_pictures(folder: Path) -> dict[str, str]:
    """{row id: sha of the upright source pixels}: one on the patch grid, one off it, one turned by its EXIF tag."""
    folder.mkdir(parents=True)
    pictures = {}
    for number, (name, size) in enumerate(
        (("on_grid.png", (84, 56)), ("off_grid.png", (100, 70)), ("turned.jpg", (84, 56)))
    ):
        picture = Pil.new("RGB", size, (250, 250, 240))
        ImageDraw.Draw(picture).line((4, 4, 30 + 15 * number, 50), fill=(200 - 90 * number, 20, 20), width=5)
        exif = Pil.Exif()
        if name == "turned.jpg":
            exif[0x0112] = 6
        picture.save(folder / name, exif=exif)
        pictures[name] = ImageStore().put_file(folder / name).sha
    rows = [
        {
            "id": name,
            "source": "own",
            "question": f"How long is it, {n}?",
            "choices": None,
            "answer": str(n),
            "image": name,
        }
        for n, name in enumerate(pictures)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pictures


def prepared(tmp_path: Path, steps: int) -> tuple[dict[str, str], Path]:
    """(source shas, recipe) over rows that went through `prepare`."""
    shas = source_pictures(tmp_path / "raw")
    prepare("unified", tmp_path / "raw" / "rows.jsonl", tmp_path / "prepared", VERIFIERS, ImageStore())
    shutil.rmtree(tmp_path / "raw")  # nothing behind preparation may look at the source again
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.replace("STEPS", str(steps)))
    return shas, path


def sha_of_png(data: bytes) -> str:
    return sha_of(np.asarray(Pil.open(io.BytesIO(data)).convert("RGB")))


def test_a_picture_is_the_same_from_its_source_to_the_report(tmp_path: Path) -> None:
    """Catches a picture that is re-encoded with loss, turned twice, swapped with a neighbour's, or shown from elsewhere."""
    shas, path = prepared(tmp_path, steps=1)
    recipe = load_recipe(path)
    run_recipe(recipe, path, tmp_path / "run")

    # problems.jsonl names the source's pixels, and its files hold them.
    rows = {r["id"]: r for r in map(json.loads, (tmp_path / "prepared" / "problems.jsonl").read_text().splitlines())}
    for name, sha in shas.items():
        (part,) = [p for p in rows[name]["messages"][0]["content"] if p["type"] == "image"]
        assert rows[name]["image_sha"] == [sha]
        assert sha_of_png((tmp_path / "prepared" / part["image"]).read_bytes()) == sha

    # What the model should have seen: the source itself on the grid, its one resized picture off it.
    store = ImageStore()
    adapter = make_adapter(base_folder("micro"), store, recipe.model)
    sizes, wanted = {}, {}
    for name, row in rows.items():
        part = next(p for p in row["messages"][0]["content"] if p["type"] == "image")
        pixels = store.get(store.put_file(tmp_path / "prepared" / part["image"]).sha)
        canonical = adapter.canonical(pixels)  # type: ignore[attr-defined]
        sizes[name], wanted[name] = (pixels.shape[:2], canonical.shape[:2]), sha_of(canonical)
    assert sizes == {
        "on_grid.png": ((56, 84), (56, 84)),
        "off_grid.png": ((70, 100), (56, 112)),
        "turned.jpg": ((84, 56), (84, 56)),
    }
    assert [wanted[name] == shas[name] for name in shas] == [True, False, True]

    # The run folder: each rollout names its own picture, and the file under that name holds those pixels.
    stage = tmp_path / "run" / "only"
    records = [json.loads(line) for line in (stage / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    seen = {r["problem_id"]: r["images"] for r in records}
    assert seen == {name: [sha] for name, sha in wanted.items()}
    for sha in wanted.values():
        assert sha_of_png((stage / "images" / f"{sha}.png").read_bytes()) == sha

    # The report: inside each problem's card stands that problem's picture.
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    cards = re.findall(r'<article class="card">.*?</article>', page, re.DOTALL)
    shown = {}
    for card in cards:
        (number,) = re.findall(r"How long is it, (\d)\?", card)
        pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', card)
        shown[list(shas)[int(number)]] = [sha_of_png(base64.b64decode(p)) for p in pictures]
    assert shown and all(pictures == [wanted[name]] for name, pictures in shown.items())


@pytest.mark.parametrize("change", ["answer", "picture", "removed"])
def test_trial_34_a_run_whose_data_changed_is_refused_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a resumed run that goes on with other rows: it must stop with exit code 4 and name them, and go on after."""
    _, path = prepared(tmp_path, steps=2)
    with monkeypatch.context() as patch:
        real = train.gather

        def stopped(run: train.StageRun, step: int) -> object:
            if step == 1:
                raise KeyboardInterrupt
            return real(run, step)

        patch.setattr(train, "gather", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(load_recipe(path), path, tmp_path / "run")
    state = json.loads((tmp_path / "run" / "only" / "checkpoints" / "step_000001" / "state.json").read_text())
    assert len(state["stream"]["fingerprints"][0]) == 64
    shutil.copytree(tmp_path / "prepared", tmp_path / "kept")
    file = tmp_path / "prepared" / "problems.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if change == "answer":
        rows[1]["answer"] = "17"
    elif change == "removed":
        del rows[1]
    else:
        part = next(p for p in rows[1]["messages"][0]["content"] if p["type"] == "image")
        Pil.new("RGB", (100, 70), (1, 2, 3)).save(tmp_path / "prepared" / part["image"])
        rows[1]["image_sha"] = [ImageStore().put_file(tmp_path / "prepared" / part["image"]).sha]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command(["train", str(path), "--out", str(tmp_path / "run"), "--threads", "1"]) == CheckpointError.exit_code
    said = capsys.readouterr().err
    what = "removed" if change == "removed" else "changed"
    assert f"1 row (off_grid.png) was {what}" in said and "problems.jsonl" in said and "--out" in said
    shutil.rmtree(tmp_path / "prepared")
    shutil.copytree(tmp_path / "kept", tmp_path / "prepared")
    run_recipe(load_recipe(path), path, tmp_path / "run")
    assert (tmp_path / "run" / "only" / "model" / "config.json").is_file()
