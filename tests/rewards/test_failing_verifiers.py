"""A user's verifier that fails says why: what, where, on which reply; and it never scores a reply as wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lmm_r1.check import check_verifier
from lmm_r1.config import Reward
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.rewards.remote import TOKEN_VARIABLE, VerifierServer
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rewards.worker import as_verdict
from lmm_r1.types import FAILED_VERDICTS, Problem, Verdict
from tests.fakes import said

THIS = "tests.rewards.test_failing_verifiers"
HERE = r"tests/rewards/test_failing_verifiers\.py:\d+"


class Odd(Exception):
    """An exception that cannot say anything."""

    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


def raises(problem: Problem, reply: str) -> bool:
    raise RuntimeError("oops in my\nverifier \x1b[2J")


def lacks(problem: Problem, reply: str) -> bool:
    return bool(problem.meta["smiles"] == reply)


def library(problem: Problem, reply: str) -> bool:
    return re.match("(", reply) is not None


def mute(problem: Problem, reply: str) -> bool:
    raise Odd


def sleeps(problem: Problem, reply: str) -> bool:
    time.sleep(60)
    return True


def spins(problem: Problem, reply: str) -> bool:
    while True:
        pass


def holds(problem: Problem, reply: str) -> bool:
    return sum(range(10**13)) > 0  # one call into C, in which no other thread of Python runs


def writes(problem: Problem, reply: str) -> bool:
    return open("leak.txt", "w").write(reply) > 0


def appends(problem: Problem, reply: str) -> bool:
    return os.open("/tmp/leak", os.O_WRONLY | os.O_APPEND) > 0


def makes(problem: Problem, reply: str) -> bool:
    os.mkdir("leak")
    return True


def connects(problem: Problem, reply: str) -> bool:
    socket.create_connection(("127.0.0.1", 9))
    return True


def starts(problem: Problem, reply: str) -> bool:
    return subprocess.run(["true"], check=False).returncode == 0


def hides(problem: Problem, reply: str) -> bool:
    try:
        subprocess.run(["true"], check=False)
    except OSError:
        raise ValueError("no renderer") from None
    return True


def yes(problem: Problem, reply: str) -> str:
    return "yes"


def two(problem: Problem, reply: str) -> int:
    return 2


def nothing(problem: Problem, reply: str) -> None:
    pass


def listed(problem: Problem, reply: str) -> Verdict:
    return Verdict([1.0], "correct")  # type: ignore[arg-type]


def narrow(problem: Problem) -> bool:
    return True


def eats(problem: Problem, reply: str) -> bool:
    return len(bytearray(8 * 2**30)) > 0


def hoards(problem: Problem, reply: str) -> bool:
    kept = [b"x" * 2**20]
    while True:
        kept.append(kept[-1] + b"x")


def leaves(problem: Problem, reply: str) -> bool:
    sys.exit(3)


def ends(problem: Problem, reply: str) -> bool:
    os._exit(3)


def dies(problem: Problem, reply: str) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


#: verifier -> what its detail must say
FAILING = {
    "raises": rf"RuntimeError: oops in my verifier .*\({HERE}\)",
    "lacks": rf"KeyError: 'smiles' \({HERE}\)",
    "library": rf"(PatternError|error): .*\({HERE}\)",  # raised in Python's own files: the user's line is the one to mend
    "mute": rf"Odd: its message cannot be read \({HERE}\)",
    "writes": rf"tried to open a file for writing \('leak\.txt'\): not allowed in a verifier \({HERE}\)",
    "appends": rf"tried to open a file for writing \('/tmp/leak'\): not allowed in a verifier \({HERE}\)",
    "makes": rf"tried to change files or folders \(os\.mkdir\): not allowed in a verifier \({HERE}\)",
    "connects": r"tried to use the network \(socket\.\S+\): not allowed",
    "starts": rf"tried to start a process \(\S+\): not allowed in a verifier \({HERE}\)",
    "hides": rf"ValueError: no renderer \({HERE}\); before that it tried to start a process",
    "yes": rf"returned 'yes' \(str\); a Verdict, bool or number in \[0, 1\] is wanted \({HERE}\)",
    "two": rf"returned the value 2 \(int\); .* is wanted \({HERE}\)",
    "nothing": rf"returned None \(NoneType\); .* is wanted \({HERE}\)",
    "listed": rf"returned the value \[1\.0\] \(list\); .* is wanted \({HERE}\)",
    "narrow": rf"TypeError: narrow\(\) takes 1 positional argument but 2 were given \({HERE}\)",
    "eats": rf"out of memory: MemoryError \({HERE}\)",
    "hoards": rf"out of memory: MemoryError \({HERE}\)",
    "leaves": rf"SystemExit: 3 \({HERE}\)",
    "ends": r"its process ended with exit code 3, twice",
    "dies": r"its process was killed by SIGKILL, twice",
}
LATE = {"sleeps": r"took longer than limit_s = 0\.5", "spins": r"took longer than limit_s = 0\.5"}


@pytest.mark.parametrize(("name", "said_of_it"), [*FAILING.items(), *LATE.items()], ids=[*FAILING, *LATE])
def test_a_failing_verifier_says_why_before_a_run(name: str, said_of_it: str) -> None:
    """Catches a verifier whose fault nobody can find."""
    limit_s = 0.5 if name in LATE else 20.0
    reward = Reward(verifier=f"{THIS}:{name}", workers=1, limit_s=limit_s)
    (fault,), pending = check_verifier("a", reward)
    assert not pending and fault.field == "stage.a.reward.verifier"
    assert re.search(said_of_it, fault.message), fault.message
    assert fault.message.isprintable() and len(fault.message) < 700


@pytest.mark.parametrize("name", ["eats", "hoards", "raises", "yes"])
def test_a_failing_verifier_is_no_wrong_answer(name: str) -> None:
    """Catches a fault of a verifier, no memory included, that is taken for the reply's."""
    scorer = make_scorer(Reward(verifier=f"{THIS}:{name}", workers=1, limit_s=20.0))
    try:
        found = scorer(Problem("p", (), "7"), said("<answer>7</answer>"), "eos")
    finally:
        scorer.close()
    assert found.verdicts["accuracy"] in FAILED_VERDICTS and found.parts["accuracy"] == 0.0
    assert re.search(FAILING[name], found.details["accuracy"])


@pytest.mark.parametrize(
    ("found", "value"),
    [(np.True_, 1.0), (np.bool_(False), 0.0), (np.float32(0.5), 0.5), (np.int64(1), 1.0), (Verdict(np.float32(0.25), "near"), 0.25)],
)  # fmt: skip
def test_numpys_numbers_are_numbers(found: object, value: float) -> None:
    """Catches `return np.isclose(a, b)` that fails on every reply, "returned True (bool); a bool is wanted"."""
    assert as_verdict(found).value == value and type(as_verdict(found).value) is float


def test_an_import_that_fails_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a module whose own fault is told without its place."""
    monkeypatch.chdir(tmp_path)
    for at, (text, told) in enumerate(
        [("x = 1\nraise ValueError('bad table')\n", r"bad table \(.*own_0\.py:2\)"), ("import nowhere_at_all\n", r"nowhere_at_all.*own_1\.py:1")]
    ):  # fmt: skip
        (tmp_path / f"own_{at}.py").write_text(text)
        (fault,), _ = check_verifier("a", Reward(verifier=f"own_{at}:f", workers=1))
        assert re.search(told, fault.message), fault.message


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(TOKEN_VARIABLE, "a token for tests")
    return "a token for tests"


@pytest.mark.parametrize("name", ["raises", "yes", "writes"])
def test_a_shared_verifier_says_why_too(name: str, token: str) -> None:
    """Catches a detail that is lost on its way from another machine."""
    with VerifierPool(f"{THIS}:{name}", workers=1, limit_s=20.0) as pool:
        server = VerifierServer(token, pool)
        server.start()
        try:
            (fault,), _ = check_verifier("a", Reward(verifier=server.url))
        finally:
            server.stop()
    assert re.search(FAILING[name], fault.message), fault.message


def test_a_long_gold_of_a_users_row_reaches_its_verifier() -> None:
    """Catches a limit of the built-in reader that makes every reply to a user's row a wrong one."""
    long = "x" * 5000
    with VerifierPool(f"{THIS}:same", workers=1, limit_s=20.0) as pool:
        assert pool(Problem("p", (), long), long) == Verdict(1.0, "correct")
        assert pool(Problem("p", (), long), "x") == Verdict(0.0, "wrong")


def same(problem: Problem, reply: str) -> bool:
    return problem.answer == reply


PARENT = """
import sys, threading
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.types import Problem
pool = VerifierPool(sys.argv[1], workers=2, limit_s=300.0)
for _ in range(2):
    threading.Thread(target=pool.verify, args=(Problem("p", (), "7"), "7"), daemon=True).start()
while sum(worker.calls for worker in pool._all) < 2:
    pass
print(*(worker.process.pid for worker in pool._all), flush=True)
threading.Event().wait()
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the alarm of the call ends a worker")
@pytest.mark.parametrize("name", ["spins", "holds", "sleeps"])
def test_busy_workers_end_with_a_killed_parent(name: str) -> None:
    """Catches processes that a killed run leaves behind until the limit of their call (here 300 s)."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{THIS}:{name}"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    )  # fmt: skip
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        assert len(workers) == 2 and all(map(_alive, workers))
        parent.kill()
        parent.wait()
        for _ in range(600):
            if not any(map(_alive, workers)):
                break
            time.sleep(0.05)
        assert not any(map(_alive, workers))
    finally:
        parent.kill()
        parent.stdout.close()
        for pid in filter(_alive, workers):
            os.kill(pid, signal.SIGKILL)
