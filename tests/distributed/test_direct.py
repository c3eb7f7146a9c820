"""Weights that go from ranks to engines past the process of the loop: what arrives, and what becomes of the lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmm_r1.config import AlgorithmConfig, Data, Model, Stage, Update
from lmm_r1.config import Cluster as Knobs
from lmm_r1.data.images import ImageStore
from lmm_r1.errors import EngineError, RankLostError
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.rollout.weights import Probe, digest_of_lines, weight_line
from lmm_r1.types import Reply, Request
from tests.distributed.processes import listening, orphans
from tests.distributed.support import required

required("ray")
from lmm_r1.distributed import ray_trainer  # noqa: E402
from lmm_r1.distributed.cluster import Cluster  # noqa: E402
from lmm_r1.distributed.direct import DirectLink  # noqa: E402
from lmm_r1.distributed.ray_engine import RayEngine  # noqa: E402
from lmm_r1.distributed.ray_trainer import RayTrainer  # noqa: E402

STAGE = Stage(
    steps=4,
    data=(Data(domain="text"),),
    algorithm=AlgorithmConfig(kl_coef=0.0),
    update=Update(lr=1e-3, micro_tokens=400),
)
RANK = {
    "start": str(MICRO_DIR), "model": Model().model_dump(), "stage": STAGE.model_dump(by_alias=True),
    "exact": True, "critic_seed": 3, "offload": False, "device": "cpu", "sequence": 1,
}  # fmt: skip
#: 127.0.0.1 as the kernel writes it, for sockets of both families.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
KINDS = {"shared": ("colocated", 0), "broadcast": ("split", 1)}


@dataclass
class Rig:
    cluster: Cluster
    engine: RayEngine
    images: ImageStore
    tricks: Path
    told: list[str]
    trainer: RayTrainer
    kind: str

    def play(self, trick: str) -> None:
        (self.tricks / trick).touch()

    def link(self) -> DirectLink:
        ids = np.arange(300, 340, dtype=np.int32)
        shared = self.kind == "shared"
        return DirectLink(
            self.cluster, self.trainer, self.engine, [Probe(ids, ())], 1.0, shared=shared, device="cpu"
        )  # fmt: skip

    def sample(self) -> dict[int, Reply]:
        ids = np.arange(300, 320, dtype=np.int32)
        requests = [Request(n, ids + n // 4, (), seed=100 + n, max_new_tokens=20) for n in range(16)]
        with self.engine.awake():
            self.engine.submit(requests)
            return {reply.id: reply for reply in self.engine.finished()}

    def workers(self) -> list[int]:
        return self.cluster.pids([*self.trainer.workers, *(post.worker for post in self.engine._posts)])


@pytest.fixture(scope="module", params=list(KINDS))
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    layout, ahead = KINDS[request.param]
    folder = tmp_path_factory.mktemp("cluster")
    tricks = folder / "tricks"
    tricks.mkdir()
    told: list[str] = []
    before = set(os.listdir("/dev/shm"))
    knobs = Knobs(address="local", ranks=2, engines=2, layout=layout, ahead=ahead, lost_s=10.0, restarts=20)
    with Cluster(knobs, folder, note=told.append) as cluster:
        images = ImageStore()
        arguments: dict[str, Any] = {
            "folder": str(MICRO_DIR), "model": Model().model_dump(), "tricks": str(tricks), "slots": 8, "max_context": 256,
        }  # fmt: skip
        engine = RayEngine(cluster, images, "tests.distributed.tricky:tricky", arguments)
        trainer = RayTrainer(cluster, images, RANK)
        yield Rig(cluster, engine, images, tricks, told, trainer, request.param)
    assert not orphans(before), "shared memory is left"


def start_weights() -> dict[str, torch.Tensor]:
    return dict(load_model(str(MICRO_DIR), dtype="float32", device="cpu").named_parameters())


def by_lanes(weights: dict[str, torch.Tensor]) -> str:
    return digest_of_lines(weight_line(name, tensor, lanes=True) for name, tensor in weights.items())


def assert_same(ours: dict[int, Reply], theirs: dict[int, Reply]) -> None:
    assert ours.keys() == theirs.keys()
    for number, reply in ours.items():
        assert np.array_equal(reply.token_ids, theirs[number].token_ids)
        assert np.abs(reply.logprobs - theirs[number].logprobs).max() < 1e-4


def test_the_trainers_weights_arrive(rig: Rig) -> None:
    """Would catch weights of another step or dtype, an engine that was left out, and a port that others can reach."""
    link = rig.link()
    assert link.sync(7) == by_lanes(start_weights())
    assert rig.engine.version == 7 and link.sync(8) == by_lanes(start_weights())
    ids = np.arange(300, 340, dtype=np.int32)
    assert np.abs(rig.engine.score(ids, ()) - rig.trainer.score(ids, ())).max() < 1e-4
    assert {reply.version for reply in rig.sample().values()} == {8}
    assert {address for _, address in listening(rig.workers())} <= LOOPBACK and not rig.told


def test_an_engine_that_is_lost_later_gets_them_too(rig: Rig) -> None:
    """Would catch an engine that comes back without weights, or with those of another way, in the middle of a batch."""
    link = rig.link()
    link.sync(9)
    expected = rig.sample()
    rig.play("die")
    rig.told.clear()
    assert_same(rig.sample(), expected)
    assert len(rig.told) == 1 and "process died" in rig.told[0]
    link.sync(10)  # the one in its place is met
    assert_same(rig.sample(), expected)


@pytest.mark.parametrize("trick", ["die_loading", "die_midway", "stop_midway"])
def test_an_engine_that_is_lost_in_a_transfer_is_replaced(rig: Rig, trick: str) -> None:
    """Would catch ranks that wait for ever for an engine, and a transfer of which one engine has a part."""
    link = rig.link()
    link.sync(11)
    expected = rig.sample()
    rig.told.clear()
    rig.play(trick)
    assert link.sync(12) == by_lanes(start_weights())
    assert len(rig.told) == 1 and ("no sign of life" if "stop" in trick else "process died") in rig.told[0]
    assert_same(rig.sample(), expected)


def test_a_fault_of_an_engine_is_told_and_leaves_nobody_waiting(rig: Rig) -> None:
    """Would catch a fault that is hidden behind "another process left", weights that are half old, and a proof of nothing."""
    link = rig.link()
    link.sync(13)
    rig.play("refuse_midway")
    with pytest.raises(EngineError, match="takes no more"):
        link.sync(14)
    with pytest.raises(EngineError, match="no weights"):
        rig.sample()
    rig.play("lossy")
    with pytest.raises(EngineError, match="did not arrive"):
        link.sync(14)
    with pytest.raises(EngineError, match="no weights"):
        rig.sample()
    assert rig.engine.version == 13 and link.sync(14) == by_lanes(start_weights())
    assert len(rig.sample()) == 16


def test_a_rank_that_is_lost_in_a_transfer_ends_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch engines that wait for ever for a rank, and a loss that is blamed on an engine."""
    monkeypatch.setattr(ray_trainer, "COLLECTIVE_LIMIT_S", 60.0)
    link = rig.link()
    for victim in (1,) if rig.kind == "shared" else (0, 1):  # the first sends a broadcast, the others gather with it
        link.sync(15)
        (pid,) = rig.cluster.pids([rig.trainer.workers[victim]])
        os.kill(pid, signal.SIGSTOP)  # so that it dies in the transfer, not before
        threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(RankLostError, match=f"rank {victim}"):
            link.sync(16)
        rig.trainer.close()
        rig.trainer = RayTrainer(rig.cluster, rig.images, RANK)
        link = rig.link()
        assert link.sync(16) == by_lanes(start_weights())
    assert len(rig.sample()) == 16
