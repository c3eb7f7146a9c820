"""This process in a Ray cluster: one that is started on this machine, or one that is running and joined.

A cluster that is started here belongs to a keeper process, which ends all of it when this process leaves or dies. It listens
on the loopback address alone, has a token of its own and no dashboard; one that is joined must ask for a token. Ray unpickles
what it receives, so nobody else may send. Leaving takes back what the process lent: environment variables, signal handlers.
Leaves out: workers, their places and their faults (cluster.py); how the keeper ends a cluster (keeper.py).
Source: design of this project; Ray 2.60.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants
from ray._private.ray_logging import stdout_deduplicator
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # its stubs are not whole
from ray.exceptions import AuthenticationError

from lmm_r1.distributed import keeper
from lmm_r1.errors import EngineError, Fault, first_line

#: Seconds that a cluster, or a worker's process, may take to come up; a busy machine needs half a minute.
START_LIMIT_S = 180.0
#: Share of the machine's memory that Ray's object store may take at most; it takes what is in it.
_STORE_SHARE = 0.2
_STORE_LEAST = 100 << 20
#: Longest folder below which Ray's sockets still have legal names (107 characters).
_LONGEST_FOLDER = 40


class RaySession:
    """This process's time in a cluster, from the constructor to `leave`; one at a time.

    home: folder of a cluster that was started here (sockets, logs, token), None of one that was joined.
    """

    def __init__(self, address: str, threads: int, cores: int, gpus: bool) -> None:
        """Start a cluster ("local") or join the one at an address. threads: CPU threads of each worker. cores, gpus: what a
        cluster that is started has to give. EngineError when it does not come up or does not let us in."""
        if ray.is_initialized():
            raise EngineError("this process is in a Ray cluster already")
        self.home: Path | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._before: dict[str, str | None] = {}
        self._left = False
        try:
            with _quiet_handlers():
                self._start(threads, cores, gpus) if address == "local" else self._join(address, threads)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Leave the cluster, and end it where it was started here. A second call does nothing."""
        if self._left:  # a later cluster of this process is not ours to leave
            return
        with _quiet_handlers():
            if ray.is_initialized():
                ray.shutdown()
        if self._keeper is not None:
            assert self._keeper.stdin is not None and self._keeper.stdout is not None
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper.stdout.close()
        elif self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)
        self._set({})
        self._left = True

    def _start(self, threads: int, cores: int, gpus: bool) -> None:
        """A cluster of this machine alone, owned by a keeper process."""
        if sys.platform != "linux":
            raise EngineError(Fault('address = "local" needs Linux', field="cluster.address"))
        self.home = Path(tempfile.mkdtemp(prefix="lmm-r1-"))
        if len(str(self.home)) > _LONGEST_FOLDER:
            raise EngineError(Fault("TMPDIR is too long for the names of Ray's sockets", file=tempfile.gettempdir()))
        token = self.home / "token"
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        command = [
            *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--port=0"),
            *("--node-ip-address=127.0.0.1", "--include-dashboard=false", "--dashboard-port=0"),
            *("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0", "--no-monitor"),
            *("--include-log-monitor=false", "--disable-usage-stats", f"--temp-dir={self.home}"),
            *(f"--object-store-memory={_store_bytes()}", f"--num-cpus={cores}"),
            *(() if gpus else ("--num-gpus=0",)),
        ]
        environment = {
            **os.environ, **_workers_environment(threads), **_loopback(),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_START_HOOK": f"{keeper.__name__}.{keeper.without_client_server.__name__}",
            "RAY_enable_metrics_collection": "0", "RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0",
        }  # fmt: skip
        environment.pop("RAY_AUTH_TOKEN", None)  # it would win over the file
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", keeper.__file__, str(self.home), str(os.getpid()), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True,
        )  # fmt: skip
        self._set({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": None})
        _connect(self._address())

    def _address(self) -> str:
        """What the keeper says of the start."""
        assert self._keeper is not None and self._keeper.stdout is not None
        said = ""
        if select.select([self._keeper.stdout], [], [], START_LIMIT_S)[0]:
            said = self._keeper.stdout.readline().strip()
        word, _, rest = said.partition(" ")
        if word != "address":
            raise EngineError(f"Ray does not start: {rest or f'no answer within {START_LIMIT_S:g} s'}")
        return rest

    def _join(self, address: str, threads: int) -> None:
        """A cluster that is running; whoever started it ends it."""
        self._set({"RAY_AUTH_MODE": "token"})
        try:
            _connect(address, _workers_environment(threads))
        except (ConnectionError, AuthenticationError) as error:
            remedy = "is it running, and is its token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token?"
            raise EngineError(Fault(first_line(error), field="cluster.address", remedy=remedy)) from error

    def _set(self, changes: Mapping[str, str | None]) -> None:
        """Change variables of this process's environment, after all earlier changes are taken back."""
        for name, old in self._before.items():
            os.environ.pop(name, None) if old is None else os.environ.update({name: old})
        self._before = {name: os.environ.get(name) for name in changes}
        for name, new in changes.items():
            os.environ.pop(name, None) if new is None else os.environ.update({name: new})


def _connect(address: str, env_vars: Mapping[str, str] | None = None) -> None:
    # Ray caches both for the process, and an earlier cluster had another token.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    stdout_deduplicator.skip_re = re.compile("")  # reports of dead workers: ours name the cause in one line
    runtime_env = {"env_vars": dict(env_vars)} if env_vars else None
    local = address.split(":")[0] in ("127.0.0.1", "localhost")
    with _no_other_address() if local else contextlib.nullcontext():
        ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=runtime_env)


def _workers_environment(threads: int) -> dict[str, str]:
    """What workers need: our modules, and their CPU threads, which are a part of what fixes their numbers."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LMM_R1_THREADS")
    search = os.pathsep.join(part or os.getcwd() for part in sys.path)
    return dict.fromkeys(names, str(threads)) | {"PYTHONPATH": search}


def _loopback() -> dict[str, str]:
    """What makes Ray take 127.0.0.1 for its address: on Linux it would otherwise look for one that others can reach."""
    return {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}


@contextmanager
def _no_other_address() -> Iterator[None]:
    """The same for this process, where Ray read the variable long ago."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _quiet_handlers() -> Iterator[None]:
    """Keep the handlers of SIGTERM and SIGINT: Ray puts its own in their place, and the run saves itself in ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _store_bytes() -> int:
    """Room of the object store: a share of the memory, within what shared memory has left."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else memory
    return max(_STORE_LEAST, int(min(_STORE_SHARE * memory, 0.8 * shared)))
