"""Low-rank adapters: a frozen model with a small trained correction, scale * B @ A, beside its linear layers.

The layers are peft's, put in place, so that the model keeps its class and its parts. Whoever wants plain weights (the
engine, an export, an evaluation) reads `merged_weights`; whoever wants the frozen start model runs the same model in
`without_adapters`, which saves the memory of a second one. Base weights may be 4-bit (load.load_model, four_bit), without
memory as yet (stored.StoredModel.empty), or sharded.
Axis legend: O = outputs and I = inputs of a linear layer, r = rank.
Leaves out: the optimiser (trainers/), peft's own file format, dropout, biases, and several adapters at once.
Sources: LoRA, arXiv 2106.09685; 4-bit base weights, QLoRA, arXiv 2305.14314; https://github.com/huggingface/peft
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.bitsandbytes import dequantize_bnb_weight

from lmm_r1.errors import Fault, RecipeError

try:
    import peft
except ImportError:  # an extra: a model without adapters does not need it
    peft = None

#: What the names of a part's layers have in common; embeddings and the output head belong to none.
PARTS = {"vision": ".visual.blocks.", "merger": ".visual.merger.", "language": ".language_model.layers."}
_NAME = "default"  # peft can hold several adapters by name; here there is one


def add_adapters(model: nn.Module, *, rank: int, alpha: float, parts: Sequence[str] = ("language",), seed: int) -> None:
    """Put adapters, in place, beside every linear layer of `parts`, and freeze everything else in `model`.

    model: a Qwen2_5_VLForConditionalGeneration, its inner model, or a module around one. The correction of a layer is
    alpha / rank * B @ A, with A [r, I] drawn from `seed` alone (PyTorch's global generator stays as it was) and
    B [O, r] = 0: the model computes what it did before. A and B are float32 when the model is narrower, and on the CPU
    when its weights have no memory yet (meta device).
    RecipeError when peft is not installed. ValueError for an unknown part, one without linear layers, a rank below 1,
    an alpha that is not positive, or a model that has adapters already.
    """
    if peft is None:
        raise RecipeError(Fault("adapters need the library peft", remedy='pip install "lmm-r1[lora]"'))
    if rank < 1 or not 0 < alpha < math.inf:
        raise ValueError(f"adapters need a rank of at least 1 and a positive alpha, not {rank} and {alpha}")
    if has_adapters(model):
        raise ValueError("the model has adapters already")
    targets = _linear_layers(model, parts)
    with torch.random.fork_rng(devices=[]):  # peft draws on the CPU, from the global generator
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, bias="none")
        peft.inject_adapter_in_model(config, model, adapter_name=_NAME)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draw whatever the device
    with torch.no_grad():
        for layer in _adapted(model).values():
            # peft made them in the base's dtype: too narrow for an optimiser's small steps.
            for matrix in (layer.lora_A[_NAME], layer.lora_B[_NAME]):
                matrix.to(torch.promote_types(matrix.weight.dtype, torch.float32))
                if matrix.weight.is_meta:
                    matrix.to_empty(device="cpu")
            a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
            a.copy_(nn.init.kaiming_uniform_(torch.empty(a.shape), a=math.sqrt(5), generator=generator))
            b.zero_()
    trained = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` has been called on the model."""
    return bool(_adapted(model))


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A [r, I] and B [O, r] of every adapted layer, by their names in `named_parameters` and in its order."""
    return {name: parameter for name, parameter in model.named_parameters() if _is_adapter(name)}


def plain_name(name: str) -> str:
    """The name that a base weight of an adapted model had before `add_adapters`."""
    return name.replace(".base_layer.", ".")


def merged_weights(
    model: nn.Module, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a plain model that computes the same: names, order, shapes and dtypes as if without adapters.

    An adapted layer gives W + scale * B @ A, computed in float32 and rounded once to W's dtype; 4-bit weights come in
    the dtype they were quantised from. Other tensors are the model's own, not copies; tied ones come once. whole: what makes
    a parameter a plain tensor where it is sharded; asked for W, then for its A and B, in the model's order.
    """
    layers = _adapted(model)
    for name, parameter in model.named_parameters():
        if _is_adapter(name):
            continue
        plain = plain_name(name)
        path, _, kind = plain.rpartition(".")
        weight = whole(dequantize_bnb_weight(parameter).detach())
        if path in layers and kind == "weight":
            weight = (_wide(weight) + _correction(layers[path], whole)).to(weight.dtype)
        yield plain, weight


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what it did before `add_adapters`, bit for bit; nothing is copied or merged.

    Not for the middle of a backward pass: gradient checkpointing would compute the forward pass again without them.
    """
    layers = list(_adapted(model).values())
    before = [not layer.disable_adapters for layer in layers]
    trained = [(p, p.requires_grad) for p in adapter_parameters(model).values()]

    def switch(on: Sequence[bool]) -> None:
        for layer, enabled in zip(layers, on, strict=True):
            layer.enable_adapters(enabled)
        # peft turns it off and on with the adapters, but sharded ones are looked at once, at the first pass of all.
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)

    try:
        switch([False] * len(layers))
        yield
    finally:
        switch(before)


def _linear_layers(model: nn.Module, parts: Sequence[str]) -> list[str]:
    """Full names of the linear layers of `parts`, in the model's order. ValueError as in `add_adapters`."""
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise ValueError(f"adapters for {', '.join(unknown) or 'no part'}: the parts are {', '.join(PARTS)}")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for part in parts:
        if not any(PARTS[part] in f".{name}" for name in linear):
            raise ValueError(f"the model has no linear layers in its part {part}")
    return [name for name in linear if any(PARTS[part] in f".{name}" for part in parts)]


def _adapted(model: nn.Module) -> dict[str, Any]:
    """The layers with adapters, by the name that the plain layer had."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return name.endswith((f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"))


def _correction(layer: Any, whole: Callable[[Tensor], Tensor]) -> Tensor:
    """scale * B @ A of an adapted layer, [O, I]."""
    a, b = whole(layer.lora_A[_NAME].weight.detach()), whole(layer.lora_B[_NAME].weight.detach())
    return layer.scaling[_NAME] * (_wide(b) @ _wide(a))


def _wide(tensor: Tensor) -> Tensor:
    """In float32, or wider if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
