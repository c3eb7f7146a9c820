"""The worker's half of RayEngine: an engine in a process of its own, with the pictures its requests show.

Commands come in order, one at a time, and what happens is a function of them alone. `advance` takes new requests and runs the
engine until a share of what is open has ended: few messages, and the moments at which more can arrive do not depend on
the clock.
Leaves out: Ray, faults and who gets which request (ray_engine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig

from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.distributed.host import imported, take_in
from lmm_r1.distributed.shipment import views
from lmm_r1.distributed.way import Way
from lmm_r1.errors import EngineError
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.load import resolve_folder
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.rollout.parcels import Packed
from lmm_r1.rollout.weights import SyncedEngine
from lmm_r1.types import Float32, Image, Int32, Reply, Request

#: `advance` returns when one in so many open requests has ended.
_SHARE = 8

#: factory(images, **arguments) -> an engine without weights, which takes its pictures from `images`
Factory = Callable[..., SyncedEngine]


def embedded(images: ImageStore, *, folder: str, model: Mapping[str, Any], **options: Any) -> EmbeddedEngine:
    """The embedded engine of a model folder. model: fields of config.Model; options: as EmbeddedEngine takes them."""
    config = AutoConfig.from_pretrained(resolve_folder(folder), local_files_only=True)
    return EmbeddedEngine(config, make_adapter(folder, images, Model(**model)), **options)


class Seat:
    """One engine, driven by commands."""

    def __init__(self, factory: str, arguments: Mapping[str, Any]) -> None:
        """factory: "module:name" of a Factory."""
        self._images = ImageStore()
        self._engine: SyncedEngine = imported(factory)(self._images, **arguments)
        self._open: set[int] = set()
        self._awake = ExitStack()
        self._way: Way | None = None

    def dtype(self) -> str:
        """The engine's dtype by name."""
        return str(self._engine.dtype).removeprefix("torch.")

    def keep(self, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Take in pictures by name. EngineError when one is not what its name says."""
        take_in(self._images, pictures)

    def forget(self, keep: Iterable[str]) -> None:
        """Drop all pictures but these."""
        self._images.forget(keep)

    def advance(
        self, pictures: Mapping[str, NDArray[np.uint8]], cancelled: Sequence[int], requests: Sequence[Request]
    ) -> list[Reply]:
        """Cancel, submit, and run until a share of the open requests has ended; their replies."""
        self.keep(pictures)
        self._engine.cancel(cancelled)
        self._open.difference_update(cancelled)
        self._engine.submit(requests)
        self._open.update(request.id for request in requests)
        if not self._open:
            return []
        wanted = max(1, len(self._open) // _SHARE)
        replies: list[Reply] = []
        for reply in self._engine.finished():
            self._open.discard(reply.id)
            replies.append(reply)
            if len(replies) >= wanted:
                return replies
        raise EngineError(f"the engine has nothing left to do, but never answered {len(self._open)} requests")

    def load(
        self, version: int, in_place: bool, manifest: Sequence[Sequence[Packed]], *parcels: NDArray[np.uint8]
    ) -> str:
        """Take over a shipment of weights; the digest of what arrived."""
        pairs = (views(packed, data) for packed, data in zip(manifest, parcels, strict=True))
        return self._engine.load_weights(chain.from_iterable(pairs), version, in_place)

    def open_way(self, settings: Mapping[str, Any]) -> None:
        """Meet the rank that sends weights. settings: of Way."""
        if self._way is not None:
            self._way.close()
        self._way = Way(**settings)

    def receive(self, version: int) -> str:
        """Take over the weights that come along the way; the digest of what arrived."""
        if self._way is None:
            raise EngineError("no rank was met to receive weights from")
        with closing(self._way.received()) as weights:
            return self._engine.load_weights(weights, version, in_place=True)

    def abandon(self) -> None:
        """End all waits for ranks."""
        if self._way is not None:
            self._way.abort()

    def set_version(self, version: int) -> None:
        """Name the weights."""
        self._engine.version = version

    def unload(self) -> None:
        """Refuse to sample until weights arrive again."""
        self._engine.unload()

    def score(
        self, pictures: Mapping[str, NDArray[np.uint8]], token_ids: Int32, images: Sequence[Image], temperature: float
    ) -> Float32:
        """Log-probs of a stream."""
        self.keep(pictures)
        return self._engine.score(token_ids, images, temperature)

    def wake(self, parts: Sequence[str]) -> None:
        """Hold memory for sampling."""
        self._awake.enter_context(self._engine.awake(parts))

    def rest(self) -> None:
        """Give it back."""
        self._awake.close()
