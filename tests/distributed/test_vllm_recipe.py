"""A whole recipe through `engine.kind = "vllm"`: text, then pictures, with every guard on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from lmm_r1.build import ENGINES
from lmm_r1.chain import run_recipe
from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.evaluation.suites import suite
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.recipes import load_recipe
from lmm_r1.rollout.weights import digest
from lmm_r1.trainers.local import score_stream
from lmm_r1.types import Request
from tests.distributed.support import required
from tests.rollout.engine_fixture import make_kit, weights_of
from tests.tiny import tiny_recipe

required("ray")
required("vllm")
from lmm_r1.distributed.seat import Seat  # noqa: E402
from lmm_r1.distributed.shipment import ship  # noqa: E402
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


def test_a_worker_of_a_cluster_can_hold_it() -> None:
    """Catches arguments that only an engine in the trainer's process understands, and pictures that do not reach vLLM. Ray is not
    needed for it: a seat is what runs in its worker."""
    store = ImageStore()
    adapter = QwenVLAdapter.from_folder(MICRO_DIR, store, Model())
    problems = [suite(name).problems(store, 1)[0] for name in ("text", "geometry")]
    prompts = [adapter.encode(problem.messages) for problem in problems]
    pictures = {image.sha: store.get(image.sha) for prompt in prompts for image in prompt.images}
    assert pictures
    model = load_model(MICRO_DIR)
    weights = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
    arguments = {"folder": str(MICRO_DIR), "model": Model().model_dump(), "slots": 8, "max_context": 256}
    seats = {kind: Seat(ENGINES[kind], arguments) for kind in ("embedded", "vllm")}
    try:
        scores = {}
        for kind, seat in seats.items():
            assert seat.dtype() == "float32" and seat.load(ship(weights), 1) == digest(weights)
            scores[kind] = [seat.score(pictures, p.token_ids, p.images, 0.8) for p in prompts]
            seat.wake(("weights", "cache"))
            requests = [Request(n, p.token_ids, p.images, n, 8) for n, p in enumerate(prompts)]
            replies = seat.advance(pictures, [], requests)
            while len(replies) < len(requests):
                replies += seat.advance({}, [], [])
            assert sorted(reply.id for reply in replies) == [0, 1]
            seat.rest()
        for ours, theirs in zip(scores["vllm"], scores["embedded"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    finally:
        seats["vllm"]._engine.close()  # type: ignore[attr-defined]
