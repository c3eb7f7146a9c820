"""The trainer of a stage as ranks in the workers of a cluster: deals whole groups to ranks and puts their answers together.

What a rank gets is a function of the rollouts alone, the same for anchors and for the step after them. The weight of each
token is fixed here, over the whole optimiser step, so the number of ranks changes no gradient. A rank that is lost takes its
shards with it: the stage then goes on with new ranks from its last checkpoint (chain.py), and no rollout of the steps since has
moved a weight that anyone will see.
Leaves out: a rank's arithmetic (trainers/fsdp.py), its commands (rank.py), and starting processes (cluster.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError

from lmm_r1.algorithms.token_weights import token_mean
from lmm_r1.data.images import ImageStore
from lmm_r1.distributed.cluster import Call, Cluster, Worker, WorkerLost
from lmm_r1.distributed.rank import Rank
from lmm_r1.distributed.shipment import Shipment, unpack
from lmm_r1.errors import EngineError, Fault, LmmR1Error, RankLostError
from lmm_r1.seams import Algorithm
from lmm_r1.trainers.fsdp import ANOTHER
from lmm_r1.trainers.schedule import shares_of
from lmm_r1.trainers.tally import metrics_of
from lmm_r1.types import Anchors, Float32, Image, Int32, Rollout, Sample

#: Seconds that a rank waits for another in a collective; a lost one is noticed long before.
COLLECTIVE_LIMIT_S = 1800.0


class RayTrainer:
    """Implements seams.Trainer, and what a weight link needs, over the ranks of a cluster."""

    def __init__(self, cluster: Cluster, images: ImageStore, arguments: Mapping[str, Any]) -> None:
        """images: where rollouts' pictures are. arguments: of Rank, without index, world, meeting, address and limit_s.

        EngineError when a rank does not come up; what a rank says against its arguments is raised as it is.
        """
        self._cluster, self._images = cluster, images
        world = cluster.knobs.ranks
        self._sent: list[set[str]] = [set() for _ in range(world)]
        self._shipment: Shipment | None = None
        self.workers: list[Worker] = [cluster.place("rank", index) for index in range(world)]
        try:
            self._begin(arguments)
        except BaseException:
            self.close()
            raise

    def _begin(self, arguments: Mapping[str, Any]) -> None:
        """Make every rank, and wait until all have met."""
        try:
            meeting, addresses = self._cluster.meeting(self.workers)
        except WorkerLost as lost:
            raise stopped(lost) from None
        factory = f"{Rank.__module__}:{Rank.__qualname__}"
        told = {**arguments, "world": len(self.workers), "meeting": meeting, "limit_s": COLLECTIVE_LIMIT_S}
        self._results(
            [
                self._cluster.make(worker, factory, {**told, "index": i, "address": addresses[i]})
                for i, worker in enumerate(self.workers)
            ]
        )

    def close(self) -> None:
        """End the ranks."""
        self._outdated()
        for worker in self.workers:
            self._cluster.kill(worker)

    def anchors(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> list[Anchors]:
        """As LocalTrainer's."""
        shares = self._shares(rollouts)
        calls = []
        for at, share in enumerate(shares):
            mine = [rollouts[i] for i in share]
            calls.append(self._call(at, "anchors", self._pictures(at, mine), mine, sorted(needs)))
        said = self._results(calls)
        together = (
            self._cluster.knobs.sequence
        )  # neighbours that share rows: each knows its own tokens, and 0 elsewhere
        found: dict[int, Anchors] = {}
        for at in range(0, len(shares), together):
            for i, parts in zip(shares[at], zip(*said[at : at + together], strict=True), strict=True):
                found[i] = parts[0] if together == 1 else _joined(parts, "old" in needs)
        return [found[i] for i in range(len(rollouts))]

    def update(
        self, samples: Sequence[Sample], algorithm: Algorithm, *, bounds: Mapping[str, float] = MappingProxyType({})
    ) -> dict[str, float]:
        """As LocalTrainer's. `algorithm` is the stage's; ranks have their own copy and take its KL coefficient."""
        if not any(s.rollout.trainable.any() for s in samples):
            raise ValueError("an optimiser step needs at least one trainable token")
        self._outdated()
        weights, value_weights = algorithm.token_weights(samples), token_mean(samples)
        kl_coef = float(algorithm.parameters["kl_coef"])  # type: ignore[arg-type]  # a number, as in the recipe
        rollouts = [sample.rollout for sample in samples]
        calls = []
        for at, share in enumerate(self._shares(rollouts)):
            pictures = self._pictures(at, [rollouts[i] for i in share])
            mine = ([found[i] for i in share] for found in (samples, weights, value_weights))
            calls.append(self._call(at, "step", pictures, *mine, kl_coef, dict(bounds)))
        return metrics_of(self._results(calls))

    def score(self, token_ids: Int32, images: Sequence[Image]) -> Float32:
        """As LocalTrainer's."""
        wanted = [self._missing(at, {image.sha for image in images}) for at in range(len(self.workers))]
        calls = [self._call(at, "score", wanted[at], token_ids, tuple(images)) for at in range(len(self.workers))]
        said: list[Float32] = self._results(calls)[: self._cluster.knobs.sequence]
        return np.sum(said, axis=0, dtype=np.float32)

    def weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """As LocalTrainer's, as read-only views of shared memory that are good until the next tensor."""
        try:
            yield from unpack(self._gathered())
        except RayError as error:  # they are the first rank's, and go with it
            self._outdated()
            self.forget(())  # asks every rank: a lost one says so
            raise EngineError(f"the gathered weights are gone: {type(error).__name__}") from error

    def shipment(self) -> Shipment:
        """The weights as a shipment of the caller's own. RankLostError when a rank is gone."""
        return self._gathered().copy()

    def _gathered(self) -> Shipment:
        """The weights in Ray's store, the same until they move."""
        if self._shipment is None:
            self._shipment = self._everywhere("weights")[0]
        assert self._shipment is not None
        return self._shipment

    def save(self, folder: Path) -> dict[str, Any]:
        """Every rank writes its shards."""
        scalars: dict[str, Any] = self._everywhere("save", str(folder.resolve()))[0]
        return scalars

    def load(self, folder: Path, scalars: Mapping[str, Any]) -> None:
        """The exact inverse of `save`, whoever saved."""
        self._outdated()
        self._everywhere("load", str(folder.resolve()), dict(scalars))

    def forget(self, keep: Iterable[str]) -> None:
        """Let ranks drop all pictures but these."""
        kept = set(keep)
        self._sent = [sent & kept for sent in self._sent]
        self._everywhere("forget", sorted(kept))

    def _outdated(self) -> None:
        """Let go of the weights that were gathered last."""
        if self._shipment is not None:
            self._shipment.release()
            self._shipment = None

    def _shares(self, rollouts: Sequence[Rollout]) -> list[list[int]]:
        """What each rank gets: neighbours that share rows get the same."""
        together = self._cluster.knobs.sequence
        shares = shares_of(rollouts, len(self.workers) // together)
        return [share for share in shares for _ in range(together)]

    def _pictures(self, at: int, rollouts: Sequence[Rollout]) -> dict[str, NDArray[np.uint8]]:
        return self._missing(at, {image.sha for rollout in rollouts for image in rollout.images})

    def _missing(self, at: int, shas: set[str]) -> dict[str, NDArray[np.uint8]]:
        """The pictures that a rank lacks so far; from now on it has them."""
        lacking = sorted(shas - self._sent[at])
        self._sent[at].update(lacking)
        return {sha: self._images.get(sha) for sha in lacking}

    def _call(self, at: int, method: str, *arguments: Any) -> Call:
        return self._cluster.call(self.workers[at], method, *arguments)

    def _everywhere(self, method: str, *arguments: Any) -> list[Any]:
        return self._results([self._call(at, method, *arguments) for at in range(len(self.workers))])

    def _results(self, calls: Sequence[Call]) -> list[Any]:
        """All ranks' answers. RankLostError when one is lost, which others may notice before we do."""
        try:
            return self._cluster.results(calls)
        except WorkerLost as lost:
            raise stopped(lost) from None
        except LmmR1Error as error:
            raise _reason([error, *self._cluster.faults(calls)]) from None


def _joined(parts: Sequence[Anchors], asked_old: bool) -> Anchors:
    """The anchors of one rollout from ranks that each know some of its tokens; the sampler's log-probs they all know."""

    def added(arrays: Sequence[Float32 | None]) -> Float32 | None:
        known = [array for array in arrays if array is not None]
        return np.sum(known, axis=0, dtype=np.float32) if known else None

    old = added([part.old_logprobs for part in parts]) if asked_old else parts[0].old_logprobs
    assert old is not None
    return Anchors(old, added([part.ref_logprobs for part in parts]), added([part.values for part in parts]))


def _reason(faults: Sequence[LmmR1Error | WorkerLost]) -> LmmR1Error:
    """Of what ranks say when one stops, what started it: a lost rank before a fault, a fault before what follows from it."""
    lost = [fault for fault in faults if isinstance(fault, WorkerLost)]
    if lost:
        return stopped(lost[0])
    known = [fault for fault in faults if isinstance(fault, LmmR1Error)]
    own = [fault for fault in known if ANOTHER not in str(fault)]
    return min(own or known, key=lambda fault: isinstance(fault, EngineError))  # those only say that a peer went away


def stopped(lost: WorkerLost) -> RankLostError:
    """What the loss of a rank means to its stage."""
    remedy = "the same command resumes from the last checkpoint"
    return RankLostError(Fault(f"{lost}; its part of the weights is gone with it", remedy=remedy))
