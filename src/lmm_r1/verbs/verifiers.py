"""Verbs about verifiers: verify, serve-verifier."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from lmm_r1.rewards.cases import OURS, decide, mismatches, read_cases, summary
from lmm_r1.rewards.peers import PEERS
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.rewards.remote import TOKEN_VARIABLE, VerifierServer, own_verifier
from lmm_r1.runs.sanitise import sanitise
from lmm_r1.terminal import write_text


def verify(
    cases: Annotated[Path, typer.Argument(help="JSONL of {gold, prediction, choices?, expected?, kind?, verifier?}.")],
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write a line per case to this file, not to the terminal.")
    ] = None,
    against: Annotated[
        str, typer.Option("--against", metavar="A,B", help=f"Peers to compare with: {', '.join(PEERS)}.")
    ] = "",
    fail_on_mismatch: Annotated[
        bool, typer.Option("--fail-on-mismatch", help="Exit code 1 when a verdict is not the expected one.")
    ] = False,
) -> None:
    """Check predictions against gold answers: a verdict, its reason and its time for every case, in order."""
    rows = read_cases(cases)
    peers = [name.strip() for name in against.split(",") if name.strip()]
    decided = decide(rows, peers)
    records = [found.record() for found in decided[OURS]]
    for name in peers:
        records = [record | {name: found.record()} for record, found in zip(records, decided[name], strict=True)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if json_out is None:
        typer.echo(lines, nl=False)
    else:
        write_text(json_out, lines)
    for row in summary(rows, decided):
        typer.echo(
            sanitise("  ".join((f"{row[0]:16}", f"{row[1]:>5}", *(f"{cell:>30}" for cell in row[2:])))), err=True
        )
    if fail_on_mismatch and mismatches(rows, decided[OURS]):
        raise typer.Exit(1)


def serve_verifier(
    verifier: Annotated[str, typer.Option("--verifier", help="module:function; default: the built-in ones.")] = "",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8123,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes for your own function.")] = 2,
    limit_s: Annotated[float, typer.Option("--limit-s", min=0.01, help="Seconds a call of it may take.")] = 1.0,
) -> None:
    """Share a verifier with other machines; the token comes from $LMM_R1_VERIFIER_TOKEN."""
    chosen = VerifierPool(verifier, workers=workers, limit_s=limit_s) if verifier else own_verifier
    server = VerifierServer(os.environ.get(TOKEN_VARIABLE, ""), chosen, host, port)
    typer.echo(f"serving on {server.url}; stop with Ctrl-C")
    try:
        server.serve_forever()
    finally:
        server.server_close()
