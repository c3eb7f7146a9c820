"""How far `lmm-r1 plan` is from what was measured: a micro run on this CPU, and a published 3B baseline.

    python benchmarks/plan.py [--steps 8] [--threads 1] [--only micro|easyr1|lmm_r1]

micro: trains the first two stages of recipes/quickstart.toml for a few steps, reads their metrics.jsonl and rollouts, and
predicts each phase twice: from this CPU's measured rates alone (a plain matrix product and a plain copy), and with the shares
of these rates fitted on the first stage (text) and applied to the second (pictures), which is the test. Medians of the steps
after the first. easyr1: EasyR1's Geometry3K baseline at 3B, 8 x H100 (assets/baselines.md of v0.3.2: 120 s a step, 1,800 tokens
a second and GPU, actor MFU 8.1 %). lmm_r1: under which assumptions 1024 x 16 samples take LMM-R1's 30.1 minutes on 8 x A100.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lmm_r1.chain import run_recipe
from lmm_r1.config import Recipe
from lmm_r1.planning.assumptions import PACES, Assumptions, Setting
from lmm_r1.planning.gpus import Gpu, gpu_named
from lmm_r1.planning.phases import Clock, Phase
from lmm_r1.planning.planner import step_seconds
from lmm_r1.planning.shapes import shape_of
from lmm_r1.recipes import load_recipe, recipes_folder

QUICKSTART = recipes_folder() / "quickstart.toml"
FRE_TEXT = recipes_folder() / "lmm_r1_3b" / "fre_text.toml"
LEARNING = ("collect", "anchor", "update", "sync")


def rate(work: Callable[[], object], amount: float) -> float:
    """Of `amount` a call: the median of nine rounds, a second."""
    work()
    rounds = []
    for _ in range(9):
        started = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - started)
    return amount / statistics.median(rounds)


def this_cpu() -> tuple[Gpu, float]:
    """(this CPU as a "GPU": float32 products of the micro model's size, plain copies; sha256 in bytes/s)."""
    a, b = torch.randn(2048, 128), torch.randn(128, 768)
    plain, block = torch.zeros(16 * 1024 * 1024), bytes(32 * 1024 * 1024)
    flops = rate(lambda: a @ b, 2 * 2048 * 128 * 768)
    copied = rate(lambda: plain.clone(), 2 * plain.nbytes)
    hashed = rate(lambda: hashlib.sha256(block).digest(), len(block))
    return Gpu("this CPU", 8.0, flops, copied, copied, copied, "measured"), hashed


@dataclass(frozen=True)
class Measured:
    """Medians of a stage: seconds by phase, and the lengths that its replies and prompts had."""

    seconds: dict[str, float]
    reply: float
    longest: float
    prompt: float
    picture: float


def measured(folder: Path, placeholder: int) -> Measured:
    """What a stage's metrics.jsonl and rollouts say; its first step, which warms up, is left out."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]
    seconds = {phase: statistics.median(line[f"seconds/{phase}"] for line in lines) for phase in LEARNING}
    rows = [
        json.loads(row)
        for path in sorted((folder / "rollouts").glob("*.jsonl"))
        for row in path.read_text().splitlines()
    ]
    prompt = statistics.mean(row["trainable"].index(True) for row in rows)
    picture = statistics.mean(row["token_ids"].count(placeholder) for row in rows)
    means = [statistics.median(line[f"length/{kind}"] for line in lines) for kind in ("mean", "max")]
    return Measured(seconds, means[0], means[1], prompt, picture)


def clock(recipe: Recipe, stage: str, cpu: Gpu, seen: Measured, assumed: Assumptions) -> Clock:
    """The plan of a stage with the lengths that were seen."""
    setting = Setting(
        gpu=cpu, gpus=1, engine="embedded", reply_tokens=seen.reply, longest_tokens=seen.longest,
        prompt_tokens=seen.prompt - seen.picture, picture_tokens=max(seen.picture, 1.0),
    )  # fmt: skip
    return Clock(recipe, recipe.stage[stage], shape_of(recipe.model.base), setting, assumed)


def fitted(recipe: Recipe, stage: str, cpu: Gpu, seen: Measured, assumed: Assumptions) -> Assumptions:
    """The shares with which the plan gives a stage's measured anchor and update together, collect, and sync."""
    found = clock(recipe, stage, cpu, seen, assumed).phases()
    learned = seen.seconds["anchor"] + seen.seconds["update"]
    train = (found["anchor"].seconds + found["update"].seconds) / learned
    left = max(0.0, seen.seconds["collect"] - found["collect"].seconds)
    # One wave of decode steps, or several: the count is the difference that a second more per step would make.
    slower = clock(recipe, stage, cpu, seen, replace(assumed, step_embedded=assumed.step_embedded + 1.0))
    steps = slower.phases()["collect"].seconds - found["collect"].seconds
    hashing = assumed.hash_rate * found["sync"].seconds / seen.seconds["sync"]
    return replace(
        assumed, train=train, step_embedded=assumed.step_embedded + left / steps, hash_rate=hashing, prefill=train
    )


def micro(steps: int) -> None:
    """Predicted against measured seconds, stage by stage. Other work slows this machine down for minutes at a time, so its
    rates are taken before and after each stage."""
    changes = [f"stage.{name}.steps={steps}" for name in ("fre_text", "mgt_geo")]
    changes += [
        'model.device="cpu"',
        "evaluate.sets=[]",
        "save.every=0",
        "stage.direct_geo.rollouts_of=[]",
        "save.rollout_groups=16",
    ]
    recipe = load_recipe(QUICKSTART, changes)
    machines, seen, rates = {}, {}, [this_cpu()]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        for stage in ("fre_text", "mgt_geo"):
            run_recipe(recipe, QUICKSTART, run, stage=stage)
            rates.append(this_cpu())
            machines[stage] = between(*rates[-2:])
            config = json.loads((run / "fre_text" / "model" / "config.json").read_text())
            seen[stage] = measured(run / stage, config["image_token_id"])
    cpu, hashed = machines["fre_text"]
    fit = fitted(recipe, "fre_text", cpu, seen["fre_text"], bare(cpu, hashed))
    print(
        f"this CPU: {cpu.flops / 1e9:.1f} GFLOP/s, copies {cpu.bandwidth / 1e9:.1f} GB/s, sha256 {hashed / 1e9:.2f} GB/s"
    )
    print(
        f"fitted on fre_text: {fit.train:.2f} of the product's rate in learning, {fit.step_embedded * 1e3:.1f} ms a decode step"
    )
    print(f"{'stage':10}{'phase':10}{'measured':>10}{'rates alone':>13}{'fitted':>10}{'fitted / measured':>19}")
    for stage, what in seen.items():
        now, hashed_now = machines[stage]
        slower = cpu.flops / now.flops
        there = replace(fit, step_embedded=fit.step_embedded * slower, hash_rate=fit.hash_rate * hashed_now / hashed)
        first, second = (clock(recipe, stage, now, what, a).phases() for a in (bare(now, hashed_now), there))
        rows = [(p, what.seconds[p], first[p].seconds, second[p].seconds) for p in LEARNING]
        rows.append(("step", *(sum(row[i] for row in rows) for i in (1, 2, 3))))
        for phase, real, alone, guess in rows:
            print(f"{stage:10}{phase:10}{real:10.3f}{alone:13.3f}{guess:10.3f}{guess / real:19.2f}")


def between(first: tuple[Gpu, float], second: tuple[Gpu, float]) -> tuple[Gpu, float]:
    """The mean of two measurements of this CPU."""
    flops, bandwidth = (first[0].flops + second[0].flops) / 2, (first[0].bandwidth + second[0].bandwidth) / 2
    return replace(first[0], flops=flops, bandwidth=bandwidth), (first[1] + second[1]) / 2


def bare(cpu: Gpu, hashed: float) -> Assumptions:
    """All of the measured rates, and nothing beside them."""
    return Assumptions(1.0, 1.0, 1.0, 1e-9, 1e-9, 1.0, 1.0, hashed, cpu.bandwidth)


def show(title: str, found: dict[str, dict[str, Phase]], setting: Setting) -> None:
    """A line per pace."""
    print(title)
    for name, phases in found.items():
        told = ", ".join(f"{phase} {phases[phase].seconds:.1f}" for phase in LEARNING)
        print(f"  {name:24} {step_seconds(phases, setting):7.1f} s a step ({told})")


def easyr1() -> None:
    """Their settings in our plan: 512 prompts x 5, four optimiser steps, GRPO with KL, prompts not shared between siblings."""
    tokens = 1800 * 8 * 120 / (512 * 5)
    changes = [
        "stage.fre_text.rollout={ prompts = 512, siblings = 5, max_new_tokens = 2048, max_prompt_tokens = 2048 }",
        "stage.fre_text.algorithm={ name = 'grpo', kl_coef = 1e-2 }", "stage.fre_text.data.0.domain=geometry",
        "stage.fre_text.update={ minibatches = 4, micro_tokens = 2700 }", "evaluate.sets=[]",
        "model.min_pixels=262144", "model.max_pixels=4194304", "engine.slots=256",
    ]  # fmt: skip
    recipe = load_recipe(FRE_TEXT, changes)
    setting = Setting(
        gpu=gpu_named("h100-80g"),
        gpus=8,
        reply_tokens=tokens - 450,
        prompt_tokens=100,
        picture_tokens=350,
        share_prompts=False,
    )
    shape = shape_of(recipe.model.base)
    told = Clock(recipe, recipe.stage["fre_text"], shape, setting, PACES["middle"])
    used = 6 * (shape.text.linear + 2 * shape.text.embedding) * tokens * 2560 / (8 * setting.gpu.flops * 0.081)
    show(
        f"EasyR1, 3B, 8 x H100: published 120 s a step; {tokens:.0f} tokens a sample, of which 450 of the prompt are assumed; its "
        f"actor's MFU of 8.1 % is an update of {used:.0f} s",
        {pace: replace(told, assumed=assumed).phases() for pace, assumed in PACES.items()},
        setting,
    )


def lmm_r1() -> None:
    """1024 prompts x 16 on 8 x A100 for a range of reply lengths: what would make it 30.1 minutes."""
    changes = [
        "stage.fre_text.rollout={ prompts = 1024, siblings = 16, max_new_tokens = 4096, max_prompt_tokens = 4096 }",
        "stage.fre_text.algorithm.name=rloo", "stage.fre_text.algorithm.kl_coef=0.0", "stage.fre_text.steps=1",
        "stage.fre_text.update.minibatches=64", "evaluate.sets=[]",
    ]  # fmt: skip
    recipe = load_recipe(FRE_TEXT, changes)
    print("LMM-R1, 1024 x 16 samples on 8 x A100: 30.1 minutes published, its settings are not. Minutes by mean reply:")
    for reply in (200, 400, 600, 800, 1200):
        setting = Setting(gpu=gpu_named("a100-80g"), gpus=8, reply_tokens=reply)
        told = Clock(recipe, recipe.stage["fre_text"], shape_of(recipe.model.base), setting, PACES["middle"])
        paced = {pace: step_seconds(replace(told, assumed=a).phases(), setting) / 60 for pace, a in PACES.items()}
        print(f"  {reply:5} tokens: " + ", ".join(f"{pace} {minutes:.1f}" for pace, minutes in paced.items()))


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("micro", "easyr1", "lmm_r1"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    parts = {"micro": lambda: micro(chosen.steps), "easyr1": easyr1, "lmm_r1": lmm_r1}
    for name, part in parts.items():
        if chosen.only in (None, name):
            part()


if __name__ == "__main__":
    main()
