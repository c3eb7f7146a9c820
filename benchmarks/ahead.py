"""Seconds a step when sampling runs one step ahead of learning, against one after the other, in turn (A B A B).

    python benchmarks/ahead.py [--rounds 2] [--steps 8]

One engine and one rank on two cores, on replies of uneven length, in three ways: "split", each has a core and they work one after
the other; "colocated", they work one after the other and each has both cores; "ahead", each has a core and both work at once.
All learn from the same number of samples; the mean reward of the last steps of each is printed beside the seconds. Needs Ray.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from lmm_r1.chain import run_recipe
from lmm_r1.recipes import load_recipe
from lmm_r1.runs.live import LiveView

RECIPE = """
name = "ahead"
seed = {seed}
[engine]
slots = 64
max_context = 256
[evaluate]
sets = []
[save]
every = 0
[cluster]
address = "local"
layout = "{layout}"
ahead = {ahead}
[stage.fre]
from = "base"
steps = {steps}
data = [{{ source = "synthetic", domain = "text" }}]
rollout = {{ prompts = 32, siblings = 8, max_new_tokens = 96, max_prompt_tokens = 128 }}
update = {{ lr = 1e-4, micro_tokens = 2048 }}
"""


#: name -> (layout, ahead)
WAYS = {"split": ("split", 0), "colocated": ("colocated", 0), "ahead": ("split", 1)}


def measured(way: str, steps: int, seed: int) -> list[dict[str, float]]:
    """The metrics of each step of one run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ahead.toml"
        layout, ahead = WAYS[way]
        path.write_text(RECIPE.format(layout=layout, ahead=ahead, steps=steps, seed=seed))
        run_recipe(load_recipe(path), path, Path(folder) / "run", live=LiveView())
        lines = (Path(folder) / "run" / "fre" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def main() -> None:
    """Print medians, their ratio, and the rewards with 95 % intervals over steps and rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    rewards: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(asked.rounds):
        for way in WAYS:
            lines = measured(way, asked.steps, seed)
            took = [sum(v for k, v in line.items() if k.startswith("seconds/")) for line in lines]
            seconds[way] += took[2:]  # the first step is sampled before anything can be learned, and caches fill
            rewards[way] += [line["reward/mean"] for line in lines[-asked.steps // 2 :]]
            parts = {
                k: statistics.median(line[f"seconds/{k}"] for line in lines[2:])
                for k in ("collect", "anchor", "update", "sync")
            }
            print(
                way,
                seed,
                f"{statistics.median(took[2:]):.2f} s a step",
                {k: round(v, 2) for k, v in parts.items()},
                flush=True,
            )
    for way in WAYS:
        spread = 1.96 * float(np.std(rewards[way], ddof=1)) / len(rewards[way]) ** 0.5
        print(
            f"{way}: median {statistics.median(seconds[way]):.2f} s a step, mean reward of the last half "
            f"{np.mean(rewards[way]):.3f} +- {spread:.3f}"
        )
    for way in ("split", "colocated"):
        print(f"{way} / ahead: {statistics.median(seconds[way]) / statistics.median(seconds['ahead']):.2f}")


if __name__ == "__main__":
    main()
