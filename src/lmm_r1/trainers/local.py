"""The trainer of one process: forward, backward, AdamW, guards and exact state.

Axis legend: T = tokens of one rollout; N = trainable tokens of a batch. All log-probs are in nats, at the sampling
temperature, with media tokens masked.
Weights in a narrower dtype than float32 get float32 masters: a step of 1e-6 would vanish in bfloat16.
Leaves out: sharding, the critic, and the order of steps (train.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.algorithms import losses
from lmm_r1.config import Update
from lmm_r1.errors import CheckpointError, NumericError
from lmm_r1.seams import Algorithm, ModelAdapter, PolicyTokens
from lmm_r1.trainers.collate import Batch, Media, collate
from lmm_r1.trainers.schedule import lr_at
from lmm_r1.trainers.step import forward_logprobs
from lmm_r1.types import Anchors, Float32, Image, Int32, Problem, Rollout, Sample

_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


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
    ) -> None:
        """`total_updates`: optimiser steps of the whole stage, for the learning-rate schedule.

        ValueError for an unknown part in `update.freeze`, or when nothing is left to train.
        """
        self.model = model.to(device)  # type: ignore[arg-type]  # transformers mistypes Module.to
        self.updates = 0  # optimiser steps done
        self._adapter, self._update, self._total, self._temperature = adapter, update, total_updates, temperature
        self._device = torch.device(device)
        self._checkpointing = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        config: Any = model.config
        self._media = Media(config.image_token_id, config.vision_config.spatial_merge_size**2)
        self._reference: Qwen2_5_VLForConditionalGeneration | None = None
        self.set_reference(reference_model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) not in update.freeze)
        unknown = set(update.freeze) - {"vision", "merger", "language"}
        if unknown:
            raise ValueError(f"update.freeze names no part: {', '.join(sorted(unknown))} (vision, merger, language)")
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self._trained:
            raise ValueError("update.freeze leaves nothing to train")
        self._masters = {n: _master(p) for n, p in self._trained.items()}
        scaled: dict[float, list[Tensor]] = {}
        for name, master in self._masters.items():
            scaled.setdefault(_lr_scale(update, part_of(name)), []).append(master)
        self._optimizer = torch.optim.AdamW(
            [{"params": masters, "scale": scale} for scale, masters in scaled.items()],
            lr=update.lr, betas=update.betas, weight_decay=update.weight_decay, fused=True,
        )  # fmt: skip

    def set_reference(self, model: Qwen2_5_VLForConditionalGeneration | None) -> None:
        """The frozen start model of the stage; None when no algorithm asks for it."""
        self._reference = None
        if model is not None:
            model.to(self._device)  # type: ignore[arg-type]
            self._reference = model.requires_grad_(False).eval()

    def anchors(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> list[Anchors]:
        """What the frozen models say of the rollouts. Without "old" in `needs`, old_logprobs are the sampler's.

        ValueError for "values", and for "ref" without a reference model.
        """
        if "values" in needs:
            raise ValueError("this trainer has no critic")
        if "ref" in needs and self._reference is None:
            raise ValueError("the algorithm needs a reference model, and the trainer has none")
        old = [np.zeros(len(r.token_ids), dtype=np.float32) for r in rollouts] if "old" in needs else None
        ref = [np.zeros(len(r.token_ids), dtype=np.float32) for r in rollouts] if "ref" in needs else None
        if old is not None or ref is not None:
            for batch in self._collate(rollouts):
                if old is not None:
                    batch.spread(self._frozen(self.model, batch), old)
                if ref is not None and self._reference is not None:
                    batch.spread(self._frozen(self._reference, batch), ref)
        return [
            Anchors(r.logprobs if old is None else old[i], None if ref is None else ref[i])
            for i, r in enumerate(rollouts)
        ]

    def update(self, samples: Sequence[Sample], algorithm: Algorithm, lr: float | None = None) -> dict[str, float]:
        """One optimiser step over all samples; its metrics. `lr` None = the schedule's.

        Loss = sum over trainable tokens of weight * (policy loss + kl_coef * KL - entropy_coef * entropy). NumericError, naming the step and
        leaving the weights as they were, when a log-prob, the loss or the gradient is not finite.
        """
        lr = lr_at(self.updates, self._total, self._update) if lr is None else lr
        weights = algorithm.token_weights(samples)
        self.model.train(self._checkpointing)  # Qwen's dropout is 0: train mode does nothing but checkpoint
        self.model.zero_grad(set_to_none=True)
        tally = _Tally()
        try:
            for batch in self._collate([s.rollout for s in samples]):
                self._backward(batch, samples, algorithm, weights, tally)
            metrics = tally.metrics()
            self._guard(metrics)
            metrics["grad_norm"] = self._apply(lr)
        finally:
            self.model.zero_grad(set_to_none=True)
            self.model.eval()
        self.updates += 1
        return metrics | {"lr": lr}

    def score(self, token_ids: Int32, images: Sequence[Image]) -> Float32:
        """Log-prob of every token of a stream, float32[T]; 0 for the first one and for media tokens."""
        trainable = ~np.isin(token_ids, self._adapter.banned_ids)
        trainable[0] = False
        zeros = np.zeros(len(token_ids), dtype=np.float32)
        problem = Problem(id="score", messages=(), answer="")
        rollout = Rollout(problem, 0, 0, 0, token_ids.copy(), trainable, zeros, tuple(images), (), "eos", ())
        out = [np.zeros(len(token_ids), dtype=np.float32)]
        for batch in self._collate([rollout]):
            batch.spread(self._frozen(self.model, batch), out)
        return out[0]

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Trained weights by Hugging Face name (those of `named_parameters`), tied ones once."""
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    def state(self) -> dict[str, Any]:
        """{"model": {name: tensor}, "optimizer": {"name/slot": tensor}, "scalars": JSON-able}; tensors are copies."""
        tensors = {n: self._masters.get(n, p).detach().to("cpu", copy=True) for n, p in self.model.named_parameters()}
        slots: dict[str, Tensor] = {}
        for name, master in self._masters.items():
            for slot, tensor in self._optimizer.state.get(master, {}).items():
                slots[f"{name}/{slot}"] = tensor.detach().to("cpu", copy=True)
        return {"model": tensors, "optimizer": slots, "scalars": {"updates": self.updates}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The exact inverse of `state`. CheckpointError when names or shapes do not fit."""
        tensors, slots = state["model"], state["optimizer"]
        named = dict(self.model.named_parameters())
        if tensors.keys() != named.keys():
            odd = sorted(tensors.keys() ^ named.keys())
            raise CheckpointError(f"the checkpoint's weights are not this model's: {', '.join(odd[:3])} differ")
        for name, parameter in named.items():
            if tensors[name].shape != parameter.shape:
                raise CheckpointError(f"the checkpoint's {name} has another shape than this model's")
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(tensors[name])
                if name in self._masters:
                    self._masters[name].copy_(tensors[name])
        self._optimizer.state.clear()
        for name, master in self._masters.items():
            if f"{name}/{_SLOTS[0]}" in slots:
                kept = {s: slots[f"{name}/{s}"].to(master.device, copy=True) for s in _SLOTS}
                self._optimizer.state[master] = kept
        self.updates = int(state["scalars"]["updates"])

    def _collate(self, rollouts: Sequence[Rollout]) -> list[Batch]:
        return collate(rollouts, self._adapter, self._media, self._update.micro_tokens, self._device)

    def _frozen(self, model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> Tensor:
        with torch.no_grad():
            return forward_logprobs(model, batch, self._temperature, self._adapter.banned_ids)[0]

    def _backward(
        self,
        batch: Batch,
        samples: Sequence[Sample],
        algorithm: Algorithm,
        weights: Sequence[Float32],
        tally: _Tally,
    ) -> None:
        """Add one batch's share to the gradient and to the tally."""
        bonus = algorithm.entropy_coef > 0
        logprobs, entropy = forward_logprobs(self.model, batch, self._temperature, self._adapter.banned_ids, bonus)
        weight = batch.select(weights)
        if "old" in algorithm.needs:
            old = batch.select([s.anchors.old_logprobs for s in samples])
        else:
            old = logprobs.detach()
        sampled = batch.select([s.rollout.logprobs for s in samples])
        advantages = batch.select([s.credit.advantages for s in samples])
        tokens = PolicyTokens(logprobs, old, sampled, advantages, batch.sequences, len(batch.members))
        token_loss, shares = algorithm.policy_loss(tokens)
        policy_loss = (weight * token_loss).sum()
        loss = policy_loss - algorithm.entropy_coef * (weight * entropy).sum() if bonus else policy_loss
        kl = torch.zeros((), device=logprobs.device)
        references = [s.anchors.ref_logprobs for s in samples]
        known = [r for r in references if r is not None]
        if len(known) == len(references):
            kl_tokens = losses.kl(logprobs, batch.select(known), algorithm.kl_estimator)
            kl = kl_tokens.detach().sum()
            if algorithm.kl_coef > 0:
                loss = loss + algorithm.kl_coef * (weight * kl_tokens).sum()
        elif algorithm.kl_coef > 0:
            raise ValueError(f"{algorithm.name} needs reference log-probs on every sample")
        loss.backward()
        with torch.no_grad():
            gap = (sampled - old).abs()  # old = the weights that sampled, in the trainer's own arithmetic
            ratio = (logprobs - old).abs().max().exp()
            sums = {"kl_ref": kl, "entropy": entropy.detach().sum(), "logprob_gap/mean": gap.sum()}
            sums |= {name: values.sum() for name, values in shares.items()}
            tally.add(
                len(batch.targets),
                {"loss": loss.detach(), "policy_loss": policy_loss.detach()},
                sums,
                {"logprob_gap/max": gap.max(), "ratio_max": ratio},
            )

    def _guard(self, metrics: Mapping[str, float]) -> None:
        for name in ("loss", "ratio_max", "entropy"):
            if not np.isfinite(metrics[name]):
                raise NumericError(
                    f"optimiser step {self.updates + 1} of {self._total}: {name} is {metrics[name]}; the weights are unchanged"
                )

    def _apply(self, lr: float) -> float:
        """Clip, check and step; returns the gradient's norm before clipping."""
        for name, parameter in self._trained.items():
            master = self._masters[name]
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.to(master.dtype)
        masters = list(self._masters.values())
        grads = [m.grad for m in masters if m.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        if not bool(torch.isfinite(norm)):
            for master in masters:
                master.grad = None
            raise NumericError(
                f"optimiser step {self.updates + 1} of {self._total}: the gradient's norm is {float(norm)}; the weights are unchanged"
            )
        nn.utils.clip_grads_with_norm_(masters, self._update.max_grad_norm, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self._optimizer.step()
        with torch.no_grad():
            for name, parameter in self._trained.items():
                master = self._masters[name]
                master.grad = None
                if master is not parameter:
                    parameter.copy_(master)
        return float(norm)


class _Tally:
    """Metrics of one optimiser step, kept on the device until its end: one transfer instead of one per batch."""

    def __init__(self) -> None:
        self._tokens = 0
        self._totals: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}

    def add(
        self, tokens: int, totals: Mapping[str, Tensor], sums: Mapping[str, Tensor], maxima: Mapping[str, Tensor]
    ) -> None:
        """totals add up, sums become means per token, maxima stay maxima."""
        self._tokens += tokens
        for store, new in ((self._totals, totals), (self._sums, sums)):
            for name, value in new.items():
                store[name] = store[name] + value if name in store else value
        for name, value in maxima.items():
            self._maxima[name] = torch.maximum(self._maxima[name], value) if name in self._maxima else value

    def metrics(self) -> dict[str, float]:
        """ValueError when no token was trained on."""
        if self._tokens == 0:
            raise ValueError("an optimiser step needs at least one trainable token")
        out = {name: float(value) for name, value in (self._totals | self._maxima).items()}
        out |= {name: float(value) / self._tokens for name, value in self._sums.items()}
        return out | {"tokens": float(self._tokens)}


def part_of(name: str) -> str:
    """The freezable part that a parameter belongs to: "vision", "merger" or "language"."""
    if ".visual." in f".{name}":
        return "merger" if ".visual.merger." in f".{name}" else "vision"
    return "language"


def _lr_scale(update: Update, part: str) -> float:
    scales: Mapping[str, float] = update.lr_scale  # type: ignore[assignment]  # its keys are the parts
    return scales.get(part, 1.0)


def _master(parameter: nn.Parameter) -> Tensor:
    if parameter.dtype == torch.float32 or parameter.dtype == torch.float64:
        return parameter
    return parameter.detach().to(torch.float32, copy=True)
