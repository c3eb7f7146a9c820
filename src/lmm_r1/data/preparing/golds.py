"""Golds against their verifier: each must be read and accept itself, and must not accept what is not it.

A gold that its verifier cannot read pays every reply nothing, and in other systems every reply the full reward; one
that accepts everything pays for noise. Both show when the verifier is asked (raw/payable.py): a reply that is the gold
must be right, the gold must be a value of its kind, and of eight golds of other rows, drawn by seed and different from
each other, at most three may be right. (One is normal: 0.5 and 1/2 are two spellings. Numbers with a tolerance may take
in two.) Few golds are filled up with values from FOREIGN.

Verification is pure Python on one core, so `reasons` can spread it over processes; each problem is judged alone, and the
results come in the order of the problems, whatever the number of workers.
Left out: what a verifier is (rewards/, passed in).
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from lmm_r1.data.raw.payable import Verifiers, accepts, is_read
from lmm_r1.errors import DataError, Fault
from lmm_r1.seams import Verifier
from lmm_r1.types import Problem

UNKNOWN = "bad verifier"
NOT_ITSELF = "gold does not verify itself"
ACCEPTS_OTHERS = "gold accepts other answers"
WHY = {
    UNKNOWN: "The row names a verifier that does not exist.",
    NOT_ITSELF: "No reply could be paid: the verifier does not accept the answer, or only a copy of it, word for word.",
    ACCEPTS_OTHERS: "The verifier accepts half of some other rows' answers for this one: any reply might be paid.",
}

PROBES = 8
CHUNK = 2000
_CANDIDATES = 64
#: Golds of no row, for data with fewer than eight different ones.
FOREIGN: dict[str, tuple[str, ...]] = {
    "choice": ("A", "B", "C", "D", "E", "F", "G", "H"),
    "text": ("yes", "left", "seventeen", "river", "purple", "Ankara", "violin", "tomorrow"),
    "boxes": tuple(f"[{x}, {x}, {x + 7}, {x + 9}]" for x in range(10, 810, 100)),
    "math": ("0", "-17", "\\frac{3}{7}", "104729", "2.625", "\\sqrt{11}", "x^{2}+y", "(3,4)"),
    "numeric": ("0", "-17", "31.5", "104729", "2.625", "610", "0.003", "8100"),
}

#: Verifier's name -> the golds that every problem of that verifier is tried with.
Probes = Mapping[str, tuple[str, ...]]


class Sampler:
    """Draws the probes while the golds of a data set pass by: those with the smallest hashes of (seed, gold).

    So they depend on the set of golds and on the seed, not on the order of the rows.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._held: dict[str, list[tuple[int, str]]] = {}  # by verifier, a heap: the largest hash on top
        self._known: dict[str, set[str]] = {}

    def add(self, verifier: str, gold: str) -> None:
        """A gold of a row."""
        held, known = self._held.setdefault(verifier, []), self._known.setdefault(verifier, set())
        if gold in known:
            return
        digest = hashlib.blake2b(f"{self._seed}\0{gold}".encode(errors="replace"), digest_size=8).digest()
        item = (-int.from_bytes(digest, "big"), gold)
        if len(held) < _CANDIDATES:
            heapq.heappush(held, item)
        elif item > held[0]:
            known.discard(heapq.heapreplace(held, item)[1])
        else:
            return
        known.add(gold)

    def probes(self, verifiers: Verifiers) -> Probes:
        """Up to eight golds of each verifier, none of which it takes for another."""
        chosen: dict[str, tuple[str, ...]] = {}
        for name, held in self._held.items():
            if name not in verifiers:
                continue
            found: list[str] = []
            for gold in (*(gold for _, gold in sorted(held, reverse=True)), *FOREIGN.get(name, FOREIGN["math"])):
                if len(found) < PROBES and _differs(verifiers[name], name, gold, found):
                    found.append(gold)
            chosen[name] = tuple(found)
        return chosen


def _differs(verifier: Verifier, name: str, gold: str, others: list[str]) -> bool:
    """Whether a gold is one of its own kind among the others; one that accepts everything would keep them all out."""
    mine = Problem("", (), gold, verifier=name)
    if not accepts(verifier, mine, gold) or _too_many(verifier, mine, FOREIGN.get(name, FOREIGN["math"])):
        return False
    return not any(
        accepts(verifier, mine, o) or accepts(verifier, Problem("", (), o, verifier=name), gold) for o in others
    )


def _too_many(verifier: Verifier, problem: Problem, golds: Iterable[str]) -> bool:
    """Whether a problem's gold accepts at least half of other golds, and at least two."""
    others = [gold for gold in golds if gold != problem.answer]
    taken = sum(accepts(verifier, problem, gold) for gold in others)
    return taken >= 2 and 2 * taken >= len(others)


def reason(problem: Problem, verifiers: Verifiers, probes: Probes) -> str:
    """Why the gold of a problem cannot be used; empty when it can."""
    verifier = verifiers.get(problem.verifier)
    if verifier is None:
        return UNKNOWN
    if not accepts(verifier, problem, problem.answer):
        return NOT_ITSELF
    if _too_many(verifier, problem, probes.get(problem.verifier, ())):
        return ACCEPTS_OTHERS
    return "" if is_read(verifier, problem) else NOT_ITSELF


def reasons(problems: Iterable[Problem], verifiers: Verifiers, probes: Probes, workers: int = 1) -> Iterator[str]:
    """`reason` of each problem, in order; the verifiers must be module-level functions where workers > 1.

    Raises DataError when a worker process is killed (by the system, for its memory).
    """
    rest = iter(problems)
    chunks: Iterator[list[Problem]] = iter(lambda: list(itertools.islice(rest, CHUNK)), [])
    first = list(itertools.islice(chunks, 2))
    if workers <= 1 or len(first) < 2:  # starting a process takes longer than a chunk
        for chunk in itertools.chain(first, chunks):
            yield from _chunk(chunk, verifiers, probes)
        return
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            yield from _spread(pool.submit, itertools.chain(first, chunks), verifiers, probes, 2 * workers)
    except BrokenProcessPool:
        raise DataError(
            Fault("a process that checks answers was killed", remedy="try again with --workers 1")
        ) from None


def _spread(
    submit: Callable[..., Future[list[str]]],
    chunks: Iterator[list[Problem]],
    verifiers: Verifiers,
    probes: Probes,
    ahead: int,
) -> Iterator[str]:
    """Results in the order of the chunks, a few of which are under way at a time."""
    waiting: deque[Future[list[str]]] = deque()
    for chunk in chunks:
        waiting.append(submit(_chunk, chunk, dict(verifiers), dict(probes)))
        if len(waiting) > ahead:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _chunk(problems: list[Problem], verifiers: Verifiers, probes: Probes) -> list[str]:
    return [reason(problem, verifiers, probes) for problem in problems]
