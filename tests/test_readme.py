"""README: its results are what docs/results/ holds, and its commands are there."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from residuum.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """benchmarks/tables.py, beside which are the files that it imports."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("tables")
    for name in ("tables", "goals"):
        del sys.modules[name]


def test_the_table_of_results_is_fresh(tables: Any) -> None:
    assert tables.with_results(README) == README, "run python benchmarks/tables.py"
    before, results = README.split(tables.BEGIN)
    changed = before + tables.BEGIN + results.replace(" % (", " % [", 1)
    assert changed != README
    assert tables.with_results(changed) == README  # what is between the marks is written anew


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"^residuum (\w+)|&& residuum (\w+)|`residuum (\w+)", README, flags=re.MULTILINE))
    words = {word for words in named for word in words if word}
    assert {"train", "predict", "evaluate", "check", "models", "recipes"} <= words
    assert words <= set(COMMANDS)


def test_ci_runs_the_readmes_two_commands_to_the_letter() -> None:
    commands = re.findall(r"^```\n(pip install .*)\n```$", README, flags=re.MULTILINE)
    assert commands == ["pip install . && residuum train", "pip install '.[test]' && pytest"]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    # `set -e` does not see the failure of a command before an &&, hence the exit.
    assert [line.removesuffix(" || exit 1") for line in script if line.endswith(" || exit 1")] == commands


def test_it_names_the_python_that_the_package_asks_for() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert wanted == ">=3.11"
    assert "Python 3.11 or newer" in README


@pytest.mark.parametrize(
    ("page", "names"),
    [("transfer", ["with_transfer", "with_labels", "with_multilabel"]), ("calibration", ["with_calibration"])],
)
def test_the_tables_of_a_page_are_fresh(tables: Any, page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for name in names:
        assert getattr(tables, name)(text) == text, "run python benchmarks/tables.py"
