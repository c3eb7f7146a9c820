"""The trainer of one process: forward, backward, optimiser steps, guards and exact state, of policy and critic.

Axis legend: T = tokens of one rollout; N = trainable tokens of a batch. All log-probs are in nats, at the sampling
temperature, with media tokens masked.
Leaves out: sharding, the losses (batch_loss.py), AdamW itself (optimiser.py), and the order of steps (train.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.algorithms.token_weights import token_mean
from lmm_r1.config import Critic as CriticConfig
from lmm_r1.config import Update
from lmm_r1.errors import CheckpointError, NumericError
from lmm_r1.models.critic import Critic
from lmm_r1.models.load import whole_float32
from lmm_r1.models.lora import has_adapters, merged_weights, without_adapters
from lmm_r1.runs.checkpoint import read_tensors, write_tensors
from lmm_r1.seams import Algorithm, ModelAdapter
from lmm_r1.trainers.batch_loss import policy_loss, value_loss
from lmm_r1.trainers.collate import Batch, Media, collate
from lmm_r1.trainers.optimiser import Optimiser, part_of
from lmm_r1.trainers.schedule import lr_at
from lmm_r1.trainers.shards import read_whole, sharded
from lmm_r1.trainers.step import forward_logprobs, predicting_states, read_logprobs
from lmm_r1.trainers.tally import Counts, Tally, metrics_of
from lmm_r1.types import Anchors, Float32, Image, Int32, Problem, Rollout, Sample

_T = TypeVar("_T")
_M = TypeVar("_M", bound=nn.Module)
#: Weight of a shared trunk's value loss where a recipe names none.
SHARED_COEF = 0.1
#: Numbers that must be finite before anything moves.
_GUARDED = ("loss", "ratio_max", "entropy", "critic/loss")


class LocalTrainer:
    """Implements seams.Trainer on one device."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        reference_model: Qwen2_5_VLForConditionalGeneration | None,
        adapter: ModelAdapter,
        update: Update,
        total_updates: int,
        temperature: float = 1.0,
        device: torch.device | str = "cpu",
        critic: Critic | None = None,
        critic_config: CriticConfig | None = None,
    ) -> None:
        """`total_updates`: optimiser steps of the whole stage, for the learning-rate schedule.

        A model with adapters trains these alone, and is its own reference without them. ValueError when nothing is left
        to train.
        """
        whole_float32()
        self.model = self._place(model, device)
        self.critic = None if critic is None else self._place(critic, device)
        self.updates = 0  # optimiser steps done
        self._adapter, self._update, self._total, self._temperature = adapter, update, total_updates, temperature
        self._critic_config = critic_config or CriticConfig()
        self._device = torch.device(device)
        self._checkpointing = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        self._media = media_of(model)
        self._reference: Qwen2_5_VLForConditionalGeneration | None = None
        self._reference_at = 0  # optimiser steps after which the reference was the policy; 0 = the stage's start
        self.set_reference(reference_model)
        trained = _trained(self.model, update.freeze)
        if not trained:
            raise ValueError("update.freeze leaves nothing to train")
        self._policy = Optimiser(trained, update)
        self._value = None if self.critic is None else Optimiser(_trained(self.critic, update.freeze), update)

    def set_reference(self, model: Qwen2_5_VLForConditionalGeneration | None) -> None:
        """The frozen start model of the stage; None when no algorithm asks for it."""
        self._reference = None
        if model is not None:
            self._reference = self._place(model, self._device).requires_grad_(False).eval()

    def anchors(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> list[Anchors]:
        """What the frozen models say of the rollouts. Without "old" in `needs`, old_logprobs are the sampler's.

        ValueError for "values" without a critic, and for "ref" without a reference model.
        """
        if "values" in needs and self.critic is None:
            raise ValueError("the algorithm needs values, and the trainer has no critic")
        if "ref" in needs and self._reference is None and not has_adapters(self.model):
            raise ValueError("the algorithm needs a reference model, and the trainer has none")
        self._move_reference()
        found: dict[str, list[Float32]] = {
            name: [np.zeros(len(r.token_ids), dtype=np.float32) for r in rollouts]
            for name in ("old", "ref", "values")
            if name in needs
        }
        for batch in self._collate(rollouts) if found else ():
            for name, numbers in self._said(batch, frozenset(found)).items():
                batch.spread(numbers, found[name])
        old = found.get("old") or [r.logprobs for r in rollouts]
        ref, values = found.get("ref"), found.get("values")
        return [
            Anchors(old[i], None if ref is None else ref[i], None if values is None else values[i])
            for i in range(len(rollouts))
        ]

    def _said(self, batch: Batch, wanted: frozenset[str]) -> dict[str, Tensor]:
        """{"old", "ref", "values": float[N]} of one batch, as far as wanted."""
        said: dict[str, Tensor] = {}
        critic, states = self.critic, None
        with torch.no_grad():
            if "old" in wanted or ("values" in wanted and critic is not None and critic.trunk is None):
                states, old = self._inside(self.model, lambda: self._read(self.model, batch))
                if "old" in wanted:
                    said["old"] = old
            if "values" in wanted and critic is not None:
                said["values"] = self._inside(critic, lambda: _values(critic, states, batch))
        if "ref" in wanted:
            if self._reference is not None:
                said["ref"] = self._frozen(self._reference, batch)
            else:
                with without_adapters(self.model):
                    said["ref"] = self._frozen(self.model, batch)
        return said

    def update(
        self,
        samples: Sequence[Sample],
        algorithm: Algorithm,
        lr: float | None = None,
        *,
        bounds: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, float]:
        """One optimiser step over all samples; its metrics. `lr` None = the schedule's. bounds: see seams.Trainer.

        Loss = sum over trainable tokens of weight * (policy loss + kl_coef * KL - entropy_coef * entropy); a critic's is
        the token mean of its value loss. NumericError, naming the step and leaving all weights as they were, when a
        log-prob, a loss or a gradient is not finite, or a bound is broken. ValueError when no token is trainable.
        """
        if not any(s.rollout.trainable.any() for s in samples):
            raise ValueError("an optimiser step needs at least one trainable token")
        weights, value_weights = algorithm.token_weights(samples), token_mean(samples)
        return metrics_of([self.step(samples, algorithm, weights, value_weights, lr, bounds)])

    def step(
        self,
        samples: Sequence[Sample],
        algorithm: Algorithm,
        weights: Sequence[Float32],
        value_weights: Sequence[Float32],
        lr: float | None = None,
        bounds: Mapping[str, float] = MappingProxyType({}),
    ) -> Counts:
        """`update` with the weights of `accumulate`, for a rank's share of the samples; what that share came to.

        bounds hold for every share by itself.
        """
        lr = lr_at(self.updates, self._total, self._update) if lr is None else lr
        self._mode(self._checkpointing)
        self._drop()
        try:
            tally = self.accumulate(samples, algorithm, weights, value_weights)
            counts = tally.counts()
            self._guard(counts, bounds)
            norms = self._step(lr)
        finally:
            self._drop()
            self._mode(False)
        self.updates += 1
        return replace(counts, same=norms | {"lr": lr})

    def accumulate(
        self,
        samples: Sequence[Sample],
        algorithm: Algorithm,
        weights: Sequence[Float32],
        value_weights: Sequence[Float32],
    ) -> Tally:
        """Add the gradients of these samples to the parameters, without a step.

        weights, value_weights float32[T] each: fixed over the whole optimiser step, of which the samples may be one
        rank's share; so gradients of shares add up to that of the whole.
        """
        tally = Tally()
        for batch in self._collate([s.rollout for s in samples]):
            self._backward(batch, samples, algorithm, weights, value_weights, tally)
        return tally

    def score(self, token_ids: Int32, images: Sequence[Image]) -> Float32:
        """Log-prob of every token of a stream, float32[T]; 0 for the first one and for media tokens."""
        return score_stream(self.model, self._adapter, token_ids, images, self._temperature, self._device)

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Trained weights by Hugging Face name (those of `named_parameters`), tied ones once; adapters merged."""
        if has_adapters(self.model):
            yield from merged_weights(self.model)
            return
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write `state` into an existing folder, a safetensors file a part; returns its scalars."""
        state = self.state()
        scalars: dict[str, Any] = state.pop("scalars")
        write_tensors(folder, state)
        return scalars

    def load(self, folder: Path, scalars: Mapping[str, Any]) -> None:
        """The exact inverse of `save`, also of what the ranks of a sharded trainer saved."""
        tensors = read_whole(folder) if sharded(folder) else read_tensors(folder)
        self.restore({**tensors, "scalars": scalars})

    def state(self) -> dict[str, Any]:
        """{"model": {name: tensor}, "optimizer": {"name/slot": tensor}, "scalars": JSON-able}; tensors are copies.

        "critic": {name: tensor} with a critic, whose slots are "critic:name/slot"; "reference" when it has moved. Of a
        model with adapters only these are kept: the rest is the stage's start model.
        """
        state: dict[str, Any] = {
            "model": _kept(self.model, self._policy),
            "optimizer": self._policy.slots(),
            "scalars": {"updates": self.updates},
        }
        if self.critic is not None and self._value is not None:
            state["critic"] = _kept(self.critic, self._value)
            state["optimizer"] |= {f"critic:{name}": slot for name, slot in self._value.slots().items()}
        if self._reference_at and self._reference is not None:
            state["reference"] = {n: p.detach().to("cpu", copy=True) for n, p in self._reference.named_parameters()}
            state["scalars"]["reference_at"] = self._reference_at
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """The exact inverse of `state`. CheckpointError when names or shapes do not fit."""
        slots: Mapping[str, Tensor] = state.get("optimizer", {})  # before the first step there are none
        _put_back(self.model, state["model"], "model")
        self._policy.restore(state["model"], slots)
        if ("critic" in state) != (self.critic is not None):
            here, there = ("a critic", "none") if "critic" in state else ("no critic", "one")
            raise CheckpointError(f"the checkpoint has {here}, and this stage has {there}")
        if self.critic is not None and self._value is not None:
            _put_back(self.critic, state["critic"], "critic")
            own = {name.removeprefix("critic:"): s for name, s in slots.items() if name.startswith("critic:")}
            self._value.restore(state["critic"], own)
        if "reference" in state and self._reference is not None:
            _put_back(self._reference, state["reference"], "reference")
        self._reference_at = int(state["scalars"].get("reference_at", 0))
        self.updates = int(state["scalars"]["updates"])

    def _collate(self, rollouts: Sequence[Rollout]) -> list[Batch]:
        return collate(rollouts, self._adapter, self._media, self._update.micro_tokens, self._device)

    def _frozen(self, model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self._inside(model, lambda: self._read(model, batch))[1]

    def _read(self, model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> tuple[Tensor, Tensor]:
        """(states float[N, D] before the trained tokens, their log-probs float32[N])."""
        states = predicting_states(model.model, batch)
        return states, read_logprobs(model, states, batch, self._temperature, self._adapter.banned_ids)[0]

    def _inside(self, _network: nn.Module, work: Callable[[], _T]) -> _T:
        """Do what reads a network's weights; where they are sharded, with them at hand (fsdp.py)."""
        return work()

    def _move_reference(self) -> None:
        """Every `reference_reset` rollout steps the policy becomes the reference (ProRL, arXiv 2505.24864)."""
        every = self._update.reference_reset * self._update.minibatches
        if not every or self._reference is None or self.updates - self._reference_at < every:
            return
        theirs = dict(self._reference.named_parameters())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                theirs[name].copy_(parameter)
        self._reference_at = self.updates

    @property
    def _warming(self) -> bool:
        """Whether the critic learns alone."""
        return self.critic is not None and self.updates < self._critic_config.warmup * self._update.minibatches

    def _place(self, network: _M, device: torch.device | str) -> _M:
        return network.to(device)

    def _mode(self, train: bool) -> None:
        """Train mode only where activations are recomputed: Qwen's dropout is 0, so it does nothing else."""
        for network in (self.model, self.critic):
            if network is not None:
                network.train(train)

    def _drop(self) -> None:
        self._policy.drop()
        if self._value is not None:
            self._value.drop()

    def _backward(
        self,
        batch: Batch,
        samples: Sequence[Sample],
        algorithm: Algorithm,
        weights: Sequence[Float32],
        value_weights: Sequence[Float32],
        tally: Tally,
    ) -> None:
        """Add one batch's share to the gradients and to the tally."""
        critic = self.critic

        def policy_pass() -> tuple[Tensor, Tensor]:
            states = predicting_states(self.model.model, batch)
            bonus = algorithm.entropy_coef > 0
            read = read_logprobs(self.model, states, batch, self._temperature, self._adapter.banned_ids, bonus)
            return states, policy_loss(*read, batch, samples, algorithm, batch.select(weights), tally)

        def value_pass(states: Tensor | None) -> Tensor:
            assert critic is not None
            values = _values(critic, states, batch)
            return value_loss(values, batch, samples, algorithm, batch.select(value_weights), tally)

        with torch.set_grad_enabled(not self._warming):
            states, loss = self._inside(self.model, policy_pass)
        if critic is not None and critic.trunk is None:
            loss = loss + (self._critic_config.coef or SHARED_COEF) * self._inside(critic, lambda: value_pass(states))
        if loss.requires_grad:
            loss.backward()
        if critic is not None and critic.trunk is not None:  # after it: one graph is held at a time
            self._inside(critic, lambda: value_pass(None)).backward()

    def _guard(self, counts: Counts, bounds: Mapping[str, float]) -> None:
        """NumericError when a number is not finite, or beyond its bound."""
        seen = {**counts.totals, **counts.sums, **counts.maxima}
        for name in _GUARDED:
            if not np.isfinite(seen.get(name, 0.0)):
                raise NumericError(f"{self._here}: {name} is {seen[name]}; the weights are unchanged")
        seen = {**counts.maxima, **{name: value / max(counts.tokens, 1) for name, value in counts.sums.items()}}
        for name, largest in bounds.items() if counts.tokens else ():
            if not seen[name] <= largest:
                said = f"{name} is {seen[name]:.3g}, and at most {largest:g} is allowed"
                raise NumericError(f"{self._here}: {said}; the weights are unchanged")

    @property
    def _here(self) -> str:
        return f"optimiser step {self.updates + 1} of {self._total}"

    def _step(self, lr: float) -> dict[str, float]:
        """Check every gradient, then step; the gradients' norms before clipping."""
        norms = {"grad_norm": self._policy.norm()}
        if self._value is not None:
            norms["critic/grad_norm"] = self._value.norm()
        for name, norm in norms.items():
            if not bool(torch.isfinite(norm)):
                raise NumericError(f"{self._here}: the {name} is {float(norm)}; the weights are unchanged")
        if not self._warming:
            self._policy.apply(norms["grad_norm"], lr)
        if self._value is not None:
            self._value.apply(norms["critic/grad_norm"], lr * self._critic_config.lr / self._update.lr)
        return {name: float(norm) for name, norm in norms.items()}


def _values(critic: Critic, states: Tensor | None, batch: Batch) -> Tensor:
    """float32[N]: a critic's values, from the policy's states or from those of its own trunk."""
    return critic.values(
        predicting_states(critic.trunk, batch) if critic.trunk is not None or states is None else states
    )


def score_stream(
    model: Qwen2_5_VLForConditionalGeneration,
    adapter: ModelAdapter,
    token_ids: Int32,
    images: Sequence[Image],
    temperature: float = 1.0,
    device: torch.device | str = "cpu",
) -> Float32:
    """Log-prob of every token of a stream under a model, float32[T]; 0 for the first one and for media tokens."""
    rollout = scored_stream(token_ids, images, adapter.banned_ids)
    out = [np.zeros(len(token_ids), dtype=np.float32)]
    for batch in collate([rollout], adapter, media_of(model), len(token_ids), device):
        with torch.no_grad():
            batch.spread(forward_logprobs(model, batch, temperature, adapter.banned_ids)[0], out)
    return out[0]


def scored_stream(token_ids: Int32, images: Sequence[Image], banned_ids: Sequence[int]) -> Rollout:
    """A stream as a rollout of which every token counts but the first one and media tokens."""
    trainable = ~np.isin(token_ids, banned_ids)
    trainable[0] = False
    zeros = np.zeros(len(token_ids), dtype=np.float32)
    problem = Problem(id="score", messages=(), answer="")
    return Rollout(problem, 0, 0, 0, token_ids.copy(), trainable, zeros, tuple(images), (), "eos", ())


def media_of(model: Qwen2_5_VLForConditionalGeneration) -> Media:
    """What collate must know of a model."""
    config: Any = model.config
    return Media(config.image_token_id, config.vision_config.spatial_merge_size**2)


def _trained(network: nn.Module, freeze: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters to train: those of the parts that are not frozen, or, with adapters, the adapters among them."""
    adapted = has_adapters(network)
    for name, parameter in network.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part == "head" or (part not in freeze and (parameter.requires_grad or not adapted)))
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def kept_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """What a checkpoint holds of a network: everything, or, with adapters, what is trained."""
    adapted = has_adapters(network)
    return {n: p for n, p in network.named_parameters() if p.requires_grad or not adapted}


def _kept(network: nn.Module, optimiser: Optimiser) -> dict[str, Tensor]:
    return {n: optimiser.master(n, p).detach().to("cpu", copy=True) for n, p in kept_parameters(network).items()}


def _put_back(network: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy saved tensors into a network. CheckpointError when names or shapes do not fit."""
    named = kept_parameters(network)
    if tensors.keys() != named.keys():
        odd = sorted(tensors.keys() ^ named.keys())
        raise CheckpointError(f"the checkpoint's weights are not this {what}'s: {', '.join(odd[:3])} differ")
    for name, parameter in named.items():
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(f"the checkpoint's {name} has another shape than this {what}'s")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
