"""A recipe small enough for tests: every phase of the real path, in seconds."""

from __future__ import annotations

from pathlib import Path

from lmm_r1.config import Recipe
from lmm_r1.models.micro import random_micro
from lmm_r1.recipes import load_recipe

TOML = """
name = "tiny"
seed = 3
compare = [["second", "first"]]

[model]
base = "{base}"

[engine]
slots = 8
max_context = 256

[evaluate]
sets = ["text", "geometry"]
items = 6
max_new_tokens = 8

[save]
every = 1
keep = 2
rollout_groups = 2

[stage.first]
from = "base"
steps = {steps}
data = [{{ source = "synthetic", domain = "text" }}]
rollout = {{ prompts = 3, siblings = 4, max_new_tokens = 24, max_prompt_tokens = 128 }}
algorithm = {{ name = "{algorithm}" }}
update = {{ lr = 1e-3, minibatches = {minibatches} }}

[stage.second]
from = "first"
steps = {steps}
data = [{{ source = "synthetic", domain = "geometry", weight = 2.0 }}, {{ source = "synthetic", domain = "text" }}]
rollout = {{ prompts = 3, siblings = 4, max_new_tokens = 24, max_prompt_tokens = 128 }}
update = {{ lr = 1e-3 }}
"""


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A random Qwen2.5-VL of a few hundred thousand parameters."""
    return random_micro(folder, seed=seed, hidden=64, layers=2, intermediate=64, vision_hidden=32, vision_layers=2)


def tiny_recipe(folder: Path, *, steps: int = 2, minibatches: int = 1, algorithm: str = "grpo") -> tuple[Recipe, Path]:
    """(recipe, its path) in `folder`, over the shipped base: a random model earns no reward and learns nothing."""
    path = folder / "tiny.toml"
    path.write_text(TOML.format(base="micro", steps=steps, minibatches=minibatches, algorithm=algorithm))
    return load_recipe(path), path
