"""What one rank of test_fsdp_lora.py runs: python lora_ranks.py RANK WORLD FOLDER JOB; the jobs of fsdp_ranks.py with adapters."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from fsdp_ranks import (
    ADAPTED,
    SETTINGS,
    STEPS,
    job_checkpointing,
    job_gradient,
    job_narrow,
    job_steps,
    main,
    trainer,
)
from plain_model import PlainAdapter
from stored_ranks import difference
from torch.distributed.device_mesh import DeviceMesh

from lmm_r1.models.critic import Critic
from lmm_r1.models.load import load_model
from lmm_r1.models.lora import add_adapters, has_adapters
from lmm_r1.models.stored import StoredModel
from lmm_r1.trainers.fsdp import FsdpTrainer, agree

PARTS = ("vision", "merger", "language")


def job_gradients(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Of every case, each rank with rows of its own."""
    job_gradient(folder, mesh, rank, world, cases=ADAPTED)


def job_shared_rows(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Of every case, with pairs of ranks that share their rows."""
    job_gradient(folder, mesh, rank, world, 2, ADAPTED)


def job_sparing(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Activations recomputed."""
    job_checkpointing(folder, mesh, rank, world, {case: (case, {"checkpointing": True}) for case in ADAPTED})


def job_bfloat16(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Frozen weights in bfloat16, shards in host memory; and what a rank holds of every parameter."""
    job_narrow(folder, mesh, rank, world, "ppo_lora")
    owner = trainer("ppo_lora", mesh, dtype=torch.bfloat16)
    found = {
        "dtypes": {name: str(p.dtype) for name, p in owner.model.named_parameters()},
        "rows": {name: p.to_local().shape[0] for name, p in owner.model.named_parameters()},  # type: ignore[attr-defined]
        "kept": {kind: sorted(group) for kind, group in owner._kept().items()},  # type: ignore[attr-defined]
    }
    (folder / f"held.{rank}.json").write_text(json.dumps(found))


def job_step(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """One step and a save."""
    job_steps(folder, mesh, rank, world, "ppo_lora")


def job_read(folder: Path, mesh: DeviceMesh, rank: int, world: int) -> None:
    """Whether adapters over a folder that is read in parts are, bit for bit, those over whole models."""
    path, said = folder / "model", []
    for dtype in ("float32", "bfloat16"):
        stored = agree(mesh, lambda: StoredModel(path))
        made = []
        for start in (stored.empty, lambda dtype: load_model(path, dtype)):
            pair = [start(dtype), start(dtype)]
            for seed, network in enumerate(pair):
                add_adapters(network, rank=4, alpha=8.0, parts=PARTS, seed=seed)
            made.append(pair)
        (policy, second), (whole, other) = made
        width = policy.config.text_config.hidden_size
        owner = FsdpTrainer(
            policy, None, PlainAdapter(whole), SETTINGS, STEPS, 1.0, Critic(second.model, width, 7),
            mesh=mesh, dtype=getattr(torch, dtype), stored=stored,
        )  # fmt: skip
        said.append(difference(owner.model, whole, mesh))
        said.append(difference(owner.critic, Critic(other.model, width, 7), mesh))  # type: ignore[arg-type]
        said += ["" if has_adapters(owner.model) else "no adapters"]
    (folder / f"read.{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(globals())
