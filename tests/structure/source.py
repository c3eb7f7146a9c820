"""The package's source as syntax trees: what the structure tests walk over."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "lmm_r1"


@dataclass(frozen=True)
class Source:
    """One module: `name` is dotted below lmm_r1, `part` its folder, or itself at the top."""

    path: Path

    @property
    def name(self) -> str:
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def part(self) -> str:
        return self.name.split(".")[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def typing_only(self) -> set[ast.AST]:
        """Nodes under `if TYPE_CHECKING:`, which never run."""
        blocks = (n for n in ast.walk(self.tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
        return {node for block in blocks for child in block.body for node in ast.walk(child)}

    def imports(self) -> Iterator[tuple[str, ast.stmt]]:
        """(module or module.name, statement) of every import that runs."""
        for node in ast.walk(self.tree):
            if node in self.typing_only:
                continue
            if isinstance(node, ast.Import):
                yield from ((alias.name, node) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: a relative import hides the layer it reaches for"
                yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)

    def project_imports(self) -> set[str]:
        """Dotted names below lmm_r1 of the modules that this one imports."""
        found = set()
        for name, _ in self.imports():
            if name == "lmm_r1" or name.startswith("lmm_r1."):
                below = name.removeprefix("lmm_r1").removeprefix(".")
                while below and below not in MODULES:
                    below = below.rpartition(".")[0]
                found.add(below)
        return found - {""}


def _modules() -> dict[str, Source]:
    sources = (Source(path) for path in sorted(PACKAGE.rglob("*.py")))
    return {source.name: source for source in sources}


MODULES: dict[str, Source] = _modules()


def reachable(start: str) -> set[str]:
    """Every project module that importing `start` runs, packages on the way included."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in MODULES:
            continue
        seen.add(name)
        waiting += [*MODULES[name].project_imports(), name.rpartition(".")[0]]
    return seen
