"""`lmm-r1 train` with a blow at a moment of the test's choosing: python -m tests.distributed.struck BLOWS ARGUMENT...

BLOWS: words such as "driver:save:1", comma-separated: who (driver, rank, engine), at which call (save, update, submit), the how
manieth of this process. The one struck gets SIGKILL; an engine while it works.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import lmm_r1.train as train
from lmm_r1.cli import main
from lmm_r1.distributed.ray_engine import RayEngine
from lmm_r1.distributed.ray_trainer import RayTrainer


def strike(who: str, owner: Any) -> None:
    if who == "driver":
        os.kill(os.getpid(), signal.SIGKILL)
    if who == "rank":
        os.kill(owner._cluster.pids(owner.workers)[-1], signal.SIGKILL)
    if who == "engine":
        worker = owner._posts[0].worker
        threading.Timer(0.1, os.kill, (worker.where.pid, signal.SIGKILL)).start()


def counted(real: Callable[..., Any], moment: str, blows: set[str], before: bool) -> Callable[..., Any]:
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        due = [blow.split(":")[0] for blow in blows if blow.split(":")[1:] == [moment, str(calls)]]
        if before:
            [strike(who, arguments[0]) for who in due]
        done = real(*arguments, **named)
        if not before:
            [strike(who, arguments[0]) for who in due]
        return done

    return call


if __name__ == "__main__":
    wanted = {blow for blow in sys.argv.pop(1).split(",") if blow}
    train.save = counted(train.save, "save", wanted, before=False)
    RayTrainer.update = counted(RayTrainer.update, "update", wanted, before=True)  # type: ignore[method-assign]
    RayEngine.submit = counted(RayEngine.submit, "submit", wanted, before=False)  # type: ignore[method-assign]
    main()
