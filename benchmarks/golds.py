"""Does every gold answer of a data set answer itself? Prints the share per set, and each gold that does not.

    python benchmarks/golds.py [--data FOLDER]

A gold that is rejected here would be dropped by `lmm-r1 prepare`. "strings" counts golds that only string equality
can compare (words, option letters in \\text, set differences).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from lmm_r1.rewards import math as verifier
from lmm_r1.rewards import verify
from lmm_r1.rewards.objects import Opaque

SETS = ("math500", "deepscaler_2000", "gsm8k_test", "gsm8k_train_2000", "geometry3k_train", "geometry3k_test",
        "geoqa_train", "mathvision_testmini", "olympiadbench_text", "aime24", "aime25")  # fmt: skip


def gold_of(row: dict[str, object]) -> str:
    """The final answer of a row: "answer" or "final_answer", behind #### where a solution comes first."""
    gold = row.get("final_answer") or row.get("answer")
    gold = gold[0] if isinstance(gold, list) and gold else gold
    return str(gold).rpartition("####")[2].strip()


def main() -> None:
    """Print a line per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    folder = parser.parse_args().data
    for name in SETS:
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            print(f"{name}: {path} is not here")
            continue
        golds = [gold_of(json.loads(line)) for line in path.read_text("utf-8").splitlines() if line.strip()]
        started = time.perf_counter()
        verdicts = [verify(gold, f"\\boxed{{{gold}}}") for gold in golds]
        spent = 1e6 * (time.perf_counter() - started) / len(golds)
        read = [verifier._read_gold(gold) for gold in golds]
        strings = sum(found is not None and isinstance(found[1], Opaque) for found in read)
        accepted = sum(verdict.value == 1.0 for verdict in verdicts)
        print(
            f"{name:22} {accepted:5} of {len(golds):5} accepted ({accepted / len(golds):7.2%})  strings {strings:3}"
            f"  {spent:5.0f} us each"
        )
        for row, (gold, verdict) in enumerate(zip(golds, verdicts, strict=True), start=1):
            if verdict.value != 1.0:
                print(f"    {path.name}:{row} {verdict.reason}: {gold[:100]!r}")


if __name__ == "__main__":
    main()
