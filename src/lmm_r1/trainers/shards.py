"""Sharded tensors on the disk: each rank writes and reads its own part, and any number of ranks reads what any other wrote.

The format is that of PyTorch's distributed checkpoints in safetensors files (no pickle): `shard-00001-*.safetensors` and so
on, each part's place in its header. A tensor's key is "kind|name", for example "model|lm_head.weight". Checkpoints of one
process (runs/checkpoint.py: one file a kind, named after it) can be read into shards as well, and so can a model folder's files.
Leaves out: what is saved (fsdp.py) and the commit of a folder (runs/checkpoint.py).
Source: torch.distributed.checkpoint, https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint import load as load_distributed
from torch.distributed.checkpoint import save as save_distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, Shard

from lmm_r1.errors import CheckpointError, Fault
from lmm_r1.models.stored import StoredModel

#: {kind: {name: tensor}}: what a trainer keeps, such as {"model": ..., "optimizer": ...}
Kinds = Mapping[str, Mapping[str, Tensor]]


def sharded(folder: Path) -> bool:
    """Whether a checkpoint holds shards, not a file a kind."""
    return any(folder.glob("shard-*.safetensors"))


def write_shards(folder: Path, tensors: Kinds) -> None:
    """Write every rank's part into a folder that all ranks see. Collective: every rank calls it with the same names, and all
    raise CheckpointError when one cannot write."""
    with _told(folder, "written"):
        save_distributed(_flat(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def stored_names(folder: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """{kind: {name: shape}} of a checkpoint of either format. Raises CheckpointError."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    with _told(folder):
        if sharded(folder):
            for key, (shape, _) in _listed(folder).items():
                kind, _, name = key.partition("|")
                found.setdefault(kind, {})[name] = shape
            return found
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                found[path.stem] = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def read_into(folder: Path, tensors: Kinds) -> None:
    """Fill tensors, sharded or whole, in place from a checkpoint of either format.

    Collective where the tensors are sharded. Every name must be there with its shape (see `stored_names`).
    """
    with _told(folder):
        if sharded(folder):
            load_distributed(_flat(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))
            return
        for kind, group in tensors.items():
            with safe_open(folder / f"{kind}.safetensors", "pt") as file:
                for name, tensor in group.items():
                    _keep_part(tensor, file.get_slice(name))


def read_parts(stored: StoredModel, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or whole, in place from a model folder, each by its name there. Raises CheckpointError."""
    with _told(stored.folder):
        for name, part in stored.weights(tensors):
            _keep_part(tensors[name], part)


def _keep_part(tensor: Tensor, stored: Any) -> None:
    """Fill a tensor, whole or sharded, from `stored`, safetensors' slice of the whole one in any dtype.

    Nothing is sent: each rank reads the rows that it keeps, and no others. ValueError for shards that are not those of
    fully_shard, by rows over one dimension of ranks.
    """
    with torch.no_grad():
        if not isinstance(tensor, DTensor):
            tensor.copy_(stored[...])
            return
        if tensor.placements != (Shard(0),):
            raise ValueError(f"a tensor is sharded as {tensor.placements}, not by rows")
        mesh, own = tensor.device_mesh, tensor.to_local()
        first = min(-(-tensor.shape[0] // mesh.size()) * mesh.get_local_rank(), tensor.shape[0])  # as torch.chunk deals
        if own.shape[0]:  # with few rows the last ranks have none
            own.copy_(stored[first : first + own.shape[0]])


def read_whole(folder: Path) -> dict[str, dict[str, Tensor]]:
    """{kind: {name: tensor}} of a sharded checkpoint, whole and on the CPU, in one process. Raises CheckpointError."""
    with _told(folder):
        flat = {key: torch.empty(shape, dtype=dtype) for key, (shape, dtype) in _listed(folder).items()}
        with warnings.catch_warnings():  # that there is one process is what we want
            warnings.simplefilter("ignore", UserWarning)
            load_distributed(flat, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    kinds: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        kind, _, name = key.partition("|")
        kinds.setdefault(kind, {})[name] = tensor
    return kinds


@contextmanager
def _told(folder: Path, done: str = "read") -> Iterator[None]:
    """Say in one line what went wrong with a checkpoint's files. PyTorch's own exception is no Exception, and holds the ranks'."""
    try:
        yield
    except CheckpointException as error:
        why = next(iter(error.failures.values()), (error,))[0]
        raise CheckpointError(Fault(f"cannot be {done}: {why}", str(folder))) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(Fault(f"cannot be {done}: {error}", str(folder))) from error


def _flat(tensors: Kinds) -> dict[str, Tensor]:
    return {f"{kind}|{name}": tensor.detach() for kind, group in tensors.items() for name, tensor in group.items()}


def _listed(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """{key: (shape, dtype)} of a sharded checkpoint."""
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        key: (tuple(entry.size), entry.properties.dtype)
        for key, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
