"""Bytes of the plan against bytes of the real objects: optimiser, cache, activations; and the packing that seconds rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from lmm_r1.config import Model, Recipe, Stage, Update
from lmm_r1.data.images import ImageStore
from lmm_r1.models import logprobs
from lmm_r1.models.adapters import make_adapter
from lmm_r1.planning import memory, workload
from lmm_r1.planning.assumptions import Setting
from lmm_r1.planning.gpus import GIB, gpu_named
from lmm_r1.planning.memory import layer_elements, memory_of, network
from lmm_r1.planning.shapes import SHIPPED, shape_of
from lmm_r1.planning.workload import load_of, passes_of
from lmm_r1.recipes import load_recipe, recipes_folder
from lmm_r1.rollout.embedded import engine, slots
from lmm_r1.rollout.embedded.text_weights import TextWeights
from lmm_r1.trainers import collate
from lmm_r1.trainers.optimiser import Optimiser
from lmm_r1.types import Problem, Rollout

B3 = recipes_folder() / "lmm_r1_3b"
A100 = gpu_named("a100-80g")
ONE = Setting(gpu=A100, gpus=1, engine="embedded")
EIGHT = Setting(gpu=A100)


def stage_of(**tables: object) -> Stage:
    return Stage.model_validate({"steps": 1, "data": [{"domain": "text"}], **tables})


def micro_model(dtype: torch.dtype) -> Qwen2_5_VLForConditionalGeneration:
    config = Qwen2_5_VLConfig.from_pretrained(SHIPPED)
    with torch.random.fork_rng(devices=[]):
        return Qwen2_5_VLForConditionalGeneration(config).to(dtype)


def test_constants_are_those_of_the_code() -> None:
    """Catches a plan that goes on with a limit which the engine or the trainer has changed."""
    assert memory.LOGITS_AT_ONCE == logprobs.LOGITS_AT_ONCE
    assert (memory.SLOT_ROUND, memory.PREFIXES_KEPT) == (slots._ROUND, engine._PREFIXES_KEPT)
    assert workload.MAX_TREE_ROW == collate.MAX_TREE_ROW


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("freeze", [(), ("vision", "merger")])
def test_states_of_a_network_are_those_of_the_optimiser(
    dtype: torch.dtype, width: int, freeze: tuple[str, ...]
) -> None:
    """Catches masters or moments that are left out, and frozen weights that are given any."""
    model = micro_model(dtype)
    update = Update.model_validate({"freeze": freeze})
    parts = {"vision": ".visual.", "merger": ".merger."}
    learns = {n: p for n, p in model.named_parameters() if not any(parts[f] in n for f in freeze)}
    optimiser = Optimiser(learns, update)
    for parameter in learns.values():
        parameter.grad = torch.ones_like(parameter)
    masters = {name: optimiser.master(name, parameter) for name, parameter in learns.items()}
    own = sum(m.nbytes for name, m in masters.items() if m is not learns[name])
    optimiser.apply(optimiser.norm(), 1e-3)
    moments = sum(t.nbytes for name, t in optimiser.slots().items() if not name.endswith("/step"))
    planned = network(shape_of("micro"), stage_of(update={"freeze": freeze}), 1, width)
    assert planned["weights"] == sum(p.nbytes for p in model.parameters())
    assert planned["master weights"] == own
    assert planned["optimiser state"] == moments
    assert planned["gradients"] == sum(4 * p.numel() for p in learns.values())


def test_shares_of_ranks_add_up() -> None:
    """Catches a shard that is not divided, or divided twice."""
    shape, stage = shape_of("micro"), stage_of()
    whole, part = network(shape, stage, 2, 2), network(shape, stage, 8, 2)
    assert {name: 2 * size for name, size in whole.items()} == {name: 8 * size for name, size in part.items()}
    assert 2 * sum(whole.values()) == 16 * shape.parameters  # float32 master, gradient and two moments


def test_adapters_on_ranks_are_what_ranks_hold() -> None:
    """Catches frozen weights that are planned in float32 on ranks, and gradients or moments of them."""
    shape, stage = shape_of("micro"), stage_of(lora={"rank": 4, "parts": ["vision", "merger", "language"]})
    part, learned = network(shape, stage, 2, 2), shape.adapters(4, ["vision", "merger", "language"])
    assert 2 * part["weights"] == 2 * shape.parameters + 4 * learned
    assert (2 * part["gradients"], 2 * part["optimiser state"]) == (4 * learned, 8 * learned)
    assert part["master weights"] == 0


def test_the_cache_is_the_engines() -> None:
    """Catches a cache that is planned at another size than the embedded engine reserves."""
    recipe = load_recipe(recipes_folder() / "quickstart.toml", ["engine.slots=6", "engine.max_context=600"])
    stage, shape = recipe.stage["fre_text"], shape_of("micro")
    real = slots.Slots(TextWeights(Qwen2_5_VLConfig.from_pretrained(SHIPPED), torch.float32, torch.device("cpu")))
    real.reserve(6, 600, 8)
    load = replace(load_of(recipe, stage, shape, ONE), prompt=0.0)
    assert memory.cache_bytes(shape, recipe, load, ONE, 4) == real.keys.nbytes + real.values.nbytes


def test_kept_numbers_of_a_layer_are_near_what_torch_keeps() -> None:
    """Catches an activation that is left out: the plan must not say that a step fits which does not, by more than a quarter."""
    model = micro_model(torch.float32).train()
    shape, length = shape_of("micro"), 256
    kept: dict[int, int] = {}
    layer = model.model.language_model.layers[0]
    parameters = {p.data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hidden = torch.randn(1, length, shape.text.hidden, requires_grad=True)
    angles = model.model.language_model.rotary_emb(hidden, torch.arange(length).expand(3, 1, -1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(hidden, position_embeddings=angles)
    assert (out[0] if isinstance(out, tuple) else out).shape[-1] == shape.text.hidden
    planned = length * (layer_elements(shape) * 4 + 2 * shape.text.hidden * 4)
    assert 0.75 < planned / sum(kept.values()) < 1.5


@pytest.mark.parametrize(
    ("prompt", "reply", "siblings", "micro_tokens", "rows"),
    [
        (100, 50, 8, 2048, 1),
        (100, 300, 8, 1000, 3),
        (100, 300, 8, 4096, 1),
        (30, 2000, 4, 8192, 2),
        (100, 50, 8, 140, 8),
    ],
)
def test_rows_are_packed_as_the_trainer_packs_them(
    prompt: int, reply: int, siblings: int, micro_tokens: int, rows: int
) -> None:
    """Catches seconds that rest on other tokens than collate makes: prompts once a row, rows up to a limit."""
    adapter = make_adapter(SHIPPED, ImageStore(), Model())
    media = collate.Media(Qwen2_5_VLConfig.from_pretrained(SHIPPED).image_token_id, 4)
    flags = np.array([False] * prompt + [True] * reply)
    made = []
    for group in range(3):
        head = [10 + group] * prompt
        owner = Problem(id=str(group), messages=(), answer="")
        for sibling in range(siblings):
            ids = np.array(head + [50 + sibling] * reply, dtype=np.int32)
            zeros = np.zeros(len(ids), np.float32)
            made.append(Rollout(owner, sibling, 0, 0, ids, flags, zeros, (), (), "eos", ((0, 0),)))
    batches = collate.collate(made, adapter, media, micro_tokens)
    stage = stage_of(
        rollout={"prompts": 3, "siblings": siblings, "max_new_tokens": 4000, "max_prompt_tokens": 500},
        update={"micro_tokens": micro_tokens},
    )
    setting = replace(ONE, prompt_tokens=float(prompt), reply_tokens=float(reply))
    load = load_of(load_recipe(recipes_folder() / "quickstart.toml"), stage, shape_of("micro"), setting)
    assert load.rows == sum(len(b.input_ids) for b in batches) == 3 * rows
    assert load.trained == pytest.approx(3 * (rows * prompt + siblings * reply))
    assert load.trained <= sum(b.input_ids.numel() for b in batches)  # padding is left out
    assert load.shared == any(b.mask is not None for b in batches)


def test_networks_by_algorithm() -> None:
    """Catches a forward pass, or a whole model in memory, that an algorithm does not have, or has and is not planned."""
    said = {
        name: passes_of(stage_of(algorithm={"name": name}, update={"minibatches": 4}))
        for name in ("ppo", "grpo", "rloo", "reinforce_pp_baseline", "dapo", "sft")
    }
    assert [(p.critic, p.reference, p.old, p.samples) for p in said.values()] == [
        (True, True, True, True), (False, True, True, True), (False, True, True, True), (False, True, True, True),
        (False, False, True, True), (False, False, False, False),
    ]  # fmt: skip
    shared = passes_of(stage_of(algorithm={"name": "ppo"}, critic={"trunk": "shared"}))
    assert (shared.critic, shared.values, shared.old) == (False, True, False)


@pytest.mark.parametrize("path", sorted(B3.glob("*.toml")), ids=lambda p: p.stem)
@pytest.mark.parametrize(
    ("overlay", "setting"),
    [(None, EIGHT), ("one_80gb", ONE), ("one_24gb", replace(ONE, gpu=gpu_named("rtx4090-24g")))],
    ids=["8x80", "1x80", "1x24"],
)
def test_every_3b_recipe_fits_its_machine(path: Path, overlay: str | None, setting: Setting) -> None:
    """Catches a recipe, or one of its variants, that runs out of memory where it says that it runs."""
    recipe = load_recipe(path, (), [B3 / "hardware" / f"{overlay}.toml"] if overlay else [])
    shape = shape_of(recipe.model.base)
    for name, stage in recipe.stage.items():
        phase, need = memory_of(recipe, stage, shape, setting).peak
        assert need <= setting.gpu.memory, f"{name} needs {need / GIB:.1f} GiB to {phase}"


def test_full_training_does_not_fit_on_one_gpu() -> None:
    """Catches a plan that says yes to everything: one process holds 18 bytes a parameter, of the policy alone 63 GiB."""
    recipe = load_recipe(B3 / "mgt_percereason.toml")
    found = memory_of(recipe, recipe.stage["mgt_percereason"], shape_of(recipe.model.base), ONE)
    states = sum(found.learn[name] for name in ("weights", "master weights", "gradients", "optimiser state"))
    assert states == 18 * 3_754_622_976
    assert found.peak[1] > A100.memory


def test_layouts_hold_what_they_should() -> None:
    """Catches a sleeping engine that keeps its memory, and a GPU of the split layout that holds the other half's."""
    recipe: Recipe = load_recipe(B3 / "fre_text.toml")
    stage, shape = recipe.stage["fre_text"], shape_of(recipe.model.base)
    together = memory_of(recipe, stage, shape, EIGHT)
    assert together.learn["engine weights"] == together.learn["KV cache"] == 0.0 < together.collect["KV cache"]
    assert together.collect["optimiser state"] == together.learn["optimiser state"]
    apart = memory_of(recipe, stage, shape, replace(EIGHT, layout="split", engines=4))
    assert apart.collect["optimiser state"] == 0.0 == apart.learn["engine weights"]
    assert apart.learn["optimiser state"] == 2 * together.learn["optimiser state"]
    hybrid = memory_of(recipe, stage, shape, replace(EIGHT, gpus=64, shard=8))
    assert hybrid.learn["optimiser state"] == together.learn["optimiser state"]
    supervised = load_recipe(B3 / "sft_text.toml")
    assert sum(memory_of(supervised, supervised.stage["sft_text"], shape, EIGHT).collect.values()) < 8 * GIB
