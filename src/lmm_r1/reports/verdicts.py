"""What the verifier said, counted by reason code, as HTML: per arm on the held-out sets, per stage while it trained.

A wrong answer is not the same as an answer that could not be read, or a verifier that gave up: a run whose errors or
timeouts grow is not learning what its reward curve shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmm_r1.reports.plots import number
from lmm_r1.reports.safety import safe

#: Reason codes in the order shown; a verifier of a user's own may add others.
REASONS = ("correct", "wrong", "no_answer", "unparsable_answer", "ambiguous", "too_big", "timeout", "error")
_PREFIX = "verdict/"


def _ordered(found: set[str]) -> list[str]:
    return [reason for reason in REASONS if reason in found] + sorted(found - set(REASONS))


def _words(reason: str) -> str:
    return safe(reason.replace("_", " "))


def arms_table(arms: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    """Replies by reason, a row per arm and set; "" when no arm has counts."""
    rows = [
        (arm, name, cell["verdicts"])
        for arm, cells in arms.items()
        for name, cell in cells.items()
        if isinstance(cell, Mapping) and isinstance(cell.get("verdicts"), Mapping)
    ]
    if not rows:
        return ""
    shown = _ordered({str(reason) for _, _, counts in rows for reason in counts})
    head = "".join(f"<th>{_words(reason)}</th>" for reason in shown)
    body, last = [], ""
    for arm, name, counts in rows:
        label = f'<i style="background:{colours.get(arm, "#888")}"></i>{safe(arm)}' if arm != last else ""
        last = arm
        cells = "".join(f"<td>{safe(counts.get(reason, 0))}</td>" for reason in shown)
        body.append(f'<tr><th scope="row">{label}</th><td>{safe(name)}</td>{cells}</tr>')
    return (
        "<details><summary>What the verifier said: replies by reason</summary>"
        f'<div class="wide"><table class="verdicts"><thead><tr><th></th><th>set</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></details>"
    )


def stage_line(records: Sequence[Mapping[str, Any]]) -> str:
    """The share of each reason among a stage's training replies, in the first and the last tenth of its steps."""
    found = {key.removeprefix(_PREFIX) for record in records for key in record if key.startswith(_PREFIX)}
    if not found:
        return ""
    tenth = max(1, len(records) // 10)

    def share(part: Sequence[Mapping[str, Any]], reason: str) -> float:
        # A reason that does not occur in a step is not in its record.
        return sum(number(r, _PREFIX + reason) for r in part if _PREFIX + reason in r) / len(part)

    said = ", ".join(
        f"{_words(reason)} {100 * share(records[:tenth], reason):.0f} → {100 * share(records[-tenth:], reason):.0f} %"
        for reason in _ordered(found)
    )
    return f'<p class="spent">Verdicts on training replies, first to last steps: {said}.</p>'
