"""What cannot be counted: shares of a GPU's figures that programs reach, and lengths that only a run knows.

Each assumption has three values, so a prediction is a range. docs/scale.md says in words where each comes from; a value that
was measured (benchmarks/plan.py, a metrics.jsonl) takes its place by `--assume`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from lmm_r1.errors import Fault, RecipeError
from lmm_r1.planning.gpus import Gpu

EngineKind = Literal["embedded", "vllm"]
Layout = Literal["colocated", "split"]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Shares are of the vendor's figure; rates are bytes/s; times are seconds."""

    train: float  # of Gpu.flops, in forward and backward passes, recomputed work counted
    prefill: float  # of Gpu.flops, while the engine reads prompts and pictures
    decode: float  # of Gpu.bandwidth (and of Gpu.flops), while the engine writes
    step_vllm: float  # of a decode step, beside what the GPU computes
    step_embedded: float
    link: float  # of Gpu.link and Gpu.network, in collectives
    imbalance: float  # slowest rank / mean rank
    hash_rate: float  # of weights, for a sync's digest
    host_copy: float  # between a GPU and its host


#: By pace. The slow `train` is EasyR1's published 3B baseline, the fast one torchtitan's pretraining (docs/scale.md).
PACES: dict[str, Assumptions] = {
    "slow": Assumptions(0.18, 0.30, 0.40, 12e-3, 60e-3, 0.50, 1.30, 0.8e9, 8e9),
    "middle": Assumptions(0.28, 0.45, 0.60, 6e-3, 30e-3, 0.70, 1.15, 1.5e9, 16e9),
    "fast": Assumptions(0.45, 0.60, 0.80, 3e-3, 15e-3, 0.85, 1.05, 2.0e9, 24e9),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Machines, and the lengths that a run would find. Tokens are means; a recipe's own limits bound them."""

    gpu: Gpu
    gpus: int = 8
    layout: Layout = "colocated"
    engines: int = 0  # split: GPUs that sample; 0 = half of them
    ahead: int = 0  # split: steps that sampling may run ahead of learning
    shard: int = 0  # ranks that hold one copy of the trainer's state together; 0 = all of them
    engine: EngineKind = "vllm"
    reply_tokens: float = 800.0
    prompt_tokens: float = 250.0
    picture_tokens: float = 300.0
    longest_tokens: float | None = None  # the longest reply of a step; None = rollout.max_new_tokens
    turns: float = 1.0
    share_prompts: bool = True  # siblings share one copy of their prompt in training, as trainers/collate.py does

    def __post_init__(self) -> None:
        """RecipeError for machines that cannot be divided so."""
        if self.layout == "split" and not 0 < self.samplers < self.gpus:
            what = f"{self.samplers} of {self.gpus} GPUs cannot sample while others learn"
            raise RecipeError(Fault(what, field="--engines", remedy="at least 1, and fewer than --gpus"))
        if self.ranks % self.shards:
            raise RecipeError(Fault(f"{self.ranks} ranks are no multiple of {self.shards}", field="--shard"))

    @property
    def samplers(self) -> int:
        """GPUs with an engine."""
        return self.gpus if self.layout == "colocated" else self.engines or self.gpus // 2

    @property
    def ranks(self) -> int:
        """GPUs with a trainer's shard."""
        return self.gpus if self.layout == "colocated" else self.gpus - self.samplers

    @property
    def shards(self) -> int:
        """Ranks over which one copy of the trainer's state is spread; the copies average their gradients."""
        return min(self.shard or self.ranks, self.ranks)

    @property
    def together(self) -> bool:
        """Whether each GPU has both."""
        return self.layout == "colocated"

    def bandwidth(self, ranks: int) -> float:
        """Bytes/s of one GPU in a collective over so many."""
        return self.gpu.link if ranks <= self.gpu.node else self.gpu.network


def paces(changes: Sequence[str] = ()) -> dict[str, Assumptions]:
    """The three sets with `name=value` changes, which hold for all of them. RecipeError for what is no assumption."""
    known = [field.name for field in fields(Assumptions)]
    changed: dict[str, float] = {}
    for change in changes:
        name, _, text = change.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if name not in known or not 0 < value < float("inf"):
            remedy = f"NAME=NUMBER above 0; names: {', '.join(known)}"
            raise RecipeError(Fault("not an assumption of the plan", field=f"--assume {change}", remedy=remedy))
        changed[name] = value
    return {pace: replace(assumed, **changed) for pace, assumed in PACES.items()}
