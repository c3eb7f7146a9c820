"""A verifier process: reads requests as JSON lines, answers with verdicts, may do nothing else.

Started by pool.py. Verifiers are imported first; then memory, file sizes, open files and
processes are limited, and an audit hook refuses new files, processes and sockets (the limit on processes does
not bind root). What a verifier prints is thrown away: standard output belongs to the protocol.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import reprlib
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from lmm_r1.errors import defined_at, printable, raised
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Problem, Verdict

#: Beginnings of audit events that are refused, and what they are in words.
_FORBIDDEN = {
    "start a process": ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn"),
    "use the network": ("socket.",),
    "change files or folders": ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
                                "os.chmod", "os.chown", "shutil."),
    "load a library": ("ctypes.dlopen",),
}  # fmt: skip
_WORDS = [(beginning, words) for words, beginnings in _FORBIDDEN.items() for beginning in beginnings]
_WANTED = "a Verdict, bool or number in [0, 1] is wanted"
#: Longest detail of a verdict, characters.
MAX_DETAIL = 500
_PR_SET_PDEATHSIG = 1
#: What the running call was refused: a verifier may catch the refusal, and fail by what is missing then.
_refused: list[str] = []
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def resolve(path: str) -> Callable[..., Any]:
    """A verifier by name, or a function by dotted path "package.module:function"."""
    if path in VERIFIERS:
        return VERIFIERS[path]
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    if not module or not name:
        raise ValueError(f"{path!r} names no module and function")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{path} is no function")
    return found  # type: ignore[no-any-return]


def as_verdict(found: object) -> Verdict:
    """What a verifier returned, checked: a Verdict, a bool or a number in [0, 1], numpy's too. Raises TypeError or ValueError."""
    found = found.item() if isinstance(found, np.generic) else found
    if isinstance(found, Verdict):
        value, reason, detail = found.value, found.reason, found.detail
        value = value.item() if isinstance(value, np.generic) else value
    elif isinstance(found, bool | int | float):
        value, reason, detail = found, "correct" if found == 1 else "wrong", ""
    else:
        raise TypeError(f"returned {_shown(found)} ({type(found).__name__}); {_WANTED}")
    if not (isinstance(value, int | float) and math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"returned the value {_shown(value)} ({type(value).__name__}); {_WANTED}")
    return Verdict(float(value), str(reason)[:40], printable(str(detail))[:MAX_DETAIL])


def _shown(found: object) -> str:
    """A short form of anything, whatever its repr does."""
    return printable(reprlib.repr(found))[:60]


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    words = next((words for beginning, words in _WORDS if event.startswith(beginning)), None)
    if words is None and event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
        words = f"open a file for writing ({_shown(args[0])})"
        event = ""
    if words is not None:
        said = f"tried to {words}{f' ({event})' if event else ''}: not allowed in a verifier"
        if not _refused:
            _refused.append(said)
        raise PermissionError(said)


def confine(memory_mb: int) -> None:
    """Limit this process for good."""
    size = memory_mb * 2**20
    for kind, limit in (
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    sys.dont_write_bytecode = True  # a late import must not look like a verifier that writes
    sys.addaudithook(_refuse)


def end_with(parent: int) -> None:
    """End this process when the one with that id ends, however it ends. On Linux the kernel sees to it, even in mid-call;
    elsewhere the alarm of a call does, and the end of the input between calls."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def _allow_cpu(seconds: float) -> None:
    """CPU time until the kernel sends SIGXCPU: a second guard behind the pool's clock."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def record_of(problem: Problem) -> dict[str, Any]:
    """What a verifier sees of a problem, as JSON."""
    return {
        "id": problem.id, "answer": problem.answer, "verifier": problem.verifier, "source": problem.source,
        "choices": problem.choices, "domain": problem.domain, "meta": dict(problem.meta),
    }  # fmt: skip


def problem_of(record: dict[str, Any]) -> Problem:
    """The problem of a record. Raises KeyError, TypeError or ValueError for anything else."""
    choices = record.get("choices")
    return Problem(
        id=str(record.get("id", "")),
        messages=(),
        answer=str(record["answer"]),
        verifier=str(record.get("verifier", "")),
        source=str(record.get("source", "")),
        choices=tuple(map(str, choices)) if choices else None,
        domain=str(record.get("domain", "")),
        meta=dict(record.get("meta") or {}),
    )


def decide(verifier: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request. What a verifier raises, or returns that is no verdict, is the verdict "error" with its
    detail: no memory included, for it says nothing about the reply."""
    _refused.clear()
    try:
        found = verifier(problem_of(request["problem"]), request["reply"])
    except MemoryError as error:
        return _failed(f"out of memory: {raised(error, verifier)}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  someone's verifier: it must not end the process
        refused = f"; before that it {_refused[0]}" if _refused and not isinstance(error, PermissionError) else ""
        return _failed(raised(error, verifier) + refused)
    try:
        verdict = as_verdict(found)
    except (TypeError, ValueError) as error:
        place = defined_at(verifier)
        return _failed(f"{error} ({place})" if place else str(error))
    return {"value": verdict.value, "reason": verdict.reason, "detail": verdict.detail}


def _failed(detail: str) -> dict[str, Any]:
    return {"value": 0.0, "reason": "error", "detail": detail[:MAX_DETAIL]}


def main(arguments: list[str]) -> NoReturn:
    """arguments: seconds a call may take, MiB of memory, id of the process that asks, dotted path of the verifier."""
    limit_s, memory_mb, path = float(arguments[0]), int(arguments[1]), arguments[3]
    end_with(int(arguments[2]))
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    try:
        verifier = resolve(path)
    except Exception as error:  # noqa: BLE001  told to the pool, which names the remedy
        replies.write(json.dumps({"failed": raised(error)}) + "\n")
        replies.flush()
        sys.exit(1)
    os.dup2(silence, 2)
    confine(memory_mb)
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin.buffer:
        _allow_cpu(limit_s)
        signal.setitimer(signal.ITIMER_REAL, limit_s + 5)  # ends this process if nobody else does
        request = json.loads(line)
        replies.write(json.dumps({**decide(verifier, request), "call": request["call"]}) + "\n")
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
