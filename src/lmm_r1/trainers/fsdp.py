"""The trainer of one rank among several: weights, gradients and optimiser state sharded by FSDP2, numbers as in local.py.

Every rank calls every method at the same time, each with its own share of the rollouts. Layers gather their weights as they
run; whatever reads other weights runs inside the root module's forward pass, which gathers those. Gradients are summed, not
averaged: the weight of a token is fixed over the whole optimiser step, so ranks cannot change it. Weights are sharded in
float32, which makes them their own masters; with a narrower dtype layers compute in it, and gradients are summed in float32.
With adapters (models/lora.py) the frozen weights are sharded in the dtype of computing, which is what makes adapters small, and
have neither gradients nor moments; adapters are float32, also when they are gathered, as in local.py.

Ranks must run the same layers the same number of times, or they wait for each other for ever. So ranks agree on the number
of batches and on which of them have pictures; who lacks a batch runs an empty one, who lacks pictures a blank one, and
neither has tokens, so that their gradients are zeros. A fault on one rank is raised on all.
Where long replies are shared (`sequence` > 1), neighbouring ranks get the same rollouts and each a part of every row
(sequence.py); gradients are summed over all ranks as before.
Leaves out: which rank gets what (distributed/ray_trainer.py), processes, 4-bit weights, tensor parallelism.
Source: FSDP2, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import Qwen2_5_VLForConditionalGeneration

from lmm_r1.config import Critic as CriticConfig
from lmm_r1.config import Update
from lmm_r1.errors import CheckpointError, DataError, NumericError
from lmm_r1.models.critic import Critic
from lmm_r1.models.lora import adapter_parameters, has_adapters, merged_weights, plain_name
from lmm_r1.models.stored import StoredModel
from lmm_r1.runs.checkpoint import require_space
from lmm_r1.seams import ModelAdapter
from lmm_r1.trainers.collate import Batch
from lmm_r1.trainers.local import LocalTrainer, kept_parameters, scored_stream
from lmm_r1.trainers.sequence import part_of_batch, share_attention
from lmm_r1.trainers.shards import read_into, read_parts, stored_names, write_shards
from lmm_r1.trainers.tally import Counts
from lmm_r1.types import Float32, Image, Int32, Rollout

#: What a rank says when it stopped because of another.
ANOTHER = "another rank stopped; its own message says why"

_T = TypeVar("_T")
_M = TypeVar("_M", bound=nn.Module)


class _Root(nn.Module):
    """Gathers a network's remaining weights (embeddings, norms, heads) while some work reads them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, work: Callable[[], _T]) -> _T:
        """Do the work. FSDP2 gathers before, and hooks the backward pass of the tensors that come out."""
        return work()


def agree(mesh: DeviceMesh, work: Callable[[], _T]) -> _T:
    """Do work without collectives; a fault on one rank is raised on all, so that none waits for a rank that left."""
    fault: DataError | NumericError | CheckpointError | None = None
    done: _T
    try:
        done = work()
    except (DataError, NumericError, CheckpointError) as error:
        fault = error
    kinds = (None, DataError, NumericError, CheckpointError)
    code = 0 if fault is None else next(i for i, kind in enumerate(kinds) if kind and isinstance(fault, kind))
    worst = int(_largest(mesh, torch.tensor([code]))[0])
    if fault is not None:
        raise fault
    kind = kinds[worst]
    if kind is not None:
        raise kind(ANOTHER)
    return done


def _largest(mesh: DeviceMesh, numbers: Tensor) -> Tensor:
    """The element-wise largest of all ranks' int64 numbers, on the CPU."""
    numbers = numbers.to(_device(mesh))
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=mesh.get_group())
    return numbers.cpu()


def _device(mesh: DeviceMesh) -> str:
    """This rank's device."""
    return "cpu" if mesh.device_type == "cpu" else f"{mesh.device_type}:{torch.cuda.current_device()}"


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered, another one as it is. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _check_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """ValueError unless a network has adapters, over weights of `dtype`."""
    adapters = adapter_parameters(network)
    if not adapters:
        raise ValueError("policy and critic must both have adapters, or neither")
    for name, parameter in network.named_parameters():
        if name not in adapters and parameter.dtype != dtype:
            raise ValueError(f"{name} under adapters is {parameter.dtype}, and ranks compute in {dtype}")


def _neighbours(mesh: DeviceMesh, count: int) -> dist.ProcessGroup | None:
    """This rank's group of `count` neighbours; None for one alone. Collective. ValueError unless it divides the ranks."""
    if mesh.size() % count:
        raise ValueError(f"{mesh.size()} ranks cannot share rows by {count}")
    if count == 1:
        return None
    groups = [dist.new_group(list(range(at, at + count))) for at in range(0, mesh.size(), count)]
    return groups[mesh.get_rank() // count]


class FsdpTrainer(LocalTrainer):
    """A rank's part of a sharded trainer. Of seams.Trainer it has all but `update`: that is `step`, with shares."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        reference_model: Qwen2_5_VLForConditionalGeneration | None,
        adapter: ModelAdapter,
        update: Update,
        total_updates: int,
        temperature: float = 1.0,
        critic: Critic | None = None,
        critic_config: CriticConfig | None = None,
        *,
        mesh: DeviceMesh,
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
        sequence: int = 1,
        stored: StoredModel | None = None,
    ) -> None:
        """mesh: of one dimension, all ranks. dtype: of computing, and of the weights that `weights` gives; the networks
        come in float32 (the reference model may come in `dtype`), or with adapters, all in `dtype` but these. offload: keep
        shards in host memory. sequence: ranks that share a row; it divides the ranks, and each so many neighbours get the same
        rollouts. stored: fills networks that come
        empty (StoredModel.empty; of a critic the trunk), each rank with its part alone.

        ValueError for a model or a critic whose weights under adapters have another dtype (4 bits among them), or of which one
        has adapters and the other none. CheckpointError, on all ranks, when one cannot read its part.
        """
        adapted = has_adapters(model)
        trunks = [model] if critic is None or critic.trunk is None else [model, critic.trunk]
        if any(has_adapters(trunk) for trunk in trunks):
            for trunk in trunks:
                _check_frozen(trunk, dtype)
        self._mesh, self._dtype, self._stored = mesh, dtype, stored
        # FSDP2 gathers weights of several dtypes together; only those that learn must have one dtype in each group.
        as_they_are = adapted or dtype == torch.float32
        self._narrow = MixedPrecisionPolicy(
            param_dtype=None if as_they_are else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        self._offload = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy()
        self._roots: dict[int, nn.Module] = {}
        self._row = _neighbours(mesh, sequence)
        super().__init__(
            model, reference_model, adapter, update, total_updates, temperature, _device(mesh), critic, critic_config
        )

    def score(self, token_ids: Int32, images: Sequence[Image]) -> Float32:
        """As LocalTrainer's; every rank gets the same stream. With shared rows, 0 where another rank has the token."""
        rollout = scored_stream(token_ids, images, self._adapter.banned_ids)
        return self.anchors([rollout], frozenset({"old"}))[0].old_logprobs

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """As LocalTrainer's, one whole tensor at a time in the computing dtype. Every rank must walk through all of it."""
        narrow = None if has_adapters(self.model) else self._dtype  # adapters are merged first, in float32

        def whole(tensor: Tensor) -> Tensor:
            # On the device, and narrow, before it is gathered: offloaded shards would go through the host, and twice as wide.
            return _whole(tensor.to(self._device, narrow))

        return merged_weights(self.model, whole)  # without adapters: as they are

    def save(self, folder: Path) -> dict[str, Any]:
        """Every rank writes its shards into a folder that all of them see; returns the scalars."""
        tensors = self._kept()
        total = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
        agree(self._mesh, lambda: require_space(folder, total))
        write_shards(folder, tensors)
        scalars: dict[str, Any] = {"updates": self.updates}
        return scalars | ({"reference_at": self._reference_at} if self._reference_at else {})

    def load(self, folder: Path, scalars: Mapping[str, Any]) -> None:
        """The exact inverse of `save`, whoever saved: one process, or another number of ranks."""
        stored = stored_names(folder)
        self._reference_at = int(scalars.get("reference_at", 0))
        slots = set(stored.get("optimizer", {}))
        self._policy.live_slots(slots)
        if self._value is not None:
            self._value.live_slots({n.removeprefix("critic:") for n in slots if n.startswith("critic:")})
        tensors = self._kept()
        for kind in stored.keys() | tensors.keys():
            ours = {name: tuple(tensor.shape) for name, tensor in tensors.get(kind, {}).items()}
            theirs = stored.get(kind, {})
            if ours != theirs:
                odd = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
                raise CheckpointError(f"the checkpoint's {kind} is not this stage's: {', '.join(odd[:3])} differ")
        read_into(folder, tensors)
        self.updates = int(scalars["updates"])

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        """{kind: {name: tensor}} of all that a checkpoint holds: the tensors themselves, not copies."""
        kept: dict[str, dict[str, Tensor]] = {
            "model": dict(kept_parameters(self.model)), "optimizer": dict(self._policy.live_slots()),
        }  # fmt: skip
        if self.critic is not None and self._value is not None:
            kept["critic"] = dict(kept_parameters(self.critic))
            kept["optimizer"] |= {f"critic:{name}": slot for name, slot in self._value.live_slots().items()}
        if self._reference_at and self._reference is not None:
            kept["reference"] = dict(self._reference.named_parameters())
        return {kind: {n: t.detach() for n, t in group.items()} for kind, group in kept.items() if group}

    def _place(self, network: _M, device: torch.device | str) -> _M:
        """Shard a network: every layer of the towers by itself, all else together."""
        if self._row is not None:
            share_attention(network, self._row)
        wanted: dict[str, Any] = {
            "mesh": self._mesh, "reshard_after_forward": True, "mp_policy": self._narrow, "offload_policy": self._offload,
        }  # fmt: skip
        for stack in [module for module in network.modules() if isinstance(module, nn.ModuleList)]:
            for layer in stack:
                fully_shard(layer, **wanted)
        root = fully_shard(_Root(network), **wanted)
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._roots[id(network)] = root
        if self._stored is not None:
            self._fill(network, root, self._stored, device)
        return network

    def _fill(self, network: nn.Module, root: nn.Module, stored: StoredModel, device: torch.device | str) -> None:
        """Give the shards that are on the meta device memory, and their part of the stored weights."""
        body, prefix = (network.trunk, "model.") if isinstance(network, Critic) else (network, "")
        names = [] if body is None else [name for name, p in body.named_parameters() if p.is_meta]
        home = "cpu" if isinstance(self._offload, CPUOffloadPolicy) else device
        # As `to_empty`, but without what has its numbers already: buffers, adapters, and a critic's head.
        root._apply(lambda tensor: torch.empty_like(tensor, device=home) if tensor.is_meta else tensor)
        shards = {} if body is None else {prefix + plain_name(name): body.get_parameter(name) for name in names}
        agree(self._mesh, lambda: read_parts(stored, shards))

    def _inside(self, network: nn.Module, work: Callable[[], _T]) -> _T:
        found: _T = self._roots[id(network)](work)
        return found

    def _collate(self, rollouts: Sequence[Rollout]) -> list[Batch]:
        """This rank's batches, as many as every other rank's, with pictures where any rank's have some."""
        batches: list[Batch] = agree(self._mesh, lambda: super(FsdpTrainer, self)._collate(rollouts))
        if self._row is not None:
            row, pad = self._row, self._adapter.pad_id
            batches = [part_of_batch(batch, row.rank(), row.size(), pad) for batch in batches]
        most = int(_largest(self._mesh, torch.tensor([len(batches)]))[0])
        seen = torch.zeros(most, dtype=torch.int64)
        seen[: len(batches)] = torch.tensor([batch.vision is not None for batch in batches], dtype=torch.int64)
        pictures = _largest(self._mesh, seen)
        batches += [self._empty()] * (most - len(batches))
        return [
            replace(batch, vision=self._blank()) if batch.vision is None and pictures[at] else batch
            for at, batch in enumerate(batches)
        ]

    def _guard(self, counts: Counts, bounds: Mapping[str, float]) -> None:
        agree(self._mesh, lambda: super(FsdpTrainer, self)._guard(counts, bounds))

    def _empty(self) -> Batch:
        """A batch that trains no token; of a shared row, two columns as well."""
        pad, nothing = self._adapter.pad_id, torch.zeros(0, dtype=torch.int64, device=self._device)
        parts = 1 if self._row is None else self._row.size()
        return Batch(
            input_ids=torch.full((1, 2), pad, device=self._device),
            positions=torch.arange(2, device=self._device).expand(3, 1, 2),
            mask=None if parts == 1 else torch.ones(1, 1, 2, 2 * parts, dtype=torch.bool, device=self._device),
            parents=nothing,
            targets=nothing,
            vision=None,
            placeholders=nothing,
            features=nothing,
            members=(),
            where=(),
        )

    def _blank(self) -> dict[str, Tensor]:
        """The smallest picture there is, of which no feature goes anywhere."""
        vision = self.model.config.vision_config
        side = int(vision.spatial_merge_size)
        width = int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        return {
            "pixel_values": torch.zeros(side * side, width, device=self._device),
            "image_grid_thw": torch.tensor([[1, side, side]], device=self._device),
        }
