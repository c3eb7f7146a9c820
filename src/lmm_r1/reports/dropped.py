"""report.html of prepared data: what was kept, what was dropped and why, by source, with rows and pictures to look at.

Made from report.json alone. The rows come from anywhere: every text is sanitised and escaped, pictures are small copies
that the report brings along, and the page's policy forbids everything but inlined pictures and styles.
Left out: the counting (data/preparing/ledger.py) and the choice of examples (data/preparing/examples.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmm_r1.errors import Fault
from lmm_r1.reports.safety import safe
from lmm_r1.reports.style import STYLE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{1,200000}")
#: Sources shown one by one; the rest is added up.
MOST_SOURCES = 40
_MORE_STYLE = """
.reasons td:first-child,.reasons td:nth-child(n+4){text-align:left;white-space:normal}
.reasons td:nth-child(n+4){color:var(--soft);min-width:260px;overflow-wrap:anywhere}
.share{display:inline-block;width:120px;height:9px;background:var(--pale);border-radius:4px;vertical-align:middle}
.share b{display:block;height:9px;background:var(--blue);border-radius:4px}
.row{border-left:3px solid var(--line);padding:2px 0 2px 12px;margin:12px 0}
.row p{margin:2px 0;max-width:none}.row .place{color:var(--soft);font-size:12px;overflow-wrap:anywhere}
.row pre{max-height:220px;margin:4px 0}.row img{max-width:160px;border:1px solid var(--line);border-radius:4px;margin:4px 8px 0 0}
.row .why{color:var(--bad);overflow-wrap:anywhere}
"""


def render(report: Mapping[str, Any]) -> str:
    """The page as text."""
    title = f"{report.get('source', '')}: {report.get('input', '')}"
    body = [
        _head(report, title),
        _reasons(report),
        _sources(report),
        _paper(report.get("paper")),
        _against(report),
        _examples(report),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{safe(title)} · lmm-r1</title>'
        f"<style>{STYLE}{_MORE_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Mapping[str, Any], title: str) -> str:
    rows, kept = _count(report.get("rows")), _count(report.get("kept"))
    facts = [("rows read", f"{rows:,}"), ("kept", f"{kept:,}"), ("dropped", f"{rows - kept:,}")]
    facts.append(("kept share", f"{kept / rows:.1%}" if rows else "–"))
    if report.get("revision"):
        facts.append(("revision", str(report["revision"])[:12]))
    options = report.get("options") or {}
    facts += [
        (str(name).replace("_", " "), str(value)) for name, value in options.items() if value not in (None, False)
    ]
    listed = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in facts)
    return (
        f'<header><p class="kicker">lmm-r1 prepared data</p><h1>{safe(title)}</h1>'
        f'<p class="lead">Every row that was read is kept or counted under one reason.</p><dl class="facts">{listed}</dl></header>'
    )


def _reasons(report: Mapping[str, Any]) -> str:
    dropped = report.get("dropped") or {}
    if not dropped:
        return "<section><h2>Dropped</h2><p>No row was dropped.</p></section>"
    total, whys = max(1, _count(report.get("rows"))), report.get("reasons") or {}
    first = report.get("first") or {}
    lines = []
    for reason, n in sorted(dropped.items(), key=lambda item: (-_count(item[1]), str(item[0]))):
        share = _count(n) / total
        bar = f'<span class="share"><b style="width:{100 * min(1.0, share):.1f}%"></b></span>'
        lines.append(
            f"<tr><td>{safe(reason)}</td><td>{_count(n):,}</td><td>{bar} {share:.1%}</td>"
            f"<td>{safe(whys.get(reason, ''))}</td><td>{_first(first.get(reason))}</td></tr>"
        )
    return (
        '<section><h2>Dropped, by reason</h2><div class="wide"><table class="reasons"><thead><tr><th>reason</th><th>rows</th>'
        f"<th>of all rows</th><th></th><th>first row</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _first(fault: Mapping[str, Any] | None) -> str:
    """The first fault of a reason, as the terminal shows it."""
    if not fault:
        return ""
    row, names = fault.get("row"), ("message", "file", "field", "remedy")
    message, file, field, remedy = (str(fault.get(name, "")) for name in names)
    return safe(Fault(message, file, row if isinstance(row, int) else None, field, remedy))


def _sources(report: Mapping[str, Any]) -> str:
    by_source = report.get("by_source") or {}
    reasons = sorted(report.get("dropped") or {})
    ranked = sorted(by_source.items(), key=lambda item: (-_rows(item[1]), str(item[0])))
    lines = [_source_line(name, entry, reasons) for name, entry in ranked[:MOST_SOURCES]]
    rest = [entry for _, entry in ranked[MOST_SOURCES:]]
    if rest:
        added = {
            "kept": sum(_count(entry["kept"]) for entry in rest),
            "dropped": {r: sum(_count(entry["dropped"].get(r, 0)) for entry in rest) for r in reasons},
        }
        lines.append(_source_line(f"{len(rest)} more sources", added, reasons))
    head = "".join(f"<th>{safe(reason)}</th>" for reason in reasons)
    categories = report.get("by_category") or {}
    shown = ", ".join(f"{safe(name)} {_count(n):,}" for name, n in categories.items())
    return (
        f'<section><h2>By source</h2><div class="wide"><table><thead><tr><th>source</th><th>kept</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{f'<p>Kept, by category: {shown}.</p>' if shown else ''}</section>"
    )


def _source_line(name: str, entry: Mapping[str, Any], reasons: Sequence[str]) -> str:
    cells = "".join(f"<td>{_count(entry['dropped'].get(reason, 0)) or ''}</td>" for reason in reasons)
    return f'<tr><th scope="row">{safe(name)}</th><td><b>{_count(entry["kept"]):,}</b></td>{cells}</tr>'


def _rows(entry: Mapping[str, Any]) -> int:
    return _count(entry["kept"]) + sum(map(_count, entry["dropped"].values()))


def _paper(paper: Mapping[str, Any] | None) -> str:
    if not paper:
        return ""
    entries = [*paper["sources"].items(), ("all", paper["total"])]
    lines = "".join(
        f'<tr><th scope="row">{safe(name)}</th><td>{_count(e["usable"]):,}</td><td>{_count(e["kept"]):,}</td><td>{_count(e["paper"]):,}</td></tr>'
        for name, e in entries
    )
    return (
        f"<section><h2>Beside the paper</h2><p>Usable rows, those that were drawn, and the rows of the paper's table {safe(paper['table'])}.</p>"
        '<div class="wide"><table><thead><tr><th>source</th><th>usable</th><th>kept</th><th>paper</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _against(report: Mapping[str, Any]) -> str:
    files = report.get("against") or []
    if not files:
        return "<section><h2>Contamination</h2><p>No evaluation file was given to compare with.</p></section>"
    names = ("questions", "unread", "pictures", "rows", "word_for_word", "questions_repeated")
    lines = "".join(
        f'<tr><th scope="row">{safe(f["file"])}</th>{"".join(f"<td>{_count(f[name]):,}</td>" for name in names)}</tr>'
        for f in files
    )
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in names)
    twins, told = report.get("image_twins"), ""
    if twins:
        told = "".join(
            f"<p>{'The same picture, bit for bit of its hash' if kind == 'exact' else 'A near picture, the same included'}: "
            f"{_count(twins[kind]['questions']):,} evaluation questions, {_count(twins[kind]['rows']):,} training rows.</p>"
            for kind in ("exact", "near")
        ) + (
            f"<p>Kept all the same: rows that ask a near question of a near picture "
            f"({_count(twins['sibling_rows']):,}), or of another one ({_count(twins['other_picture_rows']):,}).</p>"
        )
    return (
        "<section><h2>Contamination</h2><p>Questions of these files that stand in rows of the data: word for word, or at least half of "
        'their 8-word runs; where both have pictures, the same question about a near picture.</p><div class="wide"><table><thead><tr>'
        f"<th>evaluation file</th>{head}</tr></thead><tbody>{lines}</tbody></table></div>{told}</section>"
    )


def _examples(report: Mapping[str, Any]) -> str:
    examples, small = report.get("examples") or {}, report.get("thumbnails") or {}
    names = [name for name in examples if name != "kept"] + (["kept"] if "kept" in examples else [])
    parts = []
    for name in names:
        total = _count(report.get("kept")) if name == "kept" else _count((report.get("dropped") or {}).get(name))
        rows = "".join(_example(example, small) for example in examples[name])
        parts.append(f"<details><summary>{safe(name)}: {len(examples[name])} of {total:,}</summary>{rows}</details>")
    return f"<section><h2>Rows</h2>{''.join(parts)}</section>"


def _example(example: Mapping[str, Any], small: Mapping[str, Any]) -> str:
    place = " · ".join(str(example[key]) for key in ("source", "id") if example.get(key))
    parts = [f'<p class="place">row {safe(example.get("row", "?"))} {safe(place)}</p>']
    if example.get("why"):
        parts.append(f'<p class="why">{safe(example["why"])}</p>')
    if "text" in example:
        parts.append(f"<pre>{safe(example['text'])}</pre><p>Answer: <b>{safe(example.get('answer', ''))}</b></p>")
    for sha in example.get("pictures") or ():
        data = small.get(sha, "")
        if isinstance(data, str) and _BASE64.fullmatch(data):
            parts.append(f'<img alt="picture {safe(sha)[:12]}" src="data:image/jpeg;base64,{data}">')
        else:
            parts.append('<span class="gone">picture is not shown</span>')
    return f'<div class="row">{"".join(parts)}</div>'


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
