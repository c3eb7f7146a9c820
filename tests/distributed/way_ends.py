"""One end of a way: python way_ends.py INDEX MEMBERS MEETING KIND FAULT. Says what it found, as a line of JSON.

FAULT: "" or "who:what", where that end stops early ("leave"), sends a tensor fewer than it has ("raise"), or dies ("die").
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from lmm_r1.distributed import way as ways
from lmm_r1.distributed.way import Way
from lmm_r1.errors import EngineError
from lmm_r1.rollout.weights import digest, digest_of_lines, weight_line
from tests.distributed.processes import listening

#: Bytes of a parcel here: the weights take several.
PARCEL = 4096


def weights(seed: int) -> list[tuple[str, Tensor]]:
    """Tensors of many dtypes and sizes, an empty one, a scalar, one larger than a parcel, one that is not contiguous."""
    draw = torch.Generator().manual_seed(seed)
    found = [(f"w{n}", torch.randn(n % 5 + 1, 11 * n + 1, generator=draw)) for n in range(20)]
    found += [("half", torch.randn(3, 5, generator=draw).to(torch.bfloat16)), ("empty", torch.empty(0, 4))]
    found += [("one", torch.tensor(2.5)), ("large", torch.randn(5000, generator=draw)), ("long", torch.arange(7))]
    return [*found, ("turned", torch.randn(6, 4, generator=draw).T)]


def faulty(source: Iterator[tuple[str, Tensor]], what: str) -> Iterator[tuple[str, Tensor]]:
    """The weights up to the eighth, and then the fault."""
    for number, pair in enumerate(source):
        if number == 8 and what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 8 and what == "raise":
            raise EngineError("this end has no more")
        if number == 8 and what == "leave":
            return
        yield pair


def main() -> None:
    index, members = int(sys.argv[1]), int(sys.argv[2])
    meeting, kind, fault = sys.argv[3:6]
    who, _, what = fault.partition(":")
    ways.PARCEL = PARCEL
    end = Way(
        meeting=meeting, address="127.0.0.1", index=index, members=members, limit_s=60.0, device="cpu",
        shared=kind == "shared",
    )  # fmt: skip
    told: dict[str, object] = {"listening": [address for _, address in listening([os.getpid()])]}
    own = what if who == str(index) else ""
    try:
        if index == 0:
            for seed in (1, 2):
                told[f"digest {seed}"] = end.send(faulty(iter(weights(seed)), own))
        for seed in (1, 2) if index else ():
            lines, values = [], []
            for name, tensor in faulty(end.received(), own):
                lines.append(weight_line(name, tensor, lanes=True))
                values.append((name, tensor.clone()))
            told[f"digest {seed}"] = digest_of_lines(lines)
            told[f"exact {seed}"] = digest(values) == digest(weights(seed))
    except EngineError as error:
        told["fault"] = f"{type(error).__name__}: {error}"
    end.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
