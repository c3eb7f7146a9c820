"""The package against examples/one_file_grpo.py: same tokens, same pictures, same loss and gradient."""

from __future__ import annotations

import ast
import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.config import AlgorithmConfig, Update
from lmm_r1.models.micro import random_micro
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Group, Image, Problem, Rollout, Sample, Score
from tests.closeness import relative, relative_of_all

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "one_file_grpo.py"


def load_source(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_source(EXAMPLE)


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    return load_source(ROOT / "tests" / "trainers" / "plain_model.py")


def gradient(model: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.double().clone() for n, p in model.named_parameters() if p.grad is not None}


def test_it_is_short_and_stands_alone() -> None:
    """Catches an oracle that shares code, and so bugs, with what it checks."""
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) <= 250
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "lmm_r1" not in names


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize("micro_tokens", [70, 8192])
def test_loss_and_gradient_equal_the_package(
    example: ModuleType, plain: ModuleType, monkeypatch: pytest.MonkeyPatch, kl_coef: float, micro_tokens: int
) -> None:
    """Catches any difference between the specification and the packed, batched path: text, one and two pictures.

    Old and reference policies differ from the trained one, so that ratio, clip and KL all matter.
    """
    model, reference, old = plain.random_model(4), plain.random_model(4), plain.random_model(4)
    with torch.no_grad():
        for noise, other in ((0.02, reference), (0.02, old)):
            for parameter in other.parameters():
                parameter.mul_(1 + noise * torch.randn(parameter.shape))
    adapter = plain.PlainAdapter(model)
    pictures = {"text": [], "one": [Image("one", 56, 84)], "pair": [Image("one", 56, 84), Image("two", 140, 56)]}
    groups, sequences = [], []
    rng = np.random.default_rng(0)
    for name, images in pictures.items():
        rewards = [float(r) for r in rng.choice([0.0, 0.5, 1.5], 4)]
        episodes = [plain.make_rollout(model, name, g, 3 + 2 * g, images) for g in range(4)]
        groups.append(
            Group(Problem(name, (), ""), tuple((e,) for e in episodes), tuple(Score(r, {}, {}) for r in rewards))
        )
        for episode, advantage in zip(episodes, example.group_advantages(rewards), strict=True):
            sequences.append(as_sequence(example, adapter, episode, advantage))
    for sequence in sequences:
        with torch.no_grad():
            sequence.old = example.reply_logprobs(old, sequence, 0.8)
            sequence.ref = example.reply_logprobs(reference, sequence, 0.8)
    model.zero_grad()
    wanted_loss = example.backward(model, sequences, 0.2, kl_coef, 0.8)
    wanted = gradient(model)

    algorithm = make_algorithm(AlgorithmConfig(name="grpo", kl_coef=kl_coef))
    rollouts = [r for g in groups for r in g.rollouts]
    update = Update(micro_tokens=micro_tokens)
    anchors = LocalTrainer(old, reference, adapter, update, 1, 0.8).anchors(rollouts, algorithm.needs)
    trainer = LocalTrainer(model, None, adapter, update, 1, 0.8)
    samples = [Sample(*parts) for parts in zip(rollouts, anchors, algorithm.credit(groups, anchors), strict=True)]
    seen: list[dict[str, Tensor]] = []
    monkeypatch.setattr(trainer, "_step", lambda lr: seen.append(gradient(model)) or {})
    metrics = trainer.update(samples, algorithm, 0.0)

    assert metrics["loss"] == pytest.approx(wanted_loss, rel=2e-5, abs=1e-6)
    assert seen[0].keys() == wanted.keys()
    assert relative_of_all(seen[0], wanted) < 2e-5
    whole = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for name, g in wanted.items():
        if g.norm() > 1e-6 * whole:
            assert relative(seen[0][name], g) < 1e-4, name


def as_sequence(example: ModuleType, adapter: Any, rollout: Rollout, advantage: float) -> Any:
    ids = torch.from_numpy(rollout.token_ids.astype(np.int64))
    vision = adapter.vision_inputs(rollout.images) if rollout.images else {}
    return example.Sequence(
        ids, rollout.prompt_end, vision.get("pixel_values"), vision.get("image_grid_thw"), advantage
    )


def test_two_steps_run(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an example that no longer runs from a plain model folder."""
    small: dict[str, int] = {"hidden": 64, "layers": 1, "vision_hidden": 64, "vision_layers": 2, "intermediate": 64}
    folder = random_micro(tmp_path / "model", **small)
    example.main(["--model", str(folder), "--steps", "2", "--prompts", "2", "--siblings", "2", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.count("gradient") == 2


def test_one_step_follows_the_advantage(example: ModuleType, plain: ModuleType) -> None:
    """Catches a sign error in the specification itself, which agreement alone would not show."""
    model = plain.random_model(5)
    adapter = plain.PlainAdapter(model)
    good = as_sequence(example, adapter, plain.make_rollout(model, "p", 0, 5, [Image("one", 56, 84)]), 1.0)
    before = copy.deepcopy(model)
    model.zero_grad()
    example.backward(model, [good], 0.2, 0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
        assert example.reply_logprobs(model, good).sum() > example.reply_logprobs(before, good).sum()


def test_reward_of_the_specification(example: ModuleType) -> None:
    """Catches a specification that pays for the wrong thing."""
    assert example.reward("<think>3 + 4 = 7</think><answer>7</answer>", 7) == 1.5
    assert example.reward("<think>3 + 4 = 7</think><answer>8</answer>", 7) == 0.5
    assert example.reward("<answer>7</answer>", 7) == 1.0
    assert example.reward("7", 7) == 0.0
