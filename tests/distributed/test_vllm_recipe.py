"""A whole recipe through `engine.kind = "vllm"`: text, then pictures, with every guard on."""

from __future__ import annotations

import json
from pathlib import Path

from support import required

from lmm_r1.chain import run_recipe
from lmm_r1.recipes import load_recipe
from tests.tiny import tiny_recipe

required("vllm")

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
