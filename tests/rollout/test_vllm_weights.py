"""Parcels of weights: what goes in comes out, byte for byte, in bounded pieces. Needs no vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lmm_r1.errors import EngineError
from lmm_r1.rollout import vllm_weights
from lmm_r1.rollout.vllm_weights import Outbox, expected_weights, live_name, tensor_at
from lmm_r1.rollout.weights import digest
from tests.rollout.engine_fixture import make_kit, weights_of


def received(parcel: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """What a worker makes of a parcel."""
    mapped = torch.from_file(parcel["path"], shared=True, size=parcel["size"], dtype=torch.uint8)
    return [(place[0], tensor_at(mapped, place).clone()) for place in parcel["places"]]


def test_parcels_keep_every_byte_and_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches tensors that overlap, lose their dtype or shape, or all wait in memory at once; and one above the bound."""
    monkeypatch.setattr(vllm_weights, "PARCEL", 4096)
    generator = torch.Generator().manual_seed(0)
    sent = [(f"t{n}", torch.randn(n % 7 + 1, 9 * n + 1, generator=generator)) for n in range(40)]
    sent += [
        ("half", torch.randn(3, 5).to(torch.bfloat16)),
        ("one", torch.tensor(3.5)),
        ("turned", torch.randn(6, 4).T),
        ("last", torch.arange(5)),
    ]
    parcels: list[list[tuple[str, torch.Tensor]]] = []
    places: list[str] = []

    def send(parcel: dict[str, Any]) -> None:
        places.append(parcel["path"])
        parcels.append(received(parcel))

    outbox = Outbox(send)
    for name, tensor in sent:
        outbox.put(name, tensor)
    outbox.flush()
    outbox.flush()  # nothing is left to send
    got = [pair for parcel in parcels for pair in parcel]
    assert [name for name, _ in got] == [name for name, _ in sent]
    assert digest(got) == digest(sent)
    large = [parcel for parcel in parcels if sum(t.numel() * t.element_size() for _, t in parcel) > 4096]
    assert len(parcels) > 3 and large and all(len(parcel) == 1 for parcel in large)
    outbox.clear()
    assert not any(Path(place).exists() for place in places), "memory is not given back"


def test_a_dtype_that_does_not_exist_is_told() -> None:
    """Catches a parcel whose dtype names something else of torch."""
    with pytest.raises(EngineError, match="no dtype"):
        tensor_at(torch.zeros(8, dtype=torch.uint8), ("w", "nn", (1,), 0))


@pytest.mark.parametrize("tie", [True, False])
def test_the_expected_weights_are_what_a_trainer_sends(tmp_path: Path, tie: bool) -> None:
    """Catches an engine that waits for tied copies, or would take a sync without the head for a whole one."""
    kit = make_kit(tmp_path, tie=tie)
    sent = {name: tuple(tensor.shape) for name, tensor in weights_of(kit.model)}
    assert expected_weights(kit.model.config) == sent
    assert ("lm_head.weight" in sent) is not tie
    assert next(kit.model.parameters()).device.type == "cpu"


def test_names_of_both_layouts_mean_the_same() -> None:
    """Catches a checkpoint's names (visual., model.layers.) that the engine would call unknown."""
    pairs = {
        "visual.merger.ln_q.weight": "model.visual.merger.ln_q.weight",
        "model.layers.0.mlp.up_proj.weight": "model.language_model.layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
        "lm_head.weight": "lm_head.weight",
    }
    for name, live in pairs.items():
        assert live_name(name) == live and live_name(live) == live
