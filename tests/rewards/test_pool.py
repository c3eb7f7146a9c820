"""A verifier that hangs, dies, prints, forks or lies costs its own call only."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from lmm_r1.errors import RecipeError
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.types import Problem, Verdict

THIS = "tests.rewards.test_pool"
SEVEN = Problem("p", (), "7")
FORKED = Problem("f", (), "child 7")


def strange(problem: Problem, reply: str) -> object:
    """Does what the reply says; else compares."""
    if reply == "hang":
        while True:
            pass
    if reply == "sleep":
        time.sleep(60)
    if reply == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if reply == "print":
        print('{"value": 1.0, "reason": "correct"}', flush=True)
        os.write(1, b'{"value": 1.0, "reason": "correct"}\n')
        return 0
    if reply == "eat":
        return len(bytearray(8 * 2**30))
    if reply.startswith("write "):
        Path(reply[6:]).write_text("x")
    if reply == "fork":
        subprocess.run([sys.executable, "-c", "0"], check=False)
    return {"nan": float("nan"), "two": 2, "none": None, "text": "1", "half": 0.5}.get(reply, reply == problem.answer)


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(f"{THIS}:strange", workers=2, limit_s=1.0, memory_mb=512) as made:
        yield made


def test_verdicts_and_lies(pool: VerifierPool) -> None:
    """Catches a NaN, a 2 or a string that becomes a reward."""
    assert pool.verify(SEVEN, "7") == Verdict(1.0, "correct")
    assert pool.verify(SEVEN, "8") == Verdict(0.0, "wrong")
    assert pool.verify(SEVEN, "half") == Verdict(0.5, "wrong")
    for lie in ("nan", "two", "none", "text"):
        assert pool.verify(SEVEN, lie) == Verdict(0.0, "error"), lie


def test_a_printed_verdict_is_no_verdict(pool: VerifierPool) -> None:
    """Catches a verifier whose output is taken for the protocol's."""
    assert pool.verify(SEVEN, "print") == Verdict(0.0, "wrong")


def test_one_hanging_call_among_many(pool: VerifierPool) -> None:
    """Catches neighbours that wait for, or die with, a call that is killed."""
    replies = ["7", "8"] * 10
    replies[5], replies[12] = "hang", "sleep"
    found = pool.verify_many([(SEVEN, reply) for reply in replies])
    expected = {"7": "correct", "8": "wrong", "hang": "timeout", "sleep": "timeout"}
    assert [verdict.reason for verdict in found] == [expected[reply] for reply in replies]


def test_a_dead_worker_is_replaced(pool: VerifierPool) -> None:
    """Catches a pool that shrinks, and a death that is scored as an answer."""
    assert pool.verify(SEVEN, "die") == Verdict(0.0, "error")
    assert pool.verify(SEVEN, "eat") == Verdict(0.0, "error")  # no wrong answer, whatever the reply is
    assert [v.reason for v in pool.verify_many([(SEVEN, str(n)) for n in range(6, 10)])] == [
        "wrong",
        "correct",
        "wrong",
        "wrong",
    ]


def test_nothing_is_written_or_started(pool: VerifierPool, tmp_path: Path) -> None:
    """Catches a verifier that leaves a file or a process."""
    assert pool.verify(SEVEN, f"write {tmp_path / 'canary'}") == Verdict(0.0, "error")
    assert pool.verify(SEVEN, "fork") == Verdict(0.0, "error")
    assert not list(tmp_path.iterdir())


def test_threads_and_asyncio_get_the_same(pool: VerifierPool) -> None:
    """Catches a pool that only works from the main thread."""
    replies = [str(n % 9) for n in range(40)]
    plain = [pool.verify(SEVEN, reply) for reply in replies]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda reply: pool.verify(SEVEN, reply), replies)) == plain

    async def together() -> list[Verdict]:
        return await asyncio.gather(*(pool.averify(SEVEN, reply) for reply in replies))

    assert asyncio.run(together()) == plain


def test_a_verifier_that_cannot_be_used_is_one_line() -> None:
    """Catches a traceback from a worker, and a pool that waits for ever."""
    for path in ("no_such_module:f", f"{THIS}:no_such_function", f"{THIS}:THIS"):
        with pytest.raises(RecipeError, match="cannot use the verifier"):
            VerifierPool(path, workers=1)


def test_the_cache_knows_what_a_verifier_sees(pool: VerifierPool) -> None:
    """Catches a verdict remembered for another problem."""
    assert pool.verify(Problem("a", (), "7", meta={"k": 1}), "7").value == 1.0
    assert pool.verify(Problem("a", (), "7", source="other"), "7").value == 1.0
    assert pool.verify(Problem("a", (), "8"), "7").value == 0.0


def test_a_closed_pool_says_so() -> None:
    """Catches a call that waits for ever."""
    pool = VerifierPool("math", workers=1)
    pool.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            pool.verify(SEVEN, "7")


def test_workers_end_with_the_pool() -> None:
    """Catches processes that outlive their pool."""
    pool = VerifierPool("math", workers=2)
    pids = [worker.process.pid for worker in pool._all]
    assert pool.verify(SEVEN, "\\boxed{7}").value == 1.0
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_fork_gets_workers_of_its_own(pool: VerifierPool) -> None:
    """Catches a child that reads its parent's verdicts out of a shared pipe."""
    assert pool.verify(SEVEN, "7").value == 1.0
    before = {worker.process.pid for worker in pool._all}
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # only os._exit from here on: pytest must not run twice
        told = b"failed"
        try:
            verdicts = [pool.verify(FORKED, f"child {k}").value for k in range(5, 9)]
            own = before.isdisjoint(worker.process.pid for worker in pool._all)
            pool.close()
            told = b"own" if own and verdicts == [0.0, 0.0, 1.0, 0.0] else repr((own, verdicts)).encode()
        finally:
            os.write(write, told)
            os._exit(0)
    verdicts = [pool.verify(FORKED, f"parent {k}").value for k in range(5, 9)]
    os.waitpid(child, 0)
    assert os.read(read, 200) == b"own"
    assert verdicts == [0.0] * 4 and pool.verify(SEVEN, "7").value == 1.0
    assert {worker.process.pid for worker in pool._all} == before
    os.close(read)
    os.close(write)


def _from_process(reply: str) -> tuple[float, str]:
    with VerifierPool(f"{THIS}:strange", workers=1, limit_s=1.0) as own:
        found = own.verify(SEVEN, reply)
    return found.value, found.reason


def test_a_spawned_process_gets_the_same(pool: VerifierPool) -> None:
    """Catches a pool that depends on state of the process that made it."""
    replies = ["7", "8", "half", "nan"]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(_from_process, replies))
    assert found == [(v.value, v.reason) for v in pool.verify_many([(SEVEN, reply) for reply in replies])]
