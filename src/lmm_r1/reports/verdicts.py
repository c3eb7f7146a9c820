"""What the verifier said, counted by reason code, as HTML: per arm on the held-out sets, per stage while it trained.

A wrong answer is not the same as an answer that could not be read, or a verifier that gave up: a run whose errors or
timeouts grow is not learning what its reward curve shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmm_r1.reports.plots import number
from lmm_r1.reports.safety import clipped, safe

#: Reason codes in the order shown; a verifier of a user's own may add others.
REASONS = ("correct", "wrong", "no_answer", "unparsable_answer", "ambiguous", "too_big", "timeout", "error")
_PREFIX = "verdict/"
#: Ways in which verifiers failed that are shown of a stage.
MAX_WAYS = 20


def _ordered(found: set[str]) -> list[str]:
    return [reason for reason in REASONS if reason in found] + sorted(found - set(REASONS))


def _words(reason: str) -> str:
    return safe(reason.replace("_", " "))


def verdict_words(scored: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """[(what a verdict says, whether it is good)] of a rollout line, or of what it was paid as."""
    parts, verdicts = scored.get("parts") or {}, scored.get("verdicts") or {}
    right = number(parts, "accuracy") > 0
    said = [(str(verdicts.get("accuracy", "right" if right else "wrong")).replace("_", " "), right)]
    if "format" in parts:
        formed = number(parts, "format") > 0
        said.append(("well-formed" if formed else "format broken", formed))
    return said


def paid_as(record: Mapping[str, Any]) -> str:
    """Where rewards were shuffled: the verdicts that the reply was paid for, which are another reply's; else ""."""
    other = record.get("paid_as")
    if not isinstance(other, Mapping):
        return ""
    words = ", ".join(safe(words) for words, _ in verdict_words(other))
    return f'<span class="paid">paid as: {words} (rewards were dealt at random)</span>'


def failures(records: Sequence[Mapping[str, Any]]) -> str:
    """The replies of a stage that verifiers failed to judge: how each way of failing looked first; "" without any."""
    if not records:
        return ""
    ways: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        ways.setdefault((str(record.get("reason")), str(record.get("detail"))), []).append(record)
    rows = "".join(
        f"<tr><td>{safe(reason)}</td><td>{safe(detail)}</td><td>{len(found)}</td><td>{safe(found[0].get('step', '?'))}</td>"
        f"<td>{safe(found[0].get('problem_id', '?'))}</td><td><code>{safe(clipped(str(found[0].get('reply', '')), 200))}</code></td></tr>"
        for (reason, detail), found in list(ways.items())[:MAX_WAYS]
    )
    by_step = {str(record.get("step")): number(record, "of") for record in records}
    total = int(sum(count for count in by_step.values() if math.isfinite(count)))
    more = f", the first {MAX_WAYS} of {len(ways)} ways" if len(ways) > MAX_WAYS else ""
    head = "".join(f"<th>{t}</th>" for t in ("verdict", "what happened", "kept", "first at step", "problem", "reply"))
    return (
        f"<details open><summary>{total} failed verdicts of verifiers{more}: they say nothing about the replies</summary>"
        f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


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
