"""report.html: what a run showed, in one file that needs no network and no script.

Made from the run folder alone (recipe.toml, results.json, metrics.jsonl, rollouts, provenance.json); what is
missing is left out, so a run that still goes on has a report too. A content security policy forbids
everything but inlined pictures and styles, and every text is escaped: replies are not to be trusted.

Left out: figures (reports/plots.py), rollouts (reports/rollouts.py), verdicts (reports/verdicts.py).
"""

from __future__ import annotations

import base64
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmm_r1.config import PLAYERS, Recipe, Stage
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.reports import plots
from lmm_r1.reports.rollouts import stage_rollouts
from lmm_r1.reports.safety import safe
from lmm_r1.reports.style import STYLE
from lmm_r1.reports.verdicts import arms_table, failures, stage_line
from lmm_r1.runs.diagnose import diagnose
from lmm_r1.runs.folder import RunFolder, StageFolder
from lmm_r1.runs.jsonl import read_lines, read_steps, write_text

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(run_dir: str | Path) -> Path:
    """Write <run_dir>/report.html and return its path. Raises RecipeError when there is no run in `run_dir`."""
    run = RunFolder(run_dir)
    if not run.recipe.is_file() and not run.results.is_file():
        raise RecipeError(
            Fault(
                "holds no run (neither recipe.toml nor results.json)", str(run_dir), remedy="name a folder under runs/"
            )
        )
    write_text(run.report, render(run))
    return run.report


def render(run: RunFolder) -> str:
    """The page as text."""
    raw = tomllib.loads(run.recipe.read_text(encoding="utf-8")) if run.recipe.is_file() else {}
    recipe = _recipe(raw)
    results, origin = _json(run.results), _json(run.provenance)
    arms: dict[str, dict[str, Any]] = results.get("arms", {})
    names = list(recipe.stage) if recipe else [name for name in arms if not name.startswith("base")]
    metrics = {name: read_steps(run.path / name / "metrics.jsonl") for name in names}
    colours = plots.colour_of(list(dict.fromkeys([*arms, *names])))
    title = str(raw.get("name", run.path.name))
    body = [
        _head(title, str(raw.get("description", "")), raw, origin, metrics),
        _results(arms, results, colours),
        _differences(results.get("differences", []), colours),
        _stages(recipe, colours, metrics),
        _curves(metrics, colours),
        *(
            _stage(name, metrics[name], StageFolder(run.path / name), colours[name], i == 0)
            for i, name in enumerate(names)
        ),
        _origin(origin, run),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{safe(title)} · lmm-r1</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _recipe(raw: Mapping[str, Any]) -> Recipe | None:
    """The recipe with its defaults; None when it was written by a version that knew other fields."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError:
        return None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(Fault(f"is not JSON: {error}", str(path))) from error
    return content if isinstance(content, dict) else {}


def _figure(svg: str, alt: str) -> str:
    """A figure as an inlined picture: its own styles cannot reach the page."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img class="figure" alt="{safe(alt)}" src="data:image/svg+xml;base64,{data}">' if svg else ""


def _share(cell: Mapping[str, Any], name: str) -> str:
    value = plots.number(cell, name)
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"


def _head(
    title: str, description: str, raw: Mapping[str, Any], origin: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    steps = sum(len([r for r in records if plots.number(r, "step") > 0]) for records in metrics.values())
    seconds = sum(
        value
        for records in metrics.values()
        for r in records
        for key in r
        if key.startswith("seconds/") and (value := plots.number(r, key)) > 0
    )
    base = raw.get("model", {}).get("base", "micro") if isinstance(raw.get("model"), dict) else "micro"
    facts = [("start weights", base), ("seed", raw.get("seed", 0)), ("stages", len(metrics)), ("steps done", steps)]
    if seconds:
        facts.append(("time in steps", f"{seconds / 60:.1f} min"))
    if origin.get("started"):
        facts.append(("started", str(origin["started"])[:16].replace("T", " ")))
    listed = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in facts)
    return f'<header><p class="kicker">lmm-r1 run</p><h1>{safe(title)}</h1><p class="lead">{safe(description)}</p><dl class="facts">{listed}</dl></header>'


def _results(arms: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    if not arms:
        return '<section><h2>Results</h2><p class="none">No arm has been evaluated yet.</p></section>'
    sets = list(dict.fromkeys(name for cells in arms.values() for name in cells))
    best = {
        s: max(
            (plots.number(cells[s], "accuracy") for arm, cells in arms.items() if s in cells and arm not in PLAYERS),
            default=math.nan,
        )
        for s in sets
    }
    head = "".join(f'<th colspan="5" class="set">{safe(s)}</th>' for s in sets)
    columns = "<th>accuracy</th><th>format</th><th>right if formed</th><th>reasons</th><th>length</th>" * len(sets)
    rows = []
    for arm, cells in arms.items():
        row = f'<th scope="row"><i style="background:{colours[arm]}"></i>{safe(arm)}</th>'
        for name in sets:
            cell = cells.get(name)
            if not isinstance(cell, Mapping):
                row += '<td colspan="5" class="first none">not evaluated</td>'
                continue
            top = " top" if plots.number(cell, "accuracy") == best[name] else ""
            length = plots.number(cell, "mean_length")
            row += (
                f'<td class="first{top}"><b>{_share(cell, "accuracy")}</b><small>{_share(cell, "low")[:-2]} – {_share(cell, "high")[:-2]}</small>{_score(cell)}{_unjudged(cell)}</td>'
                f"<td>{_share(cell, 'format_rate')}</td><td>{_share(cell, 'accuracy_given_format')}</td><td>{_share(cell, 'reasoning_share')}</td>"
                f"<td>{f'{length:.1f}' if math.isfinite(length) else '–'}</td>"
            )
        rows.append(f"<tr>{row}</tr>")
    counts = sorted(
        {int(cell["n"]) for cells in arms.values() for cell in cells.values() if isinstance(cell.get("n"), int)}
    )
    items = " or ".join(map(str, counts))
    return (
        f"<section><h2>Results</h2><p>Held-out problems, {items} of each kind, one sampled reply each. Under each accuracy its 95 % interval; "
        "length in tokens; the highest accuracy is shaded. The last checkpoint of each stage is what is evaluated.</p>"
        f"{_figure(plots.accuracies(arms, colours), 'accuracy of each arm with its interval')}"
        f'<div class="wide"><table class="results"><thead><tr><th></th>{head}</tr><tr><th>arm</th>{columns}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{arms_table(arms, colours)}</section>"
    )


def _score(cell: Mapping[str, Any]) -> str:
    """The benchmark's score of a game, under its success; "" for questions."""
    score = cell.get("score")
    if not isinstance(score, Mapping):
        return ""
    mean, low, high = (plots.number(score, key) for key in ("mean", "low", "high"))
    return f"<small>score {mean:.1f} [{low:.1f}, {high:.1f}]</small>"


def _unjudged(cell: Mapping[str, Any]) -> str:
    """How many replies a verifier failed on: they are in no figure beside it."""
    count = plots.number(cell, "unjudged")
    return f"<small>{count:.0f} unjudged</small>" if count > 0 else ""


def in_words(difference: Mapping[str, Any]) -> str:
    """A paired difference as a sentence, saying so where its interval includes zero."""
    a, b, name = (str(difference.get(key, "?")) for key in ("a", "b", "set"))
    mean, low, high = (100 * plots.number(difference, key) for key in ("mean", "low", "high"))
    if not all(map(math.isfinite, (mean, low, high))):
        return f"{a} and {b} were not compared on {name}."
    if low <= 0 <= high:
        return f"No difference shown between {a} and {b} on {name}: the interval includes zero."
    return f"{a} is {abs(mean):.1f} points {'better' if mean > 0 else 'worse'} than {b} on {name}: the interval excludes zero."


def _differences(differences: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    if not differences:
        return ""
    ends = [abs(plots.number(d, key)) for d in differences for key in ("low", "high")]
    reach = max([e for e in ends if math.isfinite(e)], default=0.0) or 1.0
    rows = []
    for d in differences:
        mean, low, high = (plots.number(d, key) for key in ("mean", "low", "high"))
        shown = all(map(math.isfinite, (mean, low, high)))
        zero = shown and low <= 0 <= high
        kind = "zero" if zero or not shown else "up" if mean > 0 else "down"
        bar = ""
        if shown:
            left, right, dot = (50 + 48 * value / reach for value in (low, high, mean))
            bar = f'<span class="span" style="left:{left:.1f}%;width:{right - left:.1f}%"></span><span class="dot" style="left:{dot:.1f}%"></span>'
        figures = f"{100 * mean:+.1f} <small>[{100 * low:+.1f}, {100 * high:+.1f}]</small>" if shown else "–"
        rows.append(
            f'<tr class="{kind}"><td>{safe(in_words(d))}</td><td class="figures">{figures}</td>'
            f'<td class="bar"><div><span class="axis"></span>{bar}</div></td><td class="figures">{safe(d.get("n", ""))}</td></tr>'
        )
    return (
        "<section><h2>Paired differences</h2><p>Both arms answer the same problems; the difference is taken problem by problem, in points of "
        "accuracy, with its 95 % interval.</p>"
        '<table class="differences"><thead><tr><th></th><th>points</th><th></th><th>problems</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _replies(stage: Stage, records: Sequence[Mapping[str, Any]]) -> str:
    """Replies of a stage in all: as planned, and as sampled where its steps say so and it is another number."""
    counts = [plots.number(r, "collect/replies") for r in records if plots.number(r, "step") > 0]
    sampled = sum(n for n in counts if math.isfinite(n))
    planned = f"{stage.episodes:,}"
    return planned if sampled in (0, stage.episodes) else f"{planned} planned, {sampled:,.0f} sampled"


def _stages(
    recipe: Recipe | None, colours: Mapping[str, str], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    if recipe is None:
        return ""
    starts = {name: stage.start for name, stage in recipe.stage.items()}
    notes = {name: f"{stage.steps} steps · {_mixture(stage)}" for name, stage in recipe.stage.items()} | {
        "base": recipe.model.base
    }
    rows = []
    for name, stage in recipe.stage.items():
        r, w = stage.rollout, stage.reward
        reward = f"{w.format:g} format + {w.accuracy:g} accuracy" + (", dealt at random" if w.shuffle else "")
        cells = (
            stage.start, _mixture(stage), stage.steps, f"{r.prompts} × {r.siblings}", _replies(stage, metrics[name]),
            stage.algorithm.name, f"{stage.update.lr:g}", reward,
        )  # fmt: skip
        label = f'<th scope="row"><i style="background:{colours.get(name, plots.GREY)}"></i>{safe(name)}</th>'
        rows.append(f"<tr>{label}{''.join(f'<td>{safe(cell)}</td>' for cell in cells)}</tr>")
    head = "".join(
        f"<th>{t}</th>"
        for t in (
            "stage",
            "from",
            "data",
            "steps",
            "problems × replies",
            "replies in all",
            "algorithm",
            "peak lr",
            "reward",
        )
    )
    graph = plots.stage_graph(starts, notes, colours, safe)
    return (
        f'<section><h2>Stages</h2><div class="wide">{graph}</div><div class="wide"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _mixture(stage: Stage) -> str:
    """text, or 0.7 text + 0.3 geometry."""
    names = [(data.weight, data.domain or data.game or Path(data.path).stem) for data in stage.data]
    if len(names) == 1:
        return names[0][1]
    total = sum(weight for weight, _ in names)
    return " + ".join(f"{weight / total:.2g} {name}" for weight, name in names)


def _curves(metrics: Mapping[str, Sequence[Mapping[str, Any]]], colours: Mapping[str, str]) -> str:
    figure = _figure(plots.compared_curves(metrics, colours), "curves of all stages")
    note = "Measured on the replies sampled for training, each stage on its own problems: levels of different stages do not compare."
    return f"<section><h2>Learning curves</h2><p>{note}</p>{figure}</section>" if figure else ""


def _stage(name: str, records: Sequence[Mapping[str, Any]], folder: StageFolder, colour: str, unfolded: bool) -> str:
    shown = stage_rollouts(folder) if folder.rollouts.is_dir() else ""
    curves = _figure(plots.stage_curves(records, colour), f"curves of {name}")
    failed = failures(read_lines(folder.failures))
    if not shown and not curves and not failed:
        return ""
    rollouts = (
        f"<details{' open' if unfolded else ''}><summary>Sampled replies: first, middle and last step</summary>{shown}</details>"
        if shown
        else ""
    )
    return f'<section><h2><i style="background:{colour}"></i>{safe(name)}</h2>{curves}{_conditions(records)}{failed}{stage_line(records)}{_seconds(records)}{rollouts}</section>'


def _conditions(records: Sequence[Mapping[str, Any]]) -> str:
    """What diagnose() makes of the stage, a line each."""
    found = diagnose([r for r in records if plots.number(r, "step") > 0], least=1)
    lines = "".join(
        f"<li><b>{safe(c.name.replace('_', ' '))}</b>: {safe(c.seen)}. {safe(c.cause)}; {safe(c.remedy)}.</li>"
        for c in found
    )
    return f'<ul class="conditions">{lines}</ul>' if lines else ""


def _seconds(records: Sequence[Mapping[str, Any]]) -> str:
    """Where the stage's time went, in words."""
    total: dict[str, float] = {}
    for record in records:
        for key in record:
            value = plots.number(record, key)
            if key.startswith("seconds/") and math.isfinite(value):
                total[key.removeprefix("seconds/")] = total.get(key.removeprefix("seconds/"), 0.0) + value
    if not total:
        return ""
    spent = ", ".join(f"{safe(phase)} {seconds:.0f} s" for phase, seconds in total.items())
    return f'<p class="spent">{len(records)} steps, {sum(total.values()):.0f} s: {spent}.</p>'


def _origin(origin: Mapping[str, Any], run: RunFolder) -> str:
    rows = []
    for key, value in origin.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        rows.append(f'<tr><th scope="row">{safe(key)}</th><td>{safe(value)}</td></tr>')
    table = (
        f'<table class="origin"><tbody>{"".join(rows)}</tbody></table>'
        if rows
        else '<p class="none">No provenance was kept.</p>'
    )
    recipe = ""
    if run.recipe.is_file():
        text = run.recipe.read_text(encoding="utf-8")
        recipe = f"<details><summary>The whole recipe</summary><pre>{safe(text)}</pre></details>"
    return f"<section><h2>Provenance</h2>{table}{_changes(run)}{recipe}</section>"


def _changes(run: RunFolder) -> str:
    """What of the recipe was changed between sessions, and after how many steps of which stages."""
    told = []
    for line in read_lines(run.changes):
        steps = (
            ", ".join(f"{step} steps of {name}" for name, step in line.get("steps", {}).items())
            or "the first evaluation"
        )
        for change in line.get("changes", []):
            effect = f" ({change['effect']})" if change.get("effect") else ""
            words = f"{change['field']}: {change['was']} -> {change['now']}{effect}, after {steps}"
            told.append(f"<li>{safe(words)}</li>")
    return f"<h3>Changed between sessions</h3><ul>{''.join(told)}</ul>" if told else ""
