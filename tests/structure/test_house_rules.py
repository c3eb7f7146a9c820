"""House rules that a reader would otherwise have to police: size, names, imports, exceptions, dead knobs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.source import MODULES, ROOT, Source

SOURCES = [s for s in MODULES.values() if s.text.strip()]
OTHERS = [
    Source(path) for folder in ("tests", "examples", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]
#: The only files with imports inside functions, so that `lmm-r1 --help` and `check` start at once.
LAZY = {"build", "verbs.loading"}
VAGUE = {"util", "utils", "misc", "helper", "helpers", "manager", "common"}
#: Names that turn text into code, or data into objects.
UNSAFE = {"eval", "exec", "pickle", "sympify", "parse_expr"}

each = pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name or "__init__")


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(source.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("source", SOURCES + OTHERS, ids=lambda s: str(s.path.relative_to(ROOT)))
def test_sizes(source: Source) -> None:
    """Catches a file over 500 lines and a function over 80: nobody holds them in their head."""
    assert len(source.text.splitlines()) <= 500, f"{source.path} is too long"
    for f in functions(source):
        lines = (f.end_lineno or f.lineno) - f.lineno + 1
        assert lines <= 80, f"{source.path}:{f.lineno}: {f.name} has {lines} lines"


@each
def test_modules_say_what_they_are(source: Source) -> None:
    """Catches a module, or a public function or class, that starts without a word."""
    assert ast.get_docstring(source.tree), f"{source.path} has no docstring"
    for node in source.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{source.path}:{node.lineno}: {node.name} has no docstring"


@each
def test_no_import_inside_a_function(source: Source) -> None:
    """Catches a hidden dependency: what a module needs stands at its top."""
    if source.name in LAZY:
        return
    inside = {node for f in functions(source) for node in ast.walk(f)}
    for name, node in source.imports():
        assert node not in inside, f"{source.path}:{node.lineno}: imports {name} inside a function"


#: Parts that call a verifier or a game which may be anyone's, on a reply which may be anything, or ask its exception what it says.
RUNS_FOREIGN_CODE = {"errors", "rewards.score", "rewards.worker", "rewards.remote", "envs.games", "envs.check"}


@each
def test_exceptions_are_not_swallowed(source: Source) -> None:
    """Catches a bare or broad except: faults would turn into wrong numbers."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        assert node.type is not None, f"{source.path}:{node.lineno}: bare except"
        caught = {ast.unparse(t) for t in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])}
        passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        broad = caught & {"Exception", "BaseException"} and not passed_on and source.name not in RUNS_FOREIGN_CODE
        assert not broad, f"{source.path}:{node.lineno}: {', '.join(caught)} is too broad"


@each
def test_names_say_something(source: Source) -> None:
    """Catches a drawer for everything."""
    named = (n.name for n in ast.walk(source.tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef)))
    for name in (*source.name.split("."), *named):
        words = set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower()))
        assert not words & VAGUE, f"{source.path}: the name {name} says nothing"


@each
def test_text_never_becomes_code(source: Source) -> None:
    """Catches a reply or a file that could run: a model's answer is hostile input, and so is a checkpoint."""
    strict = source.part == "rewards"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in UNSAFE, f"{source.path}:{node.lineno}: calls {node.func.id}"
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            assert (owner, node.attr) != ("torch", "load"), f"{source.path}:{node.lineno}: torch.load unpickles"
        if strict and isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            assert name not in UNSAFE, f"{source.path}:{node.lineno}: mentions {name}"
    assert not {n.split(".")[0] for n, _ in source.imports()} & {"pickle", "sympy", "dill", "joblib"}, str(source.path)


def test_every_knob_turns_something() -> None:
    """Catches a config field that nothing reads: a recipe would promise what no code does."""
    fields = {
        node.target.id
        for cls in ast.walk(MODULES["config"].tree)
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    read = {n.attr for s in SOURCES for n in ast.walk(s.tree) if isinstance(n, ast.Attribute)}
    assert len(fields) > 40
    assert not fields - read, f"nothing reads {', '.join(sorted(fields - read))}"


def test_seams_are_narrow() -> None:
    """Catches a Protocol that grows until only one class can implement it."""
    for node in MODULES["seams"].tree.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == "Protocol" for b in node.bases):
            methods = [f for f in node.body if isinstance(f, ast.FunctionDef)]
            assert len(methods) <= 5, f"{node.name} has {len(methods)} methods"


def published() -> Iterator[Path]:
    folders = ("src", "docs", "recipes", "examples", ".ci")
    for path in (p for folder in folders for p in sorted((ROOT / folder).rglob("*"))):
        if (
            path.suffix in (".py", ".md", ".toml", ".sh", ".json", "")
            and path.is_file()
            and "egg-info" not in str(path)
        ):
            yield path
    yield from (ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml"))


def test_no_path_of_somebodys_machine() -> None:
    """Catches a command or a default that works in one place only."""
    private = re.compile(r"/root/|/home/[a-z]|/Users/[a-z]|/work/|/tmp/|\.\./shared")
    for path in published():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not private.search(line), f"{path}:{number}: {line.strip()}"


def test_the_licence_is_whole() -> None:
    """Catches a licence file that names a licence without granting it."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
