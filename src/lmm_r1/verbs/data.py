"""The verb that prepares data: prepare."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.against import EvaluationFile, questions_of, read_evaluation
from lmm_r1.data.preparing.budget import Budget
from lmm_r1.data.preparing.delivery import summary as prepared_lines
from lmm_r1.data.preparing.prepare import Options as PrepareOptions
from lmm_r1.data.preparing.prepare import prepare as prepare_rows
from lmm_r1.data.preparing.vermulti import CONSTRUCTIONS
from lmm_r1.data.raw.sources import SOURCES
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.evaluation.suites import suite
from lmm_r1.rewards import VERIFIERS
from lmm_r1.runs.sanitise import sanitise
from lmm_r1.terminal import whisper, write_json
from lmm_r1.verbs import loading
from lmm_r1.verbs.options import Seed


def prepare(
    source: Annotated[str, typer.Argument(help=f"What the rows are: {', '.join([*SOURCES, *CONSTRUCTIONS])}.")],
    input_name: Annotated[
        str, typer.Option("--input", metavar="FILE|HUB_ID", help="The rows: owner/name[:split] is of the hub.")
    ],
    pictures: Annotated[
        Path | None, typer.Option("--images", metavar="DIR|ZIP", help="Where pictures lie; default: beside the file.")
    ] = None,
    prefix: Annotated[
        list[str] | None, typer.Option("--prefix", metavar="OLD=NEW", help="Rewrite paths of pictures.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Evaluation questions to keep out: FILE, SOURCE:FILE, a prepared folder, suite:NAME.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the result; default: data/SOURCE.")] = None,
    seed: Seed = 0,
    draw: Annotated[
        int | None, typer.Option("--sample", min=0, help="Draw so many rows; 0 = all.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Of a prompt, by upper bounds: pictures shrink, else the row goes."),
    ] = None,
    min_side: Annotated[int, typer.Option("--min-side", min=1, help="Pixels of a picture's shorter side.")] = 1,
    shuffle_choices: Annotated[bool, typer.Option("--shuffle-choices", help="Options in a seeded order.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; they change no result.")] = min(
        4, os.cpu_count() or 1
    ),
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE|-", help="Also write the report as JSON; - is stdout.")
    ] = None,
) -> None:
    """Turn a data set's rows into problems.jsonl; every row is kept or counted under a reason.

    Ends with 0 when any row is kept, however many are dropped, and with 3 when none is.
    """
    folder = out or Path("data") / source
    wrong = [pair for pair in prefix or [] if "=" not in pair]
    if wrong:
        raise RecipeError(Fault(f"must be OLD=NEW, not {wrong[0]!r}", field="--prefix"))
    options = PrepareOptions(
        seed=seed,
        sample=draw,
        min_side=min_side,
        budget=Budget(max_tokens) if max_tokens else None,
        shuffle_choices=shuffle_choices,
        workers=workers,
        images_from=pictures,
        prefixes=[(old, new) for old, _, new in (pair.partition("=") for pair in prefix or [])],
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as unpacked:
        images = ImageStore(spill=Path(unpacked))
        files = [evaluation_file(where, images) for where in against or []]
        result = prepare_rows(
            source,
            loading.work("hub").open_input(input_name),
            folder,
            VERIFIERS,
            images,
            options,
            files,
            page=loading.work("dropped").render,
            say=whisper,
        )
    as_json = json_out == Path("-")
    for line in (*prepared_lines(result), f"{folder / 'problems.jsonl'}  {folder / 'report.html'}"):
        typer.echo(sanitise(line), err=as_json)  # stdout is the JSON's where it is asked for
    figures = {name: value for name, value in result.items() if name not in ("examples", "thumbnails")}
    if as_json:
        typer.echo(json.dumps(figures, indent=2, ensure_ascii=True))
    else:
        write_json(json_out, figures)


def evaluation_file(where: str, images: ImageStore) -> EvaluationFile:
    """Evaluation questions of a file, a folder, or one of the package's own held-out sets ("suite:text")."""
    if not where.startswith("suite:"):
        return read_evaluation(where, images)
    return questions_of(where, suite(where.removeprefix("suite:")).problems(images, 500), images)
