"""Runs that are stopped by a signal in the middle of an epoch, and go on as if they had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from residuum import bundle
from residuum.cli.main import main
from residuum.errors import UsageError, WeightsError
from residuum.recipe import AdamW, Data, Model, Muon, Plateau, Recipe, Sgd, to_toml
from residuum.training import checkpoint
from residuum.training import train as training
from residuum.training.loop import fit, train_epoch
from residuum.training.run import Run, build
from residuum.training.train import train

CPU = torch.device("cpu")

STOPPED = """
import os, sys
from residuum.cli.main import main
from residuum.training.records import Records

number, at = int(sys.argv[1]), int(sys.argv[2])
write = Records.write

def write_and_signal(self, **record):
    write(self, **record)
    if record["kind"] == "step" and record["step"] == at:
        os.kill(os.getpid(), number)

Records.write = write_and_signal
sys.exit(main(sys.argv[3:]))
"""
"""The command line, to which a signal comes right after the record of a step."""


@dataclass(frozen=True)
class Case:
    """A signal, the step at which it comes (of six in an epoch), the exit code that it must give, and a recipe."""

    number: signal.Signals
    step: int
    code: int
    recipe: Callable[[Recipe], Recipe]


CASES = {
    "SIGINT, SGD": Case(signal.SIGINT, 8, 130, lambda tiny: tiny),
    "SIGTERM, AdamW": Case(
        signal.SIGTERM, 2, 75, lambda tiny: replace(tiny, optim=AdamW(lr=0.01), schedule=Plateau(patience_epochs=1))
    ),
}


@pytest.fixture(scope="module")
def stopped(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Path]]:
    """Exit code, complaint and run folder of each case, in processes of their own, side by side."""
    folder = tmp_path_factory.mktemp("stopped")
    started = {}
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for number, (name, case) in enumerate(CASES.items()):
        recipe, run = folder / f"{number}.toml", folder / f"run{number}"
        recipe.write_text(to_toml(case.recipe(tiny)), encoding="utf-8")
        words = ["train", "-q", "--device", "cpu", "--recipe", str(recipe), "--out", str(run)]
        command = [sys.executable, "-W", "error", "-c", STOPPED, str(int(case.number)), str(case.step), *words]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        started[name] = process, run
    ended = {}
    for name, (process, run) in started.items():
        _, complaint = process.communicate(timeout=120)
        ended[name] = process.returncode, complaint, run
    return ended


def state_of(folder: Path) -> dict[str, Any]:
    """Everything that a bundle holds, apart from how long it took."""
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "SHA256SUMS"}
    state: dict[str, Any] = {name: data for name, data in files.items() if name.endswith(".safetensors")}
    state |= {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    state.get("train_state.json", {}).pop("seconds", None)
    return state


def records_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records: list[dict[str, Any]] = [json.loads(text) for text in lines]
    return [{key: value for key, value in r.items() if key not in ("seconds", "images_per_s")} for r in records]


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    stopped: dict[str, tuple[int, str, Path]], tiny: Recipe, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)  # the report of a resumed run is the next test's
    case, (code, complaint, folder) = CASES[name], stopped[name]
    assert code == case.code, complaint
    assert f"Stopped by {case.number.name}; everything is saved." in complaint
    assert f"residuum train --resume {folder}" in complaint
    numbers = json.loads((folder / "last" / "train_state.json").read_text())
    assert (numbers["step"], numbers["epoch"]) == (case.step, case.step // 6)  # in the middle of an epoch
    undisturbed = build(case.recipe(tiny), tmp_path / "undisturbed", CPU)
    fit(undisturbed)
    resumed = train(resume=folder, device="cpu")
    for bundle_name in ("last", "best"):
        assert state_of(folder / bundle_name) == state_of(undisturbed.folder / bundle_name)
    assert records_of(folder) == records_of(undisturbed.folder)
    assert resumed.best_epoch == undisturbed.best_epoch
    assert f"Resumed at epoch {case.step // 6}, step {case.step}." in (folder / "log.txt").read_text()


def test_a_finished_run_that_is_resumed_just_reports(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "report.html").unlink()
    before = state_of(folder / "last"), state_of(folder / "best"), records_of(folder)
    assert finished.result is not None
    again = train(resume=folder, device="cpu")
    assert again.result is not None
    assert again.result.scores.as_dict() == finished.result.scores.as_dict()
    assert (state_of(folder / "last"), state_of(folder / "best"), records_of(folder)) == before
    assert (folder / "report.html").is_file()
    assert again.step == finished.step


@pytest.mark.parametrize("flag", [["--epochs", "9"], ["--recipe", "digits"], ["--data", "digits"], ["--out", "x"]])
def test_resuming_takes_no_other_flags(finished: Run, flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")}
    assert main(["train", "-q", "--resume", str(finished.folder), *flag]) == 2
    assert "Expected --resume alone." in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("optim", "average_decay"),
    [(Sgd(lr=0.05, momentum=0.0), 0.0), (Sgd(nesterov=True), 0.9), (AdamW(lr=0.01), 0.9), (Muon(), 0.0)],
    ids=["plain SGD", "SGD and an average", "AdamW and an average", "Muon"],
)
def test_everything_that_changes_is_in_the_checkpoint(
    tiny: Recipe, tmp_path: Path, optim: Sgd | AdamW | Muon, average_decay: float
) -> None:
    data = replace(tiny.data, source="synthetic:32x3x8", val_fraction=0.0)
    recipe = replace(tiny, epochs=2, optim=optim, average_decay=average_decay, data=data)
    whole, first, second = (build(recipe, tmp_path / name, CPU) for name in ("whole", "parts", "parts"))
    for run in (whole, first):
        train_epoch(run)
        run.epoch += 1
        run.epoch_done()
    torch.manual_seed(99)  # nothing may depend on what another process drew
    checkpoint.restore(second)
    assert second.numbers() == first.numbers()
    for run in (whole, second):
        train_epoch(run)
        run.epoch += 1
        run.epoch_done()
    assert state_of(tmp_path / "parts" / "last") == state_of(tmp_path / "whole" / "last")
    for parameter, twin in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert parameter.stride() == twin.stride()
        for key, value in whole.optimizer.state[twin].items():
            restored = second.optimizer.state[parameter][key]
            assert value is restored is None or (torch.equal(value, restored) and value.stride() == restored.stride())


def test_a_run_killed_while_its_checkpoint_was_replaced_can_be_resumed(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "last").rename(folder / ".last.older")  # the moment between the two renames of bundle.write
    assert checkpoint.is_run(folder)
    run = build(finished.recipe, folder, CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.Logger.warning", lambda *_: None)
        checkpoint.restore(run)
    assert run.step == finished.step


def test_there_must_be_something_to_go_on_with(tmp_path: Path, tiny: Recipe) -> None:
    for make in (lambda: None, lambda: (tmp_path / "recipe.toml").write_text(to_toml(tiny)), (tmp_path / "last").mkdir):
        make()
        with pytest.raises(UsageError, match="no run to go on with"):
            train(resume=tmp_path)


def test_a_checkpoint_of_another_network_is_refused(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    wider = replace(finished.recipe, model=Model("resnet20_cifar", width=0.5))
    (folder / "recipe.toml").write_text(to_toml(wider), encoding="utf-8")
    with pytest.raises(WeightsError, match="Cannot go on from") as caught:
        train(resume=folder)
    assert caught.value.exit_code == 4


def test_a_flipped_bit_in_the_optimizers_state_is_found(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    file = folder / "last" / "train_state.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"train_state\.safetensors"):
        train(resume=folder)


def test_the_bundle_says_what_it_is(finished: Run) -> None:
    _, card = bundle.read(finished.folder / "last")
    assert (card["epoch"], card["step"]) == (finished.epoch, finished.step)
    assert card["classes"] == ["2", "10", "bee"]
    assert card["model"] == {
        "name": "resnet20_cifar",
        "num_classes": 3,
        "in_channels": 3,
        "width": 0.25,
        "drop_path": 0.2,
    }
    assert card["preprocessing"] == finished.preprocessing.as_dict()
    assert card["recipe"]["optim"]["clip_norm"] == 1.0
    assert card["data"]["source"] == finished.recipe.data.source
    assert {"licence", "residuum", "scores"} <= card.keys()
    assert set(card["scores"]["val"]) == {"images", "top1", "top5", "loss", "ece"}


def test_an_infinite_number_survives_json(tmp_path: Path, tiny: Recipe) -> None:
    from residuum.recipe import from_dict

    recipe = replace(tiny, epochs=1, optim=Sgd(), data=Data("synthetic:16x2x8", img_size=8, resize_px=8, batch_size=8))
    run = build(recipe, tmp_path, CPU)
    checkpoint.save(run, {}, best=True)
    _, card = bundle.read(tmp_path / "best")
    assert card["recipe"]["optim"]["clip_norm"] == "inf"
    assert from_dict(card["recipe"]) == recipe
