"""An object with every way to behave badly, for worker processes; without torch, so that they start at once."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from lmm_r1.errors import DataError


def waits_for_what_does_not_come(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


class Thing:
    """An object with every way to behave badly."""

    def __init__(self, number: int) -> None:
        self.number = number

    def add(self, other: int) -> int:
        return self.number + other

    def threads(self) -> tuple[int, str]:
        import torch

        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def hang(self, until: str) -> str:
        """A deadlock, as seen from outside: it ends when a file is there."""
        waits_for_what_does_not_come(until)
        return "let go"

    def fault(self) -> None:
        raise DataError("row 3 is broken")

    def bug(self) -> None:
        raise ValueError("a bug\nof two lines")

    def die(self) -> None:
        print("the last words", file=sys.stderr, flush=True)
        os._exit(3)
