"""The workers of a run, in a Ray cluster: placed, called, watched, and ended.

A worker is one process that holds one object, made there by an importable factory: an engine, or a rank of a trainer. It
is lost when its process dies, or gives no sign of life for `lost_s` seconds: then its stacks are written to a file and it is
killed. One that hangs while its pulse goes on is not lost: when nothing has ended for `stacks_s` seconds its stacks are
written, and that is told. What becomes of lost work is the caller's business; how often a worker may be started anew is
counted here, once for a run.
Leaves out: how the cluster is started, joined and left, and who can reach it (session.py), what runs in a worker (host.py),
engines (ray_engine.py) and ranks. Source: design of this project; Ray 2.60.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lmm_r1.config import Cluster as Knobs
from lmm_r1.distributed.host import STACKS_SIGNAL, Host, Where
from lmm_r1.distributed.placement import by_machine, placement
from lmm_r1.distributed.session import START_LIMIT_S, RaySession
from lmm_r1.errors import EngineError, Fault, LmmR1Error, RankLostError, first_line

#: Seconds that a worker gets to write or tell its stacks.
_STACKS_S = 1.0
#: Seconds that a running cluster gets to make room for the workers: its machines may be joining still.
_ROOM_S = 300.0
#: Seconds of that after which the wait is told.
_TELL_S = 10.0
#: Seconds within which Ray says that a worker died.
_TOLD_S = 5.0

Role = Literal["rank", "engine"]


class WorkerLost(Exception):
    """A worker is gone; `why` says how it was noticed."""

    def __init__(self, worker: Worker, why: str) -> None:
        self.worker, self.why = worker, why
        super().__init__(f"{worker.name}: {why}")


@dataclass(eq=False, slots=True)
class Worker:
    """A process of the cluster. sign: when it last gave a sign of life; felt: when we last looked for one; where: None
    until it gave one."""

    name: str
    handle: Any
    stacks: Path
    sign: float
    felt: float
    where: Where | None = None
    pulse: Any = None  # the answer that is waited for
    pulsed: float = 0.0
    lost: str = ""
    made: bool = (
        False  # its object is there: loading libraries holds the interpreter for longer than a silence may last
    )


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """A method call that is under way in a worker."""

    worker: Worker
    ref: Any
    making: bool = False


@dataclass(eq=False)
class Cluster:
    """The workers of one run; one cluster at a time in a process. Use it as a context, or call `close`.

    folder: where stacks of workers are written that are silent or keep us waiting. threads: CPU threads of each worker.
    gpus: place workers on GPUs. note: told of every worker that is started anew, and of waits that take long.
    EngineError when the cluster does not come up or has no room.
    """

    knobs: Knobs
    folder: Path
    threads: int = 1
    gpus: bool = False
    note: Callable[[str], None] = lambda text: None
    restarts_left: int = field(init=False)
    _session: RaySession = field(init=False)
    _group: Any = field(init=False, default=None)
    _order: list[int] = field(init=False, default_factory=list)  # of bundles: neighbours are on one machine
    _numbers: Iterator[int] = field(init=False, default_factory=itertools.count)  # of files for stacks
    _workers: list[Worker] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.restarts_left = self.knobs.restarts
        self.placement = placement(self.knobs.layout, self.knobs.ranks, self.knobs.engines, self.gpus)
        cores = int(sum(bundle["CPU"] for bundle in self.placement.bundles))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._session = RaySession(self.knobs.address, self.threads, cores, self.gpus)
        try:
            self._reserve()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reserve(self) -> None:
        """Take the bundles of all workers, or say that there is no room."""
        bundles = [dict(bundle) for bundle in self.placement.bundles]
        self._group = placement_group(bundles, strategy="PACK")
        self._wait_for_room(bundles)
        self._order = by_machine(placement_group_table(self._group)["bundles_to_node_id"])

    def _wait_for_room(self, bundles: Sequence[Mapping[str, float]]) -> None:
        limit = START_LIMIT_S if self._session.home is not None else _ROOM_S
        if self._group.wait(min(limit, _TELL_S)):
            return
        wanted = f"room for {len(bundles)} times {bundles[0]}"
        if self._session.home is None:
            self.note(f"the cluster has no {wanted} yet; waiting for {limit:g} s at most")
        if not self._group.wait(max(0.0, limit - _TELL_S)):
            there = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
            what = f"the cluster has no {wanted} (it has {there})"
            raise EngineError(Fault(what, field="cluster", remedy="fewer ranks or engines, or another layout"))

    def close(self) -> None:
        """End all workers, and the cluster where it was started here. A second call does nothing."""
        if ray.is_initialized():
            for worker in self._workers:
                if not worker.lost:
                    ray.kill(worker.handle, no_restart=True)
            if self._group is not None and self._session.home is None:
                remove_placement_group(self._group)
        self._session.leave()
        for worker in self._workers:
            if worker.stacks.is_file() and not worker.stacks.stat().st_size:  # it was never asked for them
                worker.stacks.unlink()
        self._workers, self._group = [], None

    def start(self, role: Role, index: int, factory: str, arguments: Mapping[str, Any]) -> tuple[Worker, Call]:
        """A worker in its place of the layout, and the call that makes its object."""
        worker = self.place(role, index)
        return worker, self.make(worker, factory, arguments)

    def place(self, role: Role, index: int) -> Worker:
        """A worker without an object, in its place of the layout."""
        name = f"{role} {index}"
        bundle = self._order[(self.placement.rank if role == "rank" else self.placement.engine)[index]]
        stacks = (self._session.home or self.folder) / self._stacks_name(name)
        actor = ray.remote(concurrency_groups={"pulse": 1})(Host).options(
            num_cpus=1,
            num_gpus=self.placement.gpu,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle),
        )
        worker = Worker(name, actor.remote(str(stacks)), stacks, time.monotonic(), time.monotonic())
        self._workers.append(worker)
        return worker

    def make(self, worker: Worker, factory: str, arguments: Mapping[str, Any]) -> Call:
        """The call that makes a worker's object: factory(**arguments), where factory is "module:name". Calls sent meanwhile
        run after it."""
        return Call(worker, worker.handle.make.remote(factory, dict(arguments)), making=True)

    def call(self, worker: Worker, method: str, *arguments: Any) -> Call:
        """Send a method call to a worker's object; calls of one worker run in order."""
        return Call(worker, worker.handle.call.remote(method, *arguments))

    def meeting(self, workers: Sequence[Worker]) -> tuple[str, list[str]]:
        """Where workers can meet (a file, where all are on this machine, else a port of the first one's), and the address of
        each one's machine. WorkerLost when one is gone."""
        if self._session.home is not None:
            return f"file://{self._session.home / secrets.token_hex(8)}", ["127.0.0.1"] * len(workers)
        points = self.results([Call(worker, worker.handle.free_address.remote()) for worker in workers])
        host, port = points[0]
        return f"tcp://{host}:{port}", [address for address, _ in points]

    def wait(self, calls: Sequence[Call]) -> list[Call]:
        """Those of some calls that ended, at least one. WorkerLost when a worker of theirs gives no sign of life. The stacks
        of all of them are written after `stacks_s` seconds, and again whenever the wait is twice as long as then: a
        deadlock has a pulse, and so has a long step, of which nobody wants to read every minute."""
        tick = min(1.0, self.knobs.lost_s / 8, self.knobs.stacks_s / 8)
        watched = list(dict.fromkeys(call.worker for call in calls))
        refs = {call.ref: call for call in calls}
        since, patience = time.monotonic(), self.knobs.stacks_s
        while True:
            ready, waiting = ray.wait(list(refs), num_returns=1, timeout=tick)
            if ready:
                more = ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []
                return [refs[ref] for ref in (*ready, *more)]
            for worker in watched:
                self._feel(worker)
            waited = time.monotonic() - since
            if waited > patience:
                self._write_stacks(watched, waited)
                patience = 2 * waited

    def _write_stacks(self, workers: Sequence[Worker], waited: float) -> None:
        """Write the stacks of workers that keep us waiting, each into a new file, and tell which. Who does not return them at
        once is left out: it is loading libraries, or its pulse will show what it is."""
        refs = {worker.handle.stacks.options(concurrency_group="pulse").remote(): worker for worker in workers}
        written: dict[str, str] = {}
        for ref in ray.wait(list(refs), num_returns=len(refs), timeout=_STACKS_S)[0]:
            worker, file = refs[ref], self._stacks_name(refs[ref].name)
            # A dead worker's own calls say so, and a disk that is full here or there must not end a wait that may be well.
            with contextlib.suppress(RayError, OSError):
                text = ray.get(ref)
                title = f"{worker.name}, after {waited:.0f} s without the end of a call"
                (self.folder / file).write_text(f"{title}\n{text}", encoding="utf-8")
                written[worker.name] = file
        if written:
            self.note(
                f"{', '.join(written)}: no call has ended for {waited:.0f} s (cluster.stacks_s); still waiting; stacks in "
                f"{self.folder}: {', '.join(written.values())}"
            )

    def _stacks_name(self, worker: str) -> str:
        """A file name for a worker's stacks that nothing else has, of an earlier session of the run neither."""
        stem = worker.replace(" ", "_")
        names = (f"{stem}_{number}.stacks" for number in self._numbers)
        return next(name for name in names if not (self.folder / name).exists())

    def _feel(self, worker: Worker) -> None:
        """Take a worker's pulse. WorkerLost after too long a silence."""
        now = time.monotonic()
        if (
            now - worker.felt > self.knobs.lost_s / 4
        ):  # nobody looked, or we were stopped: its silence so far proves nothing
            worker.sign = now
        worker.felt = now
        if worker.pulse is not None and ray.wait([worker.pulse], timeout=0)[0]:
            with contextlib.suppress(RayError):  # a dead worker's own calls say so, with the reason
                worker.where = ray.get(worker.pulse)
            worker.pulse, worker.sign = None, now
        if worker.pulse is None and now - worker.pulsed > self.knobs.lost_s / 4:
            worker.pulse = worker.handle.pulse.options(concurrency_group="pulse").remote()
            worker.pulsed = now
        limit = self.knobs.lost_s if worker.made else max(START_LIMIT_S, self.knobs.lost_s)
        if now - worker.sign > limit:
            self.kill(worker, stacks=True)
            told = worker.stacks.parent == self.folder and worker.stacks.is_file() and worker.stacks.stat().st_size
            where = f"; its stacks are in {worker.stacks}" if told else ""
            raise WorkerLost(worker, f"no sign of life for {now - worker.sign:.1f} s{where}")

    def result(self, call: Call) -> Any:
        """The value of a call that ended. WorkerLost when its worker died; a fault of the object is raised as it is."""
        try:
            value = ray.get(call.ref)
            call.worker.made = call.worker.made or call.making
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, LmmR1Error):
                raise cause from None
            raise EngineError(f"{call.worker.name}: {type(cause).__name__}: {first_line(cause)}") from error
        except RayError as error:
            said = self._last_lines(call.worker)
            self.kill(call.worker)
            why = f"its process died ({first_line(error)})" + (f"; its last lines: {said}" if said else "")
            if self._session.home is None and call.worker.where is None:
                why += "; a cluster that is joined must ask for the token that we send (RAY_AUTH_MODE=token)"
            raise WorkerLost(call.worker, why) from None
        if isinstance(value, Where):
            call.worker.where = value
        return value

    def results(self, calls: Sequence[Call]) -> list[Any]:
        """The values of all calls, in their order. WorkerLost as soon as one is lost: what ranks need, as they wait for
        each other."""
        values: dict[Call, Any] = {}
        while len(values) < len(calls):
            for call in self.wait([call for call in calls if call not in values]):
                values[call] = self.result(call)
        return [values[call] for call in calls]

    def pids(self, workers: Sequence[Worker]) -> list[int]:
        """The process id of each worker, on its machine."""
        return [where.pid for where in self.results([Call(w, w.handle.pulse.remote()) for w in workers])]

    def faults(self, calls: Sequence[Call]) -> list[WorkerLost | LmmR1Error]:
        """What workers that wait for each other say when one of them stopped; who says nothing in time is left out."""
        found: list[WorkerLost | LmmR1Error] = []
        for call in calls:
            if ray.wait([call.ref], timeout=_TOLD_S)[0]:
                try:
                    self.result(call)
                except (WorkerLost, LmmR1Error) as fault:
                    found.append(fault)
        return found

    def settled(self, calls: Sequence[Call]) -> list[WorkerLost | LmmR1Error]:
        """What workers that wait for each other say when one of them stopped, until none works on any of these calls: who
        says nothing is told to stop waiting, and then killed."""
        faults = self.faults(calls)
        for stop in (lambda worker: worker.handle.abandon.options(concurrency_group="pulse").remote(), self.kill):
            late = [call for call in calls if not ray.wait([call.ref], timeout=0)[0]]
            for call in late:
                stop(call.worker)
            faults += self.faults(late)
        return faults

    def kill(self, worker: Worker, stacks: bool = False) -> None:
        """End a worker's process, whatever state it is in. stacks: let it write its stacks first, if it can."""
        if worker.lost:
            return
        worker.lost = "killed"
        where = worker.where
        if where is not None and where.machine == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                if stacks and worker.stacks.is_file():
                    os.kill(where.pid, STACKS_SIGNAL)
                    os.kill(where.pid, signal.SIGCONT)  # a stopped process takes no other signal than SIGKILL
                    if _until(lambda: worker.stacks.stat().st_size > 0, _STACKS_S):
                        worker.stacks = Path(shutil.copy(worker.stacks, self.folder / worker.stacks.name))
                os.kill(where.pid, signal.SIGKILL)
        ray.kill(worker.handle, no_restart=True)

    def count_restart(self, lost: WorkerLost | RankLostError) -> None:
        """Allow one more start after a loss. EngineError when the run has had its share."""
        ranks = isinstance(lost, RankLostError)
        told = lost.faults[0].message if isinstance(lost, RankLostError) else str(lost)
        if self.restarts_left < 1:
            allowed = f"restarted {self.knobs.restarts} times in this run, cluster.restarts allows no more"
            remedy = "the same command resumes from the last checkpoint"
            raise EngineError(Fault(f"{told} ({allowed})", field="cluster.restarts", remedy=remedy))
        self.restarts_left -= 1
        self.note(f"{told}; {'ranks are' if ranks else 'it is'} started anew ({self.restarts_left} restarts left)")

    def _last_lines(self, worker: Worker) -> str:
        """The last lines that a worker wrote, where its log is on this machine."""
        if self._session.home is None or worker.where is None:
            return ""
        for kind in ("err", "out"):
            for path in (self._session.home / "session_latest" / "logs").glob(f"worker-*-{worker.where.pid}.{kind}"):
                lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip(": ")]
                lines = [line for line in lines if not line.startswith(":")]  # Ray's own marks
                if lines:
                    return " | ".join(line.strip() for line in lines[-4:])
        return ""


def _until(true: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not (done := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done
