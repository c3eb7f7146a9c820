"""An engine with every way to behave badly, for worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmm_r1.data.images import ImageStore
from lmm_r1.distributed.seat import embedded
from lmm_r1.errors import EngineError
from lmm_r1.types import Reply


def tricky(images: ImageStore, *, tricks: str, **arguments: Any) -> Any:
    """An embedded engine that plays the trick of a file in the folder `tricks`, once: whoever moves the file away first."""
    engine = embedded(images, **arguments)
    folder = Path(tricks)

    def asked(trick: str) -> bool:
        try:
            os.rename(folder / trick, folder / f"{trick}.{os.getpid()}")
        except FileNotFoundError:
            return False
        return True

    honest_finished, honest_load, honest_score = engine.finished, engine.load_weights, engine.score

    def finished() -> Iterator[Reply]:
        for reply in honest_finished():
            if asked("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if asked("stop"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if asked("twice"):
                yield reply
            if asked("other_prompt"):
                reply = replace(reply, prompt_ids=reply.prompt_ids[::-1].copy())
            if asked("lose"):
                continue
            yield reply

    def midway(source: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for number, pair in enumerate(source):
            if number == 20 and asked("die_midway"):
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 20 and asked("stop_midway"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if number == 20 and asked("refuse_midway"):
                raise EngineError("this engine takes no more")
            yield pair

    def load_weights(source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str:
        if asked("die_loading"):
            os.kill(os.getpid(), signal.SIGKILL)
        if asked("lossy"):
            source = ((n, t.bfloat16().float() if n.endswith("norm.weight") else t) for n, t in source)
        return honest_load(midway(source), version, in_place)

    def score(*what: Any) -> np.ndarray:
        return honest_score(*what) + (0.5 if asked("skew") else 0.0)

    for name, trick in {"finished": finished, "load_weights": load_weights, "score": score}.items():
        setattr(engine, name, trick)
    return engine


def kit_arguments(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `embedded` for the engine's test model."""
    return {"folder": str(folder), "model": dict(model), "slots": 4, "max_context": 256, "prefill_tokens": 128}
