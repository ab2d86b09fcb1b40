"""The comparisons with peers: their arithmetic, their arms, that every row runs, and the page of what was measured."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "speed.md"

COUNTING = """
import arms
asked = []
def measure():
    print("noise")
    asked.append(1)
    return len(asked)
arms.serve(measure)
"""


def against(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(SCRIPTS)])}
    command = [sys.executable, str(SCRIPTS / "against.py"), "--quick", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["name"]: row for row in csv.DictReader(lines)}


def test_every_goal_has_a_comparison_and_every_comparison_a_goal(benchmarks: Any) -> None:
    goals, comparisons = benchmarks("goals"), benchmarks("comparisons")
    compared = [name for together in comparisons.GROUPS for name in together.rows]
    assert sorted(compared) == sorted(goal.name for goal in goals.GOALS)


def test_the_goals_are_those_that_were_set(benchmarks: Any) -> None:
    goals = {goal.name: goal for goal in benchmarks("goals").GOALS}
    assert {name: (goal.ratio, goal.stretch, goal.at_most) for name, goal in goals.items() if goal.ratio} == {
        "cifar-plain": (3.0, 4.0, False), "cifar-compiled": (2.0, None, False), "cifar-product": (0.6, None, False),
        "resnet18-eager": (2.5, None, False), "resnet18-compiled": (1.1, None, False),
        "resnet50-eager": (2.5, None, False), "resnet50-compiled": (1.1, None, False),
        "inference": (5.0, None, False), "photos": (1.8, 2.5, False), "photos-cache": (5.0, None, False),
        "first-step": (0.5, None, True), "help": (0.05, None, True), "memory": (0.6, None, True),
        "cifar-time": (0.1, None, True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "ratio", "met"),
    [("cifar-plain", 3.0, True), ("cifar-plain", 2.99, False), ("memory", 0.6, True), ("memory", 0.61, False)],
)
def test_a_goal_is_met_or_missed(name: str, ratio: float, met: bool, benchmarks: Any) -> None:
    assert benchmarks("goals").goal(name).met(ratio) is met


def test_a_row_has_medians_and_the_ratio_of_each_turn(benchmarks: Any) -> None:
    row = benchmarks("against").row_of("cifar-plain", "images/s", [900.0, 450.0, 960.0], [300.0, 150.0, 310.0])
    assert row == {
        "name": "cifar-plain", "unit": "images/s", "turns": 3, "ours": "900", "ours_low": "450", "ours_high": "960",
        "peer": "300", "peer_low": "150", "peer_high": "310", "ratio": "3", "ratio_low": "3", "ratio_high": "3.097",
    }  # fmt: skip


def test_a_row_takes_the_place_of_the_older_one_in_the_order_of_the_goals(benchmarks: Any, tmp_path: Path) -> None:
    script, out = benchmarks("against"), tmp_path / "speed.csv"
    for name, ours in (("memory", 2.0), ("cifar-plain", 5.0), ("memory", 1.0)):
        script.write(out, script.row_of(name, "x", [ours], [2.0]), {})
    rows = rows_of(out)
    assert {name: row["ratio"] for name, row in rows.items()} == {"cifar-plain": "2.5", "memory": "0.5"}
    assert list(rows) == ["cifar-plain", "memory"]
    assert tuple(rows["memory"]) == script.COLUMNS
    assert all(rows["memory"][column] for column in ("date", "machine", "cores", "torch", "residuum"))
    assert {file.name for file in tmp_path.iterdir()} == {"speed.csv"}


def test_the_fastest_mode_counts_only_if_its_answers_agree(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script, size = benchmarks("against"), benchmarks("comparisons").Size(True, 1)
    found = {"ours: fp32": [10.0], "ours: bf16": [30.0], "ours: int8": [50.0], "eager": [9.0]}
    assert script.best_mode(found, size) == {"arm": "ours: int8", "mode": "int8", "agreement": ""}
    monkeypatch.setattr(script, "agreement_of", lambda size: {"bf16": 99.6, "int8": 99.4})  # noqa: ARG005
    assert script.best_mode(found, size) == {"arm": "ours: bf16", "mode": "bf16", "agreement": "99.60"}
    monkeypatch.setattr(script, "agreement_of", lambda size: {"bf16": 98.0, "int8": 90.0})  # noqa: ARG005
    assert script.best_mode(found, size) == {"arm": "ours: fp32", "mode": "fp32", "agreement": "100.00"}


def trained_runs(script: Any, file: Path, *runs: tuple[float, float], **other: str) -> None:
    """Writes runs of the fast recipe on this machine, as test accuracy and seconds, and another of no account."""
    here = {key: str(script.where()[key]) for key in ("machine", "cores")}
    own = {"recipe": "resnet20_cifar10_fast", "data": "cifar10", "part": "test", **here}
    with file.open("w", newline="") as lines:
        table = csv.DictWriter(lines, [*own, "top1", "train_seconds"])
        table.writeheader()
        table.writerow(own | other | {"top1": "99.0", "train_seconds": "1"})
        table.writerows(own | {"top1": str(top1), "train_seconds": str(seconds)} for top1, seconds in runs)


@pytest.mark.parametrize(
    "other", [{"machine": "another"}, {"data": "some of it"}, {"part": "val"}, {"recipe": "resnet20_cifar10_2015"}]
)
def test_the_time_to_an_accuracy_is_that_of_the_median_run_here(
    other: dict[str, str], benchmarks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, training, out = benchmarks("against"), tmp_path / "training.csv", tmp_path / "speed.csv"
    script.write_time([400.0], out, training)
    assert "cifar-time: not measured: first python benchmarks/measure.py cifar" in capsys.readouterr().out
    assert not out.exists()
    trained_runs(script, training, (91.0, 1000), (91.3, 1200), (91.5, 1100), **other)
    script.write_time([512.0, 400.0, 640.0], out, training)  # pictures a second, of 64,000 x 128
    row = rows_of(out)["cifar-time"]
    assert (row["ours"], row["peer"], row["ratio"], row["top1"]) == ("1100", "16000", "0.06875", "91.300")
    assert "cifar-time: 0.06875 x (goal: at most 0.1 x), 91.300 % of 91.25 %: met" in capsys.readouterr().out


def test_an_accuracy_that_was_missed_is_written_and_takes_the_place_of_what_was_reached(
    benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, tables = benchmarks("against"), benchmarks("tables")
    training, out = tmp_path / "training.csv", tmp_path / "speed.csv"

    def shown() -> str:
        script.write_time([512.0], out, training)
        monkeypatch.setattr(tables, "read", lambda name: script.read(out) if name == "speed.csv" else [])
        return next(line for line in tables.with_speed(PAGE.read_text("utf-8")).splitlines() if "91.25 %" in line)

    trained_runs(script, training, (91.3, 1200), (91.4, 1100), (91.2, 1000), machine="another")
    assert "| 0.06875 x (0.0625 to 0.075, 1 turn), 91.3 % reached | 1100 s | 16000 s | met |" in shown()
    trained_runs(script, training, (91.2, 1200), (91.249, 1100), (91.3, 1000), machine="another")
    capsys.readouterr()
    assert "| 0.06875 x (0.0625 to 0.075, 1 turn), 91.249 % reached | 1100 s | 16000 s | missed |" in shown()
    assert "91.249 % of 91.25 %: missed" in capsys.readouterr().out
    trained_runs(script, training, (91.3, 2000), machine="another")
    assert ", 91.3 % reached | 2000 s | 16000 s | missed |" in shown()  # right, but not in the time


def test_a_training_steps_multiply_adds_are_three_forward_passes_but_the_first_data(benchmarks: Any) -> None:
    forward, stem = 40_813_184, 27 * 16 * 32 * 32  # He et al. 2015, section 4.2, counted by hand for shortcuts A
    counted = benchmarks("ours").multiply_adds("resnet20_cifar", 32)
    assert counted == pytest.approx(3 * forward - stem, rel=0.01)


def test_a_rate_leaves_the_lead_in_out(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = benchmarks("arms")
    clock = iter([0.0, 4.0, 10.0, 12.0])
    monkeypatch.setattr(arms, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    measure = arms.rate_of(iter([1000, 1000, 4, 4, 1000, 1000, 8, 8]), steps=2, lead_in=2)
    assert (measure(), measure()) == (2.0, 8.0)


def test_an_arm_answers_each_time_it_is_asked_and_what_libraries_print_is_no_answer(
    benchmarks: Any, tmp_path: Path
) -> None:
    arms, script = benchmarks("arms"), tmp_path / "arm.py"
    script.write_text(COUNTING)
    arm = arms.Arm("counting", [str(script)], settle_s=0)
    assert [arm(), arm()] == [1.0, 2.0]
    arm.close()
    script.write_text("raise SystemExit('there is no such network')")
    with pytest.raises(arms.ArmError, match="there is no such network"):
        arms.Arm("broken", [str(script)])


def test_photos_are_linked_until_there_are_enough(benchmarks: Any, tmp_path: Path) -> None:
    comparisons = benchmarks("comparisons")
    for name in ("ants/a.jpg", "bees/b.jpeg", "bees/c.gif"):
        (tmp_path / "few" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "few" / name).write_text(name)
    comparisons.repeat(tmp_path / "few", tmp_path / "many", 5)
    files = sorted(path.relative_to(tmp_path / "many").as_posix() for path in (tmp_path / "many").rglob("*.*"))
    assert files == [f"ants/{number}-a.jpg" for number in range(3)] + [f"bees/{number}-b.jpeg" for number in range(3)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cifar-plian", "no row is called cifar-plian; there are cifar-plain"),
        ("inference --bundle {here}", "--bundle answers on photos: give them, too, with --photos FOLDER"),
        ("cifar-plain --bundle {here} --photos {here}", "--bundle means nothing to these rows"),
        ("inference --photos {here}", "--photos means nothing to these rows"),
        ("photos --photos {here}/nowhere", "nowhere is no folder"),
        ("inference --bundle {here} --photos {here}", "is no trained network; expected a folder such as"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    words: str,
    said: str,
    benchmarks: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["against.py", *words.format(here=tmp_path).split()])
    with pytest.raises(SystemExit, match="2"):
        benchmarks("against").main()
    assert said in capsys.readouterr().err


def test_photos_are_for_the_rows_about_photos_and_for_a_bundles_answers(benchmarks: Any, tmp_path: Path) -> None:
    script = benchmarks("against")
    (tmp_path / "model.json").touch()
    for rows, bundle in ((["photos"], None), (["photos-cache", "help"], None), (["inference-openvino"], tmp_path)):
        arguments = SimpleNamespace(rows=rows, photos=str(tmp_path), bundle=bundle)
        assert script.wrong_words(arguments, [goal.name for goal in script.GOALS]) == ""


def test_a_cache_that_fails_without_a_word_is_said_and_fails(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script, comparisons = benchmarks("against"), benchmarks("comparisons")
    failed = subprocess.CompletedProcess([], 137, stdout="", stderr="\n")
    monkeypatch.setattr(comparisons.subprocess, "run", lambda *_, **__: failed)
    together = comparisons.Together({"photos-cache": ("cache", "torchvision")}, lambda *_: {})
    size = comparisons.Size(True, 1)
    assert script.compare(together, ["photos-cache"], size, tmp_path / "speed.csv", tmp_path / "training.csv") == 1
    assert capsys.readouterr().out == "photos-cache: not measured: residuum cache ended with 137\n"
    assert not (tmp_path / "speed.csv").exists()


def test_a_peer_that_is_not_installed_is_said_and_the_others_go_on(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, comparisons = benchmarks("against"), benchmarks("comparisons")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    together = next(group for group in comparisons.GROUPS if "inference" in group.rows)
    assert [name for name in together.rows if script.is_there(name, together)] == ["inference", "inference-onnxruntime"]
    said = capsys.readouterr().out
    assert said == "inference-openvino: not measured: pip install 'residuum[peers]' (openvino not installed)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        ["cifar-plain", "cifar-compiled", "cifar-product"], ["resnet18-eager", "resnet18-compiled"], ["inference"],
        ["photos", "photos-cache"], ["first-step", "help"], ["memory"],
    ],
    ids=lambda rows: rows[0],
)  # fmt: skip
def test_rows_run_from_the_first_arm_to_the_table(rows: list[str], tmp_path: Path) -> None:
    out = tmp_path / "speed.csv"
    done = against(*rows, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(rows_of(out)) == rows
    assert all(float(row["ratio"]) > 0 for row in rows_of(out).values())


@pytest.mark.slow
def test_the_row_of_the_time_to_an_accuracy_runs_from_a_step_to_the_table(benchmarks: Any, tmp_path: Path) -> None:
    training, out = tmp_path / "training.csv", tmp_path / "speed.csv"
    trained_runs(benchmarks("against"), training, (91.0, 1200), machine="another")
    done = against("cifar-time", "--training", training, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    row = rows_of(out)["cifar-time"]
    assert (row["ours"], row["top1"]) == ("1200", "91.000")
    assert float(row["ratio"]) == pytest.approx(1200 / float(row["peer"]), rel=1e-3)
    assert "91.000 % of 91.25 %: missed" in done.stdout


def test_the_page_is_fresh_and_says_what_was_not_measured(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, goals = benchmarks("tables"), benchmarks("goals")
    page = PAGE.read_text(encoding="utf-8")
    assert tables.with_speed(page) == page, "run python benchmarks/tables.py"
    monkeypatch.setattr(tables, "read", lambda name: [])  # noqa: ARG005
    nothing = tables.with_speed(page)
    assert nothing.count("| not measured |") == len(goals.GOALS) + 1
    table = [line for line in nothing.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}


def test_the_page_says_met_and_missed(benchmarks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, script = benchmarks("tables"), benchmarks("against")
    about = {"mode": "", "agreement": "", "machine": "M", "cores": "2", "date": "2026-01-01"}
    rows = [
        about | script.row_of("cifar-plain", "images/s", [2900.0], [700.0]),
        about | script.row_of("cifar-compiled", "images/s", [1900.0], [1000.0]),
        about | script.row_of("inference", "images/s", [60.0], [10.0]) | {"mode": "bf16"},
        about | script.row_of("memory", "MB", [500.0], [1000.0]),
    ]
    trained = [
        {
            "recipe": name,
            "data": "cifar10",
            "part": "test",
            "views": "one",
            "top1": top1,
            "train_seconds": seconds,
            **about,
        }
        for name, top1, seconds in (("fast", "93.9", "300"), ("wide", "94.2", "900"), ("slow", "95.0", "1300"))
    ]
    monkeypatch.setattr(tables, "read", lambda name: {"speed.csv": rows, "training.csv": trained}[name])
    lines = tables.with_speed(PAGE.read_text(encoding="utf-8")).splitlines()
    table = [line for line in lines if line.startswith("|")]
    found = {name: next(line for line in table if name in line) for name in ("plain script", "same script", "bf16 |")}
    assert "| 4.143 x (4.143 to 4.143, 1 turn) |" in found["plain script"]
    assert "| met, and the stretch | M, 2 cores, 2026-01-01 |" in found["plain script"]
    assert "| missed |" in found["same script"]
    assert "met in speed; whether the answers agree was not measured" in found["bf16 |"]
    high = next(line for line in table if "94 %" in line)
    assert "| 15.0 min, `wide`: 94.20 % (94.20 to 94.20, 1 seed) |" in high
    assert "| met |" in high
