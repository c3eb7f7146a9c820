"""The figure of a study: mean reply length over the steps, a curve per cell, as SVG text.

The first axis is told by colour, the last by panels, those between by line style. A curve is the running mean of the
mean over the seeds. Left out: the numbers (studies.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lmm_r1.reports.plots import COLOURS, INK, STYLE, finish, number, running_mean, svg_of
from lmm_r1.reports.studies import Row
from lmm_r1.runs.folder import StageFolder
from lmm_r1.runs.jsonl import read_steps

LINES = ("-", "--", ":", "-.")


def length_curves(study: Path, stage: str, rows: Sequence[Row], axes: Mapping[str, Sequence[str]]) -> str:
    """The figure over these runs. study: the folder that their own lie in; axes: axis -> its values."""
    first, *between = axes
    last = between.pop() if between else None
    colours = {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(axes[first])}
    styles: dict[tuple[str, ...], str] = {}
    for row in rows:
        styles.setdefault(tuple(row.labels[axis] for axis in between), LINES[len(styles) % len(LINES)])
    panels = list(axes[last]) if last else [""]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5 * len(panels), 3.6), layout="constrained")
        shared: Axes | None = None
        for i, value in enumerate(panels):
            shared = axis = figure.add_subplot(1, len(panels), i + 1, sharey=shared)
            for cell in dict.fromkeys(row.cell for row in rows if not last or row.labels[last] == value):
                runs = [row for row in rows if row.cell == cell]
                steps, lengths = curve([read_lengths(study / row.folder / stage) for row in runs])
                labels = runs[0].labels
                axis.plot(
                    steps,
                    running_mean(lengths, max(1, len(lengths) // 10)),
                    color=colours[labels[first]],
                    linestyle=styles[tuple(labels[name] for name in between)],
                    linewidth=1.6,
                )
            finish(axis, f"{value}: reply length, tokens" if value else "Reply length, tokens", False, legend=False)
        known = [Line2D([], [], color=colour, label=value) for value, colour in colours.items()]
        known += [Line2D([], [], color=INK, linestyle=s, label=" ".join(k)) for k, s in styles.items() if k]
        figure.legend(handles=known, loc="outside lower center", ncols=min(6, len(known)))
        return svg_of(figure)


def read_lengths(folder: Path) -> dict[int, float]:
    """Step -> mean reply length in tokens, of a stage folder."""
    return {int(record["step"]): number(record, "length/mean") for record in read_steps(StageFolder(folder).metrics)}


def curve(runs: Sequence[Mapping[int, float]]) -> tuple[list[int], list[float]]:
    """(steps, mean over the runs) of the steps that all of them have."""
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    return steps, [fmean(run[step] for run in runs) for step in steps]
