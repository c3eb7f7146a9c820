"""A whole run whose engines are processes of a cluster: the same replies as in one process, and nothing left at its end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.distributed.support import required

required("ray")

import ray  # noqa: E402

from lmm_r1.chain import run_recipe  # noqa: E402
from lmm_r1.distributed.keeper import descendants  # noqa: E402
from lmm_r1.recipes import load_recipe  # noqa: E402
from lmm_r1.runs.live import LiveView  # noqa: E402
from tests.tiny import tiny_recipe  # noqa: E402

CLUSTER = ("cluster.address=local", "cluster.engines=2")
SHORT = ("evaluate.sets=[]", "evaluate.also_without_prompt=false", "save.every=0")


def rollouts(run: Path) -> list[dict[str, Any]]:
    lines = (run / "second" / "rollouts" / "step_000001.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


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
