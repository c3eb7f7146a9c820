"""A whole run whose engines are processes of a cluster: the same replies as in one process, and nothing left at its end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.closeness import relative_of_all
from tests.distributed.support import required

required("ray")

import ray  # noqa: E402

from lmm_r1.chain import run_recipe  # noqa: E402
from lmm_r1.distributed.keeper import descendants  # noqa: E402
from lmm_r1.models.micro import MICRO_DIR  # noqa: E402
from lmm_r1.recipes import load_recipe  # noqa: E402
from lmm_r1.runs.live import LiveView  # noqa: E402
from tests.tiny import tiny_recipe  # noqa: E402

CLUSTER = ("cluster.address=local", "cluster.engines=2")
SHORT = ("evaluate.sets=[]", "evaluate.also_without_prompt=false", "save.every=0")


def rollouts(run: Path) -> list[dict[str, Any]]:
    lines = (run / "second" / "rollouts" / "step_000001.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_whose_ranks_train_adapters_is_the_run_of_one_process(tmp_path: Path) -> None:
    """Would catch a stage whose adapters do not reach the ranks, or of other numbers than in one process, engines that are sent
    the start model, and an export that holds adapters or misses what they learned."""
    pytest.importorskip("peft", reason='adapters need peft: pip install "lmm-r1[lora]"')
    _, path = tiny_recipe(tmp_path, steps=2, algorithm="ppo")
    lora = [f"stage.{name}.lora={{ rank = 4, parts = ['vision', 'language'] }}" for name in ("first", "second")]
    runs = {"one": SHORT, "ray": (*SHORT, *CLUSTER, "cluster.ranks=2", "cluster.weights=shared")}
    for name, overrides in runs.items():
        run_recipe(load_recipe(path, (*overrides, *lora)), path, tmp_path / name, live=LiveView())
    for stage in ("first", "second"):
        start = MICRO_DIR if stage == "first" else tmp_path / "one" / "first" / "model"
        lines = [(tmp_path / name / stage / "metrics.jsonl").read_text().splitlines() for name in runs]
        one, other = (json.loads(found[0]) for found in lines)
        for name in ("grad_norm", "reward/mean", "entropy"):  # of the first step, from the same rollouts
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3, err_msg=f"{stage} {name}")
        first, last, many = (
            load_file(folder / "model.safetensors")
            for folder in (start, *(tmp_path / name / stage / "model" for name in runs))
        )
        assert many.keys() == last.keys() and not any("lora" in name for name in many)
        moved = {name: last[name] - first[name] for name in last}
        gone = {name: many[name] - first[name] for name in last}
        assert {n for n, t in moved.items() if t.any()} == {n for n, t in gone.items() if t.any()} != set()
        assert relative_of_all(gone, moved) < 0.01, stage
    assert not ray.is_initialized()


def test_a_run_with_two_engine_processes_is_the_run_with_one_engine(tmp_path: Path) -> None:
    """Would catch a stage that samples from other weights than it trains, replies that depend on who wrote them, workers of
    one stage that stay for the next, and a cluster that outlives the run."""
    _, path = tiny_recipe(tmp_path, steps=1)
    before = set(descendants(os.getpid()))
    for name, overrides in {"one": SHORT, "ray": (*SHORT, *CLUSTER)}.items():
        run_recipe(load_recipe(path, overrides), path, tmp_path / name, live=LiveView())
    one, other = rollouts(tmp_path / "one"), rollouts(tmp_path / "ray")
    assert len(one) == len(other) > 0 and any(line["images"] for line in one)
    for a, b in zip(one, other, strict=True):
        assert a["problem_id"] == b["problem_id"] and a["token_ids"] == b["token_ids"]
        np.testing.assert_allclose(a["logprobs"], b["logprobs"], atol=1e-5, rtol=0)
        assert a["reward"] == b["reward"]
    assert not ray.is_initialized() and set(descendants(os.getpid())) <= before
    assert not list((tmp_path / "ray" / "workers").iterdir())  # no stacks: nobody fell silent
