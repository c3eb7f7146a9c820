"""A pool of verifier processes: a call that takes too long is killed, its neighbours go on.

For verifiers that are not bounded by construction: users' own functions, and peers that are compared with. The
built-in ones limit sizes before they work and run in the caller's process.

Data flow: Problem and reply -> one JSON line to an idle worker -> one JSON line back, within the limit. A worker
past it is killed and replaced; one that dies is replaced and the call is tried once more. Every thread may call,
`averify` is the same for asyncio, and a process that forks or is spawned makes its own pool. A verdict depends on
(problem, reply) alone, so equal calls are answered from a cache. Workers end with the process that made the pool,
however it ends: on Linux the kernel kills them when the thread that started them is gone, so one thread of the pool,
which lives as long as it does, starts them all.

Left out: remote verifiers (remote.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from lmm_r1.errors import Fault, RecipeError
from lmm_r1.rewards.worker import as_verdict, record_of
from lmm_r1.types import Problem, Verdict

START_LIMIT_S = 60.0
MAX_LINE = 1 << 16  # of a worker's reply
MAX_REPLY = 1 << 20  # characters of a model's reply that are sent to a worker


class _Lost(Exception):
    """The worker died."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    buffer: bytes = b""
    calls: int = 0

    @staticmethod
    def start(path: str, limit_s: float, memory_mb: int) -> _Worker:
        command = [
            sys.executable, "-m", "lmm_r1.rewards.worker", str(limit_s), str(memory_mb), str(os.getpid()), path,
        ]  # fmt: skip
        search = os.pathsep.join(p or os.getcwd() for p in sys.path)
        return _Worker(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        )

    def await_ready(self, path: str) -> None:
        """Raises RecipeError when the worker does not come up."""
        try:
            found = self.line(time.monotonic() + START_LIMIT_S)
        except _Lost:
            found = {"failed": "its process died at the start"}
        if found is None or "ready" not in found:
            why = "it does not start" if found is None else str(found.get("failed"))
            raise RecipeError(
                Fault(
                    f"cannot use the verifier '{path}': {why}",
                    remedy="a name of lmm_r1.rewards.VERIFIERS, or module:function that can be imported from here",
                )
            )

    def line(self, deadline: float) -> dict[str, Any] | None:
        """The next line, None when the deadline passes first. Raises _Lost."""
        assert self.process.stdout is not None
        readable = select.poll()
        readable.register(self.process.stdout.fileno(), select.POLLIN)
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not readable.poll(1000 * left):
                return None
            chunk = os.read(self.process.stdout.fileno(), 1 << 16)
            if not chunk or len(self.buffer) > MAX_LINE:
                raise _Lost
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, request: dict[str, Any], limit_s: float) -> Verdict | None:
        """The verdict on a request, None past the limit. Raises _Lost."""
        assert self.process.stdin is not None
        deadline = time.monotonic() + limit_s
        self.calls += 1
        try:
            # The worker waits for this line alone, so the pipe drains as fast as it is filled.
            self.process.stdin.write(json.dumps({**request, "call": self.calls}).encode() + b"\n")
            self.process.stdin.flush()
            found = self.line(deadline)
            if found is None:
                return None
            if found.get("call") != self.calls:
                raise _Lost  # a line that answers another call: whose verdict is it?
            return as_verdict(Verdict(found["value"], str(found["reason"]), str(found.get("detail", ""))))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _Lost from error

    def ended_by(self) -> str:
        """Why a lost worker answers no more, in words; before it is killed."""
        try:
            code = self.process.wait(timeout=1.0)  # its pipe closes a moment before it can be waited for
        except subprocess.TimeoutExpired:
            return "its process gave an answer that is none"
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal has no name
            name = str(-code)
        return f"its process was killed by {name}"

    def kill(self) -> None:
        """End the process and all that it started."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Kill, and free the pipes: by the one who holds the worker."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class VerifierPool:
    """Runs one verifier in `workers` processes, `limit_s` seconds and `memory_mb` MiB a call.

    verifier: a name of VERIFIERS, or "package.module:function" of (Problem, str) -> Verdict | bool | float; the
    problem has no messages. Raises RecipeError when it cannot be imported. Use as a context manager, or close().
    """

    def __init__(
        self, verifier: str, *, workers: int = 2, limit_s: float = 1.0, memory_mb: int = 1024, cache: int = 10_000
    ) -> None:
        self.verifier, self.limit_s, self.memory_mb, self.workers = verifier, limit_s, memory_mb, workers
        self._cache: OrderedDict[str, Verdict] = OrderedDict()
        self._cached, self._lock = cache, threading.Lock()
        self._open()

    def _open(self) -> None:
        self._owner, self._closed = os.getpid(), False
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="verifier")
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="verifier-start")
        self._all = {self._start() for _ in range(self.workers)}
        try:
            for worker in self._all:
                worker.await_ready(self.verifier)
                self._idle.put(worker)
        except BaseException:
            self.close()
            raise

    def _start(self) -> _Worker:
        return self._starter.submit(_Worker.start, self.verifier, self.limit_s, self.memory_mb).result()

    def verify(self, problem: Problem, reply: str) -> Verdict:
        """The verdict; "timeout" past the limit, "error" when the verifier fails or its process dies twice; its detail says why."""
        record = record_of(problem)
        key = json.dumps([record, reply], default=repr)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        verdict = self._ask(record, reply)
        if verdict.reason not in ("timeout", "error"):  # those may be the machine's fault
            with self._lock:
                self._cache[key] = verdict
                while len(self._cache) > self._cached:
                    self._cache.popitem(last=False)
        return verdict

    def __call__(self, problem: Problem, reply: str) -> Verdict:
        """The pool is itself a Verifier."""
        return self.verify(problem, reply)

    def verify_many(self, pairs: list[tuple[Problem, str]]) -> list[Verdict]:
        """Verdicts in the order given, as many at a time as there are workers."""
        return list(self._threads.map(lambda pair: self.verify(*pair), pairs))

    async def averify(self, problem: Problem, reply: str) -> Verdict:
        """`verify` for asyncio."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.verify, problem, reply)

    def _ask(self, record: dict[str, Any], reply: str) -> Verdict:
        if len(record["answer"]) > MAX_REPLY:
            return Verdict(0.0, "error", f"the row's answer has more than {MAX_REPLY} characters")
        if len(reply) > MAX_REPLY:
            return Verdict(0.0, "too_big", f"the reply has more than {MAX_REPLY} characters")
        if self._owner != os.getpid():  # a fork shares the pipes of its parent's workers: it gets its own
            self._lock = threading.Lock()
            self._open()
        why = ""
        for _ in range(2):
            worker = self._idle.get()
            if worker is None or self._closed:
                self._idle.put(None)  # the next one who waits
                raise RuntimeError("the verifier pool is closed")
            verdict, whole = None, False
            try:
                verdict = worker.ask({"problem": record, "reply": reply}, self.limit_s)
                whole = verdict is not None
            except _Lost:
                why = worker.ended_by()
                continue
            finally:
                if whole:
                    self._idle.put(worker)
                else:  # late, dead or interrupted: a reply left in its pipe must never be read by the next call
                    self._replace(worker)
            return verdict or Verdict(0.0, "timeout", f"took longer than limit_s = {self.limit_s:g}")
        return Verdict(0.0, "error", f"{why}, twice")

    def _replace(self, worker: _Worker) -> None:
        worker.close()
        try:
            with self._lock:
                self._all.discard(worker)
                if self._closed:
                    return
                fresh = self._start()
                self._all.add(fresh)
            fresh.await_ready(self.verifier)
            self._idle.put(fresh)
        except BaseException:
            self.close()  # a pool that cannot replace its workers would wait for ever
            raise

    def close(self) -> None:
        """Kill the workers; who waits for one, or calls later, gets RuntimeError."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
        self._idle.put(None)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        self._starter.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
