"""What runs inside vLLM's workers: the media ban, log-probs as the trainer defines them, weights from the trainer.

vLLM finds the three parts by name, in whatever process its workers live: `Worker` (its option worker_extension_cls),
`WholeDistribution` (logits_processors) and `Arrivals` (the pluggable weight transfer). vllm_engine.py names them and is
the only caller.

Log-probs. vLLM's `processed_logits` hands out the sampled token's logit after temperature and the top-p cut. The cut only
removes tokens; so where `WholeDistribution` has normalised the logits just before it, that number is the log-prob in the whole
distribution, at any top_p, as rollout/embedded/sampling.py defines it. (`processed_logprobs` would normalise again inside the cut.)
Leaves out: requests, pictures, and what proves a transfer (rollout/weights.py).
Source: vLLM 0.32.0, vllm/v1/sample/sampler.py and vllm/distributed/weight_transfer/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.v1.sample.logits_processor import LogitsProcessor

from lmm_r1.models.logprobs import masked_logits
from lmm_r1.rollout.parcels import Packed, map_file, unpacked
from lmm_r1.rollout.weights import weight_line

#: What vllm_engine.py asks vLLM for, by these names.
BACKEND = "lmm_r1"
WORKER = f"{__name__}.Worker"
WHOLE_DISTRIBUTION = f"{__name__}:WholeDistribution"


class Head:
    """A model's `compute_logits` with the media tokens at -inf: no path of vLLM sees them, and no request has to name them.

    temperature: None while sampling; a number while streams are scored, and then log-probs at that temperature come out, for
    vLLM's prompt log-probs know neither temperature nor normalisation in the mode that is used here.
    """

    def __init__(self, plain: Any, banned: Sequence[int]) -> None:
        self._plain, self._banned = plain, torch.tensor(list(banned), dtype=torch.int64)
        self.temperature: float | None = None

    def __call__(self, *inputs: Any, **named: Any) -> Tensor | None:
        """Logits [N, V]; None on a rank that holds none."""
        logits = self._plain(*inputs, **named)
        if logits is None:
            return None
        if self._banned.device != logits.device:
            self._banned = self._banned.to(logits.device)
        if self.temperature is None:
            return logits.index_fill_(-1, self._banned, -torch.inf)
        return masked_logits(logits, self.temperature, self._banned).log_softmax(-1)


class WholeDistribution(LogitsProcessor):
    """Normalises logits that carry their temperature, before top_p cuts them: a shift, so nothing is sampled differently."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """vLLM's signature; the processor has no settings."""

    def apply(self, logits: Tensor) -> Tensor:
        """float32[B, V] log-probs."""
        return logits.log_softmax(-1, dtype=torch.float32)

    def is_argmax_invariant(self) -> bool:
        """True puts it after the temperature."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Nothing is kept by request."""


class Worker:
    """Methods that vLLM adds to its workers; called by name through collective_rpc."""

    model_runner: Any
    weight_transfer_engine: Arrivals

    def lmm_r1_ban(self, banned: Sequence[int]) -> None:
        """Take the banned ids out of the softmax for good. Called once, before any request."""
        model = self.model_runner.model
        model.compute_logits = Head(model.compute_logits, banned)

    def lmm_r1_scoring(self, temperature: float | None) -> None:
        """Turn the head to log-probs of streams at `temperature`, or with None back to sampling."""
        self.model_runner.model.compute_logits.temperature = temperature

    def lmm_r1_received(self) -> tuple[list[tuple[str, str]], list[str]]:
        """(a `weights.weight_line` of every tensor of the last update, the model's parameters that it did not fill)."""
        transfer = self.weight_transfer_engine
        return transfer.lines, sorted(transfer.waiting)


@dataclass
class NoSettings(WeightTransferInitInfo):
    """There is no handshake."""


@dataclass
class Some(WeightTransferUpdateInfo):
    """Some weights: in a file in memory that both sides map (its path, its bytes, what lies where), or the tensors
    themselves, on any device, where the engine is in the worker's process."""

    path: str = ""
    size: int = 0
    packed: Sequence[Packed] = ()
    tensors: Sequence[tuple[str, Tensor]] = ()


class Arrivals(WeightTransferEngine[NoSettings, Some]):
    """Weights that the engine hands on, loaded by vLLM's own layer-by-layer reload.

    That reload fuses and shards as at the start, and packs again what a CPU build keeps packed: copying into parameters would
    leave the packed copies old.
    """

    model: Any  # None after the end
    init_info_cls = NoSettings
    update_info_cls = Some

    def init_transfer_engine(self, init_info: NoSettings) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Forget the last update; the model waits for every parameter."""
        self.lines: list[tuple[str, str]] = []
        self.waiting = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Some) -> None:
        """Note what arrived, then load it. The reload may hold tensors until their layer is whole, so they are copies."""
        found, in_place = list(update_info.tensors), not update_info.path
        if not in_place:
            found = list(unpacked(map_file(update_info.path, update_info.size), update_info.packed))
        arrived = []
        for name, tensor in found:
            copied = tensor.to(self.device, copy=True)
            self.lines.append(weight_line(name, copied if in_place else tensor, in_place))
            arrived.append((name, copied))
        self.waiting -= set(self.model.load_weights(arrived))

    def finish_weight_update(self) -> None:
        """Process what is left; with parameters missing the model is whole in form only, and the caller must not use it."""
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            # A tied head has the embedding's matrix and is sent no tensor; what a CPU build packed of it would stay old.
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Let go of the model, which fills the device."""
        self.model = self._default_model = None


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, Arrivals)
