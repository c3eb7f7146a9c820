"""The shipped base model: what it is, that it sees, and that it rarely shows what it knows."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from lmm_r1.ask import evaluate_model
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import MICRO_DIR


def test_it_is_a_real_qwen2_5_vl_of_the_promised_size() -> None:
    """Catches another architecture, a pickle, or weights that outgrow the package."""
    assert {p.name for p in MICRO_DIR.iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "preprocessor_config.json", "generation_config.json", "recipe.json", "training.jsonl", "README.md",
    }  # fmt: skip
    assert not any(p.suffix in (".bin", ".pt", ".pth", ".pkl") for p in MICRO_DIR.iterdir())
    assert (MICRO_DIR / "model.safetensors").stat().st_size <= 8 * 2**20
    config = json.loads((MICRO_DIR / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    parameters = sum(p.numel() for p in load_model(MICRO_DIR).parameters())
    assert 1_000_000 <= parameters <= 4_000_000
    vision = config["vision_config"]
    assert len(vision["fullatt_block_indexes"]) < vision["depth"], "no windowed attention left"
    with safe_open(MICRO_DIR / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in set(file.keys()), "the head is tied"


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    """A short evaluation: enough to tell a base that sees from one that does not, not to publish."""
    return evaluate_model("micro", sets=("text", "geometry", "perception", "reading", "grid"), items=200, seed=1)[
        "arms"
    ]["micro"]


def test_it_sees(figures: dict[str, dict[str, float]]) -> None:
    """Catches a base that cannot read its pictures (a blind one reads none). Measured on 500: 0.988 and 0.908."""
    assert figures["reading"]["accuracy"] >= 0.95
    assert figures["grid"]["accuracy"] >= 0.8


def test_it_knows_more_than_it_shows(figures: dict[str, dict[str, float]]) -> None:
    """Catches a base without the habits (nothing to gain) or without the skill (nothing to learn from)."""
    for name in ("text", "geometry", "perception"):
        assert 0.13 <= figures[name]["accuracy"] <= 0.45, name  # 200 items; on 500: 0.326, 0.262, 0.202
        assert figures[name]["reasoning_share"] <= 0.45, name
        assert figures[name]["format_rate"] <= 0.9, name
