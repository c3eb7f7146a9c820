"""What the runs of a study show: how each changed its replies, and what each axis does to that. Pure but for `read_run`.

"First" and "last" are the first and the last fifth of a run's steps, at least five of them (runs.diagnose.Window).
Left out: the grid and the running of it (study.py), the figure (study_figure.py). Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lmm_r1.runs.diagnose import Window
from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.jsonl import read_lines, read_steps

#: What the axes are compared by.
MEASURE = "length/change"
#: Two-sided 95 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom, and for a few larger numbers of them.
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
T_95_LARGE = {120: 1.980, 60: 2.000, 40: 2.021, 30: 2.042}
#: (measure, metric of metrics.jsonl) of what is read at both ends of a run.
ENDS = (
    ("length", "length/mean"),
    ("reward", "reward/mean"),
    ("accuracy", "reward/accuracy"),
    ("truncated_share", "truncated_share"),
    ("entropy", "entropy"),
    ("kl_ref", "kl_ref"),
)
HOW = (
    "A difference is a minus b, between runs that agree in every other axis and in the seed; n pairs give its mean and "
    "the 95 % interval mean ± t(n - 1) · s / √n (Student's t, s = standard deviation of the n differences, taken as "
    "independent). It is undecided when the interval includes 0 or has fewer than three pairs, and one interval in twenty "
    "misses by chance alone. It is an average over the other axes: where they disagree, the interval is wide."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a study: its place in the grid and what was measured, or why it was stopped.

    labels: axis -> value, in the order of the axes. folder: relative to the study's.
    """

    labels: Mapping[str, str]
    seed: int
    folder: str
    measures: Mapping[str, float] = field(default_factory=dict)
    stopped: str = ""

    @property
    def cell(self) -> str:
        """Name of the cell: its labels, joined."""
        return "-".join(self.labels.values())


def read_run(folder: Path, stage: str) -> dict[str, float]:
    """The measures of a finished run folder. Raises CheckpointError for a damaged line."""
    run, files = RunFolder(folder), StageFolder(folder / stage)
    results = json.loads(run.results.read_text(encoding="utf-8"))
    kept = {int(p.stem.removeprefix("step_")): tally(read_lines(p)) for p in files.rollouts.glob("step_*.jsonl")}
    return measure(read_steps(files.metrics), kept, results["arms"].get(stage, {}))


def tally(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """How many of a step's kept replies are right and wrong, and their tokens together.

    lines: of rollouts/step_*.jsonl, in their order: an episode of several segments is one reply, its verdict on each.
    """
    counts = dict.fromkeys(("right", "right_tokens", "wrong", "wrong_tokens"), 0.0)
    for line in lines:
        kind = "right" if line["parts"]["accuracy"] >= 0.5 else "wrong"
        counts[kind] += line["segment"] == 0
        counts[f"{kind}_tokens"] += sum(line["trainable"])
    return counts


def measure(
    records: Sequence[Mapping[str, Any]], kept: Mapping[int, Mapping[str, float]], sets: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The measures of one run by name; NaN where there is nothing to measure.

    records: lines of metrics.jsonl by step. kept: step -> its tally. sets: the stage's arm in results.json.
    Lengths are in tokens, entropy and kl_ref in nats a token. <name>/first and <name>/last: of ENDS, and
    right/ and wrong/, the mean length of the kept replies that are so. length/change: last minus first.
    split/right, split/wrong, split/mix: the same change among the kept replies, as a sum of three parts: right replies
    changed, wrong replies changed, and the share of right ones did. evaluate/<set>/accuracy, evaluate/<set>/length.
    """
    nothing = tally(())
    window = Window([{**record, **kept.get(int(record["step"]), nothing)} for record in records])
    found: dict[str, float] = {}
    for name, metric in ENDS:
        found[f"{name}/first"], found[f"{name}/last"] = window.first(metric), window.last(metric)
    found[MEASURE] = found["length/last"] - found["length/first"]
    for kind in ("right", "wrong"):
        # Means of counts over the same steps, so that their ratio weighs every reply alike, not every step.
        for end, mean in (("first", window.first), ("last", window.last)):
            found[f"{kind}/{end}"] = _ratio(mean(f"{kind}_tokens"), mean(kind))
    shares = [_ratio(mean("right"), mean("right") + mean("wrong")) for mean in (window.first, window.last)]
    ends = [found[f"{kind}/{end}"] for kind in ("right", "wrong") for end in ("first", "last")]
    found |= split(shares[0], shares[1], *ends)
    for name, cell in sets.items():
        found[f"evaluate/{name}/accuracy"] = float(cell["accuracy"])
        found[f"evaluate/{name}/length"] = float(cell["mean_length"])
    return found


def split(
    share_first: float, share_last: float, right_first: float, right_last: float, wrong_first: float, wrong_last: float
) -> dict[str, float]:
    """The change of the mean length p R + (1 - p) W as three parts that add up to it exactly.

    p: share of right replies; R, W: mean length of right and of wrong ones, tokens. With means of first and last where
    the other factor's change stands, so that the order of the changes does not matter.
    """
    share = (share_first + share_last) / 2
    gap = (right_first + right_last) / 2 - (wrong_first + wrong_last) / 2
    return {
        "split/right": share * (right_last - right_first),
        "split/wrong": (1 - share) * (wrong_last - wrong_first),
        "split/mix": (share_last - share_first) * gap,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def spread(values: Iterable[float]) -> dict[str, float]:
    """{"mean", "low", "high", "n"} of the finite values; low and high are the smallest and the largest."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    return {"mean": fmean(finite), "low": min(finite), "high": max(finite), "n": len(finite)}


def t_quantile(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t; between two entries of the table the larger, cautious one."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    return next(quantile for known, quantile in T_95_LARGE.items() if known <= degrees)


def t_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % interval of a mean; low and high are NaN for fewer than two values."""
    if len(differences) < 2:
        return fmean(differences) if differences else math.nan, math.nan, math.nan
    mean = fmean(differences)
    half = t_quantile(len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def effects(rows: Sequence[Row], axes: Mapping[str, Sequence[str]], name: str = MEASURE) -> list[dict[str, Any]]:
    """For each axis and each two of its values, the paired difference of a measure over all other axes and seeds.

    axes: axis -> its values. Runs that were stopped, or that are not there yet, are in no pair.
    """
    found = []
    for axis, values in axes.items():
        by_value: dict[str, dict[tuple[Any, ...], float]] = {value: {} for value in values}
        for row in rows:
            value = row.measures.get(name, math.nan)
            if math.isfinite(value):
                others = (*(label for other, label in row.labels.items() if other != axis), row.seed)
                by_value[row.labels[axis]][others] = value
        for a, b in combinations(values, 2):
            pairs = [by_value[a][place] - by_value[b][place] for place in by_value[a] if place in by_value[b]]
            mean, low, high = t_interval(pairs)
            found.append(
                {"axis": axis, "a": a, "b": b, "measure": name, "mean": mean, "low": low, "high": high}
                | {"n": len(pairs), "verdict": verdict(a, b, low, high) if len(pairs) > 2 else "undecided"}
            )
    return found


def verdict(a: str, b: str, low: float, high: float) -> str:
    """What an interval of a minus b says."""
    if low > 0:
        return f"{a} above {b}"
    return f"{a} below {b}" if high < 0 else "undecided"


def cells_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per cell, in the order of the rows: its runs, and each measure over the seeds."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.cell, []).append(row)
    return [
        {
            "cell": cell,
            "labels": dict(runs[0].labels),
            "runs": [
                {"seed": r.seed, "folder": r.folder}
                | ({"stopped": r.stopped} if r.stopped else {"measures": dict(r.measures)})
                for r in runs
            ],
            "measures": {
                name: spread(r.measures[name] for r in runs if name in r.measures)
                for name in dict.fromkeys(name for r in runs for name in r.measures)
            },
        }
        for cell, runs in grouped.items()
    ]


def study_page(summary: Mapping[str, Any]) -> str:
    """study.md: the content of study.json as Markdown tables, aligned so that a terminal shows them as well."""
    cells, seeds = summary["cells"], len(summary["seeds"])
    sets = list(dict.fromkeys(n.split("/")[1] for c in cells for n in c["measures"] if n.startswith("evaluate/")))
    parts = [
        f"# {summary['name']}",
        *([summary["description"]] if summary["description"] else []),
        f"{summary['done']} of {summary['total']} runs. Figures are means over the seeds (at most {seeds}), with the "
        "smallest and the largest in brackets. First and last: the first and the last fifth of the steps, "
        "at least five; of fewer than ten steps the halves.",
        "## Reply length, tokens",
        *_table(
            cells,
            ("n", MEASURE, "", 0), ("first", "length/first", "", 1), ("last", "length/last", "", 1),
            ("change", MEASURE, "+", 1), ("right, first", "right/first", "", 1), ("right, last", "right/last", "", 1),
            ("wrong, first", "wrong/first", "", 1), ("wrong, last", "wrong/last", "", 1),
        ),
        "The change among the kept replies is the sum of three: right replies changed, wrong ones did, their shares did.",
        *_table(
            cells, ("right", "split/right", "+", 1), ("wrong", "split/wrong", "+", 1), ("shares", "split/mix", "+", 1),
            *((f"length on {name}, held out", f"evaluate/{name}/length", "", 1) for name in sets),
        ),
        "## Learning",
        *_table(
            cells, ("reward, first", "reward/first", "", 2), ("last", "reward/last", "", 2),
            ("accuracy, first", "accuracy/first", "%", 1), ("last", "accuracy/last", "%", 1),
            *((f"{name}, held out", f"evaluate/{name}/accuracy", "%", 1) for name in sets),
        ),
        *_table(
            cells, ("truncated, first", "truncated_share/first", "%", 1), ("last", "truncated_share/last", "%", 1),
            ("entropy, last", "entropy/last", "", 3), ("KL to the start, last", "kl_ref/last", "", 4),
        ),
        "## What each axis does to the change of the length, tokens",
        *_effects_table(summary["effects"]),
        HOW,
    ]  # fmt: skip
    stopped = [(c["cell"], r) for c in cells for r in c["runs"] if "stopped" in r]
    if stopped:
        parts += ["## Stopped runs", *(f"- {cell}, seed {r['seed']}: {r['stopped']}" for cell, r in stopped)]
    return "\n\n".join(parts) + "\n"


def _effects_table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = []
    for e in found:
        interval = f"[{_number(e['low'], '+', 1)}, {_number(e['high'], '+', 1)}]"
        pair, mean = f"{e['a']} - {e['b']}", _number(e["mean"], "+", 1)
        rows.append([e["axis"], pair, mean, interval, str(e["n"]), e["verdict"]])
    yield _aligned([["axis", "a - b", "mean", "95 % interval", "n", "verdict"], *rows])


def _table(cells: Sequence[Mapping[str, Any]], *columns: tuple[str, str, str, int]) -> Iterator[str]:
    """A row per cell; columns: (head, measure, "" or "+" or "%", digits), where 0 digits ask for n."""
    rows = [
        [cell["cell"], *(_shown(cell["measures"].get(name), kind, digits, runs) for _, name, kind, digits in columns)]
        for cell in cells
        for runs in [sum("stopped" not in run for run in cell["runs"])]
    ]
    yield _aligned([["cell", *(head for head, *_ in columns)], *rows])


def _shown(value: Mapping[str, Any] | None, kind: str, digits: int, runs: int) -> str:
    """mean [low, high]; the brackets only where there are several values, and how many where not every run has one."""
    if digits == 0:
        return str(value["n"] if value else 0)
    if value is None or not value["n"]:
        return "-"
    mean, low, high = (_number(value[key], kind, digits) for key in ("mean", "low", "high"))
    shown = f"{mean} [{low}, {high}]" if value["n"] > 1 else mean
    # Not every run has, say, a wrong reply at its end.
    return shown if value["n"] == runs else f"{shown} (n = {value['n']})"


def _number(value: float | None, kind: str, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.{digits}f} %" if kind == "%" else f"{value:{kind}.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first as its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = ("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows)
    return "\n".join([head, "|" + "|".join("-" * (w + 2) for w in widths) + "|", *body])
