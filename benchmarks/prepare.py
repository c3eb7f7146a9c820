"""How long `lmm-r1 prepare` takes and how much memory, on rows made here; and what it drops of real sets.

    python benchmarks/prepare.py [--rows 40000] [--questions 3000] [--workers 2]      lines to hold: 30 s, 1 GB
    python benchmarks/prepare.py --rows 1000000                                       minutes; 1 GB
    python benchmarks/prepare.py --pictures 5000 [--side 512]                         60 s for stored and hashed
    python benchmarks/prepare.py --real [--data FOLDER]                               a line per real set

Text rows have 20 to 90 words of a skewed vocabulary of 8,000; golds are whole numbers, fractions, roots, tuples,
intervals and polynomials; one row in 50 repeats an earlier one, and one in 200 an evaluation question. Everything is
passed through: reading, rules, contamination, golds on themselves and on eight others, duplicates, writing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from image_store import make

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.against import hashes_of, read_evaluation
from lmm_r1.data.preparing.prepare import Options, prepare
from lmm_r1.errors import DataError
from lmm_r1.reports.dropped import render
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Message, Problem

GOLDS = (
    lambda a, b: str(a),
    lambda a, b: f"\\frac{{{a}}}{{{b}}}",
    lambda a, b: f"{a}\\sqrt{{{b}}}",
    lambda a, b: f"({a}, {b})",
    lambda a, b: f"[{min(a, b)}, {max(a, b)}]",
    lambda a, b: f"{a}x^2+{b}x-{a + b}",
    lambda a, b: f"{a}.{b % 100}",
    lambda a, b: f"\\frac{{{a}\\pi}}{{{b}}}+{a}",
)
#: Real answers are mostly numbers.
SHARES = (50, 15, 8, 6, 3, 6, 8, 4)


class Maker:
    """Sentences and answers from a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._words = ["".join(self._rng.choices("abcdefghilmnoprstu", k=self._rng.randint(2, 9))) for _ in range(8000)]
        self._weights = list(accumulate(1 / (rank + 5) for rank in range(8000)))

    def text(self) -> str:
        """20 to 90 words and numbers."""
        words = self._rng.choices(self._words, cum_weights=self._weights, k=self._rng.randint(20, 90))
        for _ in range(3):
            words[self._rng.randrange(len(words))] = str(self._rng.randint(2, 999))
        return " ".join(words) + "?"

    def gold(self) -> str:
        """An answer that verifies itself."""
        (form,) = self._rng.choices(GOLDS, SHARES)
        return form(self._rng.randint(1, 400), self._rng.randint(2, 400))

    def write(self, path: Path, count: int, others: list[str]) -> list[str]:
        """Rows with these questions among them; returns some of the questions written."""
        seen: list[str] = []
        with path.open("w", encoding="utf-8") as out:
            for number in range(count):
                text, gold = self.text(), self.gold()
                if others and number % 200 == 7:
                    text = f"Puzzle. {self._rng.choice(others)}"
                elif seen and number % 50 == 3:
                    text, gold = self._rng.choice(seen).split("\t")
                elif len(seen) < 5000:
                    seen.append(f"{text}\t{gold}")
                row = {"id": f"r{number}", "source": f"s{number % 7}", "question": text, "answer": gold}
                out.write(json.dumps(row) + "\n")
        return [text.split("\t")[0] for text in seen]


def megabytes() -> tuple[float, float]:
    """Largest memory so far of this process, and of its largest child."""
    return tuple(resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def load() -> str:
    """What else the machine was doing."""
    return f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores"


def text_rows(rows: int, questions: int, workers: int, folder: Path) -> None:
    """Prepare made rows against made questions."""
    maker = Maker(1)
    asked = maker.write(folder / "eval.jsonl", questions, [])
    maker.write(folder / "rows.jsonl", rows, asked)
    print(f"{rows} rows of {(folder / 'rows.jsonl').stat().st_size / 1e6:.0f} MB, {questions} questions, {load()}")
    started = time.perf_counter()
    images = ImageStore()
    against = [read_evaluation(folder / "eval.jsonl", images)]
    marks = [("evaluation read", time.perf_counter() - started)]

    def say(line: str) -> None:
        marks.append((line, time.perf_counter() - started))

    report = prepare(
        "rows", folder / "rows.jsonl", folder / "out", VERIFIERS, images, Options(workers=workers), against, render, say
    )
    wall, (mine, child) = time.perf_counter() - started, megabytes()
    told = ", ".join(f"{name} {at:.1f} s" for name, at in marks if not name[0].isdigit() or "golds" in name)
    print(f"  {wall:.1f} s ({rows / wall:.0f} rows/s) with {workers} workers: {told}")
    together = mine + workers * child
    print(
        f"  peak memory {mine:.0f} MB, {child:.0f} MB in the largest worker, {together:.0f} MB together at most; {load()}"
    )
    print(f"  kept {report['kept']}, dropped {report['dropped']}")


def pictures(count: int, side: int, workers: int, folder: Path) -> None:
    """Take pictures into the store, hash them, and prepare a data set of them."""
    paths = make(folder / "pictures", count, side)
    print(f"{count} pictures of {side} px, {load()}")
    images = ImageStore()
    started = time.perf_counter()
    taken = [found for found in images.put_files(paths, workers=workers) if not isinstance(found, DataError)]
    stored = time.perf_counter() - started
    known: dict = {}
    for image in taken:
        hashes_of(Problem(image.sha, (Message("user", (image,)),), ""), images, known)
    wall = time.perf_counter() - started
    print(f"  stored by {workers} threads {stored:.1f} s, stored and hashed {wall:.1f} s, {len(known)} different")
    lines = ({"id": str(n), "question": f"Find x{n}.", "answer": str(n), "image": p.name} for n, p in enumerate(paths))
    rows = folder / "pictures" / "rows.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (folder / "eval.jsonl").write_text(
        json.dumps({"question": "Find x3.", "image": f"pictures/{paths[3].name}"}) + "\n"
    )
    started = time.perf_counter()
    store = ImageStore()
    against = [read_evaluation(folder / "eval.jsonl", store)]
    report = prepare("rows", rows, folder / "out", VERIFIERS, store, Options(workers=workers), against, render)
    print(f"  prepared, hashed and written {time.perf_counter() - started:.1f} s, peak memory {megabytes()[0]:.0f} MB")
    print(f"  kept {report['kept']}, dropped {report['dropped']}")


def real(data: Path, folder: Path) -> None:
    """A line per real set, nothing compared with anything."""
    for path in sorted(data.glob("*.jsonl")):
        started = time.perf_counter()
        report = prepare("rows", path, folder / path.stem, VERIFIERS, ImageStore())
        dropped = ", ".join(f"{reason} {n}" for reason, n in report["dropped"].items()) or "-"
        wall = time.perf_counter() - started
        print(f"{path.stem:22} {report['kept']:5} of {report['rows']:5} kept  {wall:5.1f} s  {dropped}", flush=True)


def main() -> None:
    """Run the part that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--questions", type=int, default=3_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if asked.real:
            real(asked.data, folder)
        elif asked.pictures:
            pictures(asked.pictures, asked.side, asked.workers, folder)
        else:
            text_rows(asked.rows, asked.questions, asked.workers, folder)


if __name__ == "__main__":
    main()
