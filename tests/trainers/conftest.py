"""Fixtures: one tiny random Qwen2.5-VL, and rollouts of every shape that collate must pack."""

from __future__ import annotations

import pytest
from plain_model import PlainAdapter, make_rollout, random_model
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.types import Image, Rollout


@pytest.fixture(scope="session")
def model() -> Qwen2_5_VLForConditionalGeneration:
    """Shared by tests that do not change weights."""
    return random_model()


@pytest.fixture
def adapter(model: Qwen2_5_VLForConditionalGeneration) -> PlainAdapter:
    return PlainAdapter(model)


@pytest.fixture
def rollouts(model: Qwen2_5_VLForConditionalGeneration) -> list[Rollout]:
    """Text, one picture, two pictures of different size, and a game with a picture between two replies."""
    one, two = Image("one", 56, 84), Image("two", 140, 56)
    made = [make_rollout(model, "text", g, 4 + 3 * g) for g in range(3)]
    made += [make_rollout(model, "one", g, 5 + g, [one]) for g in range(3)]
    made += [make_rollout(model, "pair", g, 6 - g, [one, two]) for g in range(2)]
    made += [make_rollout(model, "game", g, 3, [two], [one]) for g in range(2)]
    return made
