"""Which worker of a run sits where in a Ray cluster, and what it takes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """bundles: what each place of the cluster holds, as Ray counts it. rank, engine: the bundle of each worker.
    gpu: the share of a GPU that a worker takes."""

    bundles: tuple[Mapping[str, float], ...]
    rank: tuple[int, ...]
    engine: tuple[int, ...]
    gpu: float


def placement(layout: str, ranks: int, engines: int, gpus: bool) -> Placement:
    """Which worker sits where. colocated: rank i and engine i share a bundle, and its GPU; split: each has its own."""
    if layout == "split":
        rank, engine = tuple(range(ranks)), tuple(range(ranks, ranks + engines))
        cores, gpu = 1.0, 1.0
    else:
        rank, engine = tuple(range(ranks)), tuple(range(engines))
        cores, gpu = 2.0, 0.5
    bundle = {"CPU": cores, "GPU": 1.0} if gpus else {"CPU": cores}
    return Placement((bundle,) * (max(*rank, *engine) + 1), rank, engine, gpu if gpus else 0.0)


def by_machine(machines: Mapping[int, str]) -> list[int]:
    """Bundles in an order in which neighbours are on one machine. machines: where each bundle is. Ray packs bundles on few
    machines, but numbers them as it likes; neighbouring ranks share rows, and talk more than others do."""
    return sorted(machines, key=lambda bundle: (machines[bundle], bundle))
