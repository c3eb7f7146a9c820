"""A verifier process: reads requests as JSON lines, answers with verdicts, may do nothing else.

Started by pool.py. Verifiers are imported first; then memory, file sizes, open files and
processes are limited, and an audit hook refuses new files, processes and sockets (the limit on processes does
not bind root). What a verifier prints is thrown away: standard output belongs to the protocol.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Problem, Verdict

_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "socket.", "os.remove",
              "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
              "shutil.", "ctypes.dlopen")  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def resolve(path: str) -> Callable[..., Any]:
    """A verifier by name, or a function by dotted path "package.module:function"."""
    if path in VERIFIERS:
        return VERIFIERS[path]
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{path} is no function")
    return found  # type: ignore[no-any-return]


def as_verdict(found: object) -> Verdict:
    """What a verifier returned, checked: a Verdict, a bool or a number in [0, 1]. Raises TypeError or ValueError."""
    if isinstance(found, Verdict):
        value, reason = found.value, found.reason
    elif isinstance(found, bool | int | float):
        value, reason = float(found), "correct" if found == 1 else "wrong"
    else:
        raise TypeError(f"a verifier returned {type(found).__name__}, not a Verdict or a number")
    if not (isinstance(value, int | float) and math.isfinite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"a verifier returned the value {value!r}, which is not in [0, 1]")
    return Verdict(float(value), str(reason)[:40])


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"a verifier may not do this: {event}")
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
        raise PermissionError("a verifier may not write files")


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
    sys.addaudithook(_refuse)


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
    """The reply to one request. A verifier's exception is the verdict "error" and its text."""
    try:
        verdict = as_verdict(verifier(problem_of(request["problem"]), request["reply"]))
    except MemoryError:
        return {"value": 0.0, "reason": "too_big"}
    except Exception as error:  # noqa: BLE001  someone's verifier: it must not end the process
        return {"value": 0.0, "reason": "error", "error": f"{type(error).__name__}: {error}"[:500]}
    return {"value": verdict.value, "reason": verdict.reason}


def main(arguments: list[str]) -> NoReturn:
    """arguments: seconds a call may take, MiB of memory, dotted path of the verifier."""
    limit_s, memory_mb, path = float(arguments[0]), int(arguments[1]), arguments[2]
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    try:
        verifier = resolve(path)
    except Exception as error:  # noqa: BLE001  told to the pool, which names the remedy
        replies.write(json.dumps({"failed": f"{type(error).__name__}: {error}"[:500]}) + "\n")
        replies.flush()
        sys.exit(1)
    os.dup2(silence, 2)
    confine(memory_mb)
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin.buffer:
        _allow_cpu(limit_s)
        signal.setitimer(signal.ITIMER_REAL, limit_s + 5)  # ends this process if the pool is gone
        request = json.loads(line)
        replies.write(json.dumps({**decide(verifier, request), "call": request["call"]}) + "\n")
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
