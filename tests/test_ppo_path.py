"""PPO, adapters, steered KL and a moving reference through the whole path, and what a resume must reproduce."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lmm_r1.guards as guards
import lmm_r1.train as train
from lmm_r1.build import Workshop
from lmm_r1.chain import run_recipe
from lmm_r1.config import Guards, Recipe
from lmm_r1.errors import NumericError
from lmm_r1.recipes import load_recipe
from lmm_r1.rollout.collect import Collected
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Anchors

TOML = """
name = "ppo"
seed = 4

[model]
base = "micro"

[engine]
slots = 8
max_context = 256

[evaluate]
sets = []

[save]
every = 1
rollout_groups = 1

[stage.only]
steps = 4
data = [{{ source = "synthetic", domain = "geometry" }}, {{ source = "synthetic", domain = "text" }}]
rollout = {{ prompts = 4, siblings = 3, max_new_tokens = 24, max_prompt_tokens = 128 }}
{settings}
"""

#: What is tried -> the stage's settings.
ARMS = {
    "separate": """
algorithm = { name = "ppo", kl_coef = 0.05, kl_target = 0.001, kl_horizon = 20 }
critic = { lr = 1e-3, warmup = 1 }
update = { lr = 1e-3, minibatches = 2, reference_reset = 2 }""",
    "shared": """
algorithm = { name = "ppo" }
critic = { lr = 1e-3, trunk = "shared" }
update = { lr = 1e-3, minibatches = 2 }""",
    "one minibatch": """
algorithm = { name = "ppo" }
critic = { lr = 1e-3 }
update = { lr = 1e-3 }""",
    "lora": """
algorithm = { name = "ppo" }
critic = { lr = 1e-3 }
lora = { rank = 4, alpha = 8, parts = ["vision", "language"] }
update = { lr = 3e-3, minibatches = 2 }""",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads is part of what fixes the bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_of(folder: Path, arm: str) -> tuple[Recipe, Path]:
    if arm == "lora":
        pytest.importorskip("peft", reason='adapters need peft: pip install "lmm-r1[lora]"')
    path = folder / "recipe.toml"
    path.write_text(TOML.format(settings=ARMS[arm]), encoding="utf-8")
    return load_recipe(path), path


def metrics_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "only" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]


@pytest.mark.parametrize("arm", list(ARMS))
def test_a_stopped_run_goes_on_to_the_same_bits(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a critic, an adapter, a KL coefficient or a moved reference that a checkpoint forgets."""
    recipe, path = recipe_of(tmp_path, arm)
    run_recipe(recipe, path, tmp_path / "whole")
    real = train.save

    def save(run: train.StageRun, step: int, position: Mapping[str, object]) -> None:
        real(run, step, position)
        if step in (1, 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "save", save)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe, path, tmp_path / "parts")
    run_recipe(recipe, path, tmp_path / "parts")
    whole, parts = metrics_of(tmp_path / "whole"), metrics_of(tmp_path / "parts")
    assert whole == parts
    weights = [load_file(tmp_path / run / "only" / "model" / "model.safetensors") for run in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # The first minibatch's old policy is the present one, packed alike: its ratio is 1 to the last bit.
    assert all(m["ratio_error/first"] == 0.0 for m in whole)
    assert (whole[-1]["ratio_error/max"] > 0.0) == (arm != "one minibatch")
    assert all(np.isfinite(m["critic/loss"]) for m in whole)
    checkpoint = tmp_path / "whole" / "only" / "checkpoints" / "step_000004"
    files = {p.name for p in checkpoint.iterdir()}
    assert "critic.safetensors" in files and ("reference.safetensors" in files) == (arm == "separate")
    if arm == "separate":
        assert whole[0]["kl_coef"] == whole[1]["kl_coef"]  # nothing to steer by while the policy stands still
        assert len({m["kl_coef"] for m in whole[1:]}) == 3
        assert whole[0]["grad_norm"] == 0.0 < whole[1]["grad_norm"]  # a step of warm-up
    if arm == "lora":
        assert (checkpoint / "model.safetensors").stat().st_size < 1_000_000  # adapters alone
        assert all("lora" not in name for name in weights[0])


def test_a_reference_of_other_weights_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a guard that is never called: the second model that a stage loads is its reference."""
    recipe, path = recipe_of(tmp_path, "separate")
    real, loaded = Workshop.model, []

    def model(shop: Workshop, *args: object, **kwargs: object) -> torch.nn.Module:
        loaded.append(real(shop, *args, **kwargs))
        if len(loaded) == 2:  # after the policy
            with torch.no_grad():
                loaded[-1].model.language_model.norm.weight.mul_(1.01)
        return loaded[-1]

    monkeypatch.setattr(Workshop, "model", model)
    with pytest.raises(NumericError, match="start from the same weights"):
        run_recipe(recipe, path, tmp_path / "run")


def test_an_update_that_computes_otherwise_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a guard that is never called: here the update forgets the temperature."""
    recipe, path = recipe_of(tmp_path, "separate")
    real = LocalTrainer.update

    def update(trainer: LocalTrainer, *args: object, **more: object) -> dict[str, float]:
        trainer._temperature = 1.01
        return real(trainer, *args, **more)

    monkeypatch.setattr(LocalTrainer, "update", update)
    with pytest.raises(NumericError, match="ratio_error/max"):
        run_recipe(recipe, path, tmp_path / "run")


def test_the_guards_wait_for_the_first_step_that_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a session that is never checked because dynamic sampling found nothing at its first step."""
    recipe, path = recipe_of(tmp_path, "separate")
    real, asked = train.gather, []

    def gather(run: train.StageRun, step: int) -> Collected:
        found = real(run, step)
        return Collected((), found.counts) if step == 0 else found

    monkeypatch.setattr(train, "gather", gather)
    for name in ("guard_logprobs", "guard_start"):
        monkeypatch.setattr(train, name, lambda run, rollouts, anchors, *step, name=name: asked.append((name, *step)))
    run_recipe(recipe, path, tmp_path / "run")
    later = [("guard_logprobs", step, False) for step in (2, 3)]
    assert asked == [("guard_logprobs", 1, False), ("guard_start",), *later]


def run_with(gap: float, step: int = 0) -> tuple[SimpleNamespace, list[SimpleNamespace], list[Anchors]]:
    """A stage whose reference differs from its policy by `gap` nats on one token."""
    rollout = SimpleNamespace(trainable=np.array([False, True, True]), problem=SimpleNamespace(id="p"))
    old = np.array([0.0, -1.0, -2.0], np.float32)
    ref = old - np.array([5.0, 0.0, gap], np.float32)  # prompts do not count
    recipe = SimpleNamespace(model=SimpleNamespace(dtype="float32"))
    return SimpleNamespace(name="s", recipe=recipe), [rollout], [Anchors(old, ref)]


def test_a_policy_that_is_not_its_start_model_stops_the_run() -> None:
    """Catches a reference of other weights: KL would pull towards another model for the whole stage."""
    train.guard_start(*run_with(0.0))
    for gap in (1e-3, float("nan")):
        with pytest.raises(NumericError, match="start from the same weights"):
            train.guard_start(*run_with(gap))


@pytest.mark.parametrize(("dtype", "knobs", "stops"), [
    ("float32", {}, (True, True)), ("bfloat16", {}, (False, True)), ("float32", {"max_logprob_gap": 4.0}, (False, True)),
    ("bfloat16", {"max_logprob_gap": 2.0}, (True, True)), ("bfloat16", {"mean_logprob_gap": 0.2}, (False, False)),
])  # fmt: skip
def test_a_sampler_that_is_not_the_policy_stops_the_run(
    dtype: str, knobs: dict[str, float], stops: tuple[bool, bool]
) -> None:
    """Catches an engine with other weights, and a guard that stops every run in bfloat16 for one improbable token."""
    recipe = SimpleNamespace(model=SimpleNamespace(dtype=dtype), guards=Guards(**knobs))
    run = SimpleNamespace(name="s", recipe=recipe)
    old = np.full(401, -1.0, np.float32)
    trainable = np.arange(401) > 0
    one_token, all_tokens = old.copy(), old + np.float32(0.1)
    one_token[[0, 7]] = -9.0, -4.0  # prompts do not count
    for logprobs, stop in zip((one_token, all_tokens), stops, strict=True):
        rollout = SimpleNamespace(trainable=trainable, logprobs=logprobs, problem=SimpleNamespace(id="p"))
        told = pytest.raises(NumericError, match="sampler and trainer differ") if stop else nullcontext()
        with told:
            train.guard_logprobs(run, [rollout], [Anchors(old)], 0)
    rollout = SimpleNamespace(trainable=trainable, logprobs=np.full_like(old, np.nan), problem=SimpleNamespace(id="p"))
    with pytest.raises(NumericError):
        train.guard_logprobs(run, [rollout], [Anchors(old)], 0)


@pytest.mark.parametrize(("dtype", "name", "bound"), [("float32", "max", 1e-5), ("bfloat16", "mean", 0.05)])
def test_a_first_ratio_other_than_one_is_bounded(dtype: str, name: str, bound: float) -> None:
    """Catches dropout, another temperature or another packing between old and new log-probs."""
    recipe = SimpleNamespace(model=SimpleNamespace(dtype=dtype), guards=Guards())
    run = SimpleNamespace(name="s", recipe=recipe)
    found = guards.update_bounds(run, 0, old=True, sampled=True, stale=False)
    assert found == {f"ratio_error/{name}": bound}
