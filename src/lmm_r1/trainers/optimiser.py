"""AdamW over named parameters: float32 masters, a rate for each part, clipping, exact state.

Weights in a narrower dtype than float32 get float32 masters: a step of 1e-6 would vanish in bfloat16.
Leaves out: the gradient (local.py) and the rate over time (schedule.py).
Source of the defaults: LMM-R1's scripts, betas (0.9, 0.95), norm clipped at 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lmm_r1.config import Update

_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


class Optimiser:
    """Steps the parameters of one network. A step has two halves, so that several networks are checked before any moves."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], update: Update) -> None:
        self._parameters = dict(parameters)
        self._masters = {name: _master(p) for name, p in self._parameters.items()}
        self._max_norm = update.max_grad_norm
        scales: dict[float, list[Tensor]] = {}
        for name, master in self._masters.items():
            scales.setdefault(_lr_scale(update, part_of(name)), []).append(master)
        self._adamw = torch.optim.AdamW(
            [{"params": masters, "scale": scale} for scale, masters in scales.items()],
            lr=update.lr, betas=update.betas, weight_decay=update.weight_decay, fused=True,
        )  # fmt: skip

    def norm(self) -> Tensor:
        """The norm of all gradients before clipping, a float32 scalar at least (0 without any)."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        if not grads:
            return torch.zeros(())
        if all(g.dtype in (torch.float32, torch.float64) for g in grads):
            total = nn.utils.get_total_norm(grads)
            return total.full_tensor() if isinstance(total, DTensor) else total
        wide = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in grads]
        return torch.linalg.vector_norm(torch.stack(wide))

    def apply(self, norm: Tensor, lr: float) -> None:
        """Clip by `norm`, step at `lr` times each part's scale, and drop the gradients."""
        for name, parameter in self._parameters.items():
            master = self._masters[name]
            if master is not parameter and parameter.grad is not None:
                # One copy of a gradient at a time: all of them in both dtypes would be half a model more.
                master.grad, parameter.grad = parameter.grad.to(master.dtype), None
        masters = list(self._masters.values())
        nn.utils.clip_grads_with_norm_(masters, self._max_norm, norm)
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["scale"]
        self._adamw.step()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                master = self._masters[name]
                if master is not parameter:
                    parameter.copy_(master)
        self.drop()

    def drop(self) -> None:
        """Forget the gradients."""
        for name, master in self._masters.items():
            master.grad = self._parameters[name].grad = None

    def master(self, name: str, parameter: Tensor) -> Tensor:
        """The exact weight of a parameter: its master where it has one."""
        return self._masters.get(name, parameter)

    def slots(self) -> dict[str, Tensor]:
        """{"name/slot": tensor}, copies on the CPU."""
        return {name: slot.detach().to("cpu", copy=True) for name, slot in self.live_slots().items()}

    def live_slots(self, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """{"name/slot": tensor}, the optimiser's own. wanted: names to make anew, of zeros, in place of those there are."""
        if wanted is not None:
            self._adamw.state.clear()
            for name, master in self._masters.items():
                if f"{name}/{_SLOTS[0]}" in wanted:
                    step = torch.zeros((), dtype=torch.float32, device=master.device)
                    moments = {slot: torch.zeros_like(master) for slot in _SLOTS[1:]}
                    self._adamw.state[master] = {_SLOTS[0]: step, **moments}
        return {
            f"{name}/{slot}": tensor
            for name, master in self._masters.items()
            for slot, tensor in self._adamw.state.get(master, {}).items()
        }

    def restore(self, weights: Mapping[str, Tensor], slots: Mapping[str, Tensor]) -> None:
        """The exact inverse of `slots`; `weights` are the masters' values."""
        self._adamw.state.clear()
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(weights[name])
                if f"{name}/{_SLOTS[0]}" in slots:
                    kept = {s: slots[f"{name}/{s}"].to(master.device, copy=True) for s in _SLOTS}
                    self._adamw.state[master] = kept


def part_of(name: str) -> str:
    """The freezable part that a parameter belongs to: "vision", "merger" or "language"; or "head", of a critic."""
    if name.startswith("value_head."):
        return "head"
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
