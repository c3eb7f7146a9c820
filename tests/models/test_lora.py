"""Low-rank adapters: unchanged at the start, alone in training, and gone without a trace in the merged weights."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

from lmm_r1.config import Model, Update
from lmm_r1.data.images import ImageStore
from lmm_r1.errors import CheckpointError, RecipeError
from lmm_r1.models import load, lora
from lmm_r1.models.load import export_model, load_model
from lmm_r1.models.lora import (
    adapter_parameters,
    add_adapters,
    has_adapters,
    merged_weights,
    without_adapters,
)
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.trainers.local import LocalTrainer
from tests.closeness import relative
from tests.rollout.engine_fixture import Kit, make_kit

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason='needs peft: pip install "lmm-r1[lora]"'
)
needs_bitsandbytes = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("peft", "bitsandbytes", "accelerate")),
    reason='needs peft, bitsandbytes and accelerate: pip install "lmm-r1[qlora]"',
)
LINEAR = {
    "vision": ("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "language": (
        *(f"self_attn.{n}_proj" for n in "qkvo"),
        *(f"mlp.{n}_proj" for n in ("gate", "up", "down")),
    ),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A small random model and its folder; tests change copies of it (`kit`)."""
    kit = make_kit(tmp_path_factory.mktemp("lora") / "drawn")
    return replace(kit, folder=export_model(kit.model, kit.folder, kit.folder.with_name("start")))


@pytest.fixture(scope="module")
def micro() -> Kit:
    """The shipped base."""
    images = ImageStore()
    return Kit(MICRO_DIR, load_model(MICRO_DIR), QwenVLAdapter.from_folder(MICRO_DIR, images, Model()), images)


def own(kit: Kit) -> Kit:
    return replace(kit, model=copy.deepcopy(kit.model))


def trained(kit: Kit, parts: Sequence[str] = ("language",), strength: float = 0.05, rank: int = 4) -> Kit:
    """A copy of the kit with adapters whose B is not 0 any more."""
    kit = own(kit)
    add_adapters(kit.model, rank=rank, alpha=6.0, parts=parts, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in adapter_parameters(kit.model).items():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * strength)
    return kit


def logprobs(kit: Kit, model: nn.Module | None = None) -> list[Tensor]:
    """Log-probs [T - 1] of a text and of a text with two pictures, through transformers' own forward pass."""
    model = kit.model if model is None else model
    found = []
    for encoded in kit.prompts()[::2]:
        ids = torch.from_numpy(encoded.token_ids.astype(np.int64))[None]
        more = {}
        if encoded.images:
            more = kit.adapter.vision_inputs(encoded.images)
            more["mm_token_type_ids"] = (ids == kit.adapter.image_token_id).int()
            more["pixel_values"] = more["pixel_values"].to(next(model.parameters()).dtype)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more).logits[0].float()
        found.append(logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0])
    return found


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def gap(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


def plain(kit: Kit, dtype: str = "float32") -> Qwen2_5_VLForConditionalGeneration:
    """A fresh model with the merged weights of the kit's."""
    model = load_model(kit.folder, dtype)
    left = model.load_state_dict(dict(merged_weights(kit.model)), strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}
    return model


@needs_peft
@pytest.mark.parametrize("parts", [("language",), ("vision", "merger", "language")])
def test_the_start_is_unchanged_and_the_class_too(start: Kit, parts: tuple[str, ...]) -> None:
    """Catches a B that is not 0, a touched base weight, a wrapper around the model, or a drawn global generator."""
    kit = own(start)
    state = torch.get_rng_state()
    add_adapters(kit.model, rank=4, alpha=8.0, parts=parts, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert has_adapters(kit.model) and not has_adapters(start.model)
    assert type(kit.model) is type(start.model) and kit.model.lm_head.weight is kit.model.get_input_embeddings().weight
    with torch.no_grad():
        assert same(logprobs(kit), logprobs(start))
    assert all(bool(p.any()) == ("lora_A" in n) for n, p in adapter_parameters(kit.model).items())


@needs_peft
def test_parts_are_exactly_their_linear_layers(start: Kit) -> None:
    """Catches an adapter on the head, the embeddings or a neighbouring part, a forgotten layer, or a wrong shape."""
    wanted = {
        "merger": {f"model.visual.merger.mlp.{i}" for i in (0, 2)},
        "vision": {f"model.visual.blocks.{i}.{n}" for i in range(2) for n in LINEAR["vision"]},
        "language": {f"model.language_model.layers.{i}.{n}" for i in range(3) for n in LINEAR["language"]},
    }
    for parts in [("language",), ("merger",), ("vision",), ("merger", "language"), ("vision", "merger", "language")]:
        kit = own(start)
        add_adapters(kit.model, rank=3, alpha=3.0, parts=parts, seed=0)
        found = adapter_parameters(kit.model)
        assert {n.rpartition(".lora_")[0] for n in found} == set().union(*(wanted[p] for p in parts))
        layers = dict(start.model.named_modules())
        for name, parameter in found.items():
            layer = layers[name.rpartition(".lora_")[0]]
            shape = (3, layer.in_features) if "lora_A" in name else (layer.out_features, 3)
            assert parameter.shape == shape
        assert {n for n, p in kit.model.named_parameters() if p.requires_grad} == set(found)


@needs_peft
@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_adapters_move(start: Kit, checkpointing: bool) -> None:
    """Catches a base weight that is trained, or checkpointing that cuts the gradient before it reaches an adapter."""
    kit = own(start)
    add_adapters(kit.model, rank=4, alpha=8.0, parts=("vision", "merger", "language"), seed=1)
    if checkpointing:
        kit.model.gradient_checkpointing_enable({"use_reentrant": False})
    before = {n: p.detach().clone() for n, p in kit.model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in kit.model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    kit.model.train()
    for _ in range(2):  # the first step moves B alone: while B is 0, A has no gradient
        optimizer.zero_grad()
        sum(lp.sum() for lp in logprobs(kit)).backward()
        optimizer.step()
    kit.model.eval()
    adapters = adapter_parameters(kit.model)
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapters.values())
    for name, parameter in kit.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in adapters), name


@needs_peft
def test_checkpointing_gives_the_same_gradient(start: Kit) -> None:
    """Catches a second forward pass, of checkpointing, that runs without the adapters or in another dtype."""
    grads = []
    for checkpointing in (False, True):
        kit = trained(start)
        if checkpointing:
            kit.model.gradient_checkpointing_enable({"use_reentrant": False})
        kit.model.train()
        sum(lp.sum() for lp in logprobs(kit)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in adapter_parameters(kit.model).values()]))
    assert grads[0].norm() > 0 and relative(grads[1], grads[0]) < 1e-6


@needs_peft
@pytest.mark.parametrize("which", ["start", "micro"])
def test_merged_weights_compute_what_the_adapters_do(which: str, request: pytest.FixtureRequest) -> None:
    """Catches a wrong scale, a transposed or forgotten correction, and other names, order, shapes or dtypes."""
    base: Kit = request.getfixturevalue(which)
    kit = trained(base, ("vision", "merger", "language"), strength=0.02)
    with torch.no_grad():
        adapted = logprobs(kit)
        assert gap(adapted, logprobs(base)) > 0.01, "the adapters do nothing"
        merged = dict(merged_weights(kit.model))
        expected = dict(base.model.named_parameters())
        assert list(merged) == list(expected)
        assert all(merged[n].shape == p.shape and merged[n].dtype == p.dtype for n, p in expected.items())
        adapted_layers = {n.rpartition(".lora_")[0] + ".weight" for n in adapter_parameters(kit.model)}
        assert {n for n in merged if not torch.equal(merged[n], expected[n])} == adapted_layers
        assert gap(adapted, logprobs(base, plain(kit))) < 5e-5
    name = "model.language_model.layers.1.mlp.down_proj"
    a, b = (adapter_parameters(kit.model)[f"{name}.lora_{m}.default.weight"].detach() for m in "AB")
    assert torch.allclose(merged[f"{name}.weight"], expected[f"{name}.weight"] + 6.0 / 4 * b @ a, atol=1e-6)


@needs_peft
def test_merged_weights_of_a_plain_model_are_its_own(start: Kit) -> None:
    """Catches a second code path that a model without adapters would need."""
    pairs = list(merged_weights(start.model))
    assert [n for n, _ in pairs] == [n for n, _ in start.model.named_parameters()]
    assert all(t.data_ptr() == p.data_ptr() for (_, t), p in zip(pairs, start.model.parameters(), strict=True))
    assert not has_adapters(start.model) and not adapter_parameters(start.model)


@needs_peft
def test_an_engine_with_merged_weights_agrees_with_the_trainer(start: Kit) -> None:
    """Catches names that the engine does not know, or a sampler and a trainer that are two models."""
    kit = trained(start, ("vision", "merger", "language"), strength=0.02)
    trainer = LocalTrainer(kit.model, None, kit.adapter, Update(), 1)
    engine = EmbeddedEngine(kit.model.config, kit.adapter, 2, 256, 128)
    engine.load_weights(merged_weights(kit.model), version=1)
    for encoded in kit.prompts():
        ours = trainer.score(encoded.token_ids, encoded.images)
        assert np.abs(ours - engine.score(encoded.token_ids, encoded.images)).max() < 1e-4
    assert np.abs(ours - start.engine().score(encoded.token_ids, encoded.images)).max() > 1e-2


@needs_peft
def test_without_adapters_is_the_start_model(start: Kit) -> None:
    """Catches a reference that is the policy, one that an exception leaves behind, or gradients switched on or off."""
    kit = trained(start, ("vision", "language"))
    frozen = next(iter(adapter_parameters(kit.model).values())).requires_grad_(False)
    with torch.no_grad():
        adapted = logprobs(kit)
        with without_adapters(kit.model):
            assert same(logprobs(kit), logprobs(start))
            with without_adapters(kit.model):
                pass
            assert same(logprobs(kit), logprobs(start))
        with pytest.raises(KeyError), without_adapters(kit.model):
            raise KeyError("inside")
        assert same(logprobs(kit), adapted)
    assert [p.requires_grad for p in adapter_parameters(kit.model).values()].count(False) == 1
    assert not frozen.requires_grad
    with without_adapters(start.model):
        pass


@needs_peft
def test_an_export_is_a_plain_folder(start: Kit, tmp_path: Path) -> None:
    """Catches adapter keys in a folder that other tools read, a lost correction, or an export that merges for good."""
    kit = trained(start)
    before = {n: p.detach().clone() for n, p in kit.model.named_parameters()}
    out = export_model(kit.model, kit.folder, tmp_path / "out")
    again = load_model(out)
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in start.model.named_parameters()}
    assert {p.name for p in out.iterdir()} == {p.name for p in kit.folder.iterdir()}
    usual = export_model(start.model, kit.folder, tmp_path / "usual")
    ours, theirs = (json.loads((f / "config.json").read_text()) for f in (out, usual))
    assert ours == theirs
    assert (out / "generation_config.json").read_bytes() == (usual / "generation_config.json").read_bytes()
    with torch.no_grad():
        assert gap(logprobs(kit), logprobs(kit, again)) < 1e-5
    after = dict(kit.model.named_parameters())
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)


@needs_peft
def test_an_export_with_an_untied_head(tmp_path: Path) -> None:
    """Catches a head that is lost, or tied by mistake, when the plain copy is made."""
    kit = trained(make_kit(tmp_path / "model", tie=False))
    again = load_model(export_model(kit.model, kit.folder, tmp_path / "out"))
    with torch.no_grad():
        assert gap(logprobs(kit), logprobs(kit, again)) < 1e-5


@needs_peft
def test_the_draw_is_of_the_seed_alone(start: Kit) -> None:
    """Catches adapters that start elsewhere in every run, or the same ones for every seed."""

    def draw(seed: int, noise: int) -> list[Tensor]:
        model = own(start).model
        torch.manual_seed(noise)
        add_adapters(model, rank=2, alpha=2.0, seed=seed)
        return [p.detach() for n, p in adapter_parameters(model).items() if "lora_A" in n]

    first = draw(1, 10)
    assert same(first, draw(1, 11)) and not same(first, draw(2, 10))
    inputs = first[0].shape[1]
    assert 0.8 / inputs**0.5 < float(first[0].abs().max()) <= 1 / inputs**0.5  # uniform, as LoRA's authors draw it


@needs_peft
def test_bfloat16_base(start: Kit, tmp_path: Path) -> None:
    """Catches adapters rounded to the base's dtype, merged weights in another dtype, or a start that moves."""
    base = replace(start, model=load_model(start.folder, "bfloat16"))
    kit = trained(base, strength=0.0)
    with torch.no_grad():
        assert same(logprobs(kit), logprobs(base))
    kit = trained(base)
    assert {p.dtype for p in adapter_parameters(kit.model).values()} == {torch.float32}
    assert {w.dtype for _, w in merged_weights(kit.model)} == {torch.bfloat16}
    sum(lp.sum() for lp in logprobs(kit)).backward()
    assert all(p.grad is not None for p in adapter_parameters(kit.model).values())
    again = load_model(export_model(kit.model, kit.folder, tmp_path / "out"), "bfloat16")
    with torch.no_grad():
        assert gap(logprobs(kit), logprobs(base)) > 0
        assert gap(logprobs(kit), logprobs(kit, again)) < 0.3  # weights.TOLERANCES of bfloat16
    assert all(torch.equal(p, w) for p, (_, w) in zip(again.parameters(), merged_weights(kit.model), strict=True))


@needs_peft
def test_the_trunk_of_a_critic(start: Kit) -> None:
    """Catches names that only fit the whole policy: a critic's trunk is its inner model."""
    trunk = own(start).model.model
    add_adapters(trunk, rank=2, alpha=4.0, seed=1)
    assert len(adapter_parameters(trunk)) == 2 * 3 * len(LINEAR["language"])
    assert [n for n, _ in merged_weights(trunk)] == [n for n, _ in start.model.model.named_parameters()]
    ids = torch.arange(12)[None]
    trunk(input_ids=ids).last_hidden_state.sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(trunk).values())
    around = nn.ModuleDict({"trunk": own(start).model.model, "head": nn.Linear(64, 1)})
    add_adapters(around, rank=2, alpha=4.0, seed=1)
    assert all(n.startswith("trunk.") for n in adapter_parameters(around))


@needs_peft
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ("head",)}, "adapters for head: the parts are vision, merger, language"),
        ({"parts": ()}, "adapters for no part"),
        ({"rank": 0}, "rank of at least 1"),
        ({"alpha": 0.0}, "positive alpha"),
        ({"alpha": float("nan")}, "positive alpha"),
    ],
)
def test_wrong_settings_are_one_clear_line(start: Kit, change: dict[str, object], message: str) -> None:
    """Catches a wrong setting that silently adapts nothing, or changes the model before it is refused."""
    kit = own(start)
    with pytest.raises(ValueError, match=message) as caught:
        add_adapters(kit.model, **({"rank": 2, "alpha": 2.0, "seed": 0} | change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and not has_adapters(kit.model)


@needs_peft
def test_adapters_twice_or_on_nothing(start: Kit) -> None:
    """Catches a second set on top of the first, and a part that the model does not have."""
    kit = trained(start)
    with pytest.raises(ValueError, match="already"):
        add_adapters(kit.model, rank=2, alpha=2.0, seed=0)
    with pytest.raises(ValueError, match="no linear layers in its part vision"):
        add_adapters(own(start).model.model.language_model, rank=2, alpha=2.0, parts=("vision",), seed=0)


def test_without_peft_one_line_says_what_to_install(start: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback, or an import that fails where nobody asked for adapters."""
    monkeypatch.setattr(lora, "peft", None)
    with pytest.raises(RecipeError, match=r'pip install "lmm-r1\[lora\]"') as caught:
        add_adapters(start.model, rank=2, alpha=2.0, seed=0)
    assert "\n" not in str(caught.value)
    assert not has_adapters(start.model) and len(dict(merged_weights(start.model))) == len(
        list(start.model.parameters())
    )


def test_without_bitsandbytes_one_line_says_what_to_do(start: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback from the depths of transformers, or a model that is quietly loaded whole."""
    monkeypatch.setattr(load, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(CheckpointError, match=r'pip install "lmm-r1\[qlora\]"') as caught:
        load_model(start.folder, four_bit=True)
    assert "\n" not in str(caught.value)


@needs_bitsandbytes
def test_a_device_that_four_bit_does_not_run_on(start: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that fails at its first forward pass, with a kernel's message and no remedy."""

    def refuse(*_: object) -> Tensor:
        raise NotImplementedError("no kernel\nfor this device")

    monkeypatch.setattr(load, "dequantize_bnb_weight", refuse)
    with pytest.raises(
        CheckpointError, match=r"no kernel \(if bitsandbytes does not run on cpu, load without"
    ) as caught:
        load_model(start.folder, four_bit=True)
    assert "\n" not in str(caught.value)


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bit(start: Kit, tmp_path: Path, dtype: str) -> None:
    """Catches 4-bit layers outside the decoder, a lost gradient, a base that moves, or merged weights that differ."""
    model = load_model(start.folder, dtype, four_bit=True)
    quantised = {n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    assert quantised == {f"model.language_model.layers.{i}.{n}" for i in range(3) for n in LINEAR["language"]}
    assert {p.dtype for n, p in model.named_parameters() if n.removesuffix(".weight") not in quantised} == {
        load.DTYPES[dtype]
    }
    kit = replace(start, model=model)
    with torch.no_grad():
        first = logprobs(kit)
    add_adapters(model, rank=4, alpha=8.0, parts=("merger", "language"), seed=1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        assert same(logprobs(kit), first)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    adapters = adapter_parameters(model)
    optimizer = torch.optim.AdamW(list(adapters.values()), lr=1e-2)
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        sum(lp.sum() for lp in logprobs(kit)).backward()
        assert all(p.grad is not None for p in adapters.values())
        optimizer.step()
        model.eval()
        with torch.no_grad():
            logprobs(kit)  # evaluation between steps must not repack the weights
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in adapters), name
    merged = dict(merged_weights(model))
    assert [(n, w.shape) for n, w in merged.items()] == [(n, p.shape) for n, p in start.model.named_parameters()]
    assert {w.dtype for w in merged.values()} == {load.DTYPES[dtype]}
    out = export_model(model, kit.folder, tmp_path / "out")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    again = load_model(out, dtype)
    with torch.no_grad():
        with without_adapters(model):
            assert same(logprobs(kit), first)
        adapted = logprobs(kit)
        assert gap(adapted, first) > 0.01
        assert gap(adapted, logprobs(kit, again)) < (1e-4 if dtype == "float32" else 0.3)
    name = "model.language_model.layers.0.mlp.up_proj"
    base = dequantize_bnb_weight(model.get_submodule(name).base_layer.weight)
    original = start.model.get_submodule(name).weight.detach()
    assert 0 < relative(base, original) < 0.15  # nf4 loses some, not much


@needs_bitsandbytes
def test_a_four_bit_model_without_adapters_exports_plain(start: Kit, tmp_path: Path) -> None:
    """Catches a folder in bitsandbytes' own layout, which neither the engine nor another machine reads."""
    model = load_model(start.folder, four_bit=True)
    again = load_model(export_model(model, start.folder, tmp_path / "out"))
    with torch.no_grad():
        assert gap(logprobs(start, model), logprobs(start, again)) < 1e-5


@needs_bitsandbytes
def test_a_four_bit_trunk(start: Kit) -> None:
    """Catches adapters that work on a whole 4-bit policy, and not on a critic's 4-bit trunk."""
    trunk = load_model(start.folder, four_bit=True).model
    ids = torch.arange(12)[None]
    with torch.no_grad():
        first = trunk(input_ids=ids).last_hidden_state
    add_adapters(trunk, rank=2, alpha=4.0, seed=1)
    state = trunk(input_ids=ids).last_hidden_state
    assert torch.equal(state, first)
    state.sum().backward()
    assert all(p.grad is not None for p in adapter_parameters(trunk).values())
