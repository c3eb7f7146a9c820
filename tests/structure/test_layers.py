"""Who may import whom: a part that reaches upwards or sideways cannot be replaced any more."""

from __future__ import annotations

import pytest

from tests.structure.source import MODULES, Source, reachable

LAYERS = {
    0: {"types", "config", "errors"},
    1: {"seams", "drawing", "disk", "places"},
    2: {"algorithms", "rewards", "envs", "models", "data", "runs"},
    3: {"rollout", "trainers"},
    4: {"evaluation", "distributed"},
    5: {"guards", "train"},
    6: {
        "build",
        "chain",
        "ask",
        "difficulty",
        "build_base",
        "recipes",
        "judging",
        "stage_checks",
        "origins",
        "check",
        "study",
        "playing",
        "settings",
        "exports",
        "planning",
        "terminal",
        "verbs",
        "cli",
    },
}
LAYER = {part: layer for layer, parts in LAYERS.items() for part in parts}
#: Beside the layers: reads a run folder, and is called by the top alone.
REPORTS = {"runs", "types", "config", "errors"}
#: Parts that run in processes of their own, or must start at once: torch takes seconds and half a gigabyte.
NO_TORCH = (
    "types",
    "config",
    "errors",
    "seams",
    "drawing",
    "disk",
    "places",
    "rewards",
    "envs",
    "reports",
    "data",
    "recipes",
    "settings",
    "stage_checks",
    "origins",
    "judging",
    "check",
    "planning",
)


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer == "reports":
        return imported in REPORTS
    if imported == "reports":
        return LAYER[importer] == 6
    return LAYER[imported] < LAYER[importer] or LAYER[imported] == LAYER[importer] >= 5


def test_every_part_has_a_layer() -> None:
    """Catches a new folder that no rule covers."""
    assert {s.part for s in MODULES.values()} - {""} - set(LAYER) == {"reports"}


@pytest.mark.parametrize("source", [s for s in MODULES.values() if s.part], ids=lambda s: s.name)
def test_imports_go_downwards(source: Source) -> None:
    """Catches an import that reaches a higher layer, or a neighbour of the same one."""
    wrong = [name for name in source.project_imports() if not may_import(source.part, name.split(".")[0])]
    assert not wrong, f"{source.name} may not import {', '.join(wrong)}"


def test_no_cycle_between_parts() -> None:
    """Catches two folders that need each other: neither can be read, tested or replaced alone."""
    needs: dict[str, set[str]] = {}
    for source in MODULES.values():
        others = {name.split(".")[0] for name in source.project_imports()} - {source.part}
        needs.setdefault(source.part, set()).update(others)
    while free := [part for part, others in needs.items() if not others & set(needs)]:
        for part in free:
            del needs[part]
    assert not needs, f"parts that import each other in a circle: {', '.join(sorted(needs))}"


def test_the_loop_knows_no_implementation() -> None:
    """Catches a loop that only works with one engine, trainer or model."""
    parts = {
        "seams",
        "types",
        "config",
        "errors",
        "rollout.collect",
        "rollout.supervise",
        "rollout.play",
        "rollout.scoring",
        "evaluation",
        "runs",
    }
    for module, more in (("train", {"guards"}), ("guards", {"rollout.weights"})):
        known = parts | more
        wrong = [n for n in MODULES[module].project_imports() if n not in known and n.split(".")[0] not in known]
        assert not wrong, f"{module}.py may not import {', '.join(wrong)}"


@pytest.mark.parametrize("part", NO_TORCH)
def test_torch_stays_out(part: str) -> None:
    """Catches an import chain by which a verifier, game or report process, or `check`, loads torch."""
    for name in [n for n in MODULES if n.split(".")[0] == part]:
        for reached in reachable(name):
            heavy = {n for n, _ in MODULES[reached].imports() if n.split(".")[0] in ("torch", "transformers")}
            assert not heavy, f"{name} loads {', '.join(heavy)} by way of {reached}"
