"""Raw tables of a recipe -> a Recipe, and every fault of all of its layers at once.

Where there are faults the tables are mended (an unknown key is left out, a wrong value gives way to its default) and judged
again, so that no fault hides another. A mended recipe is there to find the faults behind the first ones; nothing runs it.
Leaves out: files, lines, overlays and overrides (recipes.py); what needs data, weights or a device (check.py).
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lmm_r1.algorithms.published import check_stage
from lmm_r1.config import Data, Recipe, Stage
from lmm_r1.data.synthetic.problems import DOMAINS
from lmm_r1.envs.games import options_of
from lmm_r1.errors import RecipeError
from lmm_r1.evaluation.suites import SUITES

#: (field, message, remedy)
Wrong = tuple[str, str, str]
#: Rounds of mending: a round takes away what the round before has found.
ROUNDS = 40
#: What stands for a required value that is missing, while further faults are looked for.
_DATA: dict[str, Any] = {"source": "synthetic", "domain": "text"}
_STAND_INS: dict[str, Any] = {
    "name": "unnamed",
    "steps": 1,
    "data": [_DATA],
    "stage": {"unnamed": {"steps": 1, "data": [_DATA]}},
}


@dataclass(frozen=True, slots=True)
class Judged:
    """recipe: mended where there are faults, None when nothing can be made of it. mended: dotted paths that are not as written."""

    recipe: Recipe | None
    faults: tuple[Wrong, ...]
    mended: frozenset[str]


def judge(raw: Mapping[str, Any], profiles: Mapping[str, str]) -> Judged:
    """All faults of a recipe's tables. profiles: the built-in prompt profiles, by name."""
    tables: dict[str, Any] = deepcopy(dict(raw))
    faults: dict[Wrong, None] = {}
    mended: set[str] = set()
    unknown: set[str] = set()  # keys: each may have been meant for any other of its table
    for path in list(_not_finite(tables, ())):
        faults[_dotted(path), "must be a finite number", ""] = None
        mended.add(_dotted(path))
        _take(tables, path)
    for _ in range(ROUNDS):
        recipe, errors = _validated(tables)
        if recipe is not None:
            faults |= dict.fromkeys(_names(recipe, profiles))
            return Judged(recipe, tuple(faults), frozenset(mended))
        unknown |= {_dotted(e["loc"]) for e in errors if e["type"] == "extra_forbidden"}
        for error in errors:
            if error["type"] != "missing" or _dotted(error["loc"]) not in mended:
                found = explain(error, Recipe)
                faults |= dict.fromkeys(w for w in found if not _follows(error, w[1], mended, unknown))
        changed = [_mend(tables, error, errors, mended) for error in errors]
        if True not in changed:
            break
    return Judged(None, tuple(faults), frozenset(mended))


#: Messages about names of stages, which no mending of values brings about.
_ABOUT_NAMES = re.compile(r"names no stage|cannot be named|start from each other|compare names")
#: A field or a stage in a message, such as update.minibatches or stage.fre_text.
_MENTION = re.compile(r"\b(stage\.[\w-]+(?:\.[a-z_]+)*|[a-z_]+\.[a-z_]+)")


def _follows(error: Mapping[str, Any], line: str, mended: Collection[str], unknown: Collection[str]) -> bool:
    """Whether values that do not go together may do so only because one of them was mended: no fault of the person's."""
    if error["type"] != "value_error" or not mended or _ABOUT_NAMES.search(line):
        return False
    at = _dotted(error["loc"])
    below = {m.removeprefix(f"{at}."): m in unknown for m in mended if not at or m.startswith(f"{at}.")}
    mentioned = _MENTION.findall(line)
    if at and "data" in at.split("."):
        return bool(below)
    if not mentioned:
        return any(not m.startswith("data.") for m in below)
    for field in mentioned:
        table = field.rpartition(".")[0]
        for m, is_unknown in below.items():
            if (
                field == m
                or field.startswith(f"{m}.")
                or m.startswith(f"{field}.")
                or (is_unknown and m.startswith(f"{table}."))
            ):
                return True
    return False


def _validated(tables: Mapping[str, Any]) -> tuple[Recipe | None, list[Any]]:
    """(recipe, []) or (None, pydantic's errors)."""
    try:
        # As JSON, strict checking still takes an array for a tuple, yet never a string for a number.
        return Recipe.model_validate_json(json.dumps(tables, default=str), strict=True), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        locs = [e["loc"] for e in errors]
        # A list whose entries are at fault is also reported as too short: one line is enough.
        return None, [e for e in errors if e["type"] != "too_short" or not any(_inside(loc, e["loc"]) for loc in locs)]


def _mend(tables: dict[str, Any], error: Mapping[str, Any], errors: Sequence[Any], mended: set[str]) -> bool:
    """Take an error out of the tables; whether anything changed."""
    loc = _written(tables, error["loc"])
    if error["type"] == "missing" and str(error["loc"][-1]) in _STAND_INS and len(loc) == len(error["loc"]) - 1:
        mended.add(_dotted(error["loc"]))
        _at(tables, loc)[error["loc"][-1]] = deepcopy(_STAND_INS[str(error["loc"][-1])])
        return True
    if error["type"] == "value_error" and isinstance(_at(tables, loc), dict):
        return _mend_table(tables, loc, _weight(errors, loc), mended)
    if not loc:
        return False
    mended.add(_dotted(loc))
    if len(loc) > 1 and isinstance(loc[-1], int) and loc[-2] == "data":
        _at(tables, loc[:-1])[loc[-1]] = deepcopy(_DATA)
    else:
        _take(tables, loc)
    return True


def _mend_table(tables: dict[str, Any], loc: tuple[int | str, ...], before: int, mended: set[str]) -> bool:
    """Values of a table that do not go together: take away the part without which there are fewer errors."""
    if loc[-2:-1] == ("data",):
        candidates = [loc]
    elif not loc:
        stages = tables["stage"]
        parts = ("from", "rollouts_of", "lora", "rollout", "algorithm")
        candidates = [("compare",), *(("stage", name, part) for part in parts for name in stages)]
        candidates += [("cluster",), ("engine",), *(("stage", name) for name in stages if len(stages) > 1)]
    else:
        candidates = [(*loc, key) for key in _at(tables, loc) if key not in ("steps", "data", "from", "prompt")] + [loc]
    for path in candidates:
        if len(_written(tables, path)) < len(path):
            continue
        tried = deepcopy(tables)
        if path[-2:-1] == ("data",):
            _at(tried, path[:-1])[path[-1]] = deepcopy(_DATA)
        else:
            _take(tried, path)
        after = _validated(tried)[1]
        # Errors further out may come to light, since a table is judged when all that is in it is right; none may come further in.
        if _weight(after, loc) < before and not any(len(e["loc"]) > len(loc) for e in after):
            mended.add(_dotted(path))
            tables.clear()
            tables.update(tried)
            return True
    return False


def _weight(errors: Sequence[Mapping[str, Any]], loc: tuple[int | str, ...]) -> int:
    """How many faults the errors tell of a table: an error may tell of several, a line each."""
    return sum(1 + str(error["msg"]).count("\n") for error in errors if error["loc"] == loc)


def _written(tables: Any, loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """As much of a place as the tables have: pydantic adds the names of a union's members."""
    here = tables
    for depth, part in enumerate(loc):
        inside = isinstance(here, dict) and part in here
        if not inside and not (isinstance(here, list) and isinstance(part, int) and part < len(here)):
            return tuple(loc[:depth])
        here = here[part]
    return tuple(loc)


def _at(tables: Any, path: Sequence[int | str]) -> Any:
    for part in path:
        tables = tables[part]
    return tables


def _take(tables: Any, path: Sequence[int | str]) -> None:
    del _at(tables, path[:-1])[path[-1]]


def _dotted(path: Sequence[int | str]) -> str:
    return ".".join(map(str, path))


def _names(recipe: Recipe, builtin: Mapping[str, str]) -> Iterator[Wrong]:
    """What needs a table outside the recipe: prompt profiles, evaluation sets, families, the values of algorithms."""
    profiles = {**builtin, **recipe.prompts}
    wanted = {f"stage.{name}.prompt": stage.prompt for name, stage in recipe.stage.items()}
    for field, profile in {"evaluate.prompt": recipe.evaluate.prompt, **wanted}.items():
        if profile not in profiles:
            yield field, f'no prompt profile "{profile}"', nearest(profile, profiles)
    for name in recipe.evaluate.sets:
        if name not in SUITES:
            yield "evaluate.sets", f'no evaluation set "{name}"', nearest(name, SUITES)
    for stage_name, stage in recipe.stage.items():
        try:
            check_stage(stage, f"stage.{stage_name}")
        except RecipeError as error:
            for fault in error.faults:
                yield fault.field, fault.message, fault.remedy
        for index, data in enumerate(stage.data):
            if data.source == "game":
                yield from _check_game(f"stage.{stage_name}.data.{index}", data, stage)
            field = f"stage.{stage_name}.data.{index}.families"
            for family in data.families if data.source == "synthetic" and data.domain else ():
                if family not in DOMAINS[data.domain or ""]:
                    message = f'no family "{family}" in the {data.domain} domain'
                    yield field, message, nearest(family, DOMAINS[data.domain or ""])


def _check_game(field: str, data: Data, stage: Stage) -> Iterator[Wrong]:
    """What is wrong with a game's name and options."""
    try:
        options = options_of(data.game, data.options)
    except RecipeError as error:
        for fault in error.faults:
            yield f"{field}.options.{fault.field}".rstrip("."), fault.message, fault.remedy
        return
    if stage.reward.verifier or stage.reward.compat != "none":
        yield field, "a game pays by itself: reward.verifier and reward.compat are for questions", ""
    if getattr(options, "compat", "none") == "paper" and stage.reward.format > 0:
        yield f"{field}.options.compat", "the published reward pays for the format itself", "reward = { format = 0.0 }"


def explain(error: Mapping[str, Any], root: type[BaseModel]) -> list[Wrong]:
    """One pydantic error as faults: a table whose values do not go together may have several. root: of the file."""
    loc: tuple[int | str, ...] = tuple(part for part in error["loc"] if part != "[key]")
    field, kind, message = _dotted(loc), error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        return [(field, "unknown key", nearest(str(loc[-1]), _keys(loc[:-1], root)))]
    if kind == "missing":
        return [(field, "is required", "")]
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        named: Callable[[str], Any] = lambda line: re.match(r"(stage\.[\w-]+(?:\.\w+)?)", line)  # noqa: E731
        return [(field or (named(line)[1] if named(line) else ""), line, "") for line in message.split("\n")]
    shown = json.dumps(error["input"], default=str, ensure_ascii=False)
    return [(field, f"{message}, not {shown if len(shown) <= 60 else shown[:57] + '...'}", "")]


def _keys(loc: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """Known keys of the table at `loc`."""
    model: type[BaseModel] | None = root
    for part in loc:
        if model is None:
            return []
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        # A stage's name or a data entry's index keeps the model; a field enters the one it holds, if any.
        if field is not None:
            inside = (field.annotation, *get_args(field.annotation))
            model = next((t for t in inside if isinstance(t, type) and issubclass(t, BaseModel)), None)
    return [f.alias or name for name, f in model.model_fields.items()] if model else []


def nearest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """A remedy that names the closest known name, or all of them when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known: {', '.join(known)}" if known else ""


def _not_finite(value: object, path: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    """Paths of nan and inf, which TOML allows and no knob does; of a list the last first, so that they can be taken away."""
    items: Sequence[tuple[int | str, object]] = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))[::-1]
    elif isinstance(value, float) and not math.isfinite(value):
        yield path
    for key, inner in items:
        yield from _not_finite(inner, (*path, key))


def _inside(loc: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer
