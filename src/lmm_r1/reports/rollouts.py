"""Sampled rollouts of a stage as HTML: the picture, the question, each reply with its verdict.

Everything shown was written by a model or comes from a data set: it is stripped of control characters and
escaped, and a picture is only ever read from the stage's images/ by its sha256.

Left out: how rollouts are kept (runs/tracker.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmm_r1.reports.episodes import is_game, strips
from lmm_r1.reports.safety import clipped, number, picture, safe
from lmm_r1.reports.verdicts import paid_as, verdict_words
from lmm_r1.runs.folder import StageFolder
from lmm_r1.runs.jsonl import read_lines

_PLACEHOLDERS = re.compile(r"(?:<\|vision_start\|>)?(?:<\|image_pad\|>)+(?:<\|vision_end\|>)?")
_ROLE = re.compile(r"<\|im_start\|>(\w+)\n?|<\|im_end\|>\n?|<\|endoftext\|>")


def question(prompt: str) -> str:
    """The prompt as a person reads it: one mark per picture, chat tokens as headings."""
    text = _PLACEHOLDERS.sub("[picture] ", prompt)
    pieces = _ROLE.split(text)
    shown = []
    for i, piece in enumerate(pieces):
        if i % 2 and piece:
            shown.append(f'<span class="role">{safe({"user": "question"}.get(piece, piece))}</span>')
        elif i % 2 == 0 and piece.strip():
            shown.append(f"<span>{safe(clipped(piece.strip()))}</span>")
    while shown and shown[-1].startswith('<span class="role">'):
        shown.pop()  # the generation prompt has no text of its own
    return "".join(shown)


def pick(paths: Sequence[Path], count: int) -> list[Path]:
    """The first, the last, and evenly spaced ones between."""
    if len(paths) <= count:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (count - 1))] for i in range(count)]


def stage_rollouts(folder: StageFolder, steps: int = 3, groups: int = 2, replies: int = 3) -> str:
    """Some groups of the stage's first, middle and last kept steps; "" when none was kept."""
    parts = []
    for path in pick(sorted(folder.rollouts.glob("step_*.jsonl")), steps):
        by_problem: dict[str, list[dict[str, Any]]] = {}
        for record in read_lines(path):
            by_problem.setdefault(str(record.get("problem_id")), []).append(record)
        step = path.stem.removeprefix("step_").lstrip("0") or "0"
        cards = "".join(_card(folder, records, replies) for records in list(by_problem.values())[:groups])
        parts.append(f'<h4>Step {safe(step)}</h4><div class="cards">{cards}</div>')
    return "".join(parts)


def _card(folder: StageFolder, records: Sequence[Mapping[str, Any]], replies: int) -> str:
    """One problem and some of its replies: the best, the worst, and what lies between."""
    first = records[0]
    if is_game(first):
        return strips(folder.images, records, replies, question)
    pictures = "".join(picture(folder.images, sha) for sha in first.get("images", []))
    ranked = sorted(records, key=lambda record: -number(record.get("reward")))
    shown = (
        [ranked[round(i * (len(ranked) - 1) / max(1, replies - 1))] for i in range(replies)]
        if len(ranked) > replies
        else ranked
    )
    begun = str((first.get("openings") or [""])[0])
    asked = question(str(first.get("prompt", "")).removesuffix(begun))
    answer = f'<p class="gold">Right answer: <b>{safe(first["answer"])}</b></p>' if "answer" in first else ""
    return (
        f'<article class="card"><div class="ask">{pictures}<div class="text">{asked}</div>{answer}</div>'
        f'<div class="replies">{"".join(_reply(record) for record in shown)}'
        f'<p class="count">{len(shown)} of {len(records)} replies</p></div></article>'
    )


def _reply(record: Mapping[str, Any]) -> str:
    tags = [
        f'<span class="tag {"good" if good else "bad"}">{safe(words)}</span>' for words, good in verdict_words(record)
    ]
    if record.get("stop") != "eos":
        tags.append(f'<span class="tag bad">stopped by {safe(record.get("stop"))}</span>')
    trainable = record.get("trainable")
    length = f"{sum(map(bool, trainable))} tokens" if isinstance(trainable, list) else ""
    figures = f"reward {number(record.get('reward')):.2f} · advantage {number(record.get('advantage')):+.2f} · {length}"
    replies = [str(reply) for reply in record.get("replies") or []]
    openings = [str(opening) for opening in record.get("openings") or []]
    text = "\n— — —\n".join(
        _begun(reply, openings[k] if k < len(openings) else "") for k, reply in enumerate(replies)
    )  # fmt: skip
    return (
        f'<div class="reply"><p>{"".join(tags)}<span class="figures">{figures}</span>{_why(record)}{paid_as(record)}</p>'
        f"<pre>{text}</pre></div>"
    )


def _begun(reply: str, opening: str) -> str:
    """A reply as HTML, what the chat template wrote of it set apart."""
    if not opening or not reply.startswith(opening):
        return safe(clipped(reply))
    return f'<span class="opening" title="written by the chat template">{safe(opening)}</span>{safe(clipped(reply[len(opening) :]))}'


def _why(record: Mapping[str, Any]) -> str:
    """What happened where a verifier failed."""
    details = record.get("details")
    found = details.values() if isinstance(details, Mapping) else ()
    return "".join(f'<span class="why">{safe(clipped(str(detail), 500))}</span>' for detail in found)
