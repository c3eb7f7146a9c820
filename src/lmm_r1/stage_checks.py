"""What a check finds, and the part of it that is about one stage's problems: rows, pass rates, lengths of prompts, games.

Leaves out: the recipe, its model, verifiers and machine (check.py). Never loads torch: who counts tokens comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lmm_r1.config import Data, Model, Recipe, Stage
from lmm_r1.data.curriculum import graded
from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw.fields import known_identity
from lmm_r1.data.raw.sources import read_problems, rows
from lmm_r1.data.stream import First, ListSource, Source, with_system
from lmm_r1.data.synthetic.problems import SyntheticSource
from lmm_r1.envs.check import check_game
from lmm_r1.envs.games import GAMES, draw_problem, game, options_of
from lmm_r1.errors import CheckpointError, DataError, EngineError, Fault, LmmR1Error, RecipeError
from lmm_r1.recipes import PROMPTS, data_path
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Problem

#: count(model, images, problems) -> prompt tokens of each problem, pictures included.
CountTokens = Callable[[Model, ImageStore, Sequence[Problem]], list[int]]

#: Problems of a game that are made to see whether it makes any.
GAMES_TRIED = 4
_ERRORS: dict[int, type[LmmR1Error]] = {e.exit_code: e for e in (RecipeError, DataError, CheckpointError, EngineError)}


@dataclass(slots=True)
class Findings:
    """What was found. wrong, pending: (fault, exit code of a run that meets it); 0 = the run helps itself. notes: no faults."""

    wrong: list[tuple[Fault, int]] = field(default_factory=list)
    pending: list[tuple[Fault, int]] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    def add(
        self, code: int, wrong: Iterable[Fault], pending: Iterable[Fault] = (), pending_code: int | None = None
    ) -> None:
        """Take faults over that a run meets with this exit code; pending ones with theirs, where it is another."""
        known = {(fault.field, fault.message) for fault, _ in self.wrong}
        self.wrong += [(fault, code) for fault in wrong if not fault.field or (fault.field, fault.message) not in known]
        self.pending += [(fault, code if pending_code is None else pending_code) for fault in pending]

    def report(self) -> dict[str, Any]:
        """The JSON of `lmm-r1 check`. ready: a run would start here, now."""
        return {
            "ok": not self.wrong,
            "ready": not self.wrong and not any(code for _, code in self.pending),
            "errors": [asdict(fault) for fault, _ in self.wrong],
            "pending": [asdict(fault) for fault, _ in self.pending],
            "notes": [asdict(fault) for fault in self.notes],
            # The first kind of fault that a run would meet decides.
            "exit_code": self.wrong[0][1] if self.wrong else 0,
        }

    def require(self) -> None:
        """Raise all that keeps a run from starting, as the error whose exit code the first of them has."""
        met = self.wrong + [(fault, code) for fault, code in self.pending if code]
        if met:
            raise _ERRORS[met[0][1]](*dict.fromkeys(fault for fault, _ in met))


@dataclass(slots=True)
class Tried:
    """What was tried already: a study asks the same of many recipes."""

    verifiers: dict[object, tuple[list[Fault], list[Fault]]] = field(default_factory=dict)
    games: dict[str, list[Fault]] = field(default_factory=dict)
    data: dict[Path, tuple[list[Problem], list[Fault], ImageStore]] = field(default_factory=dict)
    lengths: dict[tuple[object, ...], list[int]] = field(default_factory=dict)


def read_once(path: Path, tried: Tried) -> tuple[list[Problem], list[Fault], ImageStore]:
    """(good rows, faults of the others or of the file, their pictures) of prepared data; a file is read once."""
    if path not in tried.data:
        images = ImageStore()
        try:
            tried.data[path] = (*read_problems(path, images, VERIFIERS), images)
        except DataError as error:  # the file as a whole cannot be read
            tried.data[path] = [], list(error.faults), images
    return tried.data[path]


def first_row(recipe_path: Path, stage: Stage, tried: Tried) -> Problem | None:
    """The first good row of a stage's prepared data, as far as it has any here."""
    for data in stage.data:
        path = data_path(recipe_path, data)
        if data.source == "problems" and path.is_file():
            fitting = (p for p in read_once(path, tried)[0] if data.domain in (None, p.domain))
            if (found := next(fitting, None)) is not None:
                return found
    return None


def check_stage(
    found: Findings,
    late: Findings,
    recipe_path: Path,
    recipe: Recipe,
    name: str,
    count: CountTokens | None,
    tried: Tried,
) -> None:
    """A stage's games go to `found`, its prepared data to `late`."""
    stage = recipe.stage[name]
    for index, data in enumerate(stage.data):
        at = f"stage.{name}.data.{index}"
        if data.source == "game":
            found.add(RecipeError.exit_code, _check_game(recipe, stage, data, at, count, tried))
            continue
        if data.source != "problems":
            late.add(DataError.exit_code, _check_difficulty(recipe_path, data, at))
            continue
        path = data_path(recipe_path, data)
        if not path.is_file():
            absent = Fault("the data is not here", file=str(path), field=f"{at}.path", remedy=data.obtain)
            late.add(DataError.exit_code, [] if data.obtain else [absent], [absent] if data.obtain else [])
            continue
        problems, faults, images = read_once(path, tried)
        late.add(DataError.exit_code, faults)
        problems = [p for p in problems if data.domain in (None, p.domain)]
        if not problems and not faults:
            rows = f'rows of domain "{data.domain}"' if data.domain else "rows"
            lacking = f"{at}.domain" if data.domain else at
            late.add(DataError.exit_code, [Fault(f"the data has no {rows}", file=str(path), field=lacking)])
        if problems and not faults:
            late.add(DataError.exit_code, _check_difficulty(recipe_path, data, at, ListSource(problems, str(path))))
        if count is not None and problems:
            try:
                late.add(DataError.exit_code, _check_lengths(path, recipe, stage, images, problems, count, tried))
            except LmmR1Error as error:  # the tokenizer cannot be loaded, or a picture not be encoded
                late.add(error.exit_code, error.faults)


def _check_game(
    recipe: Recipe, stage: Stage, data: Data, field: str, count: CountTokens | None, tried: Tried
) -> list[Fault]:
    """An own game that breaks its contract, one that makes no problem, or openings that the prompt limit would drop."""
    if data.game not in GAMES:
        if data.game not in tried.games:
            # Those without a field: it cannot be made at all, which is told below.
            tried.games[data.game] = [f for fault in check_game(data.game)["errors"] if (f := Fault(**fault)).field]
        broken = tried.games[data.game]
        if broken:
            remedy = f"docs/games.md; lmm-r1 check --env {data.game} tries it alone"
            return [
                Fault(
                    f"the game {data.game} breaks its contract: {f.field}: {f.message}",
                    "",
                    None,
                    f"{field}.game",
                    remedy,
                )
                for f in broken
            ]
    images, limit = ImageStore(), stage.rollout.max_prompt_tokens
    system = _system(recipe, stage)
    try:
        kind, options = game(data.game), options_of(data.game, data.options)
        drawn = [draw_problem(kind, options, "train", 0, index, images.put) for index in range(GAMES_TRIED)]
        lengths = count(recipe.model, images, [with_system(p, system) for p in drawn]) if count is not None else [0]
    except LmmR1Error as error:
        return [replace(fault, field=f"{field}.options") for fault in error.faults]
    if max(lengths) <= limit:
        return []
    what = f"the opening of {data.game} has {max(lengths)} tokens, more than rollout.max_prompt_tokens = {limit}"
    return [Fault(what, field=f"{field}.options", remedy="a smaller picture, or a higher limit: a prompt is never cut")]


def _system(recipe: Recipe, stage: Stage) -> str:
    """A stage's system prompt; "" for a profile that there is not, of which the recipe's faults tell."""
    return {**PROMPTS, **recipe.prompts}.get(stage.prompt, "")


def _check_difficulty(recipe_path: Path, data: Data, field: str, source: Source | None = None) -> list[Fault]:
    """A file of pass rates that is missing, broken or lacks rows, or bounds that keep none. source: None = synthetic."""
    if not data.difficulty:
        return []
    if source is None:
        assert data.domain is not None and data.seed is not None, "config.Data asks for both"
        drawn = SyntheticSource(data.domain, ImageStore(), families=data.families, seed=data.seed)
        source = First(drawn, data.items)
    try:
        graded(data, source, recipe_path.parent, seed=0)
    except DataError as error:
        return [replace(fault, field=f"{field}.{fault.field or 'difficulty'}") for fault in error.faults]
    return []


def _check_lengths(
    path: Path,
    recipe: Recipe,
    stage: Stage,
    images: ImageStore,
    problems: Sequence[Problem],
    count: CountTokens,
    tried: Tried,
) -> list[Fault]:
    """Prompts over the limit: the loop would drop and count them; a person should hear of it before."""
    limit, system = stage.rollout.max_prompt_tokens, _system(recipe, stage)
    key = (path, system, recipe.model, len(problems))
    if key not in tried.lengths:
        tried.lengths[key] = count(recipe.model, images, [with_system(problem, system) for problem in problems])
    lengths = tried.lengths[key]
    too_long = {p.id: length for p, length in zip(problems, lengths, strict=True) if length > limit}
    return [
        Fault(
            f"the prompt has {too_long[name]} tokens, more than rollout.max_prompt_tokens = {limit}",
            file=str(path),
            row=number,
            field="messages",
            remedy="raise the limit or drop the row: a prompt is never cut",
        )
        for number, row in (rows(path) if too_long else ())
        if not isinstance(row, Fault) and (name := known_identity(row, number)) in too_long
    ]
