"""What one rank of test_stored.py runs: python stored_ranks.py RANK WORLD FOLDER JOB. What it found goes to FOLDER as JSON."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fsdp_ranks import (
    CASES,
    SETTINGS,
    STEPS,
    everything,
    made_rollouts,
    main,
    networks,
    samples_of,
    shares,
    step_weights,
)
from plain_model import PlainAdapter
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import Critic as CriticConfig
from lmm_r1.errors import CheckpointError
from lmm_r1.models.critic import Critic
from lmm_r1.models.load import DTYPES, load_model
from lmm_r1.models.stored import StoredModel
from lmm_r1.trainers.fsdp import FsdpTrainer, agree


def sharded(
    folder: Path,
    mesh: DeviceMesh,
    whole: bool = False,
    trunk: str = "separate",
    dtype: str = "float32",
    offload: bool = False,
    checkpointing: bool = False,
) -> FsdpTrainer:
    """The trainer of a folder's model, with a reference model and a critic: read in parts, or every network whole first."""
    stored = None if whole else agree(mesh, lambda: StoredModel(folder))

    def network(dtype: str = "float32", checkpointing: bool = checkpointing) -> Any:
        if stored is None:
            return load_model(folder, dtype, gradient_checkpointing=checkpointing)
        return stored.empty(dtype, checkpointing)

    policy = network()
    critic = Critic(network().model if trunk == "separate" else None, policy.config.text_config.hidden_size, 7)
    return FsdpTrainer(
        policy, network(dtype, False), PlainAdapter(policy), SETTINGS, STEPS, 1.0, critic, CriticConfig(trunk=trunk),
        mesh=mesh, dtype=DTYPES[dtype], offload=offload, stored=stored,
    )  # type: ignore[arg-type]  # fmt: skip


def difference(ours: nn.Module, whole: nn.Module, mesh: DeviceMesh) -> str:
    """The first name at which shards or buffers are not, bit for bit, those of a whole network; "" where all are."""
    found, wanted = (dict(module.named_parameters()) for module in (ours, whole))  # tied ones once
    if list(found) != list(wanted):
        return f"names: {sorted(found.keys() ^ wanted.keys())}"
    for name, tensor in wanted.items():
        part = distribute_tensor(tensor.detach(), mesh, [Shard(0)], src_data_rank=None)
        own = found[name].detach()
        if (
            own.dtype != part.dtype
            or own.placements != part.placements
            or not torch.equal(own.to_local(), part.to_local())
        ):
            return name
    found, wanted = (dict(module.named_buffers()) for module in (ours, whole))
    for name in found.keys() | wanted.keys():
        if found[name].dtype != wanted[name].dtype or not torch.equal(found[name], wanted[name]):
            return name
    return ""


def job_shards(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Every network of every folder of FOLDER/models against whole ones."""
    found: dict[str, list[str]] = {}
    for path in sorted((folder / "models").iterdir()):
        owner = sharded(path, mesh, dtype="bfloat16")
        policy, reference, trunk = load_model(path), load_model(path, "bfloat16"), load_model(path).model
        critic = Critic(trunk, policy.config.text_config.hidden_size, 7)
        pairs = ((owner.model, policy), (owner._reference, reference), (owner.critic, critic))
        found[path.name] = [difference(ours, whole, mesh) for ours, whole in pairs]  # type: ignore[arg-type]
        found[path.name].append("tied" if "lm_head.weight" not in dict(owner.model.named_parameters()) else "untied")
    (folder / f"shards.{rank}.json").write_text(json.dumps(found))


def job_steps(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Whether two optimiser steps, and what the networks say before and after them, are the same bits either way."""
    rollouts, algorithm = made_rollouts(), make_algorithm(CASES["ppo"][0])
    mine = shares(len(rollouts), world)[rank]
    cases: list[dict[str, Any]] = [
        {},
        {"trunk": "shared", "checkpointing": True},
        {"offload": True, "dtype": "bfloat16"},
    ]
    same = []
    for case in cases:
        made: list[list[torch.Tensor]] = []
        for whole in (True, False):
            owner = sharded(folder / "models" / "tied", mesh, whole, **case)
            said = []
            for _ in range(2):
                samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
                said += [torch.from_numpy(part) for s in samples for part in (s.anchors.old_logprobs, s.anchors.values)]
                weights = step_weights(everything(samples, rollouts, mine), algorithm, mine)
                owner.step(samples, algorithm, *weights)
            refs = owner.anchors(rollouts[mine], frozenset({"ref"}))
            made.append(said + [torch.from_numpy(a.ref_logprobs) for a in refs])
            made[-1] += [p.detach().to_local().clone() for p in networks(owner).values()]
        same.append(all(torch.equal(a, b) for a, b in zip(*made, strict=True)))
    (folder / f"steps.{rank}.json").write_text(json.dumps(same))


def job_memory(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """How many bytes this process grew by at most while it made its networks, in parts and whole."""
    found = {}
    sharded(folder / "models" / "small", mesh)  # what is imported or set up once
    for name, whole in (("parts", False), ("whole", True)):
        gc.collect()
        with peak() as grown:
            owner = sharded(folder / "models" / "large", mesh, whole, "shared")
        found[name] = grown[0]
        del owner
    (folder / f"memory.{rank}.json").write_text(json.dumps(found))


@contextmanager
def peak() -> Iterator[list[int]]:
    """[bytes] by which the resident memory of this process grew at most, file mappings included."""
    grown = [0]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    yield grown
    grown[0] = _resident("VmHWM") - before


def _resident(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def job_faults(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """What each rank says of a folder of its own, FOLDER/faults/CASE/RANK; and of a file that is gone when it is read."""
    said = {}
    for path in sorted((folder / "faults").iterdir()):
        try:
            sharded(path / str(rank), mesh)
        except CheckpointError as error:
            said[path.name] = str(error)
    late = folder / "late" / str(rank)
    stored = StoredModel(late)
    if rank == 1:
        (late / "model.safetensors").unlink()
    policy = stored.empty()
    try:
        FsdpTrainer(policy, None, PlainAdapter(policy), SETTINGS, STEPS, mesh=mesh, stored=stored)
    except CheckpointError as error:
        said["late"] = str(error)
    (folder / f"faults.{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(globals())
