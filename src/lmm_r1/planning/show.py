"""A plan as tables on a terminal.

Leaves out: JSON (planner.Plan.record).
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lmm_r1.planning.gpus import GIB
from lmm_r1.planning.phases import PHASES
from lmm_r1.planning.planner import Plan
from lmm_r1.runs.sanitise import sanitise


def show_plan(found: Plan, console: Console, price: float | None = None) -> None:
    """Memory and time of every stage, what does not fit, and the whole."""
    setting = found.setting
    where = f"{setting.gpus} x {setting.gpu.name}, {setting.layout}"
    if setting.layout == "split":
        where += f" ({setting.samplers} sample, {setting.ranks} learn, {setting.ahead} steps ahead)"
    console.print(
        f"{found.recipe}: {sanitise(found.shape.name)}, {found.shape.parameters / 1e9:.3f} B parameters, on {where}, engine "
        f"{setting.engine}; replies of {setting.reply_tokens:g} tokens",
        highlight=False,
        markup=False,
    )
    console.print(_memory(found))
    for stage in found.stages:
        phase, need = stage.memory.peak
        if need > setting.gpu.memory:
            over = (need - setting.gpu.memory) / GIB
            console.print(
                f"{stage.name} does not fit while it {_VERB[phase]}: {over:.1f} GiB too much", highlight=False
            )
            for remedy in stage.remedies:
                left = f"fits with {remedy.spare / GIB:.1f} GiB to spare" if remedy.spare >= 0 else "not enough alone"
                console.print(
                    f"  {remedy.knob}: {remedy.saves / GIB:.1f} GiB less, {left}", highlight=False, markup=False
                )
    console.print(_time(found))
    console.print(
        f"whole recipe: {_range(found.hours, 'h')} with {_range(found.before, 'h')} for the base's evaluation",
        highlight=False,
    )
    if found.cost is not None:
        console.print(f"cost at {price:g} per GPU-hour: {_range(found.cost, '')}", highlight=False)


_VERB = {"collect": "samples", "learn": "learns"}


def _memory(found: Plan) -> Table:
    table = Table(title="memory of a GPU, GiB (collect / learn)", title_justify="left")
    table.add_column("part")
    for stage in found.stages:
        table.add_column(stage.name, justify="right")
    parts = list(found.stages[0].memory.learn)
    for part in parts:
        table.add_row(part, *(_two(stage.memory.collect[part], stage.memory.learn[part]) for stage in found.stages))
    table.add_section()
    sums = [_two(sum(s.memory.collect.values()), sum(s.memory.learn.values())) for s in found.stages]
    table.add_row("all", *sums)
    fits = ["fits" if s.memory.peak[1] <= found.setting.gpu.memory else "TOO MUCH" for s in found.stages]
    table.add_row(f"of {found.setting.gpu.memory_gib:g}", *fits)
    return table


def _two(collect: float, learn: float) -> str:
    return f"{collect / GIB:.1f} / {learn / GIB:.1f}" if collect or learn else "-"


def _time(found: Plan) -> Table:
    table = Table(title="seconds of a step: middle pace (fast to slow)", title_justify="left")
    for column in ("stage", *PHASES, "step", "steps x hours"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in found.stages:
        cells = [_range({p: phases[name].seconds for p, phases in stage.phases.items()}, "") for name in PHASES]
        steps = round(stage.hours["middle"] * 3600 / stage.step["middle"]) if stage.step["middle"] else 0
        table.add_row(stage.name, *cells, _range(stage.step, ""), f"{steps} = {_range(stage.hours, 'h')}")
        table.add_row("", *(stage.phases["middle"][name].bound for name in PHASES), "", "", style="dim")
    return table


def _range(values: dict[str, float], unit: str) -> str:
    middle = values["middle"]
    if middle == 0:
        return "-"
    return f"{_number(middle)}{unit and ' ' + unit} ({_number(values['fast'])} to {_number(values['slow'])})"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def show_scaling(plans: Sequence[Plan], console: Console, stage: str) -> None:
    """One stage over numbers of GPUs: where the time goes, what bounds it, and what each GPU is still worth."""
    table = Table(title=f"{stage}, middle pace: seconds of a step, and what bounds each phase", title_justify="left")
    for column in ("GPUs", *PHASES, "step", "worth of a GPU", "hours", "memory", "bounds"):
        table.add_column(column, justify="left" if column == "bounds" else "right")
    alone = 0.0  # replies that a GPU of the first plan is worth in a second
    for found in plans:
        one = next(s for s in found.stages if s.name == stage)
        alone = alone or one.load.replies / one.step["middle"] / found.setting.gpus
        worth = (one.load.replies / one.step["middle"] / found.setting.gpus) / alone
        phases = one.phases["middle"]
        bounds = "; ".join(f"{name}: {phases[name].bound}" for name in ("collect", "update"))
        peak = one.memory.peak[1]
        fits = f"{peak / GIB:.1f}" + ("" if peak <= found.setting.gpu.memory else " (too much)")
        seconds = [_number(phases[name].seconds) for name in PHASES]
        table.add_row(
            str(found.setting.gpus), *seconds, _number(one.step["middle"]), f"{worth:.0%}", _number(one.hours["middle"]),
            fits, bounds,
        )  # fmt: skip
    console.print(table)
