"""The view of a run while it goes on: stage, step, curves, where the seconds go, the last sampled reply.

On a terminal it is redrawn in place after each step; anywhere else (a pipe, a log file) it is one plain line
per step. Everything a model or a data set wrote is sanitised and shown as plain text, never as markup.

Left out: anything that only the files hold (runs/tracker.py). No thread runs: drawing happens in `step`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmm_r1.runs.sanitise import one_line, sanitise

_BARS = "▁▂▃▄▅▆▇█"
#: (metric, label, fixed range or None) of the curves
CURVES: tuple[tuple[str, str, tuple[float, float] | None], ...] = (
    ("reward/accuracy", "accuracy", (0.0, 1.0)),
    ("reward/format", "format", (0.0, 1.0)),
    ("length/mean", "length", None),
    ("entropy", "entropy", None),
    ("kl_ref", "kl", None),
)
PHASES = (("collect", "cyan"), ("anchor", "magenta"), ("update", "green"), ("sync", "blue"), ("evaluate", "yellow"))


def sparkline(values: Sequence[float], width: int, limits: tuple[float, float] | None = None) -> str:
    """The last `width` values as block characters, between `limits` (their own range when None)."""
    shown = list(values)[-width:]
    finite = [v for v in shown if math.isfinite(v)]
    if not finite:
        return ""
    low, high = limits or (min(finite), max(finite))
    span = high - low or 1.0
    top = len(_BARS) - 1
    return "".join(_BARS[min(top, max(0, round((v - low) / span * top)))] if math.isfinite(v) else "?" for v in shown)


@dataclass
class _Seen:
    """What the view shows now."""

    stage: str = ""
    steps: int = 0
    step: int = 0
    started: float = 0.0
    first_step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sample: str = ""
    left_out: list[str] = field(default_factory=list)
    results: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)


class LiveView:
    """start(), then stage(...) and step(...) as the run goes, evaluation(...) when there is one, stop()."""

    def __init__(self, console: Console | None = None, title: str = "lmm-r1") -> None:
        self._console = console or Console()
        self._title = title
        self._seen = _Seen()
        self._live: Live | None = None

    def start(self) -> None:
        """Take over the lower part of the terminal, if there is one."""
        if self._console.is_terminal:
            self._live = Live(Text("starting …"), console=self._console, auto_refresh=False, transient=False)
            self._live.start()

    def stop(self) -> None:
        """Give the terminal back; the last picture stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def note(self, text: str) -> None:
        """One line of news, above the view."""
        self._print(Text(one_line(text, 2000)))

    def stage(self, name: str, steps: int, done: int = 0) -> None:
        """A stage of `steps` steps begins; `done` of them were finished by an earlier session."""
        self._seen = _Seen(name, steps, done, time.monotonic(), done, results=self._seen.results)
        if self._live is None:
            self._print(Text(f"{name}: {steps} steps" + (f", {done} done before" if done else "")))
        self._draw()

    def step(self, step: int, metrics: Mapping[str, float | str], sample_text: str = "") -> None:
        """Step number `step` (counted from 1) is finished."""
        seen = self._seen
        seen.step = step
        seen.sample = sample_text or seen.sample
        seen.left_out = _left_out(metrics)
        for name, value in metrics.items():
            if isinstance(value, str):
                continue
            seen.history.setdefault(name, []).append(float(value))
            if name.startswith("seconds/"):
                phase = name.removeprefix("seconds/")
                seen.seconds[phase] = seen.seconds.get(phase, 0.0) + float(value)
        if self._live is None:
            self._print(Text(self._plain_line(step, metrics)))
        self._draw()

    def evaluation(self, arm: str, set_name: str, result: Mapping[str, Any]) -> None:
        """An arm was evaluated on a held-out set; result: a cell of results.json."""
        self._seen.results.append((arm, set_name, result))
        if self._live is None:
            self._print(Text(f"{arm} on {set_name}: {_accuracy(result)}"))
        self._draw()

    def _plain_line(self, step: int, metrics: Mapping[str, float | str]) -> str:
        parts = [f"{self._seen.stage} {step}/{self._seen.steps}"]
        for name, label, _ in CURVES:
            value = metrics.get(name)
            if value is not None:
                parts.append(f"{label} {float(value):.3g}")
        seconds = sum(float(v) for k, v in metrics.items() if k.startswith("seconds/"))
        return "  ".join([*parts, *_left_out(metrics), f"{seconds:.1f}s"])

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self.render(), refresh=True)

    def render(self) -> Group:
        """What is shown now."""
        width = max(40, min(self._console.width, 120))
        parts: list[Any] = [self._head(width), self._curves(width - 34), self._phases(width - 4)]
        if self._seen.left_out:
            parts.append(Text("  ".join(self._seen.left_out), style="yellow"))
        if self._seen.sample:
            lines = sanitise(self._seen.sample[-4000:]).splitlines()[-8:]
            body = Text("\n".join(one_line(line, width - 4) for line in lines), no_wrap=True)
            parts.append(Panel(body, title="a reply of this step", title_align="left", border_style="dim", width=width))
        if self._seen.results:
            parts.append(self._results())
        return Group(*parts)

    def _head(self, width: int) -> Table:
        seen = self._seen
        done = seen.step - seen.first_step
        left = (time.monotonic() - seen.started) / done * (seen.steps - seen.step) if done > 0 else None
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._title, style="bold"),
            Text(one_line(seen.stage, 30), style="bold cyan"),
            Text(f"step {seen.step}/{seen.steps}"),
            ProgressBar(total=max(seen.steps, 1), completed=seen.step, width=max(10, min(40, width - 60))),
            Text(f"{_clock(left)} left" if left is not None else ""),
        )
        return head

    def _curves(self, width: int) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, label, limits in CURVES:
            values = self._seen.history.get(name)
            if values:
                delta = values[-1] - values[0]
                table.add_row(
                    Text(label, style="dim"),
                    Text(f"{values[-1]:.4g}", style="bold", justify="right"),
                    Text(f"{delta:+.3g}", style="dim", justify="right"),
                    Text(sparkline(values, max(10, width), limits), style="cyan"),
                )
        return table

    def _phases(self, width: int) -> Group:
        """A bar of the stage's seconds by phase, and its legend."""
        total = sum(self._seen.seconds.values())
        bar, legend = Text(), Text()
        for phase, colour in PHASES:
            seconds = self._seen.seconds.get(phase, 0.0)
            if total > 0 and seconds > 0:
                bar.append("━" * max(1, round(seconds / total * width)), style=colour)
                legend.append(f"{phase} ", style=colour).append(f"{seconds:.1f}s ({seconds / total:.0%})   ")
        return Group(bar, legend)

    def _results(self) -> Table:
        """Arms down, sets across."""
        sets = list(dict.fromkeys(name for _, name, _ in self._seen.results))
        cells = {(arm, name): _accuracy(result) for arm, name, result in self._seen.results}
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("accuracy, 95 % interval")
        for name in sets:
            table.add_column(Text(one_line(name, 20)), justify="right")
        for arm in dict.fromkeys(arm for arm, _, _ in self._seen.results):
            table.add_row(Text(one_line(arm, 30)), *(Text(cells.get((arm, name), "")) for name in sets))
        return table


def _left_out(metrics: Mapping[str, float | str]) -> list[str]:
    """What was sampled in a step and not learned from; [] when nothing was."""

    def count(name: str) -> int:
        return int(float(metrics.get(f"collect/{name}", 0.0)))

    said = [f"discarded {count('discarded')} of {count('groups')} groups"] if count("discarded") else []
    return said + ([f"unjudged {count('unjudged')} of {count('replies')} replies"] if count("unjudged") else [])


def _accuracy(result: Mapping[str, Any]) -> str:
    """46.2 % [41.8, 50.6] from a cell of results.json, and how many replies were not judged."""
    accuracy, low, high = (100 * float(result[key]) for key in ("accuracy", "low", "high"))
    unjudged = f" ({result['unjudged']} unjudged)" if result.get("unjudged") else ""
    return f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]{unjudged}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
