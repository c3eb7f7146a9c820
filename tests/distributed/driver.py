"""A run that starts a cluster and ends in a way of the test's choosing: closed, left open at the end, killed.

Arguments: how to end, and a folder. Prints one JSON line before the end: folder and processes of the cluster.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import ray

from lmm_r1.config import Cluster as Knobs
from lmm_r1.distributed.cluster import Cluster
from lmm_r1.distributed.keeper import descendants
from tests.distributed.processes import alive


def main(end: str, folder: str) -> None:
    cluster = Cluster(Knobs(address="local", engines=2), Path(folder))
    started = [cluster.start("engine", i, "tests.distributed.thing:Thing", {"number": i}) for i in range(2)]
    cluster.results([call for _, call in started])
    held = ray.put(bytes(1 << 20))
    below = descendants(os.getpid())
    report = {"home": str(cluster._session.home), "processes": [alive(pid) for pid in below]}
    stopped = started[0][0].where
    assert stopped is not None
    os.kill(stopped.pid, signal.SIGSTOP)  # such a process notices nothing
    print(json.dumps(report), flush=True)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "closed":
        cluster.close()
    del held


if __name__ == "__main__":
    main(*sys.argv[1:])
