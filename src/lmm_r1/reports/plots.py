"""Figures of the report, as SVG text: learning curves, accuracy with intervals, the graph of stages.

Text becomes paths and nothing is random, so that the same run folder gives the same bytes on a machine
without our fonts. Matplotlib is used without pyplot: no window, no global figure.

Left out: tables and words (reports/page.py).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from lmm_r1.runs.sanitise import one_line

Records = Sequence[Mapping[str, Any]]

#: Okabe and Ito's colours, told apart by readers with any colour vision; grey is for the base.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#5c4033")
GREY = "#8a8f98"
INK, FAINT = "#1f2430", "#e6e8ec"
#: (metrics, title, in percent) of the panels of a stage
PANELS: tuple[tuple[tuple[str, ...], str, bool], ...] = (
    (("reward/accuracy", "reward/format"), "Sampled replies that are right / well-formed", True),
    (("length/mean",), "Reply length, tokens", False),
    (("entropy",), "Entropy, nats per token", False),
    (("kl_ref",), "KL to the stage's start, nats per token", False),
    (("zero_advantage_share", "clip_share", "truncated_share"), "Shares: no advantage / clipped / truncated", True),
    (("grad_norm", "critic/grad_norm"), "Gradient norm", False),
    (("critic/explained",), "Critic: explained share of the returns' variance", False),
    (("critic/value", "critic/return"), "Critic: mean value / mean return", False),
    (("kl_coef",), "KL coefficient", False),
)
#: Names in a legend, where the last part of a metric's name does not tell it from its neighbour.
LABELS = {"grad_norm": "policy", "critic/grad_norm": "critic"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "lmm-r1",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "axes.edgecolor": "#c4c8d0",
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": "#5b6270",
    "ytick.color": "#5b6270",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def colour_of(arms: Sequence[str]) -> dict[str, str]:
    """A colour for each arm: grey for the base, the others in the order given."""
    others = [arm for arm in arms if not arm.startswith("base")]
    chosen = {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(others)}
    return {arm: chosen.get(arm, GREY) for arm in arms}


def number(record: Mapping[str, Any], name: str) -> float:
    """record[name] as a float; NaN when it is absent or no number."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def stage_curves(records: Records, colour: str) -> str:
    """The panels of one stage over its steps, raw values faint and their running mean strong; "" without any."""
    shown = [panel for panel in PANELS if any(_finite(records, name) for name in panel[0])]
    if not shown:
        return ""
    with matplotlib.rc_context(STYLE):
        rows = math.ceil(len(shown) / 3)
        high = 2.15 * rows
        figure = Figure(figsize=(11, high))  # fixed margins: laying panels out by their text doubles the time
        figure.subplots_adjust(0.045, 0.26 / high, 0.995, 1 - 0.26 / high, wspace=0.16, hspace=0.34)
        for i, (names, title, percent) in enumerate(shown):
            axes = figure.add_subplot(rows, 3, i + 1)
            shades = (colour, "#5b6270", "#b9bec8")
            drawn = [(name, shade) for name, shade in zip(names, shades, strict=False) if _finite(records, name)]
            for name, shade in drawn:
                plain = name.split("/")[-1].removesuffix("_share").replace("_", " ")
                _line(axes, records, name, shade, LABELS.get(name, plain))
            finish(axes, title, percent, legend=len(drawn) > 1)
        return svg_of(figure)


def compared_curves(stages: Mapping[str, Records], colours: Mapping[str, str]) -> str:
    """Accuracy and length of all stages over their steps; "" when no stage has a step."""
    stages = {name: records for name, records in stages.items() if _finite(records, "reward/accuracy")}
    if not stages:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.9), layout="constrained")
        panels = (
            ("reward/accuracy", "Sampled replies that are right", True),
            ("length/mean", "Reply length, tokens", False),
        )
        for i, (metric, title, percent) in enumerate(panels):
            axes = figure.add_subplot(1, 2, i + 1)
            for name, records in stages.items():
                _line(axes, records, metric, colours.get(name, GREY), one_line(name, 24))
            finish(axes, title, percent, legend=False)
            if i == 0:
                handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
        return svg_of(figure)


def accuracies(arms: Mapping[str, Mapping[str, Mapping[str, Any]]], colours: Mapping[str, str]) -> str:
    """Accuracy of each arm with its interval, a panel per held-out set; "" without any."""
    sets = list(dict.fromkeys(name for cells in arms.values() for name in cells))
    if not sets:
        return ""
    order = list(arms)[::-1]
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(11, 0.9 + 0.3 * len(order)), layout="constrained")
        for i, name in enumerate(sets):
            axes = figure.add_subplot(1, len(sets), i + 1)
            for row, arm in enumerate(order):
                cell = arms[arm].get(name, {})
                middle, low, high = (100 * number(cell, key) for key in ("accuracy", "low", "high"))
                axes.plot(
                    [low, high], [row, row], color=colours[arm], linewidth=2.2, solid_capstyle="round", alpha=0.45
                )
                axes.plot([middle], [row], "o", color=colours[arm], markersize=5.5)
                if math.isfinite(middle):
                    axes.annotate(
                        f"{middle:.1f}", (middle, row), (0, 5), textcoords="offset points", ha="center", fontsize=7.5
                    )
            axes.set_yticks(range(len(order)), [one_line(arm, 24) if i == 0 else "" for arm in order])
            axes.set_ylim(-0.6, len(order) - 0.2)
            axes.tick_params(axis="y", length=0)
            axes.margins(x=0.12)
            axes.set_title(f"{one_line(name, 24)}: accuracy, %")
        return svg_of(figure)


def _line(axes: Axes, records: Records, name: str, colour: str, label: str) -> None:
    steps = [number(record, "step") for record in records]
    values = [number(record, name) for record in records]
    smooth = running_mean(values, max(1, len(values) // 10))
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(steps, smooth, color=colour, linewidth=1.8, label=label)


def finish(axes: Axes, title: str, percent: bool, legend: bool) -> None:
    """Title, ticks and limits in the page's style; percent: the values are shares."""
    axes.set_title(title)
    axes.margins(x=0.02)
    if percent:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MultipleLocator(0.25) if percent else MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    if legend:
        axes.legend(loc="best", handlelength=1.2)


def running_mean(values: Sequence[float], half: int) -> list[float]:
    """Centred mean over up to 2 * half + 1 values; missing ones (NaN) are left out, not spread."""
    smooth = []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        smooth.append(sum(near) / len(near) if math.isfinite(value) else math.nan)
    return smooth


def _finite(records: Records, name: str) -> bool:
    return any(math.isfinite(number(record, name)) for record in records)


def svg_of(figure: Figure) -> str:
    """A figure as inline SVG, the same text for the same figure."""
    FigureCanvasAgg(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def stage_graph(starts: Mapping[str, str], notes: Mapping[str, str], colours: Mapping[str, str], text: Any) -> str:
    """The graph base -> stage -> stage as one inline SVG.

    starts: stage -> what it starts from. notes: a short line under each name. text: the escaper of the page.
    """
    depth = {"base": 0}
    while len(depth) <= len(starts):
        ready = {s: depth[start] + 1 for s, start in starts.items() if s not in depth and start in depth}
        if not ready:
            break  # stages that hang on nothing are not drawn; the recipe check refuses them
        depth |= ready
    row: dict[str, int] = {"base": 0}

    def place(name: str, at: int) -> int:
        """Lay the subtree of `name` out from row `at`; returns the first free row."""
        row[name] = at
        children = [s for s in starts if starts[s] == name and s in depth]
        for child in children:
            at = place(child, at)
        return at if children else at + 1

    rows = place("base", 0)
    wide, high, gap_x, gap_y = 210, 46, 60, 14
    at = {s: (depth[s] * (wide + gap_x) + 2, row[s] * (high + gap_y) + 2) for s in depth}
    lines, boxes = [], []
    for name, (x, y) in at.items():
        if name != "base":
            x0, y0 = at[starts[name]]
            a, b, c, d = x0 + wide, y0 + high / 2, x - 7, y + high / 2
            middle = a + (c - a) / 2
            lines.append(f'<path d="M{a} {b} C{middle} {b} {middle} {d} {c} {d}" class="edge" marker-end="url(#tip)"/>')
        boxes.append(
            f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="8" class="node" style="stroke:{colours.get(name, GREY)}"/>'
            f'<text x="{x + 12}" y="{y + 19}" class="name">{text(name)}</text>'
            f'<text x="{x + 12}" y="{y + 35}" class="note">{text(notes.get(name, ""))}</text>'
        )
    width, height = (max(depth.values()) + 1) * (wide + gap_x) - gap_x + 4, rows * (high + gap_y) - gap_y + 4
    tip = '<defs><marker id="tip" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    tip += '<path d="M0 0 8 4 0 8z" fill="#9aa1ad"/></marker></defs>'
    return f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" role="img">{tip}{"".join(lines + boxes)}</svg>'
