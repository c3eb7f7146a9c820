"""The style sheet of the report, kept apart from its words. System fonts, one column, prints well."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light;--ink:#1f2430;--soft:#5b6270;--line:#e3e6eb;--pale:#f6f7f9;--good:#0b7a4b;--bad:#b3362b;--blue:#0072b2}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 80px}
header{border-bottom:1px solid var(--line);padding-bottom:20px}
h1{font-size:32px;line-height:1.15;margin:0;letter-spacing:-.02em}
h2{font-size:20px;margin:44px 0 8px;letter-spacing:-.01em}
h4{margin:18px 0 8px;color:var(--soft);font-weight:600}
p{margin:6px 0 12px;max-width:78ch}
.kicker{margin:0 0 4px;color:var(--soft);font-size:12px;text-transform:uppercase;letter-spacing:.09em}
.lead{font-size:17px;color:var(--soft)}
.none{color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:8px 34px;margin:18px 0 0}
.facts dt{font-size:12px;color:var(--soft)}
.facts dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums}
.figure{display:block;width:100%;height:auto;margin:12px 0}
.wide{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:middle}
thead th{color:var(--soft);font-weight:500;font-size:12px;border-bottom-color:#c4c8d0}
tbody th,thead tr:last-child th:first-child{text-align:left;font-weight:600}
i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:8px}
h2 i{width:13px;height:13px}
.results{width:100%}
.results th,.results td{padding:6px 8px}
.results .set{text-align:left;color:var(--ink);font-weight:600;font-size:13.5px;border-left:1px solid var(--line)}
.results .first{border-left:1px solid var(--line)}
.results thead tr:last-child th{white-space:normal;line-height:1.2;vertical-align:bottom}
.results small{display:block;color:var(--soft);font-size:11.5px}
.results .top{background:#eef6fb}
.differences{width:100%}
.differences td{white-space:normal}
.differences td:first-child{text-align:left}
.differences .figures{white-space:nowrap;font-weight:600}
.differences small{font-weight:400;color:var(--soft)}
.bar{width:240px;min-width:160px}
.bar div{position:relative;height:18px}
.axis,.span,.dot{position:absolute;display:block}
.axis{left:50%;top:-6px;bottom:-6px;border-left:1px dashed #aab0bb}
.span{top:6px;height:6px;border-radius:3px;opacity:.4;background:#8a8f98}
.dot{top:4px;width:10px;height:10px;margin-left:-5px;border-radius:50%;background:#8a8f98}
.up .span,.up .dot{background:var(--good)}
.down .span,.down .dot{background:var(--bad)}
.up .figures:nth-child(2){color:var(--good)}
.down .figures:nth-child(2){color:var(--bad)}
.zero td:first-child{color:var(--soft)}
.plain td,.plain th{text-align:left}
.graph{max-width:100%;height:auto;font-family:inherit}
.graph .node{fill:#fff;stroke-width:2}
.graph .name{font-weight:600;font-size:13.5px;fill:var(--ink)}
.graph .note{font-size:11px;fill:var(--soft)}
.graph .edge{fill:none;stroke:#9aa1ad;stroke-width:1.6}
.conditions{margin:8px 0;padding:10px 14px 10px 30px;border-left:3px solid #c77700;background:#fdf6ea;border-radius:4px;font-size:13.5px}
.spent{color:var(--soft);font-size:13px}
details{border:1px solid var(--line);border-radius:10px;padding:10px 16px;margin:10px 0}
summary{cursor:pointer;font-weight:600}
.cards{display:flex;flex-direction:column;gap:14px}
.card{display:grid;grid-template-columns:minmax(200px,300px) 1fr;gap:20px;border:1px solid var(--line);border-radius:10px;padding:16px}
.ask .text span{display:block;white-space:pre-wrap;overflow-wrap:anywhere}
.ask .role{color:var(--soft);font-size:11.5px;text-transform:uppercase;letter-spacing:.06em;margin-top:6px}
.seen{display:block;max-width:100%;min-width:168px;image-rendering:pixelated;border:1px solid var(--line);border-radius:6px;margin-bottom:10px}
.gold{margin:10px 0 0;font-size:13.5px}
.reply{border-left:3px solid var(--line);padding-left:12px;margin-bottom:14px}
.reply p{margin:0 0 4px}
.tag{display:inline-block;border-radius:20px;padding:1px 9px;margin-right:6px;font-size:12px;font-weight:600}
.tag.good{background:#e3f4ec;color:var(--good)}
.tag.bad{background:#fbeae8;color:var(--bad)}
.opening{color:var(--soft)}
.why,.paid{display:block;font-size:12px;color:var(--bad)}
.paid{color:var(--soft)}
.reply .figures,.count{color:var(--soft);font-size:12px}
.gone{display:block;color:var(--soft);font-size:12.5px;font-style:italic}
.game{grid-template-columns:1fr;gap:10px}
.episode>p{margin:6px 0}
.episode .figures{color:var(--soft);font-size:12px}
.strip{display:flex;flex-wrap:wrap;gap:10px}
.turn{width:150px;font-size:12.5px}
.turn .seen{min-width:0;width:100%;margin-bottom:4px}
.turn .figures{float:right}
.turn pre{max-height:72px;padding:4px 6px;font-size:11px}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;max-height:340px;overflow-y:auto;background:var(--pale);border-radius:6px;
padding:8px 12px;font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
.origin{table-layout:fixed;width:100%}
.origin th{width:150px}
.origin td{text-align:left;white-space:normal;overflow-wrap:anywhere}
@media (max-width:760px){.card{grid-template-columns:1fr}.bar{display:none}main{padding:20px 14px 60px}}
@media print{details{border:0}pre{max-height:none}section{break-inside:avoid-page}}
"""
