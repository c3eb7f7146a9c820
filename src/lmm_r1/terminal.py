"""What the command writes: results as JSON and as a table, lines on stdout and stderr. Nothing untrusted reaches a terminal raw.

Leaves out: the verbs (cli.py) and the live view of a run (runs/live.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from lmm_r1.runs.sanitise import sanitise
from lmm_r1.types import Turn


def whisper(line: str) -> None:
    """A line for whoever watches, on stderr: stdout is the result's."""
    typer.echo(sanitise(line), err=True)


def whisper_settings(result: Mapping[str, Any]) -> None:
    """What a command on one model used, and where each value comes from; a profile by its name alone."""
    sources = result.get("settings_from", {})
    told = [f"{name} = {result[name]} ({sources[name]})" for name in sources if name != "system"]
    if told:
        whisper("used: " + ", ".join(told))


def write_json(path: Path | None, result: Any) -> None:
    """Write a command's result where `--json` says, if it does."""
    if path is not None:
        write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def show_results(results: dict[str, Any]) -> None:
    """The results table, the scores of games under it, and what its paired differences say."""
    sets = list(dict.fromkeys(name for arm in results["arms"].values() for name in arm))
    if not sets:
        return
    show_table("accuracy, 95 % interval", results["arms"], sets, _accuracy)
    games = [name for name in sets if any("score" in arm.get(name, {}) for arm in results["arms"].values())]
    if games:
        show_table("score, 95 % interval", results["arms"], games, _score)
    for finding in results.get("findings", []):
        typer.echo(finding)


def show_table(
    head: str, arms: Mapping[str, Mapping[str, Any]], sets: Sequence[str], told: Callable[[Mapping[str, Any]], str]
) -> None:
    """Arms down, sets across; arms that were evaluated on none of the sets are left out."""
    width = max(len(name) for name in (head, *arms))
    typer.echo(f"{head:<{width}}  " + "  ".join(f"{name:^24}" for name in sets))
    for arm, by_set in arms.items():
        if any(name in by_set for name in sets):
            shown = (told(by_set[name]) if name in by_set else "-" for name in sets)
            typer.echo(f"{arm:<{width}}  " + "  ".join(f"{cell:^24}" for cell in shown))


def _accuracy(cell: Mapping[str, Any]) -> str:
    return f"{cell['accuracy']:6.1%} [{cell['low']:6.1%}, {cell['high']:6.1%}]"


def _score(cell: Mapping[str, Any]) -> str:
    score = cell["score"]
    return f"{score['mean']:6.1f} [{score['low']:6.1f}, {score['high']:6.1f}]"


def one_line(message: str) -> str:
    """A fault as a line of the terminal: it may quote a file or a reply, which are not to be trusted."""
    return "lmm-r1: " + " ".join(sanitise(message).split())


def show_turn(env: object, turn: Turn) -> None:
    """A turn of a game that somebody looks at: what was said, what was played, and the board where a game has one as text."""
    said = turn.action or " ".join(turn.reply.split())[:80]
    typer.echo(sanitise(f"{turn.outcome:<10} {turn.reward:+.2f}  {said}"))
    board = getattr(env, "board", None)
    if board is not None:
        typer.echo(sanitise(board()))


def show_episode(told: dict[str, Any]) -> None:
    """How an episode ended, and where its film is."""
    turns = f"{len(told['turns'])} turn{'s' if len(told['turns']) != 1 else ''}"
    outcome = told["outcome"] or f"success {told['success']:.2f}"  # a game need not name its outcomes
    score = "" if told["score"] is None else f", score {told['score']:.1f}"
    typer.echo(
        sanitise(f"{told['source'] or told['game']}: {outcome} after {turns}, reward {told['reward']:.2f}{score}")
    )
    if told["gif"] is not None:
        typer.echo(f"film: {told['gif']}")
