"""The 3B recipe on a scaled-down model: the same code, the published folder layout, one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmm_r1.chain import run_recipe
from lmm_r1.check import check
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import random_micro
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards.score import RuleScorer
from lmm_r1.types import Score


def _by_length(reply: str) -> Score:
    share = (len(reply) % 7) / 7
    return Score(share, {"format": 0.0, "accuracy": share}, {"format": "wrong", "accuracy": "wrong"})


RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "lmm_r1_3b" / "fre_text.toml"


def test_the_3b_recipe_is_valid_and_says_what_is_still_to_fetch() -> None:
    """Catches a recipe that needs weights or data to be checked."""
    report = check(RECIPE)
    assert report["ok"], report["errors"]
    here = {"", "model.device"}  # memory and device, where this machine lacks them
    assert {p["field"] for p in report["pending"]} - here == {"model.base", "stage.fre_text.data.0.path"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_step_of_the_3b_recipe_on_a_scaled_down_model(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches anything that works only for the shipped micro model: untied head, other sizes, prepared rows, bfloat16."""
    model = random_micro(
        tmp_path / "model", seed=1, hidden=64, layers=2, intermediate=64, vision_hidden=32, vision_layers=2, tie=False
    )
    rows = [
        {
            "id": f"row-{i}",
            "source": "made for this test",
            "messages": [{"role": "user", "content": [{"type": "text", "text": f"What is {i} + 1?"}]}],
            "answer": str(i + 1),
            "verifier": "math",
            "choices": None,
            "domain": "text",
            "image_sha": [],
            "meta": {},
        }
        for i in range(8)
    ]
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {
        "model.base": json.dumps(str(model)),
        "model.dtype": json.dumps(dtype),
        "engine.slots": 8,
        "engine.max_context": 1024,
        "evaluate.sets": "[]",
        "evaluate.max_new_tokens": 8,
        "stage.fre_text.steps": 1,
        "stage.fre_text.data.0.path": json.dumps(str(data)),
        "stage.fre_text.rollout.prompts": 4,
        "stage.fre_text.rollout.siblings": 2,
        "stage.fre_text.rollout.max_new_tokens": 8,
        "stage.fre_text.rollout.max_prompt_tokens": 900,
        "stage.fre_text.update.minibatches": 2,
        "stage.fre_text.update.lr": 1e-3,
    }
    # A random model never answers right: any reward that differs between replies will do.
    monkeypatch.setattr(RuleScorer, "__call__", lambda _, problem, turns, stop: _by_length(turns[-1].reply))
    recipe = load_recipe(RECIPE, [f"{k}={v}" for k, v in small.items()])
    run_recipe(recipe, RECIPE, tmp_path / "run")
    (line,) = (tmp_path / "run" / "fre_text" / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(line)
    assert metrics["grad_norm"] > 0 and metrics["logprob_gap/max"] < (1e-4 if dtype == "float32" else 0.5)
    exported = load_model(tmp_path / "run" / "fre_text" / "model", dtype=dtype)
    before = load_model(model, dtype=dtype)
    assert not torch.equal(exported.lm_head.weight, before.lm_head.weight)
    assert {p.name for p in (tmp_path / "run" / "fre_text" / "model").iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json",
    }  # fmt: skip
