"""RayEngine: the embedded engine's replies from several processes, whatever becomes of them.

The tests share one cluster and one engine; each plays its own trick (tricky.py) and leaves both in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.distributed.support import required

required("ray")

import ray  # noqa: E402

from lmm_r1.config import Cluster as Knobs  # noqa: E402
from lmm_r1.config import Model, Update  # noqa: E402
from lmm_r1.distributed.cluster import Call, Cluster, Worker  # noqa: E402
from lmm_r1.distributed.ray_engine import RayEngine, deal  # noqa: E402
from lmm_r1.distributed.shipment import ship, unpack  # noqa: E402
from lmm_r1.errors import EngineError  # noqa: E402
from lmm_r1.rollout.weights import LocalLink, Probe, digest  # noqa: E402
from lmm_r1.trainers.local import LocalTrainer  # noqa: E402
from lmm_r1.types import Image, Reply, Request  # noqa: E402
from tests.distributed.processes import until  # noqa: E402
from tests.distributed.tricky import kit_arguments  # noqa: E402
from tests.rollout.engine_fixture import Kit, make_kit, weights_of  # noqa: E402


@dataclass
class Rig:
    """What the tests share. tricks: folder whose files make an engine misbehave; told: notes of the cluster."""

    kit: Kit
    cluster: Cluster
    engine: RayEngine
    tricks: Path
    told: list[str]

    def play(self, trick: str) -> None:
        (self.tricks / trick).touch()

    def requests(self, siblings: int = 4, tokens: int = 24) -> list[Request]:
        prompts = [p for p in self.kit.prompts() for _ in range(siblings)]
        return [Request(n, p.token_ids, p.images, seed=100 + n, max_new_tokens=tokens) for n, p in enumerate(prompts)]

    def expected(self, requests: list[Request]) -> dict[int, Reply]:
        """The replies of one embedded engine in this process."""
        engine = self.kit.engine()
        engine.submit(requests)
        return {reply.id: reply for reply in engine.finished()}

    def sample(self, requests: list[Request]) -> list[Reply]:
        with self.engine.awake():
            self.engine.submit(requests)
            return list(self.engine.finished())


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    kit = make_kit(tmp_path_factory.mktemp("micro"), spread=3.0)
    tricks, told = tmp_path_factory.mktemp("tricks"), []
    knobs = Knobs(address="local", engines=2, lost_s=6.0, restarts=100)
    with Cluster(knobs, tmp_path_factory.mktemp("workers"), note=told.append) as cluster:
        arguments = {**kit_arguments(kit.folder, Model().model_dump()), "tricks": str(tricks)}
        engine = RayEngine(cluster, kit.images, "tests.distributed.tricky:tricky", arguments)
        engine.load_weights(weights_of(kit.model), version=3)
        yield Rig(kit, cluster, engine, tricks, told)


@pytest.fixture(autouse=True)
def in_order(rig: Rig) -> Iterator[None]:
    """Every test begins and ends with weights, without tricks that nobody played."""
    rig.told.clear()
    yield
    for file in rig.tricks.iterdir():
        played = file.suffix[1:].isdecimal()
        file.unlink()
        assert played, f"nobody played {file.name}"


def assert_same(found: list[Reply], expected: dict[int, Reply]) -> None:
    """Exactly one reply each, with the tokens and log-probs of an undisturbed run."""
    assert sorted(reply.id for reply in found) == sorted(expected)
    for reply in found:
        wanted = expected[reply.id]
        assert (reply.stop, reply.version) == (wanted.stop, wanted.version)
        np.testing.assert_array_equal(reply.prompt_ids, wanted.prompt_ids)
        np.testing.assert_array_equal(reply.token_ids, wanted.token_ids)
        np.testing.assert_allclose(reply.logprobs, wanted.logprobs, atol=1e-5, rtol=0)


def test_replies_are_those_of_the_embedded_engine(rig: Rig) -> None:
    """Would catch a picture that arrives as another, a seed or temperature lost on the way, and an engine that idles."""
    requests = [replace(r, temperature=0.7 + 0.1 * (r.id % 3)) for r in rig.requests()]
    expected = rig.expected(requests)
    assert len({tuple(r.token_ids) for r in expected.values()}) > len(requests) // 2
    rig.engine.submit(requests)
    assert [len(post.inbox) for post in rig.engine._posts] == [8, 8]
    assert_same(list(rig.engine.finished()), expected)
    assert list(rig.engine.finished()) == []


def test_dealing_keeps_siblings_together_and_balances_tokens() -> None:
    """Would catch siblings spread over engines (each would run the prompt), an idle engine, and dealing by the clock."""

    def request(number: int, prompt: int, length: int, tokens: int) -> Request:
        return Request(number, np.full(length, prompt, np.int32), (), number, tokens)

    groups = [(prompt, 10 + prompt, 20) for prompt in range(6)]
    requests = [request(4 * g + k, *groups[g]) for g in range(6) for k in range(4)]
    engines = deal(requests, [0, 0])
    assert engines == deal(requests, [0, 0])
    for g in range(6):
        assert len(set(engines[4 * g : 4 * g + 4])) == 1
    assert engines.count(0) == engines.count(1)
    assert set(deal(requests[:4], [0, 10**6])) == {0}  # one is busy
    alone = deal([request(n, 1, 10, 20) for n in range(8)], [0, 0, 0, 0])
    assert sorted(alone) == [0, 0, 1, 1, 2, 2, 3, 3]  # one prompt alone would leave three engines idle
    picture = [replace(r, images=(Image(str(r.id % 2), 28, 28),)) for r in (request(n, 1, 10, 20) for n in range(4))]
    assert deal(picture, [0, 0]) == [0, 1, 0, 1]  # the same tokens, other pictures: two prompts


def test_later_turns_stay_where_the_first_was(rig: Rig) -> None:
    """Would catch replies lost when a reader submits upon a reply, and turns that wander with the clock."""
    first = rig.requests(siblings=2, tokens=6)
    rig.engine.submit(first)
    where = {r.id: post.index for post in rig.engine._posts for r in post.inbox}
    seen: list[Reply] = []
    later = {r.id: replace(r, seed=r.seed + 1000, token_ids=r.token_ids.copy()) for r in first}
    expected = rig.expected(list(later.values()))
    for reply in rig.engine.finished():
        seen.append(reply)
        if len([r for r in seen if r.id == reply.id]) == 1:
            rig.engine.submit([later[reply.id]])
            (post,) = [p for p in rig.engine._posts if any(r.id == reply.id for r in p.inbox)]
            assert post.index == where[reply.id]
    assert len(seen) == 2 * len(first)
    again = {number: [r for r in seen if r.id == number][1] for number in later}
    assert_same(list(again.values()), expected)


def test_cancelled_requests_get_no_reply_and_ids_can_be_used_again(rig: Rig) -> None:
    """Would catch a reply of a cancelled request that was under way, and an engine that waits for it."""
    requests = rig.requests(siblings=4, tokens=12)
    expected = rig.expected(requests)
    rig.engine.submit(requests)
    found = []
    for reply in rig.engine.finished():
        found.append(reply)
        if len(found) == 1:
            left = [r for r in requests if r.id != reply.id]
            rig.engine.cancel([*(r.id for r in left[::2]), 999])
            rig.engine.submit([left[0]])
    gone = {r.id for r in left[2::2]}
    assert_same(found, {number: reply for number, reply in expected.items() if number not in gone})
    rig.engine.submit(requests)
    next(rig.engine.finished())
    rig.engine.cancel(r.id for r in requests)  # all, with the engines at work
    assert list(rig.engine.finished()) == []
    rig.engine.load_weights(weights_of(rig.kit.model), version=3)  # refused while anything runs
    assert_same(rig.sample(requests), expected)


def test_refusals(rig: Rig) -> None:
    """Would catch sampling without weights, weights that change under running replies, an id used twice, a lost picture, and
    a fault that ends in restarts instead of a message."""
    requests = rig.requests(siblings=1)
    rig.engine.submit(requests[:1])
    with pytest.raises(EngineError, match="in work already"):
        rig.engine.submit(requests)
    with pytest.raises(EngineError, match="requests are running"):
        rig.engine.load_weights(weights_of(rig.kit.model), version=4)
    assert len(list(rig.engine.finished())) == 1
    with pytest.raises(EngineError, match="no picture"):
        rig.engine.submit([replace(requests[1], images=(Image("0" * 64, 28, 28),))])
    rig.engine.submit([replace(requests[1], images=())])
    with pytest.raises(EngineError, match="placeholders"):
        list(rig.engine.finished())
    assert list(rig.engine.finished()) == []
    rig.engine.unload()
    with pytest.raises(EngineError, match="no weights"):
        rig.engine.submit(requests)
    with pytest.raises(EngineError, match="not sent"):
        rig.engine.load_weights(itertools.islice(weights_of(rig.kit.model), 5), version=3)
    with pytest.raises(EngineError, match="no weights"):
        rig.engine.submit(requests)
    rig.engine.load_weights(weights_of(rig.kit.model), version=3)
    assert_same(rig.sample(requests), rig.expected(requests))
    assert rig.told == []


def test_a_picture_travels_once_and_is_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch pixels sent per reply, and workers that collect the pictures of a whole run."""
    sent: list[tuple[str, str]] = []
    honest = rig.cluster.call

    def call(worker: Worker, method: str, *arguments: object) -> Call:
        if method == "advance":
            sent.extend((worker.name, sha) for sha in arguments[0])  # type: ignore[attr-defined]
        if method == "forget":
            sent.append((worker.name, "forget"))
        return honest(worker, method, *arguments)

    monkeypatch.setattr(rig.cluster, "call", call)
    text = [replace(r, id=r.id + 500) for r in rig.requests() if not r.images]
    rig.sample(text)
    sent.clear()
    rig.sample(rig.requests(siblings=3))
    shas = {i.sha for r in rig.requests() for i in r.images}
    assert {sha for _, sha in sent} == shas and len(sent) == len(set(sent)) <= 2 * len(shas)
    sent.clear()
    rig.sample(rig.requests(siblings=3))
    assert sent == []  # the same pictures again
    rig.sample(text)
    assert {what for _, what in sent} == {"forget"}
    assert all(not post.known for post in rig.engine._posts)


@pytest.mark.parametrize(
    ("trick", "why"),
    [
        ("die", "process died"),
        ("stop", "no sign of life"),
        ("twice", "which it did not owe"),
        ("other_prompt", "another prompt"),
    ],
)
def test_a_lost_engine_costs_no_reply(rig: Rig, trick: str, why: str) -> None:
    """Would catch a run that hangs, a reply that is lost, comes twice or of other weights, and rollouts that count as failed,
    when a worker is killed in the middle of a batch, is stopped, or returns what it was not asked for."""
    requests = rig.requests(siblings=8)  # an engine answers two at once
    expected = rig.expected(requests)
    rig.play(trick)
    assert_same(rig.sample(requests), expected)
    assert len(rig.told) == 1 and why in rig.told[0]
    assert_same(rig.sample(requests), expected)  # and nothing was left behind


def test_an_engine_that_loses_a_request_is_a_fault(rig: Rig) -> None:
    """Would catch a step that waits for ever for one reply."""
    rig.play("lose")
    with pytest.raises(EngineError, match="never answered 1 requests"):
        rig.sample(rig.requests(siblings=1, tokens=4))
    assert_same(rig.sample(rig.requests()), rig.expected(rig.requests()))


def test_weights_reach_all_engines_and_are_proved(rig: Rig) -> None:
    """Would catch stale weights in one engine, a version that moves without them, and shared memory that fills up."""
    trainer = LocalTrainer(rig.kit.model, None, rig.kit.adapter, Update(), total_updates=1, temperature=0.8)
    text, picture = rig.kit.prompts()[:2]
    probes = [Probe(text.token_ids, ()), Probe(picture.token_ids, picture.images)]
    link = LocalLink(trainer, rig.engine, probes, temperature=0.8)
    start = [(name, weight.clone()) for name, weight in trainer.weights()]
    size = sum(weight.nbytes for _, weight in start)
    seen = set()
    try:
        for version in (11, 12, 13):
            if version == 12:
                rig.play("die_loading")
            assert link.sync(version) == digest(trainer.weights())
            seen.add(rig.engine.score(probes[1].token_ids, probes[1].images, 0.8).tobytes())
            requests = [replace(r, temperature=0.8) for r in rig.requests(siblings=1)]
            assert {reply.version for reply in rig.sample(requests)} == {version}
            assert until(lambda: stored_bytes() < 1.5 * size), stored_bytes() / size
            with torch.no_grad():
                for _, weight in trainer.weights():
                    weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(version))
        assert len(seen) == 3 and len(rig.told) == 1
        rig.play("skew")
        with pytest.raises(EngineError, match=r"engines 0 and 1 differ by 0\.5 nats"):
            link.sync(14)
        assert rig.engine.version == 13
        rig.play("lossy")
        with pytest.raises(EngineError, match="different weights"):
            link.sync(15)
        assert until(lambda: stored_bytes() < 0.5 * size), (
            stored_bytes() / size
        )  # a transfer that failed leaves nothing
        with pytest.raises(EngineError, match="no weights"):
            rig.engine.submit(rig.requests())
    finally:
        with torch.no_grad():
            for (_, weight), (_, before) in zip(trainer.weights(), start, strict=True):
                weight.copy_(before)
    rig.engine.load_weights(weights_of(rig.kit.model), version=3)


def stored_bytes() -> float:
    """Bytes in the object store, as the cluster last heard."""
    free = ray.available_resources().get("object_store_memory", 0.0)
    return float(ray.cluster_resources()["object_store_memory"] - free)


def test_weights_of_every_kind_travel_bit_by_bit(rig: Rig) -> None:
    """Would catch a bucket that is cut or misaligned, a dtype that is widened, and empty or scalar tensors."""
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
    weights = [(f"w{n}", torch.arange(n, dtype=torch.float32).to(kind)) for n, kind in enumerate(kinds * 3)]
    weights += [("scalar", torch.tensor(2.5)), ("matrix", torch.arange(12.0).reshape(3, 4).T)]
    whole = ship(iter(weights), object_bytes=100)
    assert len(whole.references) > 3
    assert digest(unpack(whole)) == digest(weights)


def test_a_run_that_lost_too_many_workers_stops(rig: Rig) -> None:
    """Would catch restarts without end, and a lost engine that passes for a zero reward."""
    rig.cluster.restarts_left = 0
    rig.play("die")
    with pytest.raises(EngineError, match=r"engine \d: its process died.*cluster.restarts") as caught:
        rig.sample(rig.requests())
    assert caught.value.exit_code == 7
