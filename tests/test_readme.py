"""README: its results are what docs/results/ holds, and its commands are there."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

from residuum.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_results_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.with_results(README) == README, "run python benchmarks/tables.py"
    assert tables.with_results(README.replace(" % (", " % [", 1)) == README  # what is between the marks is written anew


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


def test_the_table_of_transfer_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    text = (ROOT / "docs" / "transfer.md").read_text(encoding="utf-8")
    assert tables.with_transfer(text) == text, "run python benchmarks/tables.py"
    assert tables.with_labels(text) == text, "run python benchmarks/tables.py"
