"""Counts of the plan against counts of the real thing: parameters, adapters, cache bytes, FLOPs, numbers kept for a backward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from lmm_r1.errors import LmmR1Error
from lmm_r1.models.micro import random_micro
from lmm_r1.planning.shapes import BUILT_IN, PARTS, SHIPPED, Shape, shape_of
from lmm_r1.trainers.optimiser import part_of

B3 = "Qwen/Qwen2.5-VL-3B-Instruct"


def config_of(shape: Shape) -> Qwen2_5_VLConfig:
    """transformers' configuration of these sizes; what it adds by itself is none of them."""
    t, v = shape.text, shape.vision
    text = {
        "num_hidden_layers": t.layers, "hidden_size": t.hidden, "num_attention_heads": t.heads,
        "num_key_value_heads": t.kv_heads, "intermediate_size": t.intermediate, "vocab_size": t.vocabulary,
        "tie_word_embeddings": t.tied,
    }  # fmt: skip
    vision = {
        "depth": v.depth, "hidden_size": v.hidden, "intermediate_size": v.intermediate, "out_hidden_size": v.out,
        "num_heads": 16,
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=t.tied)


@pytest.fixture(scope="module")
def micro() -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig.from_pretrained(SHIPPED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager").eval()


def by_part(model: Any) -> dict[str, int]:
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return counts


@pytest.mark.parametrize("name", [*BUILT_IN, "micro"])
def test_parameters_are_those_of_the_model(name: str) -> None:
    """Catches a layer, a bias or a norm that is left out, and a tied head that is counted twice."""
    shape = shape_of(name)
    config = Qwen2_5_VLConfig.from_pretrained(SHIPPED) if name == "micro" else config_of(shape)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    assert by_part(model) == {part: shape.part(part) for part in PARTS}
    assert shape.parameters == sum(by_part(model).values())


def test_3b_by_hand() -> None:
    """Catches sizes that agree with transformers' defaults and not with the published model."""
    shape = shape_of(B3)
    layer = 2048 * 2048 * 2 + 2048 * 256 * 2 + 3 * 2048 * 11008 + (2048 + 2 * 256) + 2 * 2048
    assert shape.text.parameters == 36 * layer + 2048 + 151936 * 2048
    assert shape.parameters == 3_754_622_976
    assert shape.kv_bytes(2) == 36 * 2 * 2 * 128 * 2 == 36_864


@pytest.mark.parametrize("text_on_top", [False, True])
def test_sizes_come_from_a_folder(tmp_path: Path, text_on_top: bool) -> None:
    """Catches a folder that is planned with another model's sizes: both layouts of config.json are in use."""
    folder = random_micro(
        tmp_path / "model", hidden=64, layers=2, intermediate=96, vision_hidden=32, vision_layers=3, tie=False
    )
    config = json.loads((folder / "config.json").read_text())
    if text_on_top:
        config = {**config.pop("text_config"), **config, "model_type": "qwen2_5_vl"}
        (folder / "config.json").write_text(json.dumps(config))
    shape = shape_of(str(folder))
    assert (shape.text.hidden, shape.text.layers, shape.text.intermediate, shape.text.tied) == (64, 2, 96, False)
    assert (shape.vision.depth, shape.vision.hidden) == (3, 32)


@pytest.mark.parametrize(
    ("written", "said"),
    [("{", "not a model's config"), ('{"model_type": "llama"}', "llama"), ('{"model_type": "qwen2_5_vl"}', "sizes")],
)
def test_a_config_without_sizes_is_one_fault(written: str, said: str, tmp_path: Path) -> None:
    """Catches a traceback for a folder that is no model."""
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(LmmR1Error, match=said):
        shape_of(str(tmp_path))
    with pytest.raises(LmmR1Error, match="not known"):
        shape_of("somebody/another-model")


def test_adapters_are_counted(tmp_path: Path) -> None:
    """Catches a linear layer without an adapter in the count, or one of the wrong width."""
    pytest.importorskip("peft")
    from lmm_r1.models.load import load_model
    from lmm_r1.models.lora import adapter_parameters, add_adapters

    for parts in (("language",), ("vision",), ("merger",), PARTS):
        model = load_model(SHIPPED)
        add_adapters(model, rank=3, alpha=6.0, parts=parts, seed=0)
        assert shape_of("micro").adapters(3, parts) == sum(p.numel() for p in adapter_parameters(model).values())


def test_text_flops_are_those_that_torch_counts(micro: Qwen2_5_VLForConditionalGeneration) -> None:
    """Catches a matrix that is left out of a token's FLOPs, and attention that grows with the wrong length."""
    shape = shape_of("micro")
    for rows, length in ((1, 7), (3, 40)):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            micro(input_ids=torch.ones((rows, length), dtype=torch.int64), use_cache=False)
        forward = shape.text_flops(rows * length, rows * length**2) + shape.head_flops(rows * length)
        assert counted.get_total_flops() == forward


def test_vision_flops_are_those_that_torch_counts(micro: Qwen2_5_VLForConditionalGeneration) -> None:
    """Catches windows that are counted as full attention, and a merger that is forgotten."""
    shape = shape_of("micro")
    grid = torch.tensor([[1, 16, 16]])  # four whole windows of 8 x 8 patches
    pixels = torch.zeros((256, shape.vision.pixels))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        micro.model.get_image_features(pixel_values=pixels, image_grid_thw=grid)
    assert counted.get_total_flops() == pytest.approx(shape.vision_flops(256, 256), rel=0.005)  # and a few rotations


def test_a_backward_pass_costs_two_forwards(micro: Qwen2_5_VLForConditionalGeneration) -> None:
    """Catches the factor of three (and, with recomputation, four) that the seconds of an update rest on."""
    ids = torch.ones((2, 30), dtype=torch.int64)
    totals = {}
    for checkpointing in (False, True):
        model = micro.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with FlopCounterMode(display=False) as counted:
            model(input_ids=ids, use_cache=False).logits.sum().backward()
        totals[checkpointing] = counted.get_total_flops()
    micro.gradient_checkpointing_disable()
    micro.eval().zero_grad()
    shape = shape_of("micro")
    layers, head = shape.text_flops(60, 2 * 30**2), shape.head_flops(60)
    assert totals[False] == pytest.approx(3 * (layers + head), rel=0.01)
    # A layer's last product is not computed again: nothing in the backward pass needs it.
    last = 2 * 60 * shape.text.layers * shape.text.hidden * shape.text.intermediate
    assert totals[True] == pytest.approx(4 * layers - last + 3 * head, rel=0.01)
