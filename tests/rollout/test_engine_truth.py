"""The engine's log-probs are those of a plain transformers forward: text, pictures, mixed batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.types import Image, Int32, Reply, Request
from tests.rollout.engine_fixture import Kit, make_kit, weights_of


@pytest.fixture(scope="module", params=["tied", "untied"])
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("micro"), tie=request.param == "tied")


def plain_logprobs(
    model: Qwen2_5_VLForConditionalGeneration,
    adapter: QwenVLAdapter,
    ids: Int32,
    images: tuple[Image, ...],
    temperature: float,
) -> np.ndarray:
    """float64[T] by transformers alone: own forward, own positions; log-softmax in float64."""
    tokens = torch.from_numpy(ids.astype(np.int64))[None]
    inputs = adapter.vision_inputs(images) if images else {}
    kinds = (tokens == adapter.image_token_id).int()
    with torch.no_grad():
        logits = model(input_ids=tokens, mm_token_type_ids=kinds, **inputs).logits[0].double() / temperature
    logits[:, list(adapter.banned_ids)] = -torch.inf
    found = logits.log_softmax(-1)[:-1].gather(-1, tokens[0, 1:, None])[:, 0]
    return np.concatenate([[0.0], found.numpy()])


def replies_of(engine: EmbeddedEngine, requests: list[Request]) -> dict[int, Reply]:
    engine.submit(requests)
    return {reply.id: reply for reply in engine.finished()}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_sampled_logprobs_equal_a_plain_forward_in_a_mixed_batch(kit: Kit, temperature: float, top_p: float) -> None:
    """Would catch wrong fusion, rotary positions after a picture, masks, cache rows mixed up by refill or compaction; and,
    with a nucleus, log-probs of another distribution than the trainer's (they are those before it was cut)."""
    prompts = kit.prompts()
    requests = [
        Request(n, p.token_ids, p.images, n, 5 + 7 * (n % 3), temperature, top_p)
        for n, p in enumerate(p for p in prompts for _ in range(3))
    ]
    replies = replies_of(kit.engine(slots=5), requests)
    assert sorted(replies) == [r.id for r in requests]
    for request in requests:
        reply = replies[request.id]
        assert np.array_equal(reply.prompt_ids, request.token_ids)
        assert not np.isin(reply.token_ids, kit.adapter.banned_ids).any()
        stream = np.concatenate([request.token_ids, reply.token_ids])
        plain = plain_logprobs(kit.model, kit.adapter, stream, request.images, temperature)
        np.testing.assert_allclose(reply.logprobs, plain[len(request.token_ids) :], atol=1e-4, rtol=0)


def test_score_equals_a_plain_forward(kit: Kit) -> None:
    """Would catch a weight-sync probe that passes or fails for reasons of its own."""
    engine = kit.engine()
    for prompt in kit.prompts():
        plain = plain_logprobs(kit.model, kit.adapter, prompt.token_ids, prompt.images, 0.7)
        plain[np.isin(prompt.token_ids, kit.adapter.banned_ids)] = 0
        np.testing.assert_allclose(engine.score(prompt.token_ids, prompt.images, 0.7), plain, atol=1e-4, rtol=0)


def test_another_picture_changes_the_logprobs(kit: Kit) -> None:
    """Would catch an engine that runs placeholders but ignores (or caches wrongly) what they show."""
    engine = kit.engine()
    one, other = kit.picture(1, 56, 84), kit.picture(2, 56, 84)
    ids = kit.prompt("look", one).token_ids
    first, second = engine.score(ids, (one,)), engine.score(ids, (other,))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(engine.score(ids, (one,)), first)


def test_weights_in_bfloat16_stay_near_float32(kit: Kit) -> None:
    """Would catch a norm, softmax or head that runs in the narrow dtype where it must not."""
    engine = EmbeddedEngine(kit.model.config, kit.adapter, slots=4, max_context=256, dtype="bfloat16")
    engine.load_weights(weights_of(kit.model), version=0)
    for prompt in kit.prompts():
        exact = kit.engine().score(prompt.token_ids, prompt.images)
        assert np.abs(engine.score(prompt.token_ids, prompt.images) - exact).max() < 0.15
