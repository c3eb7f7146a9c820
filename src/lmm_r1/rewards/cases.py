"""`lmm-r1 verify`: a file of cases through the verifier, beside the peers that are installed.

A row is {"gold", "prediction", "choices"?, "expected"?, "kind"?, "verifier"?}: kind is a label that the summary
groups by, verifier a key of VERIFIERS (default "math"; with choices, a gold letter is checked as a choice).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmm_r1.errors import DataError, Fault, RecipeError
from lmm_r1.rewards import VERIFIERS, verify
from lmm_r1.rewards.peers import PEERS, installed
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.types import Problem, Verdict

#: Seconds that a peer gets for a case: its own limits are 5 s a side.
PEER_LIMIT_S = 11.0
OURS = "lmm-r1"


@dataclass(frozen=True, slots=True)
class Case:
    """One row; expected None: no opinion."""

    gold: str
    prediction: str
    choices: tuple[str, ...] | None = None
    expected: bool | None = None
    kind: str = ""
    verifier: str = "math"


@dataclass(frozen=True, slots=True)
class Decided:
    """What a checker said of a case, and how long it took."""

    verdict: bool
    reason: str
    ms: float

    def record(self) -> dict[str, Any]:
        """A line of the output."""
        return {"verdict": self.verdict, "reason": self.reason, "ms": self.ms}


def read_cases(path: Path) -> list[Case]:
    """All rows of a JSONL file. Raises DataError naming the first bad row and its field."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(Fault(f"cannot be read: {error.strerror}", file=str(path))) from error
    cases = [_case(line, str(path), row) for row, line in enumerate(lines, start=1) if line.strip()]
    if not cases:
        raise DataError(Fault("holds no case", file=str(path)))
    return cases


def _case(line: bytes, file: str, row: int) -> Case:
    def bad(field: str, message: str) -> DataError:
        return DataError(Fault(message, file=file, row=row, field=field))

    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad("", "is no JSON") from error
    if not isinstance(found, dict):
        raise bad("", "is no JSON object")
    for field in ("gold", "prediction"):
        if not isinstance(found.get(field), str):
            raise bad(field, "must be a string")
    choices = found.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
        raise bad("choices", "must be a list of strings")
    if not isinstance(found.get("expected"), bool | None):
        raise bad("expected", "must be true, false or null")
    verifier = found.get("verifier") or "math"
    if verifier not in VERIFIERS:
        raise bad("verifier", f"there is no verifier {verifier!r} (there are: {', '.join(VERIFIERS)})")
    return Case(
        found["gold"], found["prediction"], tuple(choices) if choices else None, found.get("expected"),
        str(found.get("kind") or ""), verifier,
    )  # fmt: skip


def decide(cases: Sequence[Case], against: Sequence[str] = ()) -> dict[str, list[Decided]]:
    """Every case by our verifier and by the named peers, in the order given.

    Raises RecipeError for a peer that is unknown or not installed.
    """
    for name in against:
        if name not in PEERS:
            raise RecipeError(Fault(f"no peer '{name}'", field="--against", remedy=f"there are: {', '.join(PEERS)}"))
        if not installed(name):
            raise RecipeError(Fault(f"{name} is not installed", field="--against", remedy=f"pip install {name}"))
    with ExitStack() as stack:
        pools = {
            name: stack.enter_context(
                VerifierPool(PEERS[name], workers=1, limit_s=PEER_LIMIT_S, memory_mb=4096, cache=0)
            )
            for name in against
        }
        for name, pool in pools.items():
            if pool.verify(Problem("", (), "1"), "\\boxed{1}").value != 1.0:
                # A peer that lacks a package of its own would seem to reject everything.
                raise RecipeError(Fault(f"{name} does not work here: it rejects 1 for 1", field="--against"))
        found = {OURS: [_timed(case, None) for case in cases]}
        return found | {name: [_timed(case, pool) for case in cases] for name, pool in pools.items()}


def _timed(case: Case, pool: VerifierPool | None) -> Decided:
    started = time.perf_counter()
    if pool is None:
        verdict = verify(case.gold, case.prediction, case.verifier, case.choices)
    else:
        verdict = pool.verify(Problem("", (), case.gold, case.verifier, choices=case.choices), case.prediction)
    return Decided(_pays(verdict), verdict.reason, round(1000 * (time.perf_counter() - started), 3))


def _pays(verdict: Verdict) -> bool:
    return verdict.value == 1.0


def mismatches(cases: Sequence[Case], decided: Sequence[Decided]) -> list[int]:
    """Indices of the cases whose verdict is not the expected one."""
    return [
        at
        for at, (case, found) in enumerate(zip(cases, decided, strict=True))
        if case.expected is not None and case.expected != found.verdict
    ]


def summary(cases: Sequence[Case], decided: Mapping[str, Sequence[Decided]]) -> Iterator[tuple[str, ...]]:
    """Rows of a table: kind, cases with an expectation, then false positives / false negatives by checker.

    The first row is the head, the last the sum over all kinds. Nothing when no case has an expectation.
    """
    judged = [at for at, case in enumerate(cases) if case.expected is not None]
    if not judged:
        return
    yield ("kind", "cases", *(f"{name}: false + / false -" for name in decided))
    for kind in (*sorted({cases[at].kind for at in judged}), None):
        rows = [at for at in judged if kind is None or cases[at].kind == kind]
        counts = []
        for found in decided.values():
            wrong = [at for at in rows if found[at].verdict != cases[at].expected]
            positive = sum(found[at].verdict for at in wrong)
            counts.append(f"{positive} / {len(wrong) - positive}")
        yield ("all" if kind is None else kind or "-", str(len(rows)), *counts)
