"""Does the verifier pay a wrong answer? Crosses and mutates the golds of public data sets and prints what pays wrongly.

    python -m benchmarks.false_accepts [--data FOLDER] [--pairs 240000] [--seed 1] [--workers 2] [--show 200]

FOLDER holds JSONL files with "answer" and perhaps "choices". Every pair is wrong by construction (tests/rewards/false_accepts);
crosses that pay are compared by a second reading. The exit code is 1 when a wrong answer was paid, 2 when there is no data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
from pathlib import Path

from lmm_r1.rewards import VERIFIERS
from tests.rewards.false_accepts.cases import Case, Gold
from tests.rewards.false_accepts.search import Found, generate, search

_CHUNK = 1000
_LETTER = re.compile(r"[A-H]")


def golds_of(folder: Path) -> list[Gold]:
    """The golds of every JSONL file of a folder: the answer, or the first of several, behind #### where a solution comes first."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            if not line.strip():
                continue
            row = json.loads(line)
            answer = row.get("answer") or row.get("final_answer")
            answers = answer if isinstance(answer, list) else [answer]
            choices = tuple(map(str, row["choices"])) if row.get("choices") else None
            for text in (str(a).rpartition("####")[2].strip() for a in answers if a is not None):
                letter = choices is not None or _LETTER.fullmatch(text) is not None
                found.append(Gold(text, "choice" if letter else "math", choices))
    return [gold for gold in found if gold.text]


def pays(case: Case) -> bool:
    """Whether the verifier pays anything for a case."""
    return VERIFIERS[case.verifier](case.problem(), case.reply).value > 0


def _search(cases: list[Case]) -> Found:
    return search(cases, pays)


def report(found: Found, show: int) -> None:
    """A line per kind, then the wrong payments."""
    wrong = found.by_kind()
    print(f"{'mutation':34} {'tried':>8} {'paid':>7} {'wrongly':>8}")
    for kind in sorted(found.tried):
        print(f"{kind:34} {found.tried[kind]:8} {found.paid[kind]:7} {wrong[kind]:8}")
    print(f"{'all':34} {found.tried.total():8} {found.paid.total():7} {len(found.wrong):8}\n")
    for case in found.wrong[:show]:
        extra = f" options {case.choices}" if case.choices else ""
        print(f"{case.kind}: gold {case.gold!r} pays {case.reply!r} ({case.verifier}{extra})")
    if len(found.wrong) > show:
        print(f"... and {len(found.wrong) - show} more (--show)")
    print(f"pairs tried {found.tried.total()}, paid wrongly {len(found.wrong)}")


def main() -> int:
    """Search, print, and say by the exit code whether a wrong answer was paid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=240_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", type=int, default=200, help="wrong payments that are printed")
    options = parser.parse_args()
    golds = golds_of(options.data)
    if not golds:
        print(f"no golds: {options.data} has no JSONL files with answers; name a folder with --data", file=sys.stderr)
        return 2
    started = time.perf_counter()
    cases = generate(golds, options.pairs, options.seed)
    made = time.perf_counter() - started
    chunks = [cases[at : at + _CHUNK] for at in range(0, len(cases), _CHUNK)]
    found = Found()
    with multiprocessing.Pool(options.workers) as pool:
        for part in pool.imap(_search, chunks):
            found.add(part)
    report(found, options.show)
    print(f"{len(set(golds))} golds; {made:.0f} s to make the pairs, {time.perf_counter() - started:.0f} s in all")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
