"""What one rank of test_fsdp.py or test_fsdp_lora.py runs: python fsdp_ranks.py RANK WORLD FOLDER JOB. Results go to FOLDER as safetensors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from plain_model import PlainAdapter, make_rollout, random_model
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.algorithms.token_weights import token_mean
from lmm_r1.config import AlgorithmConfig, Update
from lmm_r1.errors import NumericError
from lmm_r1.models.critic import Critic
from lmm_r1.models.lora import adapter_parameters, add_adapters
from lmm_r1.seams import Algorithm
from lmm_r1.trainers.fsdp import FsdpTrainer
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Anchors, Credit, Image, Rollout, Sample

#: name -> (algorithm, critic's trunk)
CASES = {
    "grpo": (AlgorithmConfig(kl_coef=0.1, entropy_coef=0.01), ""),
    "ppo": (AlgorithmConfig(name="ppo"), "separate"),
    "shared": (AlgorithmConfig(name="ppo"), "shared"),
}
#: The same with adapters in these parts of the policy, and of a separate critic.
ADAPTED: dict[str, tuple[AlgorithmConfig, str, tuple[str, ...]]] = {
    "grpo_lora": (CASES["grpo"][0], "", ("language",)),
    "ppo_lora": (AlgorithmConfig(name="ppo", kl_coef=0.1), "separate", ("vision", "merger", "language")),
    "shared_lora": (CASES["shared"][0], "shared", ("merger", "language")),
}
ALL = {name: (*case, ()) for name, case in CASES.items()} | ADAPTED
#: Settings that spare memory.
SPARING: dict[str, tuple[str, Mapping[str, object]]] = {
    "recomputed": ("grpo", {"checkpointing": True}),
    "frozen": ("grpo", {"freeze": ("vision", "merger")}),
}
SETTINGS = Update(lr=1e-3, micro_tokens=60)
STEPS = 3


def trainer(
    case: str,
    mesh: object = None,
    checkpointing: bool = False,
    sequence: int = 1,
    dtype: torch.dtype = torch.float32,
    offload: bool = False,
    **update: object,
) -> LocalTrainer:
    """The trainer of a case, local or sharded, over the same random networks."""
    _, trunk, lora = ALL[case]
    model, of_critic = random_model(2), random_model(4)
    for seed, network in enumerate((model, of_critic) if lora else ()):
        adapt(network.to(dtype), lora, seed)
    critic = None
    if trunk:
        critic = Critic(of_critic.model if trunk == "separate" else None, model.config.text_config.hidden_size, 2)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    settings = SETTINGS.model_copy(update=update)
    reference = None if lora else random_model(3).to(dtype)
    parts = (model, reference, PlainAdapter(random_model(2)), settings, STEPS)
    if mesh is None:
        return LocalTrainer(*parts, critic=critic)
    return FsdpTrainer(*parts, critic=critic, mesh=mesh, sequence=sequence, dtype=dtype, offload=offload)  # type: ignore[arg-type]


def adapt(model: torch.nn.Module, parts: Sequence[str], seed: int) -> None:
    """Adapters that already say something: at B = 0 matrices A have no gradient, and the policy is its reference."""
    add_adapters(model, rank=3, alpha=6.0, parts=parts, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter_parameters(model).items():
        if ".lora_B." in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def made_rollouts() -> list[Rollout]:
    """Three text rollouts, then those with pictures: ranks that take halves have different kinds and numbers of batches."""
    model = random_model(2)
    one, two = Image("one", 56, 84), Image("two", 140, 56)
    made = [make_rollout(model, "text", g, 4 + 3 * g) for g in range(3)]
    made += [make_rollout(model, "one", g, 5 + g, [one]) for g in range(3)]
    return made + [make_rollout(model, "game", g, 3, [two], [one]) for g in range(2)]


def samples_of(owner: LocalTrainer, rollouts: list[Rollout], algorithm: Algorithm, first: int = 0) -> list[Sample]:
    """Samples with made-up credit, which hangs on a rollout's place in the whole list; `first`: that of rollouts[0]."""
    anchors = owner.anchors(rollouts, algorithm.needs)
    out = []
    for at, (r, a) in enumerate(zip(rollouts, anchors, strict=True)):
        rng = np.random.default_rng(first + at)
        credit = Credit(*((r.trainable * rng.normal()).astype(np.float32) for _ in range(2)))
        noise = (rng.normal(0, 0.2, len(r.token_ids)) * (a.old_logprobs != 0)).astype(np.float32)
        out.append(Sample(r, replace(a, old_logprobs=a.old_logprobs + noise), credit))
    return out


def shares(count: int, world: int) -> list[slice]:
    """Which rollouts each rank takes: in order, so that rank 0 of two has text alone; the last of three has none."""
    if world == 3:
        return [slice(0, 3), slice(3, count), slice(count, count)]
    return [slice(0, count)] if world == 1 else [slice(0, 3), slice(3, count)]


def networks(owner: LocalTrainer) -> dict[str, torch.nn.Parameter]:
    """All parameters by name, the critic's behind "critic."."""
    found = dict(owner.model.named_parameters())
    if owner.critic is not None:
        found |= {f"critic.{name}": p for name, p in owner.critic.named_parameters()}
    return found


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, another one as it is."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone().contiguous()


def step_weights(samples: list[Sample], algorithm: Algorithm, keep: slice) -> tuple[list, list]:
    """A rank's share of the weights that are fixed over the whole step."""
    return algorithm.token_weights(samples)[keep], token_mean(samples)[keep]


def everything(samples: list[Sample], rollouts: list[Rollout], mine: slice) -> list[Sample]:
    """The whole step's samples as far as weights need them: those of other ranks without anchors and credit."""
    blank = Sample(rollouts[0], Anchors(np.zeros(0, np.float32), None, None), Credit(np.zeros(0, np.float32), None))
    out = [replace(blank, rollout=r) for r in rollouts]
    out[mine] = samples
    return out


def job_gradient(
    folder: Path, mesh: object, rank: int, world: int, sequence: int = 1, cases: Iterable[str] = CASES
) -> None:
    """Anchors, gradients, norms, weights after a step, and metrics of every case."""
    rollouts = made_rollouts()
    mine = shares(len(rollouts), world // sequence)[rank // sequence]
    for case in cases:
        owner, algorithm = trainer(case, mesh, sequence=sequence), make_algorithm(ALL[case][0])
        samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
        weights = step_weights(everything(samples, rollouts, mine), algorithm, mine)
        owner.accumulate(samples, algorithm, *weights)
        grads = {n: whole(p.grad) for n, p in networks(owner).items() if p.grad is not None}
        owner._drop()
        counts = owner.step(samples, algorithm, *weights)
        after = {f"after.{n}": whole(p) for n, p in networks(owner).items()}
        streams = {"score": torch.from_numpy(owner.score(rollouts[4].token_ids, rollouts[4].images).copy())}
        olds = {f"old.{i}": torch.from_numpy(s.anchors.old_logprobs.copy()) for i, s in enumerate(samples, mine.start)}
        refs = {
            f"ref.{i}": torch.from_numpy(r)
            for i, s in enumerate(samples, mine.start)
            if (r := s.anchors.ref_logprobs) is not None
        }
        norm = {"norm": torch.tensor(counts.same["grad_norm"]), "tokens": torch.tensor(counts.tokens)}
        sums = {f"sum.{n}": torch.tensor(v, dtype=torch.float64) for n, v in (counts.totals | counts.sums).items()}
        save_file({**grads, **after, **streams, **olds, **refs, **norm, **sums}, folder / f"{case}.{rank}.safetensors")


def job_shared_rows(folder: Path, mesh: object, rank: int, world: int) -> None:
    """`job_gradient` with pairs of ranks that share their rows."""
    job_gradient(folder, mesh, rank, world, 2)


def job_checkpointing(
    folder: Path, mesh: object, rank: int, world: int, cases: Mapping[str, tuple[str, Mapping[str, object]]] = SPARING
) -> None:
    """The gradient with activations recomputed, and with the vision tower frozen. cases: name -> (case, settings)."""
    rollouts = made_rollouts()
    mine = shares(len(rollouts), world)[rank]
    for name, (case, settings) in cases.items():
        owner, algorithm = trainer(case, mesh, **settings), make_algorithm(ALL[case][0])  # type: ignore[arg-type]
        samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
        owner._mode(True)
        owner.accumulate(samples, algorithm, *step_weights(everything(samples, rollouts, mine), algorithm, mine))
        grads = {n: whole(p.grad) for n, p in networks(owner).items() if p.grad is not None}
        save_file(grads, folder / f"{name}.{rank}.safetensors")


def job_narrow(folder: Path, mesh: object, rank: int, world: int, case: str = "ppo") -> None:
    """The gradient when layers compute in bfloat16 and shards stay in host memory, of a policy with a separate critic."""
    rollouts = made_rollouts()
    mine = shares(len(rollouts), world)[rank]
    owner, algorithm = trainer(case, mesh, dtype=torch.bfloat16, offload=True), make_algorithm(ALL[case][0])
    samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
    weights = step_weights(everything(samples, rollouts, mine), algorithm, mine)
    owner.accumulate(samples, algorithm, *weights)
    grads = {n: whole(p.grad) for n, p in networks(owner).items() if p.grad is not None}
    owner._drop()
    before = {n: whole(p) for n, p in networks(owner).items()}
    owner.step(samples, algorithm, *weights, lr=1e-6)
    after = {n: whole(p) for n, p in networks(owner).items()}
    moved = {f"moved.{n}": tensor - before[n] for n, tensor in after.items()}
    sent = {f"sent.{n}": w for n, w in owner.weights()}
    trained = {f"after.{n}": tensor for n, tensor in after.items()}
    save_file({**grads, **moved, **trained, **sent}, folder / f"narrow.{rank}.safetensors")


def job_steps(folder: Path, mesh: object, rank: int, world: int, case: str = "ppo") -> None:
    """One step from what FOLDER/start holds (if anything), then a save into FOLDER/saved; the weights after it."""
    rollouts = made_rollouts()
    mine = shares(len(rollouts), world)[rank]
    owner, algorithm = trainer(case, mesh), make_algorithm(ALL[case][0])
    if (folder / "start").exists():
        start = (folder / "start").resolve()
        owner.load(start, json.loads((start.parent / "scalars.json").read_text()))
    samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
    owner.step(samples, algorithm, *step_weights(everything(samples, rollouts, mine), algorithm, mine))
    if rank == 0:
        (folder / "saved").mkdir()
    dist.barrier()
    scalars = owner.save(folder / "saved")
    if rank == 0:
        (folder / "scalars.json").write_text(json.dumps(scalars))
    found = {n: whole(p) for n, p in networks(owner).items()}
    sent = {f"sent.{n}": w.contiguous() for n, w in owner.weights()}
    save_file(found | sent, folder / f"after.{rank}.safetensors")


def job_fault(folder: Path, mesh: object, rank: int, world: int) -> None:
    """A number that is not finite on rank 1 alone stops every rank before any weight moves."""
    rollouts = made_rollouts()
    mine = shares(len(rollouts), world)[rank]
    owner, algorithm = trainer("grpo", mesh), make_algorithm(CASES["grpo"][0])
    samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
    weights = step_weights(everything(samples, rollouts, mine), algorithm, mine)
    if rank == 1:
        bad = np.full_like(samples[0].credit.advantages, np.inf)
        samples[0] = replace(samples[0], credit=Credit(bad, None))
    before = {n: whole(p) for n, p in networks(owner).items()}
    try:
        owner.step(samples, algorithm, *weights)
    except NumericError as error:
        (folder / f"fault.{rank}.txt").write_text(str(error))
    assert all(torch.equal(whole(p), before[n]) for n, p in networks(owner).items())


def main(jobs: Mapping[str, Any]) -> None:
    """Join the group and run the job, `job_` and its name among `jobs`."""
    rank, world, folder, job = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    jobs[f"job_{job}"](folder, init_device_mesh("cpu", (world,)), rank, world)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(globals())
