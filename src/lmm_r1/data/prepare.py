"""Raw data set -> problems.jsonl, images/ and a report of what was dropped and why.

Every row is kept or counted under a reason, with examples that name file, row and field. The report is
written last, so that a folder with report.json is whole.
Left out: deduplication and contamination checks.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from lmm_r1.data.filters import reason_to_drop
from lmm_r1.data.images import ImageStore
from lmm_r1.data.sources import SOURCES, Verifiers, read_problems, row_of
from lmm_r1.errors import DataError, Fault, RecipeError
from lmm_r1.types import Image

EXAMPLES = 10


def prepare(
    source: str, input: str | Path, out_dir: str | Path, verifiers: Verifiers, images: ImageStore
) -> dict[str, Any]:
    """Read, filter and write a data set; returns the report.

    source: a key of sources.SOURCES. verifiers: rewards.VERIFIERS; a gold that does not verify against itself is dropped.
    Report: {"source", "input", "kept", "dropped": {reason: n}, "by_source": {name: kept}, "examples": {reason: [fault]}}.
    Raises RecipeError for an unknown source, DataError when the input cannot be read or nothing is kept.
    """
    if source not in SOURCES:
        raise RecipeError(f"no data source '{source}' (there are: {', '.join(SOURCES)})")
    problems, faults = read_problems(input, images, verifiers, reader=SOURCES[source])
    dropped: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}

    def drop(reason: str, example: str) -> None:
        dropped[reason] += 1
        if len(examples.setdefault(reason, [])) < EXAMPLES:
            examples[reason].append(example)

    for fault in faults:
        drop(f"bad {fault.field.partition('[')[0] or 'row'}", str(fault))
    kept = []
    for problem in problems:
        reason = reason_to_drop(problem)
        if reason is None:
            kept.append(problem)
        else:
            drop(reason, problem.id)
    if not kept:
        first = str(faults[0]) if faults else "every row was filtered out"
        raise DataError(Fault(f"no row of it can be used; the first reason: {first}", file=str(input)))

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)

    def save(image: Image) -> str:
        return f"images/{images.save_png(image.sha, out / 'images').name}"

    lines = (json.dumps(row_of(problem, save), ensure_ascii=False) for problem in kept)
    _write(out / "problems.jsonl", "".join(f"{line}\n" for line in lines))
    report: dict[str, Any] = {
        "source": source,
        "input": Path(input).name,
        "kept": len(kept),
        "dropped": dict(sorted(dropped.items())),
        "by_source": dict(sorted(Counter(p.source for p in kept).items())),
        "examples": examples,
    }
    _write(out / "report.json", json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    return report


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
