"""The command `lmm-r1`: verbs -> functions, exit codes, nothing else.

Every fault is one line on stderr; the exit codes are those of errors.py. Leaves out all logic: recipes.py
and check.py read recipes, build.py, chain.py and ask.py do the work. They and the report are imported by the verbs that
need them: torch and transformers take seconds to load, and `--help` or `check` should not wait for them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer

from lmm_r1 import __version__
from lmm_r1.check import check as check_recipe
from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.data.prepare import prepare as prepare_rows
from lmm_r1.errors import CheckpointError, Fault, LmmR1Error, RecipeError
from lmm_r1.recipes import PROMPTS, load_recipe
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.cases import OURS, decide, mismatches, read_cases, summary
from lmm_r1.rewards.peers import PEERS
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.rewards.remote import TOKEN_VARIABLE, VerifierServer, own_verifier
from lmm_r1.runs.diagnose import notes_of
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.sanitise import sanitise
from lmm_r1.types import Problem

app = typer.Typer(
    name="lmm-r1",
    help="Strong reasoning for small multimodal models by two-stage rule-based RL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field of the recipe.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write into.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Fixes every random number.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; default $LMM_R1_THREADS, else 2.", show_default=False),
]


@app.command()
def quickstart(
    overrides: Overrides = None,
    out: Out = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the recipe's seed.")] = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """The main job at micro size: base -> FRE-Text -> MGT-Geo next to the control arms."""
    train(recipes_folder() / "quickstart.toml", None, overrides, out, seed, threads, json_out)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML).")],
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage and those it starts from.")] = None,
    overrides: Overrides = None,
    out: Out = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the recipe's seed.")] = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Run a recipe, or what is left of it: an existing run folder resumes by itself."""
    use_threads(threads)
    changes = [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    loaded = load_recipe(recipe, changes)
    folder = out or Path("runs") / loaded.name
    typer.echo(f"{loaded.name}: {loaded.description or recipe} (into {folder})")
    try:
        results = work("chain").run_recipe(loaded, recipe, folder, stage=stage)
        write_json(json_out, results)
        show_results(results)
    finally:  # a run that a guard stopped needs them most
        for note in notes_of(RunFolder(folder)):
            typer.echo(sanitise(f"note: {note}"))
    typer.echo(f"results: {folder / 'results.json'}\nreport:  {folder / 'report.html'}")


@app.command()
def study(
    grid: Annotated[Path, typer.Argument(help="A study (TOML): a recipe, axes and seeds.")],
    overrides: Overrides = None,
    out: Out = None,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Run a grid of runs of one recipe, or what is left of it, and say what each axis does."""
    from lmm_r1.study import load_study, run_study

    use_threads(threads)
    loaded = load_study(grid, overrides or [])
    folder = out or Path("runs") / loaded.file.name
    typer.echo(f"{loaded.file.name}: {len(loaded.runs)} runs of {loaded.base} (into {folder})")
    write_json(json_out, run_study(loaded, folder, lambda line: typer.echo(sanitise(line))))
    typer.echo(sanitise((folder / "study.md").read_text(encoding="utf-8")))
    typer.echo(f"summary: {folder / 'study.json'}\nfigure:  {folder / 'study.svg'}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help='A model folder, a hub id, or "micro".')],
    sets: Annotated[
        str, typer.Option("--sets", help="Held-out sets, separated by commas.")
    ] = "text,geometry,perception",
    items: Annotated[int, typer.Option("--items", min=1, help="Items of each set.")] = 500,
    prompt: Annotated[str, typer.Option("--prompt", help=f"Prompt profile: {', '.join(PROMPTS)}.")] = "think",
    temperature: Annotated[float, typer.Option("--temperature", min=1e-6)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 64,
    seed: Seed = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Accuracy, format rate and length of a model on held-out sets."""
    use_threads(threads)
    if prompt not in PROMPTS:
        raise RecipeError(
            Fault(f'no prompt profile "{prompt}"', field="--prompt", remedy=f"known: {', '.join(PROMPTS)}")
        )
    results = work("ask").evaluate_model(
        model,
        sets=[name.strip() for name in sets.split(",") if name.strip()],
        items=items,
        prompt=prompt,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    write_json(json_out, results)
    show_results(results)


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help='A model folder, a hub id, or "micro".')],
    prompt: Annotated[str, typer.Option("--prompt", help="What is asked.")],
    image: Annotated[list[Path] | None, typer.Option("--image", help="A picture; may be given again.")] = None,
    system: Annotated[str, typer.Option("--system", help="System prompt; empty for none.")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="Replies.")] = 1,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option("--temperature", min=1e-6)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 64,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Ask a model; the JSON holds token ids and log-probs."""
    use_threads(threads)
    result = work("ask").sample_model(
        model,
        prompt=prompt,
        images=list(image or []),
        system=system,
        n=n,
        seed=seed,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
    )
    write_json(json_out, result)
    for reply in result["samples"]:
        typer.echo(sanitise(reply["text"]))


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe (TOML).")], overrides: Overrides = None, json_out: Json = None
) -> None:
    """Check a recipe, its data and its model folder without training anything."""
    report = check_recipe(recipe, overrides or [], count_tokens)
    write_json(json_out, report)
    for kind, lines in (("error", report["errors"]), ("pending", report["pending"])):
        for line in lines:
            typer.echo(one_line(f"{kind}: {Fault(**line)}"), err=kind == "error")
    if not report["ok"]:
        raise typer.Exit(report["exit_code"])
    typer.echo(f"{recipe}: ok" + (f", {len(report['pending'])} to obtain" if report["pending"] else ""))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html of a run, finished or not."""
    from lmm_r1.reports.page import write_report

    typer.echo(write_report(run))


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="Which data set the rows come from.")],
    input_path: Annotated[Path, typer.Option("--input", help="The raw file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for problems.jsonl, images/ and report.json.")],
    json_out: Json = None,
) -> None:
    """Turn a data set's rows into problems.jsonl, and count what was dropped and why."""
    result = prepare_rows(source, input_path, out, VERIFIERS, ImageStore())
    write_json(json_out, result)
    typer.echo(json.dumps(result, indent=2, ensure_ascii=True))


@app.command()
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


@app.command("serve-verifier")
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


@app.command("build-base")
def build_base(
    out: Annotated[Path, typer.Option("--out", help="Folder of the new model.")],
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps; default: as shipped.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Fixes the weights; default: as shipped.")] = None,
    start: Annotated[Path | None, typer.Option("--start", help="An earlier build, to go on from.")] = None,
    done: Annotated[int, typer.Option("--done", min=1, help="Cycles of the recipe that --start stands for.")] = 1,
    threads: Threads = None,
) -> None:
    """Make the micro base model anew, by supervision from nothing but a seed (hours)."""
    use_threads(threads)
    typer.echo(work("build").build_base(out, steps=steps, seed=seed, start=start, done=done))


def work(part: Literal["build", "chain", "ask"]) -> ModuleType:
    """build.py (objects), chain.py (whole runs) or ask.py (questions to one model): they load torch."""
    from lmm_r1 import ask, build, chain

    return {"build": build, "chain": chain, "ask": ask}[part]


def count_tokens(model: Model, images: ImageStore, problems: Sequence[Problem]) -> list[int]:
    """Prompt tokens of each problem; loads torch, so only prepared data pay for it."""
    counts: list[int] = work("ask").prompt_tokens(model, images, problems)
    return counts


def use_threads(threads: int | None) -> None:
    """Fix the CPU threads of this process: a part of what fixes the numbers."""
    text = str(threads) if threads is not None else os.environ.get("LMM_R1_THREADS", "2")
    if not text.isdecimal() or int(text) < 1:
        raise RecipeError(Fault(f"must be a whole number of at least 1, not {text!r}", field="LMM_R1_THREADS"))
    os.environ["LMM_R1_THREADS"] = text
    work("build").set_threads(int(text))


def recipes_folder() -> Path:
    """The recipes that come with the package: beside its source, or where a wheel puts them."""
    checkout = Path(__file__).resolve().parents[2] / "recipes"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "lmm-r1" / "recipes"


def write_json(path: Path | None, result: Any) -> None:
    """Write a command's result where `--json` says, if it does."""
    if path is not None:
        write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def show_results(results: dict[str, Any]) -> None:
    """The results table, and what its paired differences say."""
    sets = list(dict.fromkeys(name for arm in results["arms"].values() for name in arm))
    head = "accuracy, 95 % interval"
    width = max(len(name) for name in (head, *results["arms"]))
    typer.echo(f"{head:<{width}}  " + "  ".join(f"{name:^24}" for name in sets))
    for arm, by_set in results["arms"].items():
        cells = (by_set.get(name) for name in sets)
        shown = (f"{c['accuracy']:6.1%} [{c['low']:6.1%}, {c['high']:6.1%}]" if c else "-" for c in cells)
        typer.echo(f"{arm:<{width}}  " + "  ".join(f"{cell:^24}" for cell in shown))
    for finding in results.get("findings", []):
        typer.echo(finding)


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


def one_line(message: str) -> str:
    """A fault as a line of the terminal: it may quote a file or a reply, which are not to be trusted."""
    return "lmm-r1: " + " ".join(sanitise(message).split())


if __name__ == "__main__":
    main()
