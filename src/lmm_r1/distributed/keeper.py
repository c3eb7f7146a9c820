"""The process that owns a Ray cluster started on this machine, so that nothing of it outlives the run.

It starts the cluster as its own descendant, reads its standard input, and when that ends (the run closed the cluster, or died
in whatever way) kills every process of the cluster, stopped ones too, and removes the cluster's folder: sockets, logs, token.
Ray's own processes notice a lost parent only while they run, and its daemons not at all.
Leaves out: clusters that were running before; those are not ours to end. Standard library only; Linux.
Source: PR_SET_CHILD_SUBREAPER of prctl(2): orphans of a descendant become our children.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds that killed processes get to disappear.
_END_S = 10.0
#: Where `ray start` writes the address of the cluster, in its temporary folder.
ADDRESS_FILE = "ray_current_cluster"


def without_client_server(params: Any, head: bool) -> None:
    """RAY_START_HOOK: the Ray Client server listens on a fixed port and serves nobody here."""
    params.ray_client_server_port = None


def descendants(root: int) -> list[int]:
    """Processes below `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):  # it ended meanwhile
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_descendants() -> None:
    """Kill everything below this process and wait until it is gone."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        _reap()
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def _reap() -> None:
    """Collect children that ended; a subreaper gets all orphans of its descendants."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def _tail(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-4:])


def keep(folder: Path, driver: int, command: list[str]) -> None:
    """Start the cluster in `folder`, write its address (or what went wrong) as one line, and stay until the driver goes."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) is refused")

    def wanted(wait_s: float) -> bool:
        ready = select.select([sys.stdin], [], [], wait_s)[0]
        return not asked and os.getppid() == driver and not (ready and not os.read(0, 4096))

    log = folder / "start.log"
    with log.open("wb") as out:
        start = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    while start.poll() is None and wanted(0.05):
        continue
    if start.poll() == 0:
        print("address", (folder / ADDRESS_FILE).read_text().strip(), flush=True)
        while wanted(1.0):
            _reap()
    elif start.poll() is not None:
        print("failed", f"exit code {start.returncode}: {_tail(log)}", flush=True)


def main() -> None:
    """Arguments: folder, process id of the driver, and the command that starts the cluster."""
    folder = Path(sys.argv[1])
    try:
        keep(folder, int(sys.argv[2]), sys.argv[3:])
    finally:
        end_descendants()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
