"""What the operating system says of processes: who lives, who listens where, which shared memory nobody uses."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Process = tuple[int, str]  # process id, and when it started: ids are used again


def alive(pid: int) -> Process | None:
    """A process by id, None when there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (pid, fields[19])


def still_there(processes: Iterable[Process]) -> list[Process]:
    return [process for process in processes if alive(process[0]) == tuple(process)]


def orphans(before: set[str]) -> set[str]:
    """Files in shared memory that are new, and that no living process maps."""
    found = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")} - before
    for entry in Path("/proc").glob("[0-9]*/maps"):
        try:
            found = {name for name in found if name not in entry.read_text()} if found else found
        except OSError:  # it ended meanwhile
            continue
    return found


def listening(pids: Iterable[int]) -> list[tuple[int, str]]:
    """(process id, address as the kernel writes it) of every TCP socket on which processes listen."""
    inodes = {}
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes[os.readlink(handle)] = pid
            except OSError:  # closed meanwhile
                continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append((inodes[f"socket:[{fields[9]}]"], fields[1].split(":")[0]))
    return found


def until(true: Callable[[], bool], limit_s: float = 60.0) -> bool:
    """Wait for something; whether it came."""
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
