"""Does it learn? Whole runs of the micro model, minutes each: `make test-learning`, not part of the fast tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageDraw

from lmm_r1.algorithms.named import ALGORITHMS
from lmm_r1.chain import run_recipe
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards.extract import extract
from lmm_r1.types import Problem

RECIPE = """
name = "learning"
seed = 5

[model]
base = "micro"

[engine]
slots = 128
max_context = 640

[evaluate]
sets = []

[save]
every = 0
rollout_groups = 0

[stage.only]
steps = {steps}
data = [{data}]
rollout = {{ prompts = 16, siblings = 8, max_new_tokens = {longest} }}
algorithm = {{ name = "{algorithm}"{kl} }}
{critic}
reward = {{ shuffle = {shuffle}, verifier = "{verifier}" }}
update = {{ lr = {lr}, micro_tokens = 2048 }}
"""

TEXT = '{ source = "synthetic", domain = "text" }'
COLOURS = ((214, 39, 40), (44, 150, 44), (31, 88, 190), (240, 200, 30))


def accuracies(
    folder: Path,
    *,
    steps: int,
    data: str = TEXT,
    algorithm: str = "grpo",
    shuffle: bool = False,
    lr: float = 1e-4,
    longest: int = 64,
    verifier: str = "",
    kl_coef: float | None = None,
) -> list[float]:
    """Share of right replies of every step of a run."""
    path = folder / "learning.toml"
    path.write_text(
        RECIPE.format(
            steps=steps,
            data=data,
            algorithm=algorithm,
            shuffle=str(shuffle).lower(),
            lr=lr,
            longest=longest,
            verifier=verifier,
            kl="" if kl_coef is None else f", kl_coef = {kl_coef}",
            # A critic must learn within these few steps: the published rate is for thousands.
            critic="critic = { lr = 1e-3 }" if algorithm == "ppo" else "",
        ),
        encoding="utf-8",
    )
    run_recipe(load_recipe(path), path, folder / "run")
    lines = (folder / "run" / "only" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["reward/accuracy"] for line in lines]


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "sft"])
def test_every_algorithm_brings_out_reasoning(algorithm: str, tmp_path: Path) -> None:
    """Catches an algorithm that runs and does not learn: the base is right on a third of these problems."""
    found = accuracies(tmp_path, steps=20, algorithm=algorithm)
    assert found[0] < 0.45
    assert np.mean(found[-4:]) > found[0] + 0.25, found


def test_imitation_lowers_the_loss(tmp_path: Path) -> None:
    """Catches supervised fine-tuning that trains on the wrong tokens: the base knows these solutions and hides them."""
    path = tmp_path / "sft.toml"
    data = '{ source = "synthetic", domain = "text", solutions = true }'
    text = RECIPE.format(
        steps=20, data=data, algorithm="sft", kl="", critic="", shuffle="false", verifier="", lr=2e-4, longest=64
    )
    path.write_text(text.replace("sets = []", 'sets = ["text"]\nitems = 100'), encoding="utf-8")
    arms = run_recipe(load_recipe(path), path, tmp_path / "run")["arms"]
    lines = (tmp_path / "run" / "only" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-3:]) < 0.6 * losses[0], losses
    assert arms["only"]["text"]["accuracy"] > arms["base"]["text"]["accuracy"] + 0.3


def test_rewards_dealt_at_random_teach_nothing(tmp_path: Path) -> None:
    """Catches a gain that does not come from the reward."""
    found = accuracies(tmp_path, steps=20, shuffle=True)
    assert abs(np.mean(found[-8:]) - np.mean(found[:4])) < 0.1, found


def residue(problem: Problem, reply: str) -> bool:
    """Whether the answer is a whole number that leaves the gold when divided by four."""
    found = extract(reply).answer
    return found.isdigit() and len(found) < 6 and int(found) % 4 == int(problem.answer)


def coloured_squares(folder: Path, count: int = 64) -> Path:
    """problems.jsonl: a square in one of four colours, and a question that the base answers with any number."""
    rng = np.random.default_rng(0)
    lines = []
    for k in range(count):
        picture = PillowImage.new("RGB", (84, 56), (246, 246, 246))
        x, y = 28 * int(rng.integers(3)), 28 * int(rng.integers(2))
        ImageDraw.Draw(picture).rectangle((x + 4, y + 4, x + 24, y + 24), fill=COLOURS[k % 4], outline=(60, 60, 60))
        picture.save(folder / f"{k}.png")
        content = [{"type": "image", "image": f"{k}.png"}, {"type": "text", "text": "Find x."}]
        lines.append({"id": str(k), "messages": [{"role": "user", "content": content}], "answer": str(k % 4)})
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_colour_to_number(tmp_path: Path) -> None:
    """Catches pictures that do not reach the policy: four colours stand for four classes of numbers, so a blind policy is
    right on one in four."""
    coloured_squares(tmp_path)
    data = '{ source = "problems", path = "problems.jsonl" }'
    found = accuracies(
        tmp_path,
        steps=110,
        data=data,
        lr=2e-4,
        longest=24,
        verifier="tests.learning.test_learning:residue",
        kl_coef=0.0,
    )
    assert found[0] < 0.45
    assert np.mean(found[-5:]) > 0.95, found
