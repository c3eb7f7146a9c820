"""Real DeepScaleR and Geometry3K rows through preparation, rollout, verification and one update of the micro model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lmm_r1.chain import run_recipe
from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.prepare import prepare
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards import VERIFIERS

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
RECIPE = """
name = "real_rows"
evaluate = { sets = [] }
engine = { slots = 16, max_context = 1280 }

[stage.mixed]
from = "base"
steps = 1
data = [
  { source = "problems", path = "deepscaler_2000/problems.jsonl" },
  { source = "problems", path = "geometry3k_train/problems.jsonl" },
]
rollout = { prompts = 12, siblings = 2, max_new_tokens = 16, max_prompt_tokens = 640 }
update = { lr = 1e-4 }
"""


def test_real_rows_go_the_whole_way(tmp_path: Path) -> None:
    """Catches real text, LaTeX and pictures that break the loop; the micro model's answers may all be wrong."""
    for name in ("deepscaler_2000", "geometry3k_train"):
        if not (DATA / f"{name}.jsonl").is_file():
            pytest.skip(f"{DATA / name}.jsonl is not here")
        lines = (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()[:10]
        raw = tmp_path / "raw" / name
        raw.mkdir(parents=True)
        for image in filter(None, (json.loads(line)["image"] for line in lines)):
            (raw / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(DATA / image, raw / image)
        (raw / "rows.jsonl").write_text("\n".join(lines), "utf-8")
        report = prepare("unified", raw / "rows.jsonl", tmp_path / name, VERIFIERS, ImageStore())
        assert report["kept"] + sum(report["dropped"].values()) == len(lines)
    path = tmp_path / "real.toml"
    path.write_text(RECIPE)
    run_recipe(load_recipe(path), path, tmp_path / "run")
    stage = tmp_path / "run" / "mixed"
    (metrics,) = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    verdicts = {k.removeprefix("verdict/"): v for k, v in metrics.items() if k.startswith("verdict/")}
    assert sum(verdicts.values()) == pytest.approx(1.0)
    assert verdicts.keys() <= {"correct", "wrong", "no_answer", "unparsable_answer", "ambiguous", "too_big"}
    assert metrics["logprob_gap/max"] < 1e-4 and metrics["tokens"] > 0
    rollouts = [json.loads(line) for line in (stage / "rollouts" / "step_000001.jsonl").read_text().splitlines()]
    assert {bool(r["images"]) for r in rollouts} == {True, False}, "both kinds of rows were sampled"
    assert (stage / "model" / "config.json").is_file()
