"""A whole recipe through `engine.kind = "vllm"`: text, then pictures, with every guard on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from lmm_r1.chain import run_recipe
from lmm_r1.recipes import load_recipe
from lmm_r1.rollout.weights import digest
from lmm_r1.trainers.local import score_stream
from tests.distributed.support import required
from tests.rollout.engine_fixture import make_kit, weights_of
from tests.tiny import tiny_recipe

required("vllm")
from lmm_r1.rollout.vllm_engine import VllmEngine  # noqa: E402

VLLM = ['engine.kind="vllm"']


def test_two_stages_run_and_hand_over(tmp_path: Path) -> None:
    """Catches an engine that serves the first stage and not the second, weights of another stage in an evaluation, and a
    sampler that is trusted to be the trainer. What it samples must be the trainer's: the loop's own guard is at 1e-3."""
    _, path = tiny_recipe(tmp_path)
    results = run_recipe(load_recipe(path, VLLM), path, tmp_path / "run")
    assert set(results["arms"]) == {"base", "base_no_prompt", "first", "second"}
    for stage in ("first", "second"):
        lines = [json.loads(line) for line in (tmp_path / "run" / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert len({line["weights_sha256"] for line in lines}) == 2
        for line in lines:
            assert line["logprob_gap/max"] < 1e-4
            assert (
                abs(line["importance/mean"] - 1) < 1e-4
            )  # importance = "auto": another engine, so it is corrected for
    stored = (tmp_path / "run" / "second" / "rollouts" / "step_000002.jsonl").read_text().splitlines()
    assert any(json.loads(line)["images"] for line in stored), "no picture was sampled on"
    # The same call on the finished run reads everything back.
    assert run_recipe(load_recipe(path, VLLM), path, tmp_path / "run")["arms"] == results["arms"]


def test_a_head_of_its_own_is_synced_too(tmp_path: Path) -> None:
    """Catches a transfer that knows tied embeddings alone: the larger Qwen2.5-VL have an untied head."""
    kit = make_kit(tmp_path, tie=False)
    engine = VllmEngine(kit.folder, kit.model.config, kit.adapter, kit.images, slots=4, max_context=128)
    try:
        for version in range(2):
            assert engine.load_weights(weights_of(kit.model), version) == digest(weights_of(kit.model))
            for prompt in kit.prompts()[:2]:
                with torch.no_grad():
                    theirs = score_stream(kit.model, kit.adapter, prompt.token_ids, prompt.images)
                np.testing.assert_allclose(engine.score(prompt.token_ids, prompt.images), theirs, atol=1e-4, rtol=0)
            with torch.no_grad():
                kit.model.lm_head.weight.mul_(1.5)
    finally:
        engine.close()
