"""The worker's half of RayTrainer: one rank of a sharded trainer, with the pictures of its share.

Commands come in order and to all ranks alike, so that their collectives meet.
Leaves out: how ranks find each other (meeting.py), who gets which rollouts (ray_trainer.py), and all arithmetic (trainers/fsdp.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.device_mesh import init_device_mesh

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import Model, Stage
from lmm_r1.data.images import ImageStore
from lmm_r1.distributed.host import take_in
from lmm_r1.distributed.meeting import join
from lmm_r1.distributed.shipment import Shipment, ship
from lmm_r1.distributed.way import Way
from lmm_r1.errors import CheckpointError, Fault
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.critic import Critic
from lmm_r1.models.load import DTYPES
from lmm_r1.models.lora import add_adapters
from lmm_r1.models.stored import StoredModel
from lmm_r1.trainers.fsdp import FsdpTrainer, agree
from lmm_r1.trainers.tally import Counts
from lmm_r1.types import Anchors, Float32, Image, Int32, Rollout, Sample

Pictures = Mapping[str, NDArray[np.uint8]]


class Rank:
    """One rank, driven by commands."""

    def __init__(
        self,
        *,
        index: int,
        world: int,
        meeting: str,
        address: str,
        limit_s: float,
        start: str,
        model: Mapping[str, Any],
        stage: Mapping[str, Any],
        exact: bool,
        critic_seed: int,
        adapters_seed: int = 0,
        offload: bool,
        sequence: int,
        device: str,
    ) -> None:
        """index of world ranks. meeting, address: see meeting.join; limit_s: of a collective.

        start: the model folder that the stage starts from. model, stage: fields of config.Model and config.Stage. critic_seed,
        adapters_seed: what the critic's head and the policy's adapters are drawn from, on every rank alike.
        offload, sequence: see FsdpTrainer. exact: whether engine and trainer compute alike (see make_algorithm). device:
        "cpu", or "cuda" = the GPU that this process was given.
        """
        knobs, stage_knobs = Model(**model), Stage.model_validate(stage)
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        if device != "cpu":
            torch.cuda.set_device(0)  # the one that this process was given, whatever LOCAL_RANK says
        join(backend, meeting, address, index, world, timedelta(seconds=limit_s))
        self.images = ImageStore()
        self._algorithm = make_algorithm(
            stage_knobs.algorithm, stage_knobs.update.minibatches, stage_knobs.rollout.max_new_tokens, exact
        )
        mesh = init_device_mesh(device, (world,))
        stored, adapter = agree(mesh, lambda: (StoredModel(start), make_adapter(start, self.images, knobs)))
        policy = _learner(stored, knobs, stage_knobs, adapters_seed)
        critic = None
        if "values" in self._algorithm.needs:
            shared = stage_knobs.critic is not None and stage_knobs.critic.trunk == "shared"
            trunk = None if shared else _learner(stored, knobs, stage_knobs, critic_seed + 1).model
            critic = Critic(trunk, policy.config.text_config.hidden_size, critic_seed)
        apart = stage_knobs.lora is None  # else the reference is the policy without its adapters
        reference = stored.empty(knobs.dtype) if apart and "ref" in self._algorithm.needs else None
        self._trainer = FsdpTrainer(
            policy,
            reference,
            adapter,
            stage_knobs.update,
            total_updates=stage_knobs.steps * stage_knobs.update.minibatches,
            temperature=stage_knobs.rollout.temperature,
            critic=critic,
            critic_config=stage_knobs.critic,
            mesh=mesh,
            dtype=DTYPES[knobs.dtype],
            offload=offload,
            sequence=sequence,
            stored=stored,
        )
        self._index = index
        self._way: Way | None = None

    def anchors(self, pictures: Pictures, rollouts: Sequence[Rollout], needs: Iterable[str]) -> list[Anchors]:
        """FsdpTrainer.anchors of this rank's share."""
        take_in(self.images, pictures)
        with _returned():
            return self._trainer.anchors(rollouts, frozenset(needs))

    def step(
        self,
        pictures: Pictures,
        samples: Sequence[Sample],
        weights: Sequence[Float32],
        value_weights: Sequence[Float32],
        kl_coef: float,
        bounds: Mapping[str, float],
    ) -> Counts:
        """FsdpTrainer.step of this rank's share; kl_coef: where it is steered, the present one."""
        take_in(self.images, pictures)
        algorithm = self._algorithm if self._algorithm.with_kl is None else self._algorithm.with_kl(kl_coef)
        with _returned():
            return self._trainer.step(samples, algorithm, weights, value_weights, bounds=bounds)

    def score(self, pictures: Pictures, token_ids: Int32, images: Sequence[Image]) -> Float32:
        """FsdpTrainer.score; the same stream on every rank."""
        take_in(self.images, pictures)
        with _returned():
            return self._trainer.score(token_ids, images)

    def weights(self) -> Shipment | None:
        """The policy's weights in shared memory, from the first rank; the others help to gather them."""
        with _returned():
            if self._index == 0:
                return ship(self._trainer.weights())
            for _ in self._trainer.weights():
                pass
            return None

    def open_way(self, settings: Mapping[str, Any] | None) -> None:
        """Meet the engines that this rank sends weights to. settings: of Way; None where another rank does."""
        if self._way is not None:
            self._way.close()
        self._way = None if settings is None else Way(**settings)

    def send(self) -> str:
        """Send the policy's weights along the way; the digest of what was sent, "" where another rank does."""
        weights = iter(self._trainer.weights())
        with _returned():
            try:
                return "" if self._way is None else self._way.send(weights)
            finally:
                for _ in weights:  # the other ranks gather with this one, whatever became of its way
                    pass

    def abandon(self) -> None:
        """End all waits for engines."""
        if self._way is not None:
            self._way.abort()

    def save(self, folder: str) -> dict[str, Any]:
        """FsdpTrainer.save."""
        with _returned():
            return self._trainer.save(_seen(folder))

    def load(self, folder: str, scalars: Mapping[str, Any]) -> None:
        """FsdpTrainer.load."""
        with _returned():
            self._trainer.load(_seen(folder), scalars)

    def forget(self, keep: Iterable[str]) -> None:
        """Drop all pictures but these."""
        self.images.forget(keep)


def _learner(stored: StoredModel, knobs: Model, stage: Stage, seed: int) -> Any:
    """A network that learns: in float32, whatever the dtype of computing, for shards are their own masters; or, under
    adapters drawn from `seed`, in that dtype.

    It comes empty, adapters aside, and each rank reads its part of the weights alone: together the ranks of a machine would
    hold many whole models.
    """
    if stage.lora is None:
        return stored.empty(gradient_checkpointing=knobs.gradient_checkpointing)
    network = stored.empty(knobs.dtype, knobs.gradient_checkpointing)
    add_adapters(network, rank=stage.lora.rank, alpha=stage.lora.alpha, parts=stage.lora.parts, seed=seed)
    return network


@contextmanager
def _returned() -> Iterator[None]:
    """Give a GPU's memory back after some work, whatever became of it: an engine on the same one wakes up next."""
    try:
        yield
    finally:
        if torch.cuda.is_initialized():
            torch.cuda.ipc_collect()  # what other processes mapped, and let go of meanwhile
            torch.cuda.empty_cache()


def _seen(folder: str) -> Path:
    """A folder that the driver made. CheckpointError where this machine does not see it."""
    if not Path(folder).is_dir():
        fault = Fault(
            "a rank's machine does not see this folder",
            folder,
            remedy="put --out on a file system that all machines share",
        )
        raise CheckpointError(fault)
    return Path(folder)
