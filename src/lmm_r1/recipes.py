"""Recipe files: TOML, overlays on it (`--with`) and `--set` overrides -> a checked `config.Recipe`, and back to TOML.

An overlay is a part of a recipe, for what does not depend on the recipe (recipes/lmm_r1_3b/hardware): its tables are
merged into the recipe's key by key, any other value replaces the one that was there, and `stage."*"` stands for every stage.

Every fault of a recipe is found at once, each with its file, line, field and, for a misspelt key, the
nearest known one. Leaves out what the tables may hold (judging.py), and what needs data, weights or a tokenizer (check.py).
Sources: the prompt profile `lmm_r1` says what arXiv 2503.07536, appendix E asks for, in our own words.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmm_r1.config import Data, Recipe
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.judging import judge
from lmm_r1.settings import adopted

#: Built-in prompt profiles; a recipe's [prompts] table adds to them.
PROMPTS: dict[str, str] = {
    "none": "",
    # Part of how the micro base was made: another wording is another base model.
    "think": "Think first, then answer.",
    "agent": (
        "You play a game. Look at what is shown and think about your next move inside <think> and </think>; then, "
        "directly after it, give the move itself inside <answer> and </answer>. Your reply must begin with <think> and "
        "end with </answer>."
    ),
    "lmm_r1": (
        "You are good at mathematics and work step by step. Reason about the question before you answer it, and "
        "give the final answer as LaTeX between dollar signs, like $...$. Put the reasoning inside <think> and "
        "</think> and, directly after it, the answer inside <answer> and </answer>. For the question 1+1=? a right "
        "reply is: <think>Adding one to one gives two, so 1+1=2.</think><answer>$2$</answer>. Your reply must begin "
        "with <think> and end with </answer>."
    ),
}

_BARE_KEY = re.compile(r"^[A-Za-z0-9_-]+$")
_HEADER = re.compile(r"^\s*\[(\[)?\s*([^\]]+?)\s*\]")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")


@dataclass(frozen=True, slots=True)
class Read:
    """A recipe as far as its files say one. recipe: mended where there are faults, and then only there to look for more of them;
    None when the files hold nothing to go on from. mended: dotted paths that are not as written."""

    recipe: Recipe | None
    faults: tuple[Fault, ...]
    mended: frozenset[str] = frozenset()

    @property
    def touched(self) -> frozenset[str]:
        """Dotted paths that are not as written, or at fault: nothing that hangs on them can be judged."""
        return self.mended | {fault.field for fault in self.faults if fault.field}


def load_recipe(path: str | Path, overrides: Sequence[str] = (), overlays: Sequence[str | Path] = ()) -> Recipe:
    """Read, overlay, override and check a recipe. Raises RecipeError with every fault that was found; see `read_recipe`."""
    read = read_recipe(path, overrides, overlays)
    if read.faults or read.recipe is None:
        raise RecipeError(*read.faults)
    return read.recipe


def read_recipe(path: str | Path, overrides: Sequence[str] = (), overlays: Sequence[str | Path] = ()) -> Read:
    """Read, overlay, override and judge a recipe; never raises for a fault.

    overrides: `a.b=c` each; c is a TOML value or a bare word; numbers in the path index lists. They win over overlays, and
    a later overlay over an earlier one. What is set nowhere is taken from a start model that says it (settings.adopted).
    """
    path = Path(path)
    faults: list[Fault] = []
    found = _found(path, faults)
    raw, text = found or ({}, "")
    own = set(raw["stage"]) if isinstance(raw.get("stage"), dict) else set()
    # dotted path -> what put it there instead of the recipe, and its line
    changed: dict[str, tuple[str, int | None]] = {}
    for overlay in map(Path, overlays):
        extra, overlay_text = _found(overlay, faults) or ({}, "")
        rows = {key.replace("'", ""): row for key, row in _rows(overlay_text).items()}
        for field, written in _lay(raw, extra):
            changed.pop(field, None)
            changed[field] = (str(overlay), _row(rows, written))
    for override in overrides:
        try:
            changed[_override(raw, override)] = (f"--set {override}", None)
        except ValueError as error:
            faults.append(Fault(str(error), file=f"--set {override}"))
    if found is None or _is_study(raw):
        if found is not None:
            remedy = f"lmm-r1 study {path}; check, plan and train take its base, {raw.get('base', 'a recipe')}"
            faults.append(Fault("this is a study, not a recipe", file=str(path), remedy=remedy))
        return Read(None, tuple(faults))
    faults += _unknown_stages(raw, own, changed)
    judged = judge(raw, PROMPTS)
    rows = _rows(text)
    for field, message, remedy in judged.faults:
        # A table that only an override made has no line in the file.
        source = next(
            (
                where
                for key, where in reversed(changed.items())
                if _under(field, key) or (_under(key, field) and field not in rows)
            ),
            (str(path), _row(rows, field)),
        )
        faults.append(Fault(message, file=source[0], row=source[1], field=field, remedy=remedy))
    recipe = judged.recipe
    return Read(adopted(recipe, PROMPTS) if recipe is not None else None, tuple(faults), judged.mended)


def _unknown_stages(
    raw: dict[str, Any], own: Collection[str], changed: Mapping[str, tuple[str, int | None]]
) -> Iterator[Fault]:
    """Stages that only --set or --with speak of, and that are not whole: a misspelt name. They are taken away."""
    stages: dict[str, Any] = raw["stage"] if isinstance(raw.get("stage"), dict) else {}
    for name in [n for n in stages if n not in own]:
        table = stages[name]
        if isinstance(table, dict) and {"steps", "data"} <= set(table):
            continue  # a stage that is added
        where = next((place for key, place in changed.items() if _under(key, f"stage.{name}")), ("", None))
        near = difflib.get_close_matches(name, sorted(own), n=1, cutoff=0.5)
        remedy = f"did you mean stage.{near[0]}?" if near else f"there are: {', '.join(sorted(own))}"
        yield Fault(f'no stage "{name}"', file=where[0], row=where[1], field=f"stage.{name}", remedy=remedy)
        del stages[name]


def _is_study(raw: Mapping[str, Any]) -> bool:
    """Whether a file's tables are those of a study: a base and axes in place of stages."""
    return not isinstance(raw.get("stage"), dict) and len({"base", "seeds", "axis"} & set(raw)) >= (
        1 if "axis" in raw else 2
    )


def _found(path: Path, faults: list[Fault]) -> tuple[dict[str, Any], str] | None:
    """(tables, text) of a TOML file; None, and a fault more, when there is none."""
    try:
        return read_toml(path, "recipe")
    except RecipeError as error:
        faults += error.faults
        return None


def read_toml(path: Path, what: str) -> tuple[dict[str, Any], str]:
    """(tables, text) of a TOML file. RecipeError when there is none. what: a fault calls it so."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RecipeError(Fault(f"cannot read the {what}: {reason}", file=str(path))) from None
    try:
        return tomllib.loads(text), text
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where = re.search(r"\(at line (\d+)", str(error))
        row = int(where[1]) if where else None
        raise RecipeError(Fault(f"not valid TOML: {error}", file=str(path), row=row)) from None


def _lay(raw: dict[str, Any], overlay: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Merge an overlay into the raw tables; yields (dotted path in the recipe, dotted path in the overlay) of each value."""
    for name, table in overlay.items():
        stages = raw.get("stage")
        if name == "stage" and isinstance(table, dict) and isinstance(stages, dict):
            for written, part in table.items():
                for stage in list(stages) if written == "*" else [written]:
                    merged = _merge(stages, stage, part, f"stage.{stage}")
                    yield from ((field, f"stage.{written}" + field.removeprefix(f"stage.{stage}")) for field in merged)
        else:
            yield from ((field, field) for field in _merge(raw, name, table, name))


def _merge(tables: dict[str, Any], key: str, value: Any, field: str) -> list[str]:
    """Put a value where `key` is: into the table that is there, else in its place. Returns the paths that it changed."""
    if not (isinstance(value, dict) and isinstance(tables.get(key), dict)):
        tables[key] = deepcopy(value)
        return [field]
    return [path for k, v in value.items() for path in _merge(tables[key], k, v, f"{field}.{k}")]


def recipes_folder() -> Path:
    """The recipes that come with the package: beside its source, or where a wheel puts them."""
    checkout = Path(__file__).resolve().parents[2] / "recipes"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "lmm-r1" / "recipes"


def dump_recipe(recipe: Recipe) -> str:
    """The effective recipe, defaults written out, as TOML that `load_recipe` reads back to an equal Recipe."""
    lines: list[str] = []
    _write_table(lines, "", recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    return "\n".join(lines).lstrip("\n") + "\n"


def system_prompt(recipe: Recipe, profile: str) -> str:
    """The text of a prompt profile ("" = no system message); load_recipe has checked that it exists."""
    return {**PROMPTS, **recipe.prompts}[profile]


def data_path(recipe_path: str | Path, data: Data) -> Path:
    """Where a `problems` source lies: relative paths start at the recipe's folder."""
    return Path(recipe_path).parent / data.path


def _override(raw: dict[str, Any], override: str) -> str:
    """Write one `a.b=c` into the raw tables; returns its dotted path. Raises ValueError with the reason."""
    dotted, equals, text = override.partition("=")
    path = [part.strip() for part in dotted.split(".")]
    if not equals or not all(path):
        raise ValueError("an override looks like stage.fre_text.steps=20")
    value = _toml_value(text)
    here: Any = raw
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                raise ValueError(f"{'.'.join(path[:depth])} has entries 0 to {len(here) - 1}, not {part!r}")
            key: int | str = int(part)
        elif isinstance(here, dict):
            key = part
            if not last:
                here.setdefault(part, {})
        else:
            raise ValueError(f"{'.'.join(path[:depth])} is a value, not a table")
        if last:
            here[key] = value
        else:
            here = here[key]
    return ".".join(path)


def options_from(settings: Sequence[str]) -> dict[str, Any]:
    """`name=value` each, as in --option; a value is a TOML value or a bare word. RecipeError for another text."""
    found = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            if not equals or not name.strip():
                raise ValueError("an option looks like moves=1")
            found[name.strip()] = _toml_value(text)
        except ValueError as error:
            raise RecipeError(Fault(str(error), field=f"--option {setting}")) from None
    return found


def _toml_value(text: str) -> Any:
    """A TOML value or a bare word. ValueError for another text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if not re.fullmatch(r"[^\s\"'\[\]{}=#]+", text.strip()):
            raise ValueError(f"{text!r} is neither a TOML value nor a bare word") from None
        return text.strip()


def _under(field: str, key: str) -> bool:
    """Is `field` the dotted path `key`, or below it?"""
    return field == key or field.startswith(key + ".")


def _rows(text: str) -> dict[str, int]:
    """Dotted path -> 1-based line where its table starts or its value is assigned (plain layouts only)."""
    rows: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = header[2].replace('"', "")
            if header[1]:
                counts[table] = counts.get(table, -1) + 1
                table = f"{table}.{counts[table]}"
            rows.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            key = assignment[1].replace('"', "").replace("'", "")
            rows.setdefault(f"{table}.{key}" if table else key, number)
    return rows


def _row(rows: Mapping[str, int], field: str) -> int | None:
    """The line of a field, or of the nearest table around it."""
    while field:
        if field in rows:
            return rows[field]
        field = field.rpartition(".")[0]
    return None


def _write_table(lines: list[str], name: str, table: Mapping[str, Any]) -> None:
    """Append a table: its values first, then its tables, then its arrays of tables."""
    inner = {k: v for k, v in table.items() if isinstance(v, dict)}
    arrays = {k: v for k, v in table.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)}
    for key, value in table.items():
        if key not in inner and key not in arrays:
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in inner.items():
        path = f"{name}.{_key(key)}" if name else _key(key)
        if not value or any(not isinstance(v, dict) for v in value.values()):
            lines.extend(["", f"[{path}]"])
        _write_table(lines, path, value)
    for key, value in arrays.items():
        path = f"{name}.{_key(key)}" if name else _key(key)
        for entry in value:
            lines.extend(["", f"[[{path}]]"])
            _write_table(lines, path, entry)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: object) -> str:
    """A scalar or a list of scalars as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that TOML also wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)
