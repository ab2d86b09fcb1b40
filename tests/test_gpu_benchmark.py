"""benchmarks/gpu.py on a CPU: every part's code with tiny nets, what its rows say, and what it goes on with."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from residuum import software
from residuum.models import create_model
from residuum.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("gpu")


@pytest.fixture
def ran(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a part on the CPU; returns its rows by what they are of."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "timm" else found(name, *more))

    def run(name: str, **changes: Any) -> dict[str, dict[str, str]]:
        session = gpu.tiny(name, tmp_path, tmp_path / "gpu.csv")
        for key, value in changes.items():
            setattr(session, key, value)
        assert gpu._part(session) == 0
        with (tmp_path / "gpu.csv").open(newline="") as file:
            return {f"{row['what']} {row['seed']}".strip(): row for row in csv.DictReader(file)}

    return run


def test_there_is_a_part_for_everything_that_is_owed(gpu: ModuleType) -> None:
    assert set(gpu.PARTS) == {"check", "recipe2015", "cifar94", "cifar96", "resnet50", "fp16", "resume"}


def test_without_a_gpu_it_says_so_and_measures_nothing(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RESIDUUM_CACHE", "elsewhere")
    assert gpu.main(["check", "--out", str(tmp_path / "gpu.csv"), "--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == ["There is no CUDA device here: nothing is measured."]
    assert not (tmp_path / "gpu.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("chek", "no part 'chek'"),
        ("check --set lr", "KEY=VALUE"),
        ("--held-out 5000", "--held-out means nothing to check, fp16, resume, resnet50."),
        ("cifar94 resume --held-out 5000", "--held-out means nothing to resume."),
        ("check --set optim.lr=0.1", "--set means nothing to check."),
        ("table --held-out 5000", "--held-out means nothing to table."),
        ("cifar94 --set seed=3", "--set seed=3 is not for you to say here"),
        ("recipe2015 --held-out 50000", "Expected a number from 1 to 49999."),
    ],
)
def test_wrong_words_are_refused(
    gpu: ModuleType, words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.hardware, "choose_device", lambda _: torch.device("cpu"))
    monkeypatch.setenv("RESIDUUM_CACHE", "elsewhere")
    assert gpu.main(words.split()) == 2
    assert said in capsys.readouterr().err


def test_check(ran: Any) -> None:
    rows = ran("check")
    same = rows["batches made on the device that are the loader's"]
    assert f"of {same['value']}" == same["unit"]
    apart = [float(row["value"]) for what, row in rows.items() if what.startswith("captured against plain")]
    assert len(apart) == 3
    assert max(apart) < 0.05
    assert {row["met"] for row in rows.values()} == {"", "yes"}


@pytest.mark.slow
def test_fp16_and_resume(ran: Any) -> None:
    assert ran("fp16")["trains, and resumes with its scale"]["met"] == "yes"
    rows = {what: row for what, row in ran("resume").items() if row["part"] == "resume"}
    assert len(rows) == 4
    assert {(row["value"], row["met"]) for row in rows.values()} == {("0", "yes")}


def test_recipe2015_goes_on_where_it_was(ran: Any) -> None:
    rows = ran("recipe2015", seeds=1)
    assert float(rows["seconds a step, captured, fp32"]["value"]) > 0
    assert float(rows["seconds a step, plain script, 0 workers"]["value"]) > 0
    ratio = float(rows["plain script, 0 workers / captured, fp32"]["value"])
    assert math.isfinite(ratio)
    first = rows["test error 0"]
    again = ran("recipe2015", seeds=2)
    assert again["test error 0"] == first  # and not measured anew
    assert "test error 1" in again
    assert again["mean test error of 2 runs"]["goal"] == "at most 8.75"


@pytest.mark.slow
def test_a_trial_of_2015_is_no_published_run(ran: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is scored on training pictures, and neither its rows nor what it left in the cache are gone on with."""
    trial = ran("recipe2015", seeds=1, held_out=5000, changes={"optim.lr": "0.01"})
    assert "held out error 0" in trial
    assert not any("test" in what for what in trial)
    rows = ran("recipe2015", seeds=1)
    assert "goes on with" not in capsys.readouterr().out
    assert len(list((tmp_path / "cache" / "runs").iterdir())) == 2
    assert rows["mean test error of 1 runs"]["value"] == rows["test error 0"]["value"]
    assert (rows["held out error 0"]["changes"], rows["test error 0"]["changes"]) == (
        "optim.lr=0.01 held-out=5000 no-compile", "no-compile",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_of_2015_that_had_no_time_is_gone_on_with(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ran("recipe2015", seeds=1)["test error 0"]["value"]
    (tmp_path / "gpu.csv").unlink()
    cifar = importlib.import_module("gpu_cifar")
    trained = cifar._trained

    def one_epoch(_: Any, run: Any, epochs: Any) -> bool:
        run.start_clock()
        epochs(run)
        run.epoch += 1
        return run.epoch == run.recipe.epochs

    monkeypatch.setattr(cifar, "_trained", one_epoch)
    rows = ran("recipe2015", seeds=1, cache=tmp_path / "other")
    assert "test error 0" not in rows
    monkeypatch.setattr(cifar, "_trained", trained)
    assert ran("recipe2015", seeds=1, cache=tmp_path / "other")["test error 0"]["value"] == whole


@pytest.mark.parametrize("part", ["cifar94", "cifar96"])
def test_accuracy_in_seconds(ran: Any, part: str) -> None:
    rows = ran(part)
    for seed in (0, 1):
        assert 0 <= float(rows[f"top-1 test, as it is {seed}"]["value"]) <= 100
        assert "six views" in rows[f"top-1 test, as it is {seed}"]["note"]
        assert float(rows[f"seconds, as it is {seed}"]["value"]) > 0
    mean = rows["mean top-1 test, as it is"]
    values = [float(rows[f"top-1 test, as it is {seed}"]["value"]) for seed in (0, 1)]
    assert float(mean["value"]) == pytest.approx(sum(values) / 2, rel=1e-4)
    assert mean["goal"] == f"at least {part.removeprefix('cifar')}"
    assert "median seconds, as it is" in rows


def test_a_choice_is_scored_on_training_pictures(ran: Any) -> None:
    rows = ran("cifar94", held_out=5000, changes={"optim.lr": "0.01"}, seeds=1)
    assert "top-1 held out, optim.lr=0.01 0" in rows
    assert not any("test" in what for what in rows)


def test_a_seed_is_the_same_training_again(gpu: ModuleType, tmp_path: Path) -> None:
    """Weights, optimizer and draws begin anew in place: seed 1 after seed 0 is seed 1 alone, bit for bit."""
    cifar = importlib.import_module("gpu_cifar")
    session = gpu.tiny("cifar94", tmp_path, tmp_path / "gpu.csv")
    wanted = session.recipe(cifar.RECIPES["swift_resnet10_cifar10_94"].build(), capture=True)
    ends = []
    for order in ((0, 1), (1,)):
        run = cifar.build(wanted, tmp_path / str(len(order)), session.device)
        trial = cifar._Trial(run, cifar._shown(run, run.parts.test))
        for seed in order:
            trial(seed)
        ends.append([value.clone() for value in run.model.state_dict().values()])
    assert all(torch.equal(left, right) for left, right in zip(*ends, strict=True))


def test_resnet50(ran: Any) -> None:
    rows = ran("resnet50")
    for arm in ("eager", "captured"):
        assert float(rows[f"resnet18 training, residuum, {arm}"]["value"]) > 0
    assert 0 < float(rows["resnet18, share of the roofline"]["value"]) < 1.5
    assert float(rows["bf16 matrix product of 256"]["value"]) > 0


@pytest.mark.slow
def test_resnet50_against_timm(gpu: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    assert gpu._part(gpu.tiny("resnet50", tmp_path, tmp_path / "gpu.csv")) == 0
    rows = (tmp_path / "gpu.csv").read_text()
    assert "timm, eager" in rows
    assert "at least 1.35" in rows


def test_the_cost_of_a_step_is_counted_by_hand(gpu: ModuleType) -> None:
    """ResNet-50: 4.09 G multiply-adds forward, twice that backward but for the first layer's input."""
    resnet50 = gpu.gpu_resnet50
    with torch.device("meta"):
        model = create_model("resnet50")
    cost = resnet50.cost_of(model, 2, 224)
    first = 118_013_952  # multiply-adds of the 7x7 convolution: 112 x 112 x 64 x 147
    assert sum(each.flops for each in cost) == 2 * 2 * (3 * 4_089_184_256 - first)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8))
    passes = resnet50.cost_of(small, 4, 6)
    assert [each.flops for each in passes] == [2 * 4 * 36 * 8 * 27] * 2 + [0]
    assert [each.bytes for each in passes] == [2 * (4 * 36 * 3 + 4 * 36 * 8 + 216)] * 2 + [2 * 5 * 4 * 36 * 8]


def test_shards_come_one_call_after_the_other(gpu: ModuleType, tmp_path: Path) -> None:
    session = gpu.tiny("cifar94", tmp_path, tmp_path / "gpu.csv")
    session.tiny = False
    for brought in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        assert not session.has_cifar10()
        (tmp_path / brought).mkdir()
        pq.write_table(pa.table({"x": [1]}), tmp_path / brought / f"{brought}.parquet")
        names = gpu.gather(tmp_path / brought, session.cache)
        assert f"{brought}.parquet" in names
    assert session.has_cifar10()
    assert len(names) == 3


@pytest.fixture
def session(gpu: ModuleType, tmp_path: Path) -> Any:
    """Of the part `check`, with one row of seed 0 behind it."""
    found = gpu.tiny("check", tmp_path, tmp_path / "gpu.csv")
    found.compiles = True  # changes nothing, then
    found.row("top-1", 94.0, "%", seed=0)
    return found


COUNTS = ("part", "changes", "machine", "cores", "torch", "cuda", "residuum", "commit")


@pytest.mark.parametrize("column", COUNTS)
def test_rows_that_others_have_measured_do_not_count(session: Any, gpu: ModuleType, column: str) -> None:
    assert [row["seed"] for row in session.rows("top-1")] == ["0"]
    assert session.rows("top-5") == []
    mine = gpu.read(session.out)
    with session.out.open("w", newline="") as file:
        table = csv.DictWriter(file, mine[0])
        table.writeheader()
        table.writerows(row | {column: "another"} for row in mine)
    assert session.rows("top-1") == []


@pytest.mark.parametrize("changed", [{"changes": {"epochs": "2"}}, {"held_out": 5000}, {"compiles": False}])
def test_what_the_command_line_changes_is_another_measurement(session: Any, changed: dict[str, Any]) -> None:
    other = replace(session, **changed)
    wanted = RECIPES["resnet20_cifar10_2015"].build()
    assert other.rows("top-1") == []
    assert other.run_folder(wanted) != session.run_folder(wanted)
    assert replace(session).rows("top-1") == session.rows("top-1")


def test_each_recipe_and_seed_has_its_folder_for_a_run(session: Any) -> None:
    wanted = RECIPES["resnet20_cifar10_2015"].build()
    folders = [session.run_folder(each) for each in (wanted, replace(wanted, seed=1), replace(wanted, epochs=2))]
    assert len({*folders}) == 3
    assert session.run_folder(replace(wanted)) == folders[0]
    assert all(folder.parent == session.cache / "runs" for folder in folders)


def test_a_row_says_which_software_has_measured(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = software.origin()
    row = session.rows("top-1")[0]
    commit = (origin["commit"] or "").removesuffix("-dirty")
    assert (row["residuum"], row["commit"].removesuffix("-dirty")) == (origin["version"], commit)
    written = replace(session)  # what a call writes makes a checkout look changed to the next
    monkeypatch.setitem(written.here, "commit", f"{commit}-dirty")
    assert len(written.rows("top-1")) == 1


def test_a_table_of_before_gets_the_columns_that_it_lacks(session: Any, gpu: ModuleType) -> None:
    older = {"part": "check", "what": "top-1", "seed": "0", "value": "93", "residuum": "source"}
    session.out.write_text(f"{','.join(older)}\n{','.join(older.values())}\n")
    session.row("top-1", 94.0, "%", seed=0)
    first, second = gpu.read(session.out)
    assert {key: value for key, value in first.items() if value} == older
    assert [row["value"] for row in session.rows("top-1")] == ["94"]
    assert second.keys() == first.keys()


def test_the_table_has_the_latest_of_each_machine_and_change(session: Any, gpu: ModuleType) -> None:
    session.goal("a / b", 1.0, "x", 1.35)
    session.goal("a / b", 1.5, "x", 1.35, note="best of three")
    session.row("speed", 2.0, "images/s", low=1.5, high=2.5)
    replace(session, changes={"epochs": "2"}).row("speed", 9.0, "images/s")
    lines = gpu.table(session.out)
    assert len(lines) == 5
    assert lines[2].startswith("| check | a / b | 1.5 x; best of three | at least 1.35 | yes |")
    assert lines[3].startswith("| check | speed | 2 images/s (1.5 to 2.5) |  |  |")
    assert lines[4].startswith("| check | speed (epochs=2) | 9 images/s |  |  |")
    assert all(line.count("|") == 7 for line in lines)
    other = session.out.read_text().replace(session.here["machine"], "another")
    session.out.write_text(session.out.read_text() + other.partition("\n")[2])
    assert len(gpu.table(session.out)) == 8
