"""The sharded trainer: the numbers of the local one from any number of ranks, saved by some and read by others.

Ranks are processes on this machine that talk over gloo (fsdp_ranks.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from fsdp_ranks import ALL, CASES, made_rollouts, networks, samples_of, step_weights, trainer
from safetensors.torch import load_file

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.runs.checkpoint import _seal
from lmm_r1.trainers.tally import Counts, metrics_of
from tests.closeness import relative_of_all
from tests.members import run_members

HERE = Path(__file__).parent


def ranks(folder: Path, world: int, job: str, limit_s: float = 180.0, script: str = "fsdp_ranks.py") -> None:
    """Run a script's job on so many ranks; AssertionError with their output when one fails."""
    arguments = [(str(rank), str(world), str(folder), job) for rank in range(world)]
    for code, output in run_members(HERE / script, arguments, folder, limit_s):
        assert code == 0, output[-4000:]


def together(folder: Path, name: str, world: int) -> list[dict[str, torch.Tensor]]:
    return [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(world)]


@pytest.mark.parametrize(("world", "job"), [(2, "gradient"), (3, "gradient"), (2, "shared_rows"), (4, "shared_rows")])
def test_ranks_change_no_number(world: int, job: str, tmp_path: Path) -> None:
    """Catches averaged gradients, a lost or doubled share, a hang when one rank has text alone, pictures alone or nothing,
    a shared or separate critic that is not reduced, and a norm of one rank's shard. With rows that pairs of ranks share: a token
    that none or both of them trains, keys of one part alone, and features or gradients that stay with one rank."""
    ranks(tmp_path, world, job)
    compare_steps(tmp_path, CASES, world, 2 if job == "shared_rows" else 1)


def compare_steps(folder: Path, cases: Iterable[str], world: int, sequence: int) -> None:
    """Hold what ranks found (fsdp_ranks.job_gradient), of which so many share their rows, to the local trainer's numbers."""
    rollouts = made_rollouts()
    for case in cases:
        owner, algorithm = trainer(case), make_algorithm(ALL[case][0])
        samples = samples_of(owner, rollouts, algorithm)
        weights = step_weights(samples, algorithm, slice(None))
        owner.accumulate(samples, algorithm, *weights)
        wanted = {n: p.grad.clone() for n, p in networks(owner).items() if p.grad is not None}
        owner._drop()
        found = together(folder, case, world)
        for rank, mine in enumerate(found):
            assert wanted.keys() == mine.keys() & networks(owner).keys()  # what is frozen has no gradient
            assert relative_of_all({n: mine[n] for n in wanted}, wanted) < 2e-5, (case, rank)
        for at, sample in enumerate(samples):
            said = [mine[f"old.{at}"] for mine in found if f"old.{at}" in mine]
            assert len(said) == sequence
            old = torch.stack(said).sum(0)  # 0 where the other rank has the token
            assert sum(int((one != 0).sum()) for one in said) == sample.rollout.reply_tokens
            assert float((old - torch.from_numpy(sample.anchors.old_logprobs)).abs().max()) < 1e-4
            if sample.anchors.ref_logprobs is not None:
                ref = torch.stack([mine[f"ref.{at}"] for mine in found if f"ref.{at}" in mine]).sum(0)
                assert float((ref - torch.from_numpy(sample.anchors.ref_logprobs)).abs().max()) < 1e-4
        score = torch.from_numpy(owner.score(rollouts[4].token_ids, rollouts[4].images).copy())
        counts = owner.step(samples, algorithm, *weights)
        for mine in found:
            assert mine["norm"].item() == pytest.approx(counts.same["grad_norm"], rel=1e-4)
        assert sum(int(mine["tokens"]) for mine in found) == counts.tokens
        for name, value in (counts.totals | counts.sums).items():
            total = sum(float(mine.get(f"sum.{name}", torch.tensor(0.0))) for mine in found)
            assert total == pytest.approx(value, rel=2e-4, abs=1e-4), name
        known = sum(mine["score"] for mine in found[:sequence])
        assert float((known - score).abs().max()) > 1e-6  # scored after the step, not before
        after = {f"after.{n}": p.detach() for n, p in networks(owner).items()}
        close = {n: found[0][n] for n in after}
        assert (
            max(float((close[n] - after[n]).abs().max()) for n in after) < 2.1e-3
        )  # AdamW's first step is a sign: 2 lr
        assert relative_of_all(close, after) < 1e-3


def test_recomputed_activations_and_frozen_parts(tmp_path: Path) -> None:
    """Catches layers that recompute with weights that were let go, and a tower without gradients that ranks wait for."""
    ranks(tmp_path, 2, "checkpointing")
    rollouts = made_rollouts()
    for name, settings in (("recomputed", {}), ("frozen", {"freeze": ("vision", "merger")})):
        owner, algorithm = trainer("grpo", **settings), make_algorithm(CASES["grpo"][0])
        samples = samples_of(owner, rollouts, algorithm)
        owner.accumulate(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
        wanted = {n: p.grad for n, p in networks(owner).items() if p.grad is not None}
        for mine in together(tmp_path, name, 2):
            assert mine.keys() == wanted.keys() and relative_of_all(mine, wanted) < 2e-5


def test_layers_compute_in_bfloat16_over_float32_shards(tmp_path: Path) -> None:
    """Catches masters in bfloat16, in which a step of 1e-6 vanishes, gradients that are reduced in it, an engine that is sent
    float32, and a critic's float32 head that does not fit its trunk."""
    ranks(tmp_path, 2, "narrow")
    rollouts = made_rollouts()
    owner, algorithm = trainer("ppo"), make_algorithm(CASES["ppo"][0])
    samples = samples_of(owner, rollouts, algorithm)
    owner.accumulate(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
    wanted = {n: p.grad for n, p in networks(owner).items() if p.grad is not None}
    for mine in together(tmp_path, "narrow", 2):
        assert all(mine[n].dtype == torch.float32 for n in wanted)
        assert 1e-4 < relative_of_all({n: mine[n] for n in wanted}, wanted) < 0.1  # bfloat16 has 8 bits
        moved = torch.cat([mine[f"moved.{n}"].flatten() for n in wanted])
        assert float((moved != 0).float().mean()) > 0.5 and float(moved.abs().max()) < 2e-6
        assert all(t.dtype == torch.bfloat16 for n, t in mine.items() if n.startswith("sent."))


def test_any_number_of_ranks_resumes_any_other(tmp_path: Path) -> None:
    """1 -> 2 -> 1 ranks, then one process without shards, and back. Catches a shard lost, moments that are not restored
    (the second step would differ), and formats that do not read each other."""
    rollouts, algorithm = made_rollouts(), make_algorithm(CASES["ppo"][0])
    straight = trainer("ppo")
    for _ in range(3):
        samples = samples_of(straight, rollouts, algorithm)
        straight.step(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
    folders = [tmp_path / name for name in ("one", "two", "three")]
    start: Path | None = None
    for world, folder in zip((1, 2, 1), folders, strict=True):
        folder.mkdir()
        if start is not None:
            (folder / "start").symlink_to(start)
        ranks(folder, world, "steps")
        start = folder / "saved"
    wanted = {n: p.detach() for n, p in networks(straight).items()}
    last = load_file(folders[-1] / "after.0.safetensors")
    assert relative_of_all({n: last[n] for n in wanted}, wanted) < 1e-4
    assert all(torch.equal(last[f"sent.{n}"], last[n]) for n, _ in straight.model.named_parameters())
    assert not list(start.glob("*.distcp")) and not list(start.glob(".metadata"))  # safetensors alone: no pickle
    local = trainer("ppo")
    local.load(start, json.loads((folders[-1] / "scalars.json").read_text()))
    assert local.updates == 3
    assert all(torch.equal(p, last[n]) for n, p in networks(local).items())
    plain = tmp_path / "plain"
    (plain / "start").mkdir(parents=True)
    owner = trainer("ppo")
    samples = samples_of(owner, rollouts, algorithm)
    owner.step(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
    (plain / "scalars.json").write_text(json.dumps(owner.save(plain / "start")))
    _seal(plain / "start", 1)
    ranks(plain, 2, "steps")
    samples = samples_of(owner, rollouts, algorithm)
    owner.step(samples, algorithm, *step_weights(samples, algorithm, slice(None)))
    found = load_file(plain / "after.0.safetensors")
    assert relative_of_all({n: found[n] for n in wanted}, {n: p.detach() for n, p in networks(owner).items()}) < 1e-4


def test_a_fault_on_one_rank_stops_all(tmp_path: Path) -> None:
    """Catches ranks that wait for ever for one that stopped, and weights that moved on the others."""
    ranks(tmp_path, 2, "fault")
    told = [(tmp_path / f"fault.{rank}.txt").read_text() for rank in range(2)]
    assert "another rank" in told[0] and "the weights are unchanged" in told[1]


def test_metrics_of_shares_are_those_of_the_whole() -> None:
    """Catches means of means: a rank with few tokens must not weigh as much as one with many."""
    whole = metrics_of([Counts(3, {"loss": 3.0}, {"entropy": 6.0}, {"ratio_max": 2.0}, {"lr": 0.1})])
    parts = [
        Counts(1, {"loss": 1.0}, {"entropy": 5.0}, {"ratio_max": 2.0}, {"lr": 0.1}),
        Counts(2, {"loss": 2.0}, {"entropy": 1.0}, {"ratio_max": 1.5}, {"lr": 0.1}),
        Counts(0, {}, {}, {}, {"lr": 0.1}),
    ]
    assert metrics_of(parts) == whole
    with pytest.raises(ValueError, match="at least one trainable token"):
        metrics_of([Counts(0, {}, {}, {})])
