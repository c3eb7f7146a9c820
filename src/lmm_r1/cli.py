"""The command `lmm-r1`: verbs -> functions, exit codes, nothing else.

Every fault is one line on stderr; the exit codes are those of errors.py. Leaves out all logic: recipes.py
and check.py read recipes, build.py, chain.py and ask.py do the work. They and the report are imported by the verbs that
need them: torch and transformers take seconds to load, and `--help` or `check` should not wait for them.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from lmm_r1 import __version__
from lmm_r1.check import check as check_recipe
from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.against import EvaluationFile, questions_of, read_evaluation
from lmm_r1.data.preparing.budget import Budget
from lmm_r1.data.preparing.delivery import summary as prepared_lines
from lmm_r1.data.preparing.prepare import Options as PrepareOptions
from lmm_r1.data.preparing.prepare import prepare as prepare_rows
from lmm_r1.data.preparing.vermulti import CONSTRUCTIONS
from lmm_r1.data.raw.sources import SOURCES
from lmm_r1.envs.check import check_game
from lmm_r1.errors import CheckpointError, Fault, LmmR1Error, RecipeError
from lmm_r1.evaluation.suites import suite
from lmm_r1.recipes import PROMPTS, load_recipe, options_from, recipes_folder
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.cases import OURS, decide, mismatches, read_cases, summary
from lmm_r1.rewards.peers import PEERS
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.rewards.remote import TOKEN_VARIABLE, VerifierServer, own_verifier
from lmm_r1.runs.diagnose import notes_of
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.sanitise import sanitise
from lmm_r1.terminal import one_line, show_episode, show_results, show_turn, whisper, write_json, write_text
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
    blind: Annotated[int, typer.Option("--blind", min=0, help="So many also with blank pictures.")] = 0,
    prompt: Annotated[str, typer.Option("--prompt", help=f"Prompt profile: {', '.join(PROMPTS)}.")] = "think",
    temperature: Annotated[float, typer.Option("--temperature", min=1e-6)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 64,
    seed: Seed = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Accuracy, format rate and length of a model on held-out sets."""
    use_threads(threads)
    require_prompt(prompt)
    results = work("ask").evaluate_model(
        model,
        sets=[name.strip() for name in sets.split(",") if name.strip()],
        items=items,
        blind=blind,
        prompt=prompt,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    write_json(json_out, results)
    show_results(results)


@app.command()
def difficulty(
    model: Annotated[str, typer.Argument(help='A model folder, a hub id, or "micro".')],
    data: Annotated[str, typer.Argument(help="A problems.jsonl, or synthetic:DOMAIN or synthetic:DOMAIN:FAMILY,...")],
    out: Annotated[Path, typer.Option("--out", help="JSON lines, one per row; rows that it holds are not sampled.")],
    items: Annotated[
        int | None, typer.Option("--items", min=1, help="Only the first rows; default: all, 500 synthetic ones.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Replies per row.")] = 8,
    prompt: Annotated[str, typer.Option("--prompt", help=f"Prompt profile: {', '.join(PROMPTS)}.")] = "think",
    temperature: Annotated[float, typer.Option("--temperature", min=1e-6)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 64,
    max_prompt_tokens: Annotated[int, typer.Option("--max-prompt-tokens", min=1)] = 512,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the replies, and of synthetic problems.")] = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """How often a model solves each row: what a recipe's difficulty, keep_between and order go by."""
    use_threads(threads)
    require_prompt(prompt)
    result = work("difficulty").measure_model(
        model,
        data,
        out,
        items=items,
        samples=samples,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        prompt=prompt,
        seed=seed,
        say=lambda line: typer.echo(line, err=True),
    )
    write_json(json_out, result)
    typer.echo(json.dumps(result, indent=2, ensure_ascii=True))


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
def play(
    player: Annotated[str, typer.Argument(help='A model folder, a hub id, "micro", or idle, random, expert.')],
    game: Annotated[str, typer.Option("--game", help="sokoban, football, or your own as module:attribute.")],
    level: Annotated[str, typer.Option("--level", help="A level file, a size, or a scenario; default: drawn.")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="An option of the game (docs/games.md).")
    ] = None,
    episode: Annotated[int, typer.Option("--episode", min=0, help="Which level of the file, or which draw.")] = 0,
    gif: Annotated[Path | None, typer.Option("--gif", help="Film the episode into this file.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", help=f"Prompt profile: {', '.join(PROMPTS)}.")] = "none",
    memory: Annotated[
        str, typer.Option("--memory", metavar="full|P,A", help="Everything, or the last P pictures and A actions.")
    ] = "1,5",
    temperature: Annotated[float, typer.Option("--temperature", min=1e-6)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 256,
    seed: Seed = 0,
    threads: Threads = None,
    json_out: Json = None,
) -> None:
    """Look on while a model, or a scripted player, plays an episode of a game; --gif films it."""
    use_threads(threads)
    require_prompt(prompt)
    found = re.fullmatch(r"([1-9]\d*),(\d+)", memory)
    if memory != "full" and found is None:
        raise RecipeError(Fault(f"must be full or PICTURES,ACTIONS, not {memory!r}", field="--memory"))
    told = work("playing").play_game(
        player,
        game,
        level=level,
        options=options_from(option or []),
        episode=episode,
        seed=seed,
        prompt=prompt,
        window=None if found is None else (int(found[1]), int(found[2])),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        gif=gif,
        watch=show_turn,
    )
    write_json(json_out, told)
    show_episode(told)


@app.command()
def check(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (TOML).")] = None,
    env: Annotated[
        str, typer.Option("--env", metavar="NAME", help="Check a game instead: a name or module:attribute.")
    ] = "",
    overrides: Overrides = None,
    json_out: Json = None,
) -> None:
    """Check a recipe, its data and its model folder without training anything; or whether a game keeps to its contract."""
    if (recipe is None) != bool(env):
        raise RecipeError("check takes a recipe, or --env NAME")
    report = check_recipe(recipe, overrides or [], count_tokens) if recipe is not None else check_game(env)
    write_json(json_out, report)
    for kind, lines in (("error", report["errors"]), ("pending", report["pending"])):
        for line in lines:
            typer.echo(one_line(f"{kind}: {Fault(**line)}"), err=kind == "error")
    if not report["ok"]:
        raise typer.Exit(report["exit_code"])
    typer.echo(f"{recipe or env}: ok" + (f", {len(report['pending'])} to obtain" if report["pending"] else ""))


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html of a run, finished or not."""
    from lmm_r1.reports.page import write_report

    typer.echo(write_report(run))


@app.command()
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
    json_out: Json = None,
) -> None:
    """Turn a data set's rows into problems.jsonl; every row is kept or counted under a reason."""
    from lmm_r1.data.raw.hub import open_input
    from lmm_r1.reports.dropped import render

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
            source, open_input(input_name), folder, VERIFIERS, images, options, files, page=render, say=whisper
        )
    for line in prepared_lines(result):
        whisper(line)
    result = {name: value for name, value in result.items() if name not in ("examples", "thumbnails")}
    write_json(json_out, result)
    typer.echo(json.dumps(result, indent=2, ensure_ascii=True))


def evaluation_file(where: str, images: ImageStore) -> EvaluationFile:
    """Evaluation questions of a file, a folder, or one of the package's own held-out sets ("suite:text")."""
    if not where.startswith("suite:"):
        return read_evaluation(where, images)
    return questions_of(where, suite(where.removeprefix("suite:")).problems(images, 500), images)


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


def work(part: Literal["build", "chain", "ask", "difficulty", "playing"]) -> ModuleType:
    """build.py (objects), chain.py (whole runs), ask.py, difficulty.py and playing.py (one model): they load torch."""
    from lmm_r1 import ask, build, chain, difficulty, playing

    return {"build": build, "chain": chain, "ask": ask, "difficulty": difficulty, "playing": playing}[part]


def require_prompt(prompt: str) -> None:
    """Raise RecipeError unless there is such a prompt profile."""
    if prompt not in PROMPTS:
        raise RecipeError(
            Fault(f'no prompt profile "{prompt}"', field="--prompt", remedy=f"known: {', '.join(PROMPTS)}")
        )


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


if __name__ == "__main__":
    main()
