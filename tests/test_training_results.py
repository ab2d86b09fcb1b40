"""Trainings that were measured: the rows that benchmarks/measure.py writes, and what the pages make of them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "speed.md"
TRAINED = {"data": "cifar10", "part": "test", "views": "shift", "machine": "M", "cores": "2", "date": "2026-01-01"}


def high(tables: Any, monkeypatch: pytest.MonkeyPatch, *trained: dict[str, str]) -> str:
    """Returns the page's row of 94 %."""
    monkeypatch.setattr(tables, "read", lambda name: [*trained] if name == "training.csv" else [])
    return next(line for line in tables.with_speed(PAGE.read_text("utf-8")).splitlines() if "94 %" in line)


def test_94_percent_that_nobody_reached_are_missed_with_the_best_median(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = benchmarks("tables")
    best = [{"recipe": "swift", "top1": top1, "train_seconds": "660"} | TRAINED for top1 in ("93.5", "94.1", "93.9")]
    other = {"recipe": "small", "top1": "91.3", "train_seconds": "60"} | TRAINED
    row = high(tables, monkeypatch, *best, other)
    assert "| 11.0 min, `swift`: 93.90 % (93.50 to 94.10, 3 seeds) | | | missed | M, 2 cores, 2026-01-01 |" in row
    late = {"recipe": "late", "top1": "95.0", "train_seconds": "1200"} | TRAINED
    assert "| 20.0 min, `late`: 95.00 % (95.00 to 95.00, 1 seed) | | | missed |" in high(tables, monkeypatch, late)
    assert "| not measured |" in high(tables, monkeypatch, other | {"data": "some"}, other | {"part": "val"})


def test_runs_of_other_machines_and_views_are_in_no_median(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = benchmarks("tables")
    own = {"recipe": "swift_resnet7_cifar10_fast", "top1": "94.2", "train_seconds": "540"} | TRAINED
    foreign = own | {"top1": "92.0", "train_seconds": "60", "machine": "another"}
    mirrored = own | {"top1": "92.0", "views": "mirror"}
    row = high(tables, monkeypatch, foreign, mirrored, own)
    measured = "9.0 min, `swift_resnet7_cifar10_fast`: 94.20 % (94.20 to 94.20, 1 seed)"
    assert f"{measured} | | | met, and the stretch |" in row
    readme = tables.with_results((ROOT / "README.md").read_text("utf-8"))
    what = "`swift_resnet7_cifar10_fast`, by ten views of a picture (`--views shift`)"
    assert f"{what} | 94.20 % (94.20 to 94.20, 1 seed), 9.0 min | 94 %, 20 min |" in readme


@pytest.fixture
def training(benchmarks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Calls benchmarks/measure.py, for which nothing is trained, and returns the rows of its table."""
    script = benchmarks("measure")
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    cifar10 = {
        "source": "anywhere/shards",
        "classes": list(names),
        "counts": {"train": dict.fromkeys(names, 5_000), "test": dict.fromkeys(names, 1_000)},
    }
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        if "evaluate" in command:
            assert command[command.index("--views") + 1] == "shift"
            return SimpleNamespace(stdout=json.dumps({"top1": 94.0 + len(asked) + 0.5}))
        asked.append(command)
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir()
        (folder / "env.json").write_text('{"precision": "bf16"}')
        (folder / "data.json").write_text(json.dumps(cifar10))
        result = {"part": "test", "images": 10_000, "top1": 94.0 + len(asked), "seconds": 600}
        return SimpleNamespace(stdout=json.dumps(result))

    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run, PIPE=None))

    def measured(*words: str) -> list[dict[str, str]]:
        monkeypatch.setattr(sys, "argv", ["measure.py", *words])
        script.main()
        assert "--recipe" in asked[-1]
        with (tmp_path / "training.csv").open(newline="") as lines:
            return list(csv.DictReader(lines))

    return measured


def test_a_training_that_is_repeated_takes_the_place_of_the_older_one(training: Any, tmp_path: Path) -> None:
    first = training("cifar94", "--data", "shards", "--seeds", "2")
    assert [(row["recipe"], row["data"], row["seed"], row["top1"]) for row in first] == [
        ("swift_resnet7_cifar10_fast", "cifar10", "0", "95.5"),
        ("swift_resnet7_cifar10_fast", "cifar10", "1", "96.5"),
    ]
    assert {row["views"] for row in first} == {"shift"}
    header = (ROOT / "docs" / "results" / "training.csv").read_text("utf-8").splitlines()[0]
    assert ",".join(first[0]) == header
    table = tmp_path / "training.csv"
    table.write_text(table.read_text() + ",".join((first[0] | {"machine": "another"}).values()) + "\n")
    again = training("cifar94", "--data", "shards", "--seeds", "1")
    assert [(row["seed"], row["machine"] == "another", row["top1"]) for row in again] == [
        ("1", False, "96.5"), ("0", True, "95.5"), ("0", False, "97.5"),
    ]  # fmt: skip
    other = training("cifar", "--data", "shards", "--seeds", "1")
    assert [(row["recipe"], row["views"], row["top1"]) for row in other[3:]] == [
        ("resnet20_cifar10_fast", "one", "98.0")
    ]


def test_a_set_is_known_by_its_classes_and_its_size(benchmarks: Any, tmp_path: Path) -> None:
    kind_of_set, names = benchmarks("measure").kind_of_set, benchmarks("measure").CLASS_NAMES
    whole = {"train": dict.fromkeys(names["cifar10"], 4_500), "val": dict.fromkeys(names["cifar10"], 500)}
    whole["test"] = dict.fromkeys(names["cifar10"], 1_000)
    found = {"source": str(tmp_path / "shards"), "classes": list(names["cifar10"]), "counts": whole}
    assert kind_of_set(found) == "cifar10"
    assert kind_of_set(found | {"counts": {"train": whole["train"]}}) == "shards"  # some of its pictures
    assert kind_of_set(found | {"classes": list("abcdefghij")}) == "shards"
    assert kind_of_set(found | {"source": "digits", "classes": list("0123456789")}) == "digits"
