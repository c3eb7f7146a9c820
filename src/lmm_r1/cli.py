"""The command `lmm-r1`: names -> verbs, exit codes, nothing else.

Every fault is one line on stderr; the exit codes are those of errors.py. The verbs lie in verbs/, which load what takes
seconds (torch, transformers) only when a verb needs it. Leaves out all logic: recipes.py and check.py read recipes,
build.py, chain.py and ask.py do the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lmm_r1 import __version__
from lmm_r1.errors import CheckpointError, LmmR1Error, RecipeError
from lmm_r1.terminal import one_line
from lmm_r1.verbs import data, models, recipes, runs, verifiers

#: In the order that --help lists them.
VERBS: dict[str, Callable[..., None]] = {
    "quickstart": runs.quickstart,
    "train": runs.train,
    "study": runs.study,
    "evaluate": models.evaluate,
    "difficulty": models.difficulty,
    "sample": models.sample,
    "play": models.play,
    "check": recipes.check,
    "plan": recipes.plan,
    "report": runs.report,
    "prepare": data.prepare,
    "verify": verifiers.verify,
    "serve-verifier": verifiers.serve_verifier,
    "build-base": models.build_base,
}

app = typer.Typer(
    name="lmm-r1",
    help="Strong reasoning for small multimodal models by two-stage rule-based RL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, verb in VERBS.items():
    app.command(name)(verb)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Strong reasoning for small multimodal models by two-stage rule-based RL."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `lmm-r1`: runs a verb and exits with the code that errors.py documents."""
    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run a verb; returns its exit code."""
    odd = next((text for text in arguments if not _is_text(text)), None)
    if odd is not None:
        typer.echo(f"lmm-r1: an argument is not UTF-8 text: {odd.encode(errors='backslashreplace').decode()}", err=True)
        return RecipeError.exit_code
    try:
        app(arguments, prog_name="lmm-r1")
    except SystemExit as stop:  # typer ends every verb so: usage faults with 2, Ctrl-C with 130
        return stop.code if isinstance(stop.code, int) else 0
    except LmmR1Error as error:
        for fault in error.faults:
            typer.echo(one_line(str(fault)), err=True)
        return error.exit_code
    except OSError as error:
        typer.echo(one_line(f"{error.filename or 'the disk'}: {error.strerror or error}"), err=True)
        return CheckpointError.exit_code
    return 0


def _is_text(argument: str) -> bool:
    """Whether an argument was UTF-8: Python carries other bytes along as halves of characters, which nothing can write."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


if __name__ == "__main__":
    main()
