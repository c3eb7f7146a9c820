"""Weights from ranks to engines without a stop: past the process of the loop, and on GPUs past the host's memory.

Where rank i and engine i share a GPU each rank sends to its engine; where they have GPUs of their own the first rank sends to all
engines. The other ranks help to gather the weights. All of them meet once, and anew when one was replaced. A transfer in which an
engine is lost is made again with the one in its place; one in which a rank is lost ends with RankLostError, as elsewhere.
An engine that is lost later is sent the weights through Ray's store: ranks have them until they learn on; while sampling is ahead of
learning they may not, so a copy is put there at once.
Leaves out: an end of the way (way.py), and what proves the weights (rollout/weights.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmm_r1.distributed.cluster import Call, Cluster, Worker, WorkerLost
from lmm_r1.distributed.ray_engine import RayEngine
from lmm_r1.distributed.ray_trainer import COLLECTIVE_LIMIT_S, RayTrainer, stopped
from lmm_r1.distributed.way import WayClosedError
from lmm_r1.errors import LmmR1Error
from lmm_r1.rollout.weights import Probe, ProvedLink
from lmm_r1.types import Bound


class DirectLink(ProvedLink):
    """Implements seams.WeightLink between the ranks and the engines of a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        trainer: RayTrainer,
        engine: RayEngine,
        probes: Sequence[Probe],
        temperature: float,
        tolerance: Bound | None = None,
        *,
        shared: bool,
        device: str,
    ) -> None:
        """shared: rank i and engine i are on one device; else all have devices of their own. device: "cpu" or "cuda"."""
        super().__init__(trainer, engine, probes, temperature, tolerance, in_place=True)
        self._cluster, self._ranks, self._engines = cluster, trainer, engine
        self._shared, self._device = shared, device
        self._met: list[Worker] = []

    def transfer(self) -> tuple[str, str]:
        """As ProvedLink's. RankLostError when a rank is lost, EngineError when more engines are lost than may be."""
        while True:
            engines = self._engines.receivers()
            try:
                return self._sent_to(engines)
            except WorkerLost as lost:
                self._engines.replace(lost)

    def _sent_to(self, engines: Sequence[Worker]) -> tuple[str, str]:
        """Send the weights once. WorkerLost when an engine is lost on the way."""
        ranks = self._ranks.workers
        if self._met != [*ranks, *engines]:
            self._meet(engines)
        version = self._engines.version
        calls = [self._cluster.call(rank, "send") for rank in ranks]
        calls += [self._cluster.call(engine, "receive", version) for engine in engines]
        said: list[str] = self._together(calls)
        sent, received = [found for found in said[: len(ranks)] if found], said[len(ranks) :]
        odd = [found for found in (*sent, *received) if found != sent[0]]
        if not odd:
            ahead = self._ranks.shipment() if self._cluster.knobs.ahead else None
            self._engines.adopt(sent[0], lambda: ahead or self._ranks.shipment())
        return sent[0], odd[0] if odd else received[0]

    def _meet(self, engines: Sequence[Worker]) -> None:
        """Open a way between all ranks and engines. WorkerLost when an engine is lost."""
        ranks = self._ranks.workers
        pairs = list(zip(ranks, engines, strict=False)) if self._shared else [(ranks[0], *engines)]
        calls = [self._cluster.call(rank, "open_way", None) for rank in ranks[len(pairs) :]]
        for members in pairs:
            try:
                meeting, addresses = self._cluster.meeting(members)
            except WorkerLost as lost:
                raise self._reason([lost]) from None
            for index, member in enumerate(members):
                settings: dict[str, Any] = {
                    "meeting": meeting, "address": addresses[index], "index": index, "members": len(members),
                    "limit_s": COLLECTIVE_LIMIT_S, "device": self._device, "shared": self._shared,
                }  # fmt: skip
                calls.append(self._cluster.call(member, "open_way", settings))
        self._together(calls)
        self._met = [*ranks, *engines]

    def _together(self, calls: Sequence[Call]) -> list[Any]:
        """The answers to calls whose workers wait for each other; after a fault none of them is at it any more."""
        try:
            return self._cluster.results(calls)
        except (WorkerLost, LmmR1Error) as first:
            self._met = []
            raise self._reason([first, *self._cluster.settled(calls)]) from None

    def _reason(self, faults: Sequence[WorkerLost | LmmR1Error]) -> WorkerLost | LmmR1Error:
        """Of what workers say when a transfer broke, what broke it: a lost rank, a lost engine, a fault, and last that another
        one went away."""
        lost = [fault for fault in faults if isinstance(fault, WorkerLost)]
        for fault in lost:
            if fault.worker in self._ranks.workers:
                return stopped(fault)
        known = [fault for fault in faults if isinstance(fault, LmmR1Error)]
        return lost[0] if lost else min(known, key=lambda fault: isinstance(fault, WayClosedError))
