"""Adapters on the ranks of the sharded trainer: the local trainer's numbers, its merged weights, and its checkpoints.

Ranks are processes on this machine that talk over gloo (lora_ranks.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fsdp_ranks import (
    ADAPTED,
    ALL,
    everything,
    made_rollouts,
    networks,
    samples_of,
    shares,
    step_weights,
    trainer,
)
from test_fsdp import compare_steps, ranks, together
from test_stored import write

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.models.lora import add_adapters, merged_weights
from lmm_r1.runs.checkpoint import _seal
from lmm_r1.trainers.fsdp import FsdpTrainer
from lmm_r1.trainers.local import LocalTrainer, kept_parameters
from tests.closeness import relative_of_all

pytest.importorskip("peft", reason='adapters need peft: pip install "lmm-r1[lora]"')
SCRIPT = "lora_ranks.py"


def one_step(owner: LocalTrainer, case: str, steps: int = 1) -> LocalTrainer:
    """The local trainer after so many steps."""
    rollouts, algorithm = made_rollouts(), make_algorithm(ALL[case][0])
    for _ in range(steps):
        samples = samples_of(owner, rollouts, algorithm)
        owner.step(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
    return owner


@pytest.mark.parametrize(("world", "job"), [(2, "gradients"), (3, "gradients"), (2, "shared_rows")])
def test_ranks_change_no_number(world: int, job: str, tmp_path: Path) -> None:
    """Catches adapters whose gradients are averaged, lost or reduced in another dtype, a gradient of a frozen weight, a
    reference that still has its adapters (or a policy that lost them), and ranks that wait for a layer without gradients."""
    ranks(tmp_path, world, job, script=SCRIPT)
    compare_steps(tmp_path, ADAPTED, world, 2 if job == "shared_rows" else 1)
    rollouts, old = made_rollouts(), frozenset({"old"})
    start = trainer("grpo").anchors(rollouts, old)  # of the same model, before it had adapters
    for case in ("grpo_lora", "ppo_lora"):
        assert float(np.abs(trainer(case).anchors(rollouts, old)[0].old_logprobs - start[0].old_logprobs).max()) > 0.05
        found = together(tmp_path, case, world)
        for at, anchors in enumerate(start):
            ref = torch.stack([mine[f"ref.{at}"] for mine in found if f"ref.{at}" in mine]).sum(0)
            assert float((ref - torch.from_numpy(anchors.old_logprobs)).abs().max()) < 1e-4, (case, at)


def test_recomputed_activations(tmp_path: Path) -> None:
    """Catches a layer that recomputes without its adapters, or with weights that were let go."""
    ranks(tmp_path, 2, "sparing", script=SCRIPT)
    rollouts = made_rollouts()
    for case, (config, *_) in ADAPTED.items():
        owner, algorithm = trainer(case), make_algorithm(config)
        samples = samples_of(owner, rollouts, algorithm)
        owner.accumulate(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
        wanted = {n: p.grad for n, p in networks(owner).items() if p.grad is not None}
        for mine in together(tmp_path, case, 2):
            assert mine.keys() == wanted.keys() and relative_of_all(mine, wanted) < 2e-5


def test_bfloat16_weights_under_float32_adapters(tmp_path: Path) -> None:
    """Catches adapters that are gathered, reduced or stepped in bfloat16, frozen weights that move or lie in float32 (they are
    most of the memory), and merged weights that are rounded twice or are not those of one process."""
    ranks(tmp_path, 2, "bfloat16", script=SCRIPT)
    rollouts, algorithm = made_rollouts(), make_algorithm(ALL["ppo_lora"][0])
    owner = trainer("ppo_lora", dtype=torch.bfloat16)
    for mine in shares(len(rollouts), 2):  # in the ranks' batches, so that activations are rounded as theirs
        samples = samples_of(owner, rollouts[mine], algorithm, mine.start)
        owner.accumulate(samples, algorithm, *step_weights(everything(samples, rollouts, mine), algorithm, mine))
    wanted = {n: p.grad for n, p in networks(owner).items() if p.grad is not None}
    for mine in together(tmp_path, "narrow", 2):
        assert mine.keys() & networks(owner).keys() == wanted.keys()
        assert all(mine[name].dtype == torch.float32 for name in wanted)
        assert relative_of_all({n: mine[n] for n in wanted}, wanted) < 1e-3
        assert all((mine[f"moved.{n}"] == 0).all() for n in networks(owner) if n not in wanted)
        moved = torch.cat([mine[f"moved.{n}"].flatten() for n in wanted])
        assert float((moved != 0).float().mean()) > 0.5 and float(moved.abs().max()) < 2e-6
        with torch.no_grad():
            for name, parameter in owner.model.named_parameters():
                parameter.copy_(mine[f"after.{name}"])
        sent = {n.removeprefix("sent."): t for n, t in mine.items() if n.startswith("sent.")}
        theirs = dict(merged_weights(owner.model))
        assert sent.keys() == theirs.keys()
        assert all(t.dtype == torch.bfloat16 and torch.equal(t, theirs[n]) for n, t in sent.items())
    held = [json.loads((tmp_path / f"held.{rank}.json").read_text()) for rank in range(2)]
    local = dict(owner.model.named_parameters())
    for rank in held:
        assert rank["dtypes"] == {name: str(p.dtype) for name, p in local.items()}
        assert rank["kept"]["model"] == sorted(kept_parameters(owner.model))
        assert rank["kept"]["critic"] == sorted(owner.state()["critic"])
    assert {n: sum(rank["rows"][n] for rank in held) for n in local} == {n: p.shape[0] for n, p in local.items()}


def test_one_process_and_any_number_of_ranks_resume_each_other(tmp_path: Path) -> None:
    """One process -> 2 ranks -> 1 rank -> one process. Catches checkpoints that hold the frozen weights, or name adapters
    otherwise than one process does, moments that are not restored, and weights that are sent unmerged."""
    straight = one_step(trainer("ppo_lora"), "ppo_lora")
    first = tmp_path / "first"
    (first / "saved").mkdir(parents=True)
    (first / "scalars.json").write_text(json.dumps(straight.save(first / "saved")))
    _seal(first / "saved", 1)
    start = first / "saved"
    for world, name in ((2, "two"), (1, "one")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "start").symlink_to(start)
        ranks(folder, world, "step", script=SCRIPT)
        start = folder / "saved"
        local = trainer("ppo_lora")
        local.load(start, json.loads((folder / "scalars.json").read_text()))
        for after in together(folder, "after", world):
            sent = {n.removeprefix("sent."): t for n, t in after.items() if n.startswith("sent.")}
            theirs = dict(local.weights())
            assert sent.keys() == theirs.keys() and not any("lora" in n for n in sent)
            assert all(torch.equal(t, theirs[n]) for n, t in sent.items())
            assert all(torch.equal(p, after[n]) for n, p in networks(local).items())
        size = sum(file.stat().st_size for file in start.glob("*.safetensors"))
        trained = sum(p.numel() for p in networks(local).values() if p.requires_grad)
        assert size < 3 * 4 * trained + 200_000  # adapters, the critic's head and their moments; headers
    one_step(straight, "ppo_lora", 2)
    wanted = {n: p.detach() for n, p in networks(straight).items() if p.requires_grad}
    assert local.updates == straight.updates == 3
    assert relative_of_all({n: p.detach() for n, p in networks(local).items() if n in wanted}, wanted) < 1e-3


def test_adapters_over_a_folder_that_is_read_in_parts(tmp_path: Path) -> None:
    """Catches adapters of other numbers than one process draws, or of other numbers on each rank, and frozen weights that are not
    found under their names inside the adapters."""
    write(tmp_path / "model")
    ranks(tmp_path, 2, "read", script=SCRIPT)
    for rank in range(2):
        assert json.loads((tmp_path / f"read.{rank}.json").read_text()) == [""] * 6


def test_networks_that_do_not_fit_together_are_refused() -> None:
    """Catches frozen weights that lie in float32 where bfloat16 was asked for (or in 4 bits), and a critic without adapters,
    whose weights would be computed in float32 beside them."""
    owner = trainer("ppo_lora")
    parts = (owner.model, None, owner._adapter, owner._update, 3, 1.0)
    with pytest.raises(ValueError, match=r"under adapters is torch\.float32, and ranks compute in torch\.bfloat16"):
        FsdpTrainer(*parts, owner.critic, mesh=None, dtype=torch.bfloat16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must both have adapters"):
        FsdpTrainer(*parts, trainer("ppo").critic, mesh=None)  # type: ignore[arg-type]
    plain = trainer("grpo")
    adapted = trainer("ppo").critic
    assert adapted is not None and adapted.trunk is not None
    add_adapters(adapted.trunk, rank=2, alpha=4.0, seed=1)
    with pytest.raises(ValueError, match="must both have adapters"):
        FsdpTrainer(plain.model, None, plain._adapter, plain._update, 3, 1.0, adapted, mesh=None)  # type: ignore[arg-type]
