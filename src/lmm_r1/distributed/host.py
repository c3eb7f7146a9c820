"""What runs in a worker process: one object, made there by an importable factory, and a pulse beside it.

The pulse is answered by a thread of its own, so a long call is not taken for a dead worker, and a stopped process or one
whose interpreter hangs is. The same thread tells the stacks of all others, which no pulse shows to hang; where it cannot
answer any more, SIGUSR2 writes them into a file.
Leaves out: what makes an actor of `Host` (cluster.py) and what the object does.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray import get_runtime_context
from ray.util import get_node_ip_address

from lmm_r1.data.images import ImageStore
from lmm_r1.errors import EngineError

#: The signal that makes a worker write its stacks.
STACKS_SIGNAL = signal.SIGUSR2


class Where(NamedTuple):
    """Where a worker runs. machine: Ray's id of its node; names of hosts may repeat."""

    machine: str
    pid: int


def imported(path: str) -> Any:
    """What a dotted path "module:name" names. ImportError or AttributeError when there is no such thing."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def take_in(images: ImageStore, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Put pictures by name into a worker's store. EngineError when one is not what its name says."""
    for sha, pixels in pictures.items():
        if images.put(pixels).sha != sha:
            raise EngineError(f"picture {sha} arrived as another one")


class Host:
    """Holds the object of one worker. `make` comes first, then `call`; both run in the order they were sent."""

    def __init__(self, stacks: str) -> None:
        """stacks: file for the stacks, in a folder that other machines may lack."""
        self._object: Any = None
        self._failed = False
        if Path(stacks).parent.is_dir():
            self._stacks = Path(stacks).open("w")  # noqa: SIM115  (open as long as the process lives)
            faulthandler.register(STACKS_SIGNAL, self._stacks, all_threads=True)

    def make(self, factory: str, arguments: Mapping[str, Any]) -> Where:
        """Make the object: factory(**arguments)."""
        self._object = imported(factory)(**arguments)
        return self.pulse()

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the object. References among the arguments arrive as what they refer to."""
        if self._failed:
            gc.collect()  # a fault and its frames refer to each other, and the frames to shared memory
            self._failed = False
        try:
            return getattr(self._object, method)(*arguments)
        except BaseException:
            self._failed = True
            raise

    def abandon(self) -> None:
        """Let the object stop waiting for another process, from the thread of the pulse."""
        stop = getattr(self._object, "abandon", None)
        if stop is not None:
            stop()

    def pulse(self) -> Where:
        """A sign of life."""
        return Where(get_runtime_context().get_node_id(), os.getpid())

    def stacks(self) -> str:
        """Process, host, and the stacks of all threads, the most recent call first: file, line and function of 100 calls a
        thread at most. OSError without a folder for temporary files."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            found = file.read().decode("ascii", errors="backslashreplace")
        return f"process {os.getpid()} on {socket.gethostname()}\n\n{found}"

    def free_address(self) -> tuple[str, int]:
        """(this machine's address in the cluster, a port that was free just now): where ranks may meet."""
        host = get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, int(probe.getsockname()[1])
