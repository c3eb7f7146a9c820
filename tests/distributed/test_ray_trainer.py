"""The trainer whose ranks are workers of a cluster: the local trainer's numbers, and what becomes of lost ranks."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import AlgorithmConfig, Data, Lora, Model, Stage, Update
from lmm_r1.config import Cluster as Knobs
from lmm_r1.data.images import ImageStore
from lmm_r1.errors import CheckpointError, EngineError, NumericError, RankLostError
from lmm_r1.evaluation.suites import suite
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.critic import Critic
from lmm_r1.models.load import load_model
from lmm_r1.models.lora import add_adapters
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.runs.checkpoint import save_checkpoint
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Credit, Rollout, Sample, Turn
from tests.distributed.processes import until
from tests.distributed.support import required

required("ray")
from lmm_r1.distributed.cluster import Cluster  # noqa: E402
from lmm_r1.distributed.ray_trainer import RayTrainer  # noqa: E402

STAGE = Stage(
    steps=4,
    data=(Data(domain="text"),),
    algorithm=AlgorithmConfig(name="ppo", kl_coef=0.1, kl_place="loss", kl_estimator="k3"),
    update=Update(lr=1e-4, micro_tokens=400),
)
ADAPTED = STAGE.model_copy(update={"lora": Lora(rank=4, alpha=8.0, parts=("vision", "merger", "language"))})
LOST_S = 15.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(Knobs(address="local", ranks=2, engines=1, lost_s=LOST_S), tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="module")
def images() -> ImageStore:
    return ImageStore()


@contextmanager
def trainer(
    cluster: Cluster, images: ImageStore, start: Path = MICRO_DIR, stage: Stage = STAGE
) -> Iterator[RayTrainer]:
    arguments: dict[str, Any] = {
        "limit_s": 60.0, "start": str(start), "model": Model().model_dump(), "stage": stage.model_dump(by_alias=True),
        "exact": True, "critic_seed": 3, "adapters_seed": 11, "offload": False, "device": "cpu", "sequence": cluster.knobs.sequence,
    }  # fmt: skip
    made = RayTrainer(cluster, images, arguments)
    try:
        yield made
    finally:
        made.close()


def local(images: ImageStore, lora: Lora | None = None) -> LocalTrainer:
    """The same trainer in this process."""
    policy, reference, trunk = (load_model(str(MICRO_DIR), dtype="float32", device="cpu") for _ in range(3))
    if lora is not None:  # as build.py seeds them
        for network, seed in ((policy, 11), (trunk, 4)):
            add_adapters(network, rank=lora.rank, alpha=lora.alpha, parts=lora.parts, seed=seed)
        reference = None
    critic = Critic(trunk.model, policy.config.text_config.hidden_size, 3)
    adapter = make_adapter(str(MICRO_DIR), images, Model())
    return LocalTrainer(policy, reference, adapter, STAGE.update, STAGE.steps, critic=critic)


def rollouts(images: ImageStore, seed: int = 0) -> list[Rollout]:
    """Made-up replies to two text problems and three with pictures."""
    adapter = make_adapter(str(MICRO_DIR), images, Model())
    rng = np.random.default_rng(seed)
    made = []
    for problem in (*suite("text").problems(images, 2), *suite("geometry").problems(images, 3)):
        prompt = adapter.encode(problem.messages)
        for sibling in range(2):
            ids = np.concatenate([prompt.token_ids, rng.integers(20, 60, 5 + sibling)]).astype(np.int32)
            start, end = len(prompt.token_ids), len(ids)
            trainable = np.arange(end) >= start
            zeros = np.zeros(end, np.float32)
            turns = (Turn(start, end, ""),)
            made.append(Rollout(problem, sibling, 0, 0, ids, trainable, zeros, prompt.images, turns, "eos", ()))
    return made


def step(owner: Any, made: list[Rollout]) -> tuple[list[Sample], dict[str, float]]:
    """Anchors, made-up credit, an update."""
    algorithm = make_algorithm(STAGE.algorithm, 1, STAGE.rollout.max_new_tokens, True)
    rng = np.random.default_rng(5)
    credits = [Credit(*((r.trainable * rng.normal()).astype(np.float32) for _ in range(2))) for r in made]
    anchors = owner.anchors(made, algorithm.needs)
    samples = [Sample(*parts) for parts in zip(made, anchors, credits, strict=True)]
    return samples, owner.update(samples, algorithm)


def weights_of(owner: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in owner.weights()}


def test_ranks_in_workers_train_as_one_process(cluster: Cluster, images: ImageStore, tmp_path: Path) -> None:
    """Catches anchors that come back in another order, pictures that do not travel, a critic or reference of other weights,
    stale weights after an update, and checkpoints that one side cannot read."""
    made, alone = rollouts(images), local(images)
    with trainer(cluster, images) as many:
        before = weights_of(many)
        assert all(torch.equal(before[name], tensor) for name, tensor in alone.weights())
        ours, said = step(many, made)
        theirs, wanted = step(alone, made)
        for a, b in zip(ours, theirs, strict=True):
            for name in ("old_logprobs", "ref_logprobs", "values"):
                assert float(np.abs(getattr(a.anchors, name) - getattr(b.anchors, name)).max()) < 1e-4, name
        assert said.keys() == wanted.keys()
        for name, value in wanted.items():
            assert said[name] == pytest.approx(value, rel=1e-3, abs=2e-4), name
        assert said["ratio_error/max"] < 1e-5  # the same shares for anchors and update
        after = weights_of(many)
        assert any(not torch.equal(after[name], before[name]) for name in after)
        assert max(float((after[n] - t).abs().max()) for n, t in alone.weights()) < 2.1e-4  # AdamW's first step: 2 lr
        probe = made[-1]
        gap = np.abs(many.score(probe.token_ids, probe.images) - alone.score(probe.token_ids, probe.images)).max()
        assert gap < 5e-2  # the signs of tiny gradients may differ
        saved = save_checkpoint(tmp_path, 1, many.save, {}, 1)
        many.forget(())
        alone.load(saved, {"updates": 1})
        assert all(torch.equal(after[name], tensor) for name, tensor in alone.weights())
        step(alone, made)
        again = save_checkpoint(tmp_path, 2, alone.save, {}, 2)
        many.load(again, {"updates": 2})
        restored = weights_of(many)
        assert all(torch.equal(restored[name], tensor) for name, tensor in alone.weights())
        step(many, made)
        step(alone, made)
        assert max(float((weights_of(many)[n] - t).abs().max()) for n, t in alone.weights()) < 2e-5
        with pytest.raises(CheckpointError, match="share"):
            many.save(tmp_path / "nowhere")
        blocked = tmp_path / "blocked"
        (blocked / "shard-00002-model-00001-of-00001.safetensors").mkdir(parents=True)
        with pytest.raises(CheckpointError, match="cannot be written"):  # by one rank, for a reason of its own
            many.save(blocked)
        assert step(many, made)[1]["tokens"] > 0  # and the ranks are still there


def test_ranks_in_workers_train_the_adapters_of_one_process(
    cluster: Cluster, images: ImageStore, tmp_path: Path
) -> None:
    """Catches adapters of a policy or a critic that are drawn otherwise than in one process, or otherwise on each rank, a
    reference that is not the start model, and weights or checkpoints that are not those of one process."""
    pytest.importorskip("peft", reason='adapters need peft: pip install "lmm-r1[lora]"')
    made, alone = rollouts(images), local(images, ADAPTED.lora)
    with trainer(cluster, images, stage=ADAPTED) as many:
        before = weights_of(many)
        assert before.keys() == weights_of(alone).keys() and not any("lora" in name for name in before)
        assert all(torch.equal(before[name], tensor) for name, tensor in alone.weights())
        for first in (True, False):
            ours, said = step(many, made)
            theirs, wanted = step(alone, made)
            for a, b in zip(ours, theirs, strict=True):
                for name in ("old_logprobs", "ref_logprobs", "values"):
                    assert float(np.abs(getattr(a.anchors, name) - getattr(b.anchors, name)).max()) < 1e-4, name
            for name in ("grad_norm", "critic/grad_norm", "loss", "critic/loss", "kl_ref"):
                assert said[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-6), name
            assert first == (wanted["kl_ref"] < 1e-7)  # from the second step on, policy and reference differ
            saved = save_checkpoint(tmp_path, 1 if first else 2, many.save, {}, 1)
            alone.load(saved, {"updates": 1 if first else 2})  # the rounding of signs of tiny gradients left behind
        after = weights_of(many)
        assert any(not torch.equal(after[name], before[name]) for name in after)
        assert all(torch.equal(after[name], tensor) for name, tensor in alone.weights())


def test_the_rank_that_stopped_says_why(cluster: Cluster, images: ImageStore) -> None:
    """Catches a user who is told only that another rank stopped."""
    made = rollouts(images)
    with trainer(cluster, images) as many:
        samples, _ = step(many, made)
        bad = np.full_like(samples[-1].credit.advantages, np.inf)
        samples[-1] = Sample(samples[-1].rollout, samples[-1].anchors, Credit(bad, bad))
        with pytest.raises(NumericError, match="the weights are unchanged"):
            many.update(samples, make_algorithm(STAGE.algorithm, 1, STAGE.rollout.max_new_tokens, True))


def test_a_broken_folder_is_one_line_from_the_ranks(cluster: Cluster, images: ImageStore, tmp_path: Path) -> None:
    """Catches ranks that wait for each other, and a user who is not told which folder and what is wrong with it."""
    folder = shutil.copytree(MICRO_DIR, tmp_path / "model")
    (folder / "model.safetensors").write_bytes((MICRO_DIR / "model.safetensors").read_bytes()[:-100])
    with (
        pytest.raises(CheckpointError, match="the weights cannot be loaded") as caught,
        trainer(cluster, images, folder),
    ):
        pass
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_went_with_their_rank_are_a_lost_rank(cluster: Cluster, images: ImageStore) -> None:
    """Catches a raw error of Ray when the rank that gathered the weights dies before they are read."""
    with trainer(cluster, images) as many:
        many._shipment = many._everywhere("weights")[0]  # gathered, and not read yet
        os.kill(cluster.pids(many.workers)[0], signal.SIGKILL)

        def lost() -> bool:
            try:
                return len(list(many.weights())) == 0  # until Ray knows, they are whole and can be read
            except RankLostError as error:
                return "rank 0" in str(error)

        assert until(lost)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_stops_the_run_within_its_bound(cluster: Cluster, images: ImageStore, blow: signal.Signals) -> None:
    """Catches ranks that wait for ever in a collective for one that was killed in the middle of it, or stopped."""
    made = rollouts(images)
    with trainer(cluster, images) as many:
        step(many, made)
        victim = cluster.pids(many.workers)[1]
        os.kill(victim, signal.SIGSTOP)  # the other rank is now in a collective without it
        timer = threading.Timer(2.0, os.kill, (victim, blow))
        timer.start()
        with pytest.raises(EngineError, match=r"rank 1.*resumes from the last checkpoint"):
            step(many, made)
        timer.join()
    with trainer(cluster, images) as fresh:  # the cluster has room for new ranks
        assert step(fresh, made)[1]["tokens"] > 0
