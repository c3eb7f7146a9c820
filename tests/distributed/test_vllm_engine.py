"""The engine on vLLM against the trainer and the embedded engine: same prompts, same numbers, and nothing stale after a sync.

One engine serves the whole module (vLLM allows one in a process); every test gives it the weights that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmm_r1.config import Update
from lmm_r1.errors import DataError, EngineError
from lmm_r1.models.logprobs import masked_logits
from lmm_r1.rollout.collect import GREEDY_TOP_P
from lmm_r1.rollout.play import Sampling, play, turns_of
from lmm_r1.rollout.weights import LocalLink, Probe, digest, digest_of_lines, weight_line
from lmm_r1.trainers.local import LocalTrainer, score_stream
from lmm_r1.types import Encoded, Float32, Image, Int32, Problem, Reply, Request
from tests.distributed.support import required
from tests.rollout.engine_fixture import Kit, make_kit, weights_of
from tests.rollout.test_multi_turn_truth import Three, message

required("vllm")
from lmm_r1.rollout.vllm_engine import VllmEngine  # noqa: E402

#: Log-probs of two implementations of the same network in float32, nats (docs/architecture.md).
NATS = 1e-4
CONTEXT = 160


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def only(kit: Kit) -> Iterator[VllmEngine]:
    """The engine of this module."""
    engine = VllmEngine(
        kit.folder, kit.model.config, kit.adapter, kit.images, slots=16, max_context=CONTEXT, prefill_tokens=64
    )
    yield engine
    engine.close()


@pytest.fixture
def start(kit: Kit) -> Iterator[None]:
    """Puts the model's weights back after a test that changes them."""
    kept = {name: tensor.detach().clone() for name, tensor in weights_of(kit.model)}
    yield
    with torch.no_grad():
        for name, parameter in kit.model.named_parameters():
            parameter.copy_(kept[name])


@pytest.fixture
def engine(only: VllmEngine, kit: Kit, start: None) -> VllmEngine:
    only.load_weights(weights_of(kit.model), version=3)
    return only


def moved(kit: Kit, seed: int, part: str = "") -> None:
    """Changes the trainer's weights, or a part of them, enough for any stale number to show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in kit.model.named_parameters():
            if part in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def request(number: int, prompt: Encoded, **settings: Any) -> Request:
    return Request(number, prompt.token_ids, prompt.images, **{"seed": 7 * number, "max_new_tokens": 12} | settings)


def sampled(engine: VllmEngine, requests: Sequence[Request]) -> list[Reply]:
    engine.submit(requests)
    return sorted(engine.finished(), key=lambda reply: reply.id)


def trainers(kit: Kit, token_ids: Int32, images: Sequence[Image], temperature: float) -> Float32:
    with torch.no_grad():
        return score_stream(kit.model, kit.adapter, token_ids, images, temperature)


def gap_to_trainer(kit: Kit, asked: Request, reply: Reply) -> float:
    """The largest difference between the sampler's and the trainer's log-probs of a reply."""
    stream = np.concatenate([asked.token_ids, reply.token_ids])
    ours = trainers(kit, stream, asked.images, asked.temperature)[len(asked.token_ids) :]
    return float(np.abs(ours - reply.logprobs).max())


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_log_probs_are_the_trainers(kit: Kit, engine: VllmEngine, temperature: float, top_p: float) -> None:
    """Catches raw log-probs (no temperature, no ban), log-probs inside the nucleus, pictures cut or placed otherwise: text, one
    picture and two pictures of different size run in one batch, prompts longer than a prefill batch among them."""
    prompts = [*kit.prompts(), kit.prompt("1+2=3? " * 12)]
    assert len(prompts[-1].token_ids) > 64
    asked = [
        request(n, p, temperature=temperature, top_p=top_p) for n, p in enumerate([p for p in prompts for _ in "abc"])
    ]
    replies = sampled(engine, asked)
    assert [r.id for r in replies] == [q.id for q in asked] and {r.version for r in replies} == {3}
    for one, reply in zip(asked, replies, strict=True):
        np.testing.assert_array_equal(reply.prompt_ids, one.token_ids)
        assert reply.prompt_ids.dtype == reply.token_ids.dtype == np.int32 and reply.logprobs.dtype == np.float32
        assert gap_to_trainer(kit, one, reply) < NATS
    assert len({r.token_ids.tobytes() for r in replies[:3]}) == 3  # siblings are drawn apart


def test_tokens_come_from_the_distribution_that_is_reported(kit: Kit, engine: VllmEngine) -> None:
    """Catches noise of the wrong kind or a temperature that reaches the log-probs alone: their numbers would still be right."""
    prompt, count, temperature = kit.prompts()[0], 1500, 0.7
    settings = {"temperature": temperature, "max_new_tokens": 1}
    replies = sampled(engine, [request(n, prompt, seed=n * n, **settings) for n in range(count)])
    with torch.no_grad():
        logits = kit.model(input_ids=torch.from_numpy(prompt.token_ids.astype(np.int64))[None]).logits[0, -1]
    p = masked_logits(logits, temperature, kit.adapter.banned_ids).double().softmax(-1).numpy()
    found = np.bincount([int(r.token_ids[0]) for r in replies], minlength=len(p))
    often = count * p >= 5
    assert often.sum() > 10
    # Pearson's statistic over the tokens that come often, the others as one: mean k, variance 2 k.
    observed, wanted = np.append(found[often], found[~often].sum()), count * np.append(p[often], p[~often].sum())
    statistic, k = ((observed - wanted) ** 2 / wanted).sum(), often.sum()
    assert statistic < k + 6 * np.sqrt(2 * k), f"{statistic:.0f} with {k} degrees of freedom"


def test_a_reply_depends_on_its_seed_alone(kit: Kit, engine: VllmEngine) -> None:
    """Catches randomness shared with batch mates, and a sampler that moves the random state of the trainer's process."""
    asked = [request(n, p) for n, p in enumerate(kit.prompts())]
    together = sampled(engine, asked)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    alone = [sampled(engine, [one])[0] for one in reversed(asked)][::-1]
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)


def test_both_engines_score_streams_alike(kit: Kit, engine: VllmEngine) -> None:
    """Catches prompt log-probs that know no ban or temperature, and a shift by one."""
    embedded = kit.engine(max_context=CONTEXT)
    for prompt in kit.prompts():
        for temperature in (1.0, 0.7):
            ours = engine.score(prompt.token_ids, prompt.images, temperature)
            theirs = embedded.score(prompt.token_ids, prompt.images, temperature)
            assert ours[0] == 0 and ours.shape == prompt.token_ids.shape
            np.testing.assert_allclose(ours, theirs, atol=NATS, rtol=0)
    with pytest.raises(EngineError, match="context holds"):
        engine.score(np.full(CONTEXT + 1, 5, np.int32), ())


def test_both_engines_are_greedy_alike(kit: Kit, engine: VllmEngine) -> None:
    """Catches a nucleus that keeps no token or two."""
    asked = [request(n, p, top_p=GREEDY_TOP_P) for n, p in enumerate(kit.prompts())]
    embedded = kit.engine(max_context=CONTEXT)
    embedded.submit(asked)
    theirs = sorted(embedded.finished(), key=lambda reply: reply.id)
    for ours, other in zip(sampled(engine, asked), theirs, strict=True):
        np.testing.assert_array_equal(ours.token_ids, other.token_ids)
        np.testing.assert_allclose(ours.logprobs, other.logprobs, atol=NATS, rtol=0)


def test_media_tokens_are_outside_the_softmax(kit: Kit, engine: VllmEngine) -> None:
    """Catches a ban that is a large negative number, or one that log-probs do not know: here a media token would be all of it."""
    prompt = kit.prompts()[0]
    ids = torch.from_numpy(prompt.token_ids.astype(np.int64))[None]
    with torch.no_grad():
        hidden = kit.model.model(input_ids=ids).last_hidden_state[0, -1]
        kit.model.lm_head.weight[kit.adapter.banned_ids[0]] = hidden * 40 / hidden.square().sum()
        logits = kit.model(input_ids=ids).logits[0, -1]
    assert int(logits.argmax()) == kit.adapter.banned_ids[0] and logits.softmax(-1).max() > 0.99
    engine.load_weights(weights_of(kit.model), version=4)
    asked = [
        request(n, prompt, temperature=t, top_p=p) for n, (t, p) in enumerate([(1, 1), (0.7, 1), (1, 1e-9), (1, 0.9)])
    ]
    for one, reply in zip(asked, sampled(engine, asked), strict=True):
        assert not np.isin(reply.token_ids, kit.adapter.banned_ids).any()
        assert gap_to_trainer(kit, one, reply) < NATS


@pytest.mark.parametrize(("temperature", "in_place"), [(1.0, False), (0.7, True)])
def test_weights_stay_equal_over_syncs(kit: Kit, engine: VllmEngine, temperature: float, in_place: bool) -> None:
    """Catches an update that reaches some of vLLM's copies: fused matrices, a packed head, the vision tower."""
    trainer = LocalTrainer(kit.model, None, kit.adapter, Update(), total_updates=9, temperature=temperature)
    probes = [Probe(p.token_ids, p.images) for p in kit.prompts()]
    link = LocalLink(trainer, engine, probes, temperature, in_place=in_place)
    for version in range(10, 13):
        moved(kit, version)
        wanted = digest_of_lines(weight_line(n, t, lanes=in_place) for n, t in trainer.weights())
        assert link.sync(version) == wanted and engine.version == version
        asked = [request(n, p, temperature=temperature) for n, p in enumerate(kit.prompts())]
        for one, reply in zip(asked, sampled(engine, asked), strict=True):
            assert reply.version == version and gap_to_trainer(kit, one, reply) < NATS


def test_a_transfer_that_goes_wrong_is_noticed(kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a probe that vLLM's own answer cannot fail: the bytes arrive, the layers keep old ones."""
    trainer = LocalTrainer(kit.model, None, kit.adapter, Update(), total_updates=9)
    link = LocalLink(trainer, engine, [Probe(p.token_ids, p.images) for p in kit.prompts()[:2]])
    model = engine._llm.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.model
    real = model.load_weights
    moved(kit, 5)
    monkeypatch.setattr(
        model, "load_weights", lambda pairs: real((n, t * 1.01 if "down_proj.weight" in n else t) for n, t in pairs)
    )
    with pytest.raises(EngineError, match="log-probs of trainer and engine differ"):
        link.sync(20)
    with pytest.raises(EngineError, match="no weights"):
        engine.submit([request(0, kit.prompts()[0])])
    monkeypatch.undo()
    link.sync(21)
    assert engine.version == 21


@pytest.mark.parametrize(
    ("part", "reset"), [("language_model", "reset_prefix_cache"), ("visual", "reset_encoder_cache")]
)
def test_nothing_that_old_weights_computed_is_used(
    kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, part: str, reset: str
) -> None:
    """Catches keys, values or picture features that outlive a sync. The same steps without the reset must be wrong, or this
    test would not see the caches at all."""
    prompt = kit.prompt("First", kit.picture(3, 168, 140), "and a text that fills a block of the cache with tokens")
    assert len(prompt.token_ids) > 64
    asked = request(0, prompt)

    def worst(seed: int) -> float:
        engine.submit([asked])
        list(engine.finished())  # fills the caches
        moved(kit, seed, part)
        engine.load_weights(weights_of(kit.model), version=seed)
        return gap_to_trainer(kit, asked, sampled(engine, [asked])[0])

    assert worst(4) < NATS
    monkeypatch.setattr(engine._llm, reset, lambda: True)
    assert worst(5) > 10 * NATS


def test_siblings_share_their_prompt(kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches prompts that are different to vLLM though they are the same to us: a group would pay for each."""
    cached: list[int] = []
    real = engine._reply

    def noted(asked: Request, output: Any) -> Reply:
        cached.append(output.num_cached_tokens)
        return real(asked, output)

    monkeypatch.setattr(engine, "_reply", noted)
    prompt = kit.prompt("x", kit.picture(3, 168, 140), "a text that fills more than one block of the cache with tokens")
    sampled(engine, [request(n, prompt) for n in range(6)])
    assert len(cached) == 6 and sum(n >= 32 for n in cached) >= 5


def test_submit_while_reading_and_cancel(kit: Kit, engine: VllmEngine) -> None:
    """Catches a reader that ends before what was submitted meanwhile, a reply to a cancelled request, and a stream that a
    reader who stopped early cannot take up again."""
    prompts = kit.prompts()
    engine.submit([request(n, prompts[n % 4], max_new_tokens=2 + 2 * n) for n in range(6)])
    seen: list[int] = []
    for reply in engine.finished():
        seen.append(reply.id)
        if reply.id == 0:
            engine.submit([request(100, prompts[1]), request(101, prompts[2])])
            engine.cancel([5, 101, 999])
        if len(seen) == 2:
            break
    seen += [reply.id for reply in engine.finished()]
    assert sorted(seen) == [0, 1, 2, 3, 4, 100]
    assert list(engine.finished()) == []
    assert sampled(engine, [request(5, prompts[0])])[0].id == 5  # its id is free again


def test_why_replies_end(kit: Kit, engine: VllmEngine) -> None:
    """Catches a stop token that is cut off or run over, and limits that are taken for each other."""
    prompt = kit.prompts()[1]
    room = CONTEXT - len(prompt.token_ids)
    asked = [request(n, prompt, max_new_tokens=25, temperature=1.5) for n in range(32)]
    asked += [request(100, prompt, max_new_tokens=room + 9), request(101, prompt, max_new_tokens=room)]
    stops = {reply.id: reply for reply in sampled(engine, asked)}
    ended = [reply for reply in stops.values() if reply.stop == "eos"]
    assert ended, "no reply met a stop token: choose another seed"
    for reply in ended:
        assert reply.token_ids[-1] in kit.adapter.stop_ids
    for reply in stops.values():
        assert not np.isin(reply.token_ids[:-1], kit.adapter.stop_ids).any()
        if reply.stop != "eos":
            assert len(reply.token_ids) == min(asked[min(reply.id, 32)].max_new_tokens, room)
            assert reply.stop == ("context" if reply.id == 100 else "length")
    full = Encoded(np.resize(kit.prompts()[0].token_ids, CONTEXT).astype(np.int32), ())
    (empty,) = sampled(engine, [request(0, full)])
    assert empty.stop == "context" and len(empty.token_ids) == len(empty.logprobs) == 0


def test_bad_requests_queue_nothing(kit: Kit, engine: VllmEngine) -> None:
    """Catches a bad request that takes the good ones before it along, or brings vLLM down."""
    text, one, *_ = kit.prompts()
    good = request(0, text)
    stranger = replace(one.images[0], sha="0" * 64)
    bad = {
        "in work already": request(0, one),
        "placeholders": Request(1, text.token_ids, one.images, 0, 4),
        "image placeholders for 0": Request(1, one.token_ids, (), 0, 4),
        "outside the vocabulary": Request(1, np.array([10**6], np.int32), (), 0, 4),
        "no tokens": Request(1, np.zeros(0, np.int32), (), 0, 4),
        "temperature": request(1, text, temperature=0.0),
        "top_p": request(1, text, top_p=0.0),
    }
    for said, wrong in bad.items():
        with pytest.raises(EngineError, match=said):
            engine.submit([good, wrong])
        assert list(engine.finished()) == []
    with pytest.raises(DataError, match="no picture"):
        engine.submit([Request(1, one.token_ids, (stranger,), 0, 4)])
    assert len(sampled(engine, [good])) == 1


def test_vllm_may_not_resize_a_picture(kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches vLLM's own preprocessing: it must be an error, not another model. Of half the size a picture has other cells; with
    its sides swapped it has as many, and only the numbers tell."""
    flat = kit.picture(70, 56, 112)
    pixels = kit.images.get(flat.sha)
    for other in (pixels[:28, :56], pixels.transpose(1, 0, 2).copy(), pixels[:, ::-1].copy()):
        monkeypatch.setattr(engine._prompts, "_compared", set())
        monkeypatch.setattr(engine._prompts, "_images", Swapped(kit, flat, other))
        engine._llm.reset_mm_cache()
        with pytest.raises(EngineError, match=r"tokens of a prompt|would resize|differ by"):
            engine.submit([request(0, kit.prompt(flat, "?"))])
        monkeypatch.undo()
    engine._llm.reset_mm_cache()


class Swapped:
    """A store that gives vLLM other pixels the first time it is asked for a picture."""

    def __init__(self, kit: Kit, image: Image, pixels: np.ndarray) -> None:
        self.kit, self.image, self.answers = kit, image, [pixels]

    def get(self, sha: str) -> np.ndarray:
        return self.answers.pop() if sha == self.image.sha and self.answers else self.kit.images.get(sha)

    def put(self, pixels: np.ndarray) -> Image:
        return self.kit.images.put(pixels)


@pytest.mark.parametrize("in_place", [False, True])
def test_weights_that_do_not_fit_leave_no_weights(kit: Kit, engine: VllmEngine, in_place: bool) -> None:
    """Catches an update of some tensors that is taken for a whole one, and an engine that cannot be given weights again."""
    whole = list(weights_of(kit.model))
    name, tensor = whole[5]
    wrong: dict[str, Iterable[tuple[str, torch.Tensor]]] = {
        "were not sent": whole[:5] + whole[6:],
        "no place": [*whole, ("model.nowhere", tensor)],
        "wanted": [*whole[:5], (name, tensor[:-1])],
        "sent twice": [*whole, whole[0]],
    }
    for said, source in wrong.items():
        with pytest.raises(EngineError, match=said):
            engine.load_weights(source, version=9, in_place=in_place)
        with pytest.raises(EngineError, match="no weights"):
            engine.submit([request(0, kit.prompts()[0])])
    assert engine.load_weights(reversed(whole), version=5) == digest(whole)
    engine.submit([request(0, kit.prompts()[0])])
    with pytest.raises(EngineError, match="while requests are running"):
        engine.load_weights(whole, version=6)
    with pytest.raises(EngineError, match="while requests are running"):
        engine.score(kit.prompts()[0].token_ids, ())
    assert [reply.version for reply in engine.finished()] == [5]


def test_a_game_of_three_turns_with_pictures(kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the turns after the first: prompts that hold replies, and pictures that come later."""
    real = engine.finished
    # A cut reply ends a game, and a random model rarely stops: here every reply ends where it is cut.
    monkeypatch.setattr(engine, "finished", lambda: (replace(reply, stop="eos") for reply in real()))
    problem = Problem("g", (message(kit, 0),), "", env="game")
    sampling = Sampling(5, 0.9, max_context=CONTEXT)
    with engine.awake():
        played = play([(problem, s) for s in range(3)], engine, kit.adapter, partial(Three, kit), sampling, (0,))
    for (rollout,) in played:
        assert len(turns_of((rollout,))) == 3 and len(rollout.images) == 3
        ours = trainers(kit, rollout.token_ids, rollout.images, 0.9)
        np.testing.assert_allclose(rollout.logprobs, np.where(rollout.trainable, ours, 0), atol=NATS, rtol=0)


def test_sleeping_between_steps(kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a sync or a request that meets a sleeping vLLM. Its worker gives no memory back on the CPU, but its scheduler and
    its executor sleep and wake as on a GPU."""
    monkeypatch.setattr(engine, "_sleeps", True)
    asked = request(0, kit.prompts()[1])
    for seed in (1, 2):
        with engine.awake():
            assert not engine._llm.is_sleeping()
            assert gap_to_trainer(kit, asked, sampled(engine, [asked])[0]) < NATS
        assert engine._llm.is_sleeping()
        moved(kit, seed)
        engine.load_weights(weights_of(kit.model), version=seed)
        ours = engine.score(asked.token_ids, asked.images)
        np.testing.assert_allclose(ours, trainers(kit, asked.token_ids, asked.images, 1.0), atol=NATS, rtol=0)
    with engine.awake(("weights",)):
        engine.submit([asked])
    assert not engine._llm.is_sleeping()
    with engine.awake():
        pass
    assert not engine._llm.is_sleeping(), "a request is running"
    assert [reply.id for reply in engine.finished()] == [0]


def test_why_vllm_does_not_start(kit: Kit, engine: VllmEngine, tmp_path: Path) -> None:
    """Catches a traceback of vLLM, or an engine on another device than the trainer's."""
    with pytest.raises(EngineError, match="runs on cpu, the recipe on cuda"):
        VllmEngine(kit.folder, kit.model.config, kit.adapter, kit.images, device="cuda")
    with pytest.raises(EngineError, match="does not start") as caught:
        VllmEngine(tmp_path, kit.model.config, kit.adapter, kit.images)
    assert "\n" not in str(caught.value)


def test_an_engine_that_dies_says_so_once_and_for_all(
    kit: Kit, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a fault of vLLM that leaves the command as a traceback, and one after which the engine goes on."""

    def broken() -> list[Any]:
        raise RuntimeError("out of memory")

    engine.submit([request(n, kit.prompts()[n]) for n in range(3)])
    names = list(engine._running)
    monkeypatch.setattr(engine._llm, "step", broken)
    with pytest.raises(EngineError, match="out of memory"):
        list(engine.finished())
    monkeypatch.undo()
    for call in (
        lambda: engine.submit([request(9, kit.prompts()[0])]),
        lambda: engine.load_weights(weights_of(kit.model), 1),
        lambda: engine.score(kit.prompts()[0].token_ids, ()),
    ):
        with pytest.raises(EngineError, match="out of memory"):
            call()
    assert list(engine.finished()) == []
    engine._fault = ""  # vLLM itself is well, and serves the other tests
    engine._llm.abort_request(names)
