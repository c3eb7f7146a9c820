"""The quick start's table as Markdown, one for each run folder: `python benchmarks/quickstart_table.py RUN [RUN ...]`.

README.md and docs/results.md show its output. A table is bound to the seed, the number of threads and the kind of
processor, so its heading names all three.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

#: Arms of recipes/quickstart.toml, in the order in which README.md discusses them.
ARMS = {
    "base": "base",
    "base_no_prompt": "base, without the system prompt",
    "fre_text": "FRE-Text",
    "mgt_geo": "MGT-Geo (from FRE-Text)",
    "fre_multi": "FRE-Multi (control: pictures first)",
    "direct_geo": "Direct-Geo (control: one stage, as many rollouts)",
    "shuffled_reward": "shuffled reward (control)",
}
SETS = ("text", "geometry", "perception")


def accuracy(summary: dict[str, Any]) -> str:
    """Accuracy in % with its 95 % interval."""
    low, high = (f"{100 * summary[bound]:.1f}" for bound in ("low", "high"))
    return f"{100 * summary['accuracy']:.1f} [{low}, {high}]"


def table(run: Path) -> str:
    """Heading and table of one run folder."""
    arms = json.loads((run / "results.json").read_text(encoding="utf-8"))["arms"]
    made = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    lines = [
        f"{made['machine']['cpu']}, {made['threads']} threads, seed {made['seed']}:",
        "",
        "| arm | text | geometry | perception | replies that reason (text / geometry) | mean length (text) |",
        "|---|---|---|---|---|---|",
    ]
    for arm, title in ARMS.items():
        of = arms[arm]
        cells = [accuracy(of[name]) for name in SETS]
        reason = " / ".join(f"{100 * of[name]['reasoning_share']:.1f}" for name in ("text", "geometry"))
        lines.append(f"| {' | '.join([title, *cells, reason, format(of['text']['mean_length'], '.0f')])} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each run folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    print("\n\n".join(table(run) for run in parser.parse_args().runs))


if __name__ == "__main__":
    main()
