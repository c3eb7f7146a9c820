"""Users' own verifiers, good and bad ones, in a module that a worker process loads fast."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

from lmm_r1.types import Problem

#: Names the file that the workers of `meets` share.
MEETING = "LMM_R1_TEST_MEETING"
#: Its memory; opened at the import, before a worker is confined.
SHARED = mmap.mmap(os.open(os.environ[MEETING], os.O_RDWR), 0) if MEETING in os.environ else None


def meets(problem: Problem, reply: str) -> bool:
    """True when as many calls are under way as the shared file has bytes: each fills its own and waits for the others."""
    assert SHARED is not None
    SHARED[int(reply)] = 1
    while not all(SHARED[k] for k in range(len(SHARED))):
        time.sleep(0.01)
    return True


def digits(problem: Problem, reply: str) -> float:
    """A share, some of it late, one failure in ten."""
    figure = sum(map(ord, reply)) % 11
    time.sleep(0.002 * (figure % 3))
    if figure == 10:
        raise ValueError(f"no figure in {reply}")
    return figure / 10


def tried(problem: Problem, reply: str) -> bool:
    """Whether this is the gold itself, with which a verifier is tried before a run."""
    return reply == f"<think>{problem.answer}</think><answer>{problem.answer}</answer>"


def oops(problem: Problem, reply: str) -> bool:
    if not tried(problem, reply):
        raise RuntimeError("oops in my verifier")
    return True


def leaks(problem: Problem, reply: str) -> bool:
    if not tried(problem, reply):
        Path("leak.txt").write_text(reply)
    return True


def hungry(problem: Problem, reply: str) -> bool:
    return tried(problem, reply) or len(bytearray(8 * 2**30)) > 0


def seldom(problem: Problem, reply: str) -> bool:
    """Fails on about every sixth reply."""
    if sum(map(ord, reply)) % 6 == 0:
        raise KeyError("smiles")
    return problem.answer in reply


class OfItsOwn(BaseException):
    """What no `except Exception` sees, as the outcomes of test libraries are."""


def own(problem: Problem, reply: str) -> bool:
    if not tried(problem, reply):
        raise OfItsOwn("none of the usual ones")
    return True
