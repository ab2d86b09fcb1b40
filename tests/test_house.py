"""The house rules, read from the sources: who may import whom, what a file is called, how long it is, what it says.

The floors: cli > lab, deploy > training > evaluation > models | data | recipes > the modules directly in the package.
A file imports from its own room and from below, whether at its top, inside a function or for type checking only.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "residuum"

FLOORS = {"cli": 5, "lab": 4, "deploy": 4, "training": 3, "evaluation": 2, "models": 1, "data": 1, "recipes": 1}
GROUND = "the ground floor"
FORBIDDEN_NAMES = {"utils", "helpers", "misc", "common", "base", "core"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
MACHINE_PATH = re.compile("(?<![\\w.])/" + "(work|tmp|root|mnt|opt|home)" + r"\b")

LONG_FILES = {
    "src/residuum/recipe.py": "every table of a recipe with its limits: one file says what a key means",
}
LONG_FUNCTIONS: dict[str, str] = {}

SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
PYTHON = SOURCES + TESTS + BENCHMARKS
TEXTS = sorted(
    path
    for folder in ("src", "tests", "docs", "benchmarks", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix in {"", ".py", ".md", ".toml", ".json", ".csv", ".txt", ".html", ".yml", ".sh"}
) + sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("*.toml")))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def found_in(paths: list[Path], look: Callable[[Path], object]) -> dict[str, object]:
    """Returns what is found in files, by their names; files in which nothing is are left out."""
    return {shown(path): found for path in paths if (found := look(path))}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[str]:
    """Yields every name of ours that a module imports, as `residuum.room.file` or `residuum.room.file.thing`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "residuum")
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                source = ".".join([*kept, source]).rstrip(".")
            if source.split(".")[0] == "residuum":
                yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            literals = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (text for text in literals if isinstance(text, str) and text.startswith("residuum"))


class _WhatRuns(ast.NodeTransformer):
    """Takes out what is read for type checking only, and imports nothing when the program runs."""

    def visit_If(self, node: ast.If) -> ast.If | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node


def room(name: str) -> str:
    """Returns the room of a dotted name of ours; what lies directly in the package is on the ground floor."""
    second = name.split(".")[1] if "." in name else ""
    if second == "__main__":
        return "cli"  # `python -m residuum` is the command line
    return second if second in FLOORS else GROUND


def may_import(importer: str, imported: str) -> bool:
    own, other = room(importer), room(imported)
    return own == other or FLOORS.get(own, 0) > FLOORS.get(other, 0)


def wrong_doors(tree: ast.AST, module: str, is_package: bool = False) -> list[str]:
    found = imports(tree, module, is_package)
    return sorted({name for name in found if not may_import(module, name)})


def test_no_door_leads_up_or_sideways() -> None:
    # names anything, lazily; that it imports nothing by itself is tested with `residuum --help`
    files = [path for path in SOURCES if path != PACKAGE / "__init__.py"]
    assert found_in(files, lambda path: wrong_doors(tree_of(path), module_name(path), path.name == "__init__.py")) == {}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("residuum.data.check", "from residuum.evaluation.report import x", ["residuum.evaluation.report.x"]),
        ("residuum.data.check", "def f():\n    from residuum import models", ["residuum.models"]),
        ("residuum.models.resnet", "if TYPE_CHECKING:\n    import residuum.data.sets", ["residuum.data.sets"]),
        ("residuum.models.resnet", "from ..training import loop", ["residuum.training.loop"]),
        ("residuum.lab.plots", "import residuum.deploy", ["residuum.deploy"]),
        ("residuum.bundle", "importlib.import_module('residuum.models')", ["residuum.models"]),
        ("residuum.models.resnet", "from . import layers\nfrom residuum.errors import UsageError", []),
        ("residuum.cli.train", "from residuum import html\nfrom residuum.lab import x\nimport torch", []),
        ("residuum.html", "from residuum.errors import UsageError\nfrom html import escape", []),
    ],
)
def test_the_floors_are_seen_wherever_an_import_hides(module: str, source: str, wrong: list[str]) -> None:
    assert wrong_doors(ast.parse(source), module) == wrong


def test_the_package_is_asked_for_modules_and_not_for_its_lazy_names() -> None:
    """A lazy public name is a hidden door to any floor."""
    known = {file.stem for file in PACKAGE.iterdir()} | set(FLOORS) | {"__version__"}

    def lazy(path: Path) -> set[str]:
        return {name.split(".")[1] for name in imports(tree_of(path), module_name(path)) if "." in name} - known

    assert found_in(SOURCES, lazy) == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for path in SOURCES if path != PACKAGE / "__init__.py"}
    graph = {}
    for name, path in modules.items():
        found = imports(_WhatRuns().visit(ast.parse(path.read_text("utf-8"))), name, path.name == "__init__.py")
        graph[name] = {target if target in modules else target.rpartition(".")[0] for target in found} & modules.keys()
        graph[name].discard(name)
    while outside := [
        n for n in graph if not graph[n] & graph.keys() or all(n not in targets for targets in graph.values())
    ]:
        for name in outside:  # what imports nothing that is left, or what nothing left imports, is in no circle
            graph.pop(name)
    assert graph == {}


def test_every_file_says_what_it_is() -> None:
    assert found_in(PYTHON, lambda path: not ast.get_docstring(tree_of(path))) == {}


def test_only_the_command_line_prints_and_nobody_imports_everything() -> None:
    def wrong(path: Path) -> list[int]:
        may_print = path.is_relative_to(PACKAGE / "cli") or path in BENCHMARKS
        return [node.lineno for node in ast.walk(tree_of(path)) if is_star(node) or (is_print(node) and not may_print)]

    assert found_in(PYTHON, wrong) == {}


def is_star(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)


def is_print(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def test_nothing_is_left_for_later() -> None:
    assert found_in(SOURCES, lambda path: re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text_of(path))) == {}


def test_files_are_called_after_what_they_hold() -> None:
    names = {path.stem for path in PYTHON} | {
        path.name for path in (*PACKAGE.rglob("*"), ROOT / "tests") if path.is_dir()
    }
    assert names & FORBIDDEN_NAMES == set()


def test_no_two_tests_share_a_name() -> None:
    assert [
        name for name, count in Counter(path.name for path in TESTS if path.name != "conftest.py").items() if count > 1
    ] == []


def test_tests_mirror_the_rooms() -> None:
    rooms = {path.parent.name for path in TESTS if path.parent != ROOT / "tests"}
    assert rooms <= FLOORS.keys()


def test_files_are_short() -> None:
    lengths = {shown(path): len(text_of(path).splitlines()) for path in PYTHON}
    long = {name: length for name, length in lengths.items() if length > MAX_FILE_LINES}
    assert {name: length for name, length in long.items() if name not in LONG_FILES} == {}
    assert LONG_FILES.keys() - long.keys() == set(), "an exception that is not needed any more"


def test_functions_are_short() -> None:
    long = {}
    for path in PYTHON:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long[f"{shown(path)}:{node.name}"] = length
    assert {name: length for name, length in long.items() if name not in LONG_FUNCTIONS} == {}
    assert LONG_FUNCTIONS.keys() - long.keys() == set(), "an exception that is not needed any more"


def test_no_text_names_a_place_on_somebodys_machine() -> None:
    def places(path: Path) -> list[str]:
        return [line for line in text_of(path).splitlines() if MACHINE_PATH.search(line)]

    assert found_in([path for path in TEXTS if path != Path(__file__)], places) == {}


def test_help_needs_neither_torch_nor_numpy() -> None:
    script = (
        "import sys; sys.argv = ['residuum', '--help']; from residuum.cli.main import main\n"
        "try:\n    code = main()\nexcept SystemExit as stopped:\n    code = stopped.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'matplotlib', 'sklearn', 'pyarrow'} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
