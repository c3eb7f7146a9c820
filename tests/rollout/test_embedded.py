"""The engine's behaviour: determinism, sharing, stops, refill, cancelling, refusals, sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmm_r1.errors import EngineError
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.rollout.embedded.sampling import draw, nucleus, uniforms
from lmm_r1.types import Reply, Request
from tests.rollout.engine_fixture import Kit, make_kit, weights_of


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("micro"), spread=3.0)


def sample(engine: EmbeddedEngine, requests: list[Request]) -> dict[int, Reply]:
    engine.submit(requests)
    return {reply.id: reply for reply in engine.finished()}


def requests_of(kit: Kit, siblings: int, tokens: int = 12) -> list[Request]:
    prompts = [p for p in kit.prompts() for _ in range(siblings)]
    return [Request(n, p.token_ids, p.images, seed=100 + n, max_new_tokens=tokens) for n, p in enumerate(prompts)]


def test_a_reply_does_not_depend_on_batch_mates_or_slots(kit: Kit) -> None:
    """Would catch randomness drawn per batch, or state that leaks between slots when they are refilled."""
    requests = requests_of(kit, siblings=3)
    wide, narrow = sample(kit.engine(slots=16), requests), sample(kit.engine(slots=3), requests[::-1])
    alone = {r.id: sample(kit.engine(slots=1), [r])[r.id] for r in requests[::4]}
    for other in (narrow, alone):
        for number, reply in other.items():
            np.testing.assert_array_equal(reply.token_ids, wide[number].token_ids)
            np.testing.assert_allclose(reply.logprobs, wide[number].logprobs, atol=1e-4)
    assert len({tuple(r.token_ids) for r in wide.values()}) > len(requests) // 2


def test_the_same_requests_give_the_same_bits_twice(kit: Kit) -> None:
    """Would catch an order of refill that depends on anything but requests and reply lengths."""
    requests = requests_of(kit, siblings=4)
    first, second = list_of(kit.engine(slots=5), requests), list_of(kit.engine(slots=5), requests)
    assert [r.id for r in first] == [r.id for r in second]
    for a, b in zip(first, second, strict=True):
        assert a.token_ids.tobytes() == b.token_ids.tobytes() and a.logprobs.tobytes() == b.logprobs.tobytes()


def list_of(engine: EmbeddedEngine, requests: list[Request]) -> list[Reply]:
    engine.submit(requests)
    return list(engine.finished())


def test_siblings_share_a_prefill_and_pictures_are_encoded_once(kit: Kit) -> None:
    """Would catch a prefill per sibling (also of one that waits for a slot) or a tower pass per reply."""
    engine = kit.engine(slots=3)
    requests = requests_of(kit, siblings=4)
    sample(engine, requests)
    counters = engine.counters
    assert counters.prefills == 4
    assert counters.prefill_tokens == sum(len(p.token_ids) for p in kit.prompts())
    assert counters.pictures == 3  # one of the three stands in two prompts


def test_stops_eos_length_and_context(kit: Kit) -> None:
    """Would catch a stop token left out of the reply, one token too many, or a context that overflows."""
    prompt = kit.prompts()[1]
    n = len(prompt.token_ids)
    engine = kit.engine(slots=8, max_context=n + 5)
    asked = [Request(i, prompt.token_ids, prompt.images, seed=i, max_new_tokens=m) for i, m in enumerate([3, 5, 9, 9])]
    for reply in sample(engine, asked).values():
        limit = min(asked[reply.id].max_new_tokens, 5)
        if reply.stop == "eos":
            assert reply.token_ids[-1] in kit.adapter.stop_ids
        else:
            assert len(reply.token_ids) == limit
            assert reply.stop == ("context" if asked[reply.id].max_new_tokens > 5 else "length")
        assert not np.isin(reply.token_ids[:-1], kit.adapter.stop_ids).any()
    full = sample(kit.engine(max_context=n), [asked[0]])[0]
    assert (full.stop, len(full.token_ids)) == ("context", 0)


def test_eos_is_drawn_and_ends_the_reply(kit: Kit) -> None:
    """Would catch stop ids that never match: every reply would run to its budget."""
    engine = kit.engine(slots=16)
    prompt = kit.prompts()[0]
    replies = sample(engine, [Request(i, prompt.token_ids, (), i, 120, temperature=20.0) for i in range(16)])
    ended = [r for r in replies.values() if r.stop == "eos"]
    assert ended and all(r.token_ids[-1] in kit.adapter.stop_ids for r in ended)


def test_submitting_and_cancelling_while_reading(kit: Kit) -> None:
    """Would catch replies lost when a reader adds requests, or replies of cancelled ones."""
    engine = kit.engine(slots=2)
    requests = requests_of(kit, siblings=2, tokens=4)
    engine.submit(requests)
    seen: list[int] = []
    for reply in engine.finished():
        seen.append(reply.id)
        if len(seen) == 1:
            late = replace(requests[0], id=100, seed=5)
            engine.submit([late])
            left = [r.id for r in requests if r.id not in seen]
            engine.cancel([left[0], left[-1], 999])
    assert len(seen) == len(requests) - 2 + 1 and 100 in seen and len(set(seen)) == len(seen)
    assert list(engine.finished()) == []


def test_refusals(kit: Kit) -> None:
    """Would catch sampling from absent weights, weights that change under running replies, and lost pictures."""
    engine = EmbeddedEngine(kit.model.config, kit.adapter, slots=2, max_context=128)
    request = requests_of(kit, 1)[1]
    with pytest.raises(EngineError, match="no weights"):
        engine.submit([request])
    engine.load_weights(weights_of(kit.model), version=1)
    with pytest.raises(EngineError, match="placeholders"):
        engine.submit([replace(request, images=())])
    with pytest.raises(EngineError, match="in work"):
        engine.submit([request, request])
    with pytest.raises(EngineError, match="outside the vocabulary"):
        engine.submit([replace(request, token_ids=np.array([10**6], np.int32), images=())])
    engine.submit([request])
    with pytest.raises(EngineError, match="running"):
        engine.load_weights(weights_of(kit.model), version=2)
    assert [r.version for r in engine.finished()] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:-1], "not sent"),
        (lambda w: [*w, ("model.nothing", w[0][1])], "no place"),
        (lambda w: [*w, w[0]], "twice"),
        (lambda w: [(w[0][0], w[0][1].reshape(-1)), *w[1:]], "wanted"),
    ],
)
def test_incomplete_weights_are_refused(kit: Kit, change, message: str) -> None:  # type: ignore[no-untyped-def]
    """Would catch an engine that samples from half-loaded weights."""
    engine = kit.engine()
    with pytest.raises(EngineError, match=message):
        engine.load_weights(change(list(weights_of(kit.model))), version=9)
    with pytest.raises(EngineError, match="no weights"):
        engine.submit(requests_of(kit, 1))


def test_memory_is_given_back_and_taken_again(kit: Kit) -> None:
    """Would catch a cache that stays allocated while the trainer runs, or a reply that differs afterwards."""
    engine = kit.engine()
    requests = requests_of(kit, 1)
    with engine.awake():
        first = sample(engine, requests)
        assert engine._slots.keys.numel() > 0
    assert engine._slots.keys.numel() == 0
    second = sample(engine, requests)
    for number, reply in first.items():
        np.testing.assert_array_equal(reply.token_ids, second[number].token_ids)


def test_making_an_engine_leaves_the_global_generator_alone(kit: Kit) -> None:
    """Would catch an engine whose construction changes a run's other random numbers."""
    before = torch.random.get_rng_state()
    kit.engine()
    assert torch.equal(before, torch.random.get_rng_state())


def test_draw_follows_the_distribution_and_never_draws_what_is_masked() -> None:
    """Would catch an inverse CDF that is off by one, or that picks a token of probability 0 at the edges."""
    logits = torch.tensor([-torch.inf, 1.0, -torch.inf, 0.0, 2.0, -torch.inf])
    count = 4000
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, logprobs = draw(logits.expand(count, -1), grid, None)
    expected = logits.softmax(-1).double()
    shares = torch.bincount(tokens, minlength=6).double() / count
    torch.testing.assert_close(shares, expected, atol=2 / count, rtol=0)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[tokens])
    edges = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert draw(logits.expand(2, -1), edges, None)[0].tolist() == [1, 4]


def test_nucleus_keeps_the_smallest_set_and_at_least_one() -> None:
    """Would catch a nucleus cut one token early or late, or an empty one; and a cut at top_p = 1."""
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).expand(4, -1)
    kept = nucleus(weights, torch.tensor([0.05, 0.5, 0.75, 1.0], dtype=torch.float64)) > 0
    assert kept.tolist() == [
        [False, True, False, False],
        [False, True, False, True],
        [False, True, True, True],
        [True, True, True, True],
    ]


def test_top_p_reports_logprobs_of_the_whole_distribution(kit: Kit) -> None:
    """Would catch renormalised log-probs, which the trainer's guard against sampler gaps would stop a run for."""
    engine = kit.engine()
    prompt = kit.prompts()[0]
    reply = sample(engine, [Request(0, prompt.token_ids, (), 3, 8, top_p=0.3)])[0]
    stream = np.concatenate([prompt.token_ids, reply.token_ids])
    np.testing.assert_allclose(reply.logprobs, engine.score(stream, ())[len(prompt.token_ids) :], atol=1e-4)


def test_uniforms_do_not_depend_on_the_budget(kit: Kit) -> None:
    """Would catch replies that change when another reply's longer budget widens the buffers."""
    request = Request(0, np.zeros(1, np.int32), (), seed=2**62 + 1, max_new_tokens=1)
    assert torch.equal(uniforms(request, 5), uniforms(request, 50)[:5])
