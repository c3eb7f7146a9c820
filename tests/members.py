"""A program as several processes at once that talk to each other: ranks of a group, ends of a way.

They are forked from one server that has loaded what they need, for a fresh interpreter takes seconds to load torch and
transformers, and a test needs up to four of them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

_FORKED = multiprocessing.get_context("forkserver") if sys.platform == "linux" else multiprocessing.get_context("spawn")
if sys.platform == "linux":
    _FORKED.set_forkserver_preload(["torch", "lmm_r1.trainers.fsdp", "lmm_r1.distributed.way"])


def run_members(
    program: Path, arguments: Sequence[Sequence[str]], folder: Path, limit_s: float = 180.0
) -> list[tuple[int, str]]:
    """Run a file once with each of some arguments, all at once; (exit code, output) of each, -9 for one that was killed.

    folder: for their outputs. What is still running after `limit_s` is killed, and counts as such.
    """
    logs = [folder / f"output.{program.stem}.{number}.txt" for number in range(len(arguments))]
    running = []
    try:
        for given, log in zip(arguments, logs, strict=True):
            process = _FORKED.Process(target=_member, args=(str(program), list(given), str(log)))
            process.start()
            running.append(process)
        for process in running:
            process.join(limit_s)
    finally:
        for process in running:
            process.kill()
            process.join()
    return [(int(process.exitcode or 0), log.read_text()) for process, log in zip(running, logs, strict=True)]


def _member(program: str, arguments: list[str], log: str) -> None:
    """What one process runs: the program as if by `python PROGRAM ARGUMENT...`, its output in a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    sys.argv, sys.path[:0] = [program, *arguments], [str(Path(program).parent)]
    try:
        runpy.run_path(program, run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
