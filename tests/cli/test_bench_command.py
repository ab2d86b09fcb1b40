"""`residuum bench`: its tables, its JSON, the table that it adds to, and flags that mean nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from speaking import Say, every_file

from residuum.cli import bench as command
from residuum.deploy.bench import COLUMNS

TINY = ["bench", "train", "--set", "model.width=0.25", "--img-size", "8", "-b", "4", "--steps", "2", "--turns", "1",
        "--device", "cpu"]  # fmt: skip


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_training_is_shown_as_a_table_with_where_the_time_goes(say: Say) -> None:
    said = say(*TINY, "--profile")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].split()[:2] == ["what", "median"]
    assert [line.split("  ")[0] for line in lines[1:5]] == ["step", "epoch", "loading", "memory"]
    start = next(number for number, line in enumerate(lines) if line.startswith("where a step's time goes"))
    end = next(number for number, line in enumerate(lines) if line.startswith("the step"))
    shares = [float(line.split()[-2]) for line in lines[start + 1 : end]]
    assert sum(shares) == pytest.approx(100, abs=1.1)  # each is rounded
    assert "without the profiler one takes" in lines[end + 1]
    assert said.err.startswith("measuring: step\nmeasuring: epoch\nmeasuring: loading\n")
    assert "resnet20_cifar" in said.err
    assert "cores" in said.err


def test_json_is_one_document_and_rows_are_added_to_a_table(say: Say, tmp_path: Path) -> None:
    out = tmp_path / "speed.csv"
    first = say(*TINY, "--json", "-q", "--out", out)
    assert (first.code, first.err) == (0, "")
    assert [arm["what"] for arm in first.json["arms"]] == ["step", "epoch", "loading", "memory"]
    assert first.json["out"] == str(out)
    assert first.json["profile"] is None
    said = say("bench", "infer", "--model", "resnet20_cifar", "--img-size", "8", "-b", "2", "--steps", "1", "--turns",
               "1", "--device", "cpu", "--out", out)  # fmt: skip
    assert said.code == 0
    assert f"Added to {out}." in said.err
    rows = rows_of(out)
    assert list(rows[0]) == list(COLUMNS)
    assert {row["bench"] for row in rows[:4]} == {"train"}
    assert {row["bench"] for row in rows[4:]} == {"infer"}
    step = first.json["arms"][0]
    assert (float(rows[0]["median"]), rows[0]["unit"]) == (step["median"], "images/s")
    assert every_file(tmp_path).keys() == {"speed.csv"}


def test_another_table_is_refused_and_kept(say: Say, tmp_path: Path) -> None:
    out = tmp_path / "other.csv"
    out.write_text("file,label\na.png,3\n")
    said = say(*TINY, "--out", out)
    assert said.code == 3
    assert said.err.splitlines()[0] == f"Error: {out} is a table of something else: its first line is 'file,label'."
    assert out.read_text() == "file,label\na.png,3\n"


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(say: Say, tmp_path: Path) -> None:
    said = say(*TINY, "--out", tmp_path / "nothing" / "a.csv")
    assert said.code == 5
    assert "measuring" not in said.err
    assert said.err.splitlines()[-1] == "  Give another path to --out."


@pytest.mark.parametrize(
    ("words", "flag", "where"),
    [
        (["infer", "--profile"], "--profile", "train"),
        (["startup", "--model", "resnet18"], "--model", "train or infer"),
        (["data", "--precision", "bf16"], "--precision", "train"),
        (["startup", "--steps", "3"], "--steps", "train or infer or data"),
        (["infer", "--set", "lr=1"], "--set", "train or data"),
        (["infer", "--recipe", "digits"], "--recipe", "train or data"),
        (["startup", "--offline"], "--offline", "train or infer or data"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(words: list[str], flag: str, where: str, say: Say) -> None:
    said = say("bench", *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[0] == f"Error: {flag} means nothing to residuum bench {words[0]}."
    assert said.err.splitlines()[1] == f"  Expected it with {where}."


def test_every_flag_is_read_by_some_measurement() -> None:
    from residuum.cli.main import build_parser

    parser = build_parser("bench")
    names = set(vars(parser.parse_args(["bench", "train"])))
    general = {"command", "run", "parser", "what", "out", "json", "quiet", "verbose"}
    assert names - general == set.union(*command._TAKES.values())


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (100.0, "100"), (12.345, "12.3"), (0.1234, "0.123")])
def test_numbers_are_short(value: float, shown: str) -> None:
    assert command._short(value) == shown
