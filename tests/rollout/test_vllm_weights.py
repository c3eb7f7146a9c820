"""Which weights vLLM waits for, and under which names. Needs no vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmm_r1.rollout.vllm_weights import expected_weights, live_name
from tests.rollout.engine_fixture import make_kit, weights_of


@pytest.mark.parametrize("tie", [True, False])
def test_the_expected_weights_are_what_a_trainer_sends(tmp_path: Path, tie: bool) -> None:
    """Catches an engine that waits for tied copies, or would take a sync without the head for a whole one."""
    kit = make_kit(tmp_path, tie=tie)
    sent = {name: tuple(tensor.shape) for name, tensor in weights_of(kit.model)}
    assert expected_weights(kit.model.config) == sent
    assert ("lm_head.weight" in sent) is not tie
    assert next(kit.model.parameters()).device.type == "cpu"


def test_names_of_both_layouts_mean_the_same() -> None:
    """Catches a checkpoint's names (visual., model.layers.) that the engine would call unknown."""
    pairs = {
        "visual.merger.ln_q.weight": "model.visual.merger.ln_q.weight",
        "model.layers.0.mlp.up_proj.weight": "model.language_model.layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
        "lm_head.weight": "lm_head.weight",
    }
    for name, live in pairs.items():
        assert live_name(name) == live and live_name(live) == live
