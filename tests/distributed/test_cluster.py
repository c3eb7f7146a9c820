"""A Ray cluster of this machine: its workers, their faults, who can reach it, and what is left when it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.support import required

required("ray")

import ray  # noqa: E402

from lmm_r1.config import Cluster as Knobs  # noqa: E402
from lmm_r1.distributed import keeper  # noqa: E402
from lmm_r1.distributed.cluster import Call, Cluster, Worker, WorkerLost, placement  # noqa: E402
from lmm_r1.distributed.placement import by_machine  # noqa: E402
from lmm_r1.errors import DataError, EngineError  # noqa: E402
from tests.distributed.processes import listening, orphans, still_there, until  # noqa: E402
from tests.structure.source import ROOT  # noqa: E402

THING = "tests.distributed.thing:Thing"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    knobs = Knobs(address="local", ranks=1, engines=2, lost_s=3.0, restarts=1)
    with Cluster(knobs, tmp_path_factory.mktemp("workers"), threads=1) as made:
        yield made


#: Of SIGTERM and SIGINT, as the tests were started: a shell may ignore the second for what runs behind it.
HANDLERS = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


def engine(cluster: Cluster, index: int = 0) -> Worker:
    worker, call = cluster.start("engine", index, THING, {"number": 10 * index})
    cluster.results([call])
    return worker


def lost(cluster: Cluster, call: Call) -> WorkerLost:
    with pytest.raises(WorkerLost) as caught:
        cluster.results([call])
    assert caught.value.worker is call.worker
    return caught.value


def test_layouts() -> None:
    """Would catch a rank and an engine that take a whole GPU each of one they share, or that share one they should not."""
    shared = placement("colocated", ranks=2, engines=3, gpus=True)
    assert shared.bundles == ({"CPU": 2.0, "GPU": 1.0},) * 3
    assert (shared.rank, shared.engine, shared.gpu) == ((0, 1), (0, 1, 2), 0.5)
    split = placement("split", ranks=2, engines=3, gpus=True)
    assert split.bundles == ({"CPU": 1.0, "GPU": 1.0},) * 5
    assert (split.rank, split.engine, split.gpu) == ((0, 1), (2, 3, 4), 1.0)
    assert placement("split", 1, 1, gpus=False).bundles == ({"CPU": 1.0},) * 2


def test_neighbours_are_on_one_machine() -> None:
    """Would catch ranks that share rows over the network, because Ray numbered its bundles otherwise."""
    assert by_machine({0: "b", 1: "a", 2: "b", 3: "a"}) == [1, 3, 0, 2]


def test_workers_answer_in_order_with_their_own_objects_and_threads(cluster: Cluster) -> None:
    """Would catch results in the order of ending, workers that are one process, and threads that the machine decides."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert handlers == HANDLERS  # a run saves itself in its own, not in Ray's
    rank, made = cluster.start("rank", 0, THING, {"number": 5})
    first, second = engine(cluster, 0), engine(cluster, 1)
    cluster.results([made])
    calls = [cluster.call(first, "sleep", 0.5), cluster.call(second, "add", 1), cluster.call(rank, "add", 1)]
    assert cluster.results(calls) == ["slept", 11, 6]
    assert cluster.results([cluster.call(rank, "threads")]) == [(1, "1")]
    meeting, addresses = cluster.meeting([rank, first])
    assert meeting != cluster.meeting([rank])[0] and addresses == ["127.0.0.1"] * 2
    assert len({w.where for w in (rank, first, second)}) == 3
    for worker in (rank, first, second):
        cluster.kill(worker)


def test_faults_of_the_object_are_no_losses(cluster: Cluster) -> None:
    """Would catch a bug that is answered with restarts, or a fault that loses its kind and exit code on the way."""
    worker = engine(cluster)
    with pytest.raises(DataError, match="row 3 is broken"):
        cluster.results([cluster.call(worker, "fault")])
    with pytest.raises(EngineError, match=r"engine 0: ValueError: a bug$"):
        cluster.results([cluster.call(worker, "bug")])
    assert cluster.results([cluster.call(worker, "add", 1)]) == [1]
    cluster.kill(worker)


def test_a_dead_worker_is_lost_with_its_last_words_and_restarts_are_counted(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """Would catch a run that hangs on a dead worker, hides why it died, restarts it for ever, or spills Ray's own logs."""
    told: list[str] = []
    cluster.note = told.append
    what = lost(cluster, cluster.call(engine(cluster), "die"))
    assert "process died" in what.why and "the last words" in what.why
    cluster.count_restart(what)
    assert len(told) == 1 and told[0].startswith("engine 0: its process died") and "0 restarts left" in told[0]
    with pytest.raises(EngineError, match=r"restarted 1 times.*resumes") as caught:
        cluster.count_restart(what)
    assert caught.value.exit_code == 7
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_a_stopped_worker_is_lost_and_a_busy_one_is_not(cluster: Cluster) -> None:
    """Would catch a watchdog that waits for ever, or that takes a long call (here longer than `lost_s`) for silence."""
    worker = engine(cluster)
    assert cluster.results([cluster.call(worker, "sleep", 1.5 * cluster.knobs.lost_s)]) == ["slept"]
    assert worker.where is not None
    os.kill(worker.where.pid, signal.SIGSTOP)
    what = lost(cluster, cluster.call(worker, "add", 1))
    assert "no sign of life for" in what.why and str(worker.stacks) in what.why
    assert "most recent call first" in worker.stacks.read_text()
    assert until(lambda: not Path(f"/proc/{worker.where.pid}").exists())  # type: ignore[union-attr]


def impatient(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, stacks_s: float) -> Path:
    """Have stacks told soon and silence not punished, in an empty folder."""
    knobs = cluster.knobs.model_copy(update={"stacks_s": stacks_s, "lost_s": 60.0})
    monkeypatch.setattr(cluster, "knobs", knobs)
    monkeypatch.setattr(cluster, "folder", Path(tempfile.mkdtemp(dir=cluster.folder)))
    return cluster.folder


def test_a_deadlock_with_a_pulse_shows_its_stacks_and_the_wait_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Would catch a deadlock that nobody hears of before the collective limit, a watchdog that kills it, one that fills the
    screen, and stacks of an earlier session that are written over."""
    worker, limit = engine(cluster), 2.0
    folder = impatient(cluster, monkeypatch, limit)
    for number in range(20):
        (folder / f"engine_0_{number}.stacks").write_text("of an earlier session")
    earlier = set(folder.iterdir())
    told: list[str] = []
    looks: list[int] = []
    monkeypatch.setattr(cluster, "note", told.append)
    feel = cluster._feel

    def feel_and_let_go(worker: Worker) -> None:
        feel(worker)
        looks.append(len(told))
        if looks.count(1) == 4 or len(told) > 1:  # some time after it was told once
            (tmp_path / "go").touch()

    monkeypatch.setattr(cluster, "_feel", feel_and_let_go)
    hung = cluster.call(worker, "hang", str(tmp_path / "go"))
    queued = cluster.call(worker, "add", 1)
    start = time.monotonic()
    assert cluster.results([hung, queued]) == ["let go", 1]
    waited = time.monotonic() - start
    assert len(told) >= 1 and waited >= limit * 2 ** (len(told) - 1)  # so once, unless the machine stood still
    written = sorted(set(folder.iterdir()) - earlier)
    assert len(written) == len(told) and all(path.name in line for path, line in zip(written, told, strict=True))
    assert told[0].startswith("engine 0: no call has ended for") and str(folder) in told[0]
    assert "waits_for_what_does_not_come" not in told[0]
    text = written[0].read_text()
    assert worker.where is not None and f"process {worker.where.pid} on " in text and text.startswith("engine 0, after")
    assert "in waits_for_what_does_not_come" in text and "most recent call first" in text
    assert {path.read_text() for path in earlier} == {"of an earlier session"}
    assert not worker.lost and cluster.results([cluster.call(worker, "add", 2)]) == [2]
    cluster.kill(worker)


def test_a_wait_that_goes_on_is_told_again_without_those_that_cannot_answer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Would catch one look at a step that is long and hangs later, the first look's file written over by the second, a stopped
    worker that is waited for, and files that cannot be written that end the run."""
    stopped, hung = engine(cluster, 0), engine(cluster, 1)
    folder = impatient(cluster, monkeypatch, 0.5)
    assert stopped.where is not None
    pid = stopped.where.pid
    told: list[str] = []
    files: list[str] = []

    def note(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            files.extend(path.name for path in folder.iterdir())
            os.kill(pid, signal.SIGCONT)
            (tmp_path / "go").touch()

    monkeypatch.setattr(cluster, "note", note)
    os.kill(pid, signal.SIGSTOP)
    calls = [cluster.call(stopped, "add", 2), cluster.call(hung, "hang", str(tmp_path / "go"))]
    assert cluster.results(calls) == [2, "let go"]
    assert len(told) >= 2 and all(line.startswith("engine 1: no call has ended") for line in told[:2]), told
    assert [name.rpartition("_")[0] for name in files] == ["engine_1"] * 2
    (tmp_path / "go").unlink()
    shutil.rmtree(folder)  # as a disk that is full: nothing can be written, and the wait is none the worse for it
    threading.Timer(2.0, (tmp_path / "go").touch).start()
    assert cluster.results([cluster.call(hung, "hang", str(tmp_path / "go"))]) == ["let go"]
    for worker in (stopped, hung):
        cluster.kill(worker)


def test_only_this_machine_reaches_the_cluster_and_only_with_the_token(cluster: Cluster) -> None:
    """Would catch a socket that other machines reach (Ray unpickles what it receives), a dashboard, a token that others on
    the machine can read, or one that is not asked for."""
    worker = engine(cluster)
    below = keeper.descendants(os.getpid())
    assert worker.where is not None and worker.where.pid in below
    sockets = listening([os.getpid(), *below])
    assert len(sockets) >= 4  # the store of facts, the node, a worker, this process
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert {address for _, address in sockets} <= loopback
    assert not ray._private.worker._global_node.webui_url
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    address = (token.parent / keeper.ADDRESS_FILE).read_text().strip()
    own = joined(address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
    stranger = joined(address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    assert "no room" in own and "no room" not in stranger and stranger.startswith("EngineError"), (own, stranger)
    cluster.kill(worker)


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_joining_a_cluster(mode: str, tmp_path: Path) -> None:
    """Would catch workers that lack our modules there, a cluster that we end though others use it, a wait for room that
    never comes, and one that we join though it listens to anyone."""
    home = Path(tempfile.mkdtemp(prefix="lmm-r1-"))
    (home / "token").write_text("1" * 64)
    environment = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(home / "token")}
    command = [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--port=0", "--num-cpus=2"),
        *("--num-gpus=0", "--include-dashboard=false", "--no-monitor", "--node-ip-address=127.0.0.1"),
        *("--dashboard-port=0", f"--temp-dir={home}", "--object-store-memory=100000000"),
    ]
    owner = subprocess.Popen(
        [sys.executable, "-P", keeper.__file__, str(home), str(os.getpid()), *command],
        env={
            **os.environ, **environment, "PYTHONPATH": search_path(),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0",
            "RAY_START_HOOK": "lmm_r1.distributed.keeper.without_client_server",
        },
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert owner.stdout is not None and owner.stdin is not None
    word, _, address = owner.stdout.readline().strip().partition(" ")
    assert word == "address", address
    found = joined(address, {**environment, "RAY_AUTH_MODE": "token"})
    if mode == "token":
        assert found.startswith("42\nEngineError [cluster]: the cluster has no room for 50 times"), found
    else:
        assert found.startswith("WorkerLost") and "must ask for the token" in found, found
    assert len(keeper.descendants(owner.pid)) >= 4
    owner.stdin.close()
    assert owner.wait() == 0 and not home.exists()
    owner.stdout.close()


def search_path() -> str:
    return os.pathsep.join(part or os.getcwd() for part in sys.path)


def joined(address: str, environment: dict[str, str]) -> str:
    """What another process says that joins a cluster, asks a worker for 41 + 1, and then for more room than there is."""
    code = f"""
import sys
from pathlib import Path
from lmm_r1.config import Cluster as Knobs
from lmm_r1.distributed import cluster as module
from lmm_r1.errors import LmmR1Error
module._ROOM_S = 5.0
for engines in (1, 50):
    try:
        with module.Cluster(Knobs(address={address!r}, engines=engines), Path(sys.argv[1])) as cluster:
            worker, call = cluster.start("engine", 0, {THING!r}, {{"number": 41}})
            cluster.results([call])
            print(*cluster.results([cluster.call(worker, "add", 1)]), flush=True)
    except (LmmR1Error, module.WorkerLost) as error:
        print(type(error).__name__, error)
        break
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, folder],
            env={**clean, **environment, "PYTHONPATH": search_path()},
            capture_output=True, text=True, timeout=180, cwd=ROOT,
        )  # fmt: skip
    return done.stdout + (done.stderr if done.returncode else "")


@pytest.mark.parametrize("end", ["closed", "left", "killed"])
def test_nothing_outlives_the_run(end: str, tmp_path: Path) -> None:
    """Would catch daemons, workers (also a stopped one), shared memory, sockets or the token left behind by a run that ended
    in order, forgot to close its cluster, or was killed."""
    shared = {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.distributed.driver", end, str(tmp_path / "workers")],
        env={**os.environ, "PYTHONPATH": search_path()}, capture_output=True, text=True, timeout=180, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    processes = [tuple(process) for process in report["processes"]]
    assert len(processes) >= 6  # keeper, facts, node, its agents, two workers
    gone = until(lambda: not still_there(processes))
    assert gone, [Path(f"/proc/{pid}/cmdline").read_text() for pid, _ in still_there(processes)]
    assert until(lambda: not Path(report["home"]).exists())
    assert until(lambda: not orphans(shared))
    assert not list((tmp_path / "workers").iterdir())
