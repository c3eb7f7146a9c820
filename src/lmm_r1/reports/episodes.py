"""Episodes of games as HTML: one strip a sibling, a frame for every turn with what was said, played and earned.

Everything shown was written by a model or a game and is escaped; frames are read by their sha256 alone.
Leaves out: questions with one reply (rollouts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmm_r1.reports.safety import clipped, number, picture, safe
from lmm_r1.reports.verdicts import paid_as

#: Turns of an episode that are shown, the first and the last ones.
MAX_TURNS = 12


def is_game(record: Mapping[str, Any]) -> bool:
    """Whether a rollout line is (a segment of) an episode."""
    return isinstance(record.get("turns"), list) and bool(record["turns"])


def strips(images: Path, records: Sequence[Mapping[str, Any]], episodes: int, question: Callable[[str], str]) -> str:
    """The best, the worst and what lies between of one problem's episodes. images: the stage's folder of pictures."""
    played: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for record in records:
        played.setdefault((record.get("episode"), record.get("sibling")), []).append(record)
    ranked = sorted(played.values(), key=lambda segments: -number(segments[0].get("reward")))
    count = len(ranked)
    if count > episodes:
        ranked = [ranked[round(i * (count - 1) / max(1, episodes - 1))] for i in range(episodes)]
    shown = "".join(_strip(images, sorted(segments, key=lambda r: number(r.get("segment")))) for segments in ranked)
    asked = question(str(records[0].get("prompt", "")))
    return (
        f'<article class="card game"><div class="ask"><div class="text">{asked}</div></div>{shown}'
        f'<p class="count">{len(ranked)} of {count} episodes</p></article>'
    )


def _strip(images: Path, segments: Sequence[Mapping[str, Any]]) -> str:
    """One episode."""
    first = segments[0]
    turns = [found for segment in segments for found in _turns(segment)]
    shown = turns if len(turns) <= MAX_TURNS else [*turns[: MAX_TURNS // 2], None, *turns[-MAX_TURNS // 2 :]]
    cells = "".join(_turn(images, found) if found else '<div class="turn gone">…</div>' for found in shown)
    outcome = str(turns[-1][0].get("outcome", "")) if turns else ""
    won = bool(turns) and number(turns[-1][0].get("success")) > 0
    head = (
        f'<span class="tag {"good" if won else "bad"}">{safe(outcome).replace("_", " ")}</span>'
        f'<span class="figures">reward {number(first.get("reward")):.2f} · advantage {number(first.get("advantage")):+.2f} · '
        f"{len(turns)} turns</span>{paid_as(first)}"
    )
    return f'<div class="episode"><p>{head}</p><div class="strip">{cells}</div></div>'


def _turns(segment: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str, object]]:
    """(turn, reply, sha of the frame that it answers) of a segment: with a window the last picture is the present one, in a
    growing stream each turn has its own."""
    turns, replies, shas = segment["turns"], segment.get("replies") or [], segment.get("images") or []
    at = [shas[-1:]] if len(turns) == 1 else [shas[k : k + 1] for k in range(len(turns))]
    return [
        (turn, str(replies[k]) if k < len(replies) else "", at[k][0] if at[k] else None)
        for k, turn in enumerate(turns)
        if isinstance(turn, Mapping)
    ]


def _turn(images: Path, found: tuple[Mapping[str, Any], str, object]) -> str:
    turn, reply, sha = found
    action = str(turn.get("action") or "")
    said = safe(action) if action else f"<i>{safe(str(turn.get('outcome', 'nothing'))).replace('_', ' ')}</i>"
    frame = picture(images, sha) if sha is not None else ""
    return (
        f'<div class="turn">{frame}<b>{said}</b><span class="figures">{number(turn.get("reward")):+.2f}</span>'
        f"<pre>{safe(clipped(reply, 300))}</pre></div>"
    )
