"""Runs that are stopped by a signal in the middle of an epoch, and go on as if they had not been."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from residuum import bundle
from residuum.cli.main import main
from residuum.errors import DataError, UsageError, WeightsError
from residuum.recipe import AdamW, Data, Model, Muon, Plateau, Recipe, Sgd, read, to_toml
from residuum.training import checkpoint
from residuum.training import train as training
from residuum.training.build import build
from residuum.training.loop import fit, train_epoch
from residuum.training.records import Records
from residuum.training.run import Run
from residuum.training.train import train

CPU = torch.device("cpu")


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
    """Exit code, complaint and run folder of each case: a signal comes right after the record of a step."""
    folder = tmp_path_factory.mktemp("stopped")
    write = Records.write
    ended = {}
    for number, (name, case) in enumerate(CASES.items()):
        recipe, run = folder / f"{number}.toml", folder / f"run{number}"
        recipe.write_text(to_toml(case.recipe(tiny)), encoding="utf-8")

        def write_and_signal(self: Records, *, case: Case = case, **record: object) -> None:
            write(self, **record)
            if record["kind"] == "step" and record["step"] == case.step:
                os.kill(os.getpid(), case.number)

        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as complaint:
            patch.setattr(Records, "write", write_and_signal)
            code = main(["train", "-q", "--device", "cpu", "--recipe", str(recipe), "--out", str(run)])
        ended[name] = code, complaint.getvalue(), run
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


def test_a_resumed_run_has_its_folder_already(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")}
    assert main(["train", "-q", "--resume", str(finished.folder), "--out", "x"]) == 2
    assert "Expected --resume without --out." in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")} == before


FIXED = {
    "model.name": ["--model", "resnet32_cifar"],
    "model.width": ["--set", "model.width=0.5"],
    "data.source": ["--data", "digits"],
    "data.val_fraction": ["--set", "data.val_fraction=0.1"],
}


@pytest.mark.parametrize("key", FIXED)
def test_another_network_or_other_pictures_are_refused_by_name(
    finished: Run, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")}
    assert main(["train", "-q", "--resume", str(finished.folder), *FIXED[key]]) == 2
    complaint = capsys.readouterr().err
    assert f"cannot go on with {key} = " in complaint
    assert "--override" in complaint
    assert {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")} == before


@pytest.mark.usefixtures("without_report")
def test_other_keys_change_with_a_word(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = train(resume=folder, epochs=4, lr=0.01, batch_size=4, device="cpu")
    assert (run.recipe.epochs, run.recipe.optim.lr, run.recipe.data.batch_size) == (4, 0.01, 4)
    assert read(folder / "recipe.toml") == run.recipe
    log = (folder / "log.txt").read_text()
    for word in ("epochs is 4 from here on; it was 3.", "optim.lr is 0.01", "data.batch_size is 4"):
        assert word in log
    assert run.step == 4 * len(run.train_loader)
    assert run.epoch_steps == 0
    assert [record["epoch"] for record in run.records.epochs()] == [1, 2, 3, 4]


@pytest.mark.usefixtures("without_report")
def test_another_optimizer_starts_anew(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = train(resume=folder, epochs=4, changes={"optim.name": "adamw", "lr": 1e-3}, device="cpu")
    steps = {float(state["step"]) for state in run.optimizer.state.values()}
    assert steps == {float(len(run.train_loader))}


@pytest.mark.usefixtures("without_report")
def test_override_forces_other_pictures_with_the_same_classes(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = train(resume=folder, override=True, epochs=4, changes={"data.val_fraction": 0.4}, device="cpu")
    assert run.recipe.data.val_fraction == 0.4
    assert run.epoch == 4


def test_override_forces_another_network_as_far_as_its_tensors_fit(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    wider = {"model.name": "resnet32_cifar", "epochs": 4}
    run = train(resume=folder, override=True, changes=wider, device="cpu")
    assert run.recipe.model.name == "resnet32_cifar"
    log = (folder / "log.txt").read_text()
    assert "tensors of the checkpoint do not fit the network and start anew" in log
    assert "model.name is 'resnet32_cifar' from here on; it was 'resnet20_cifar'." in log
    begun = build(run.recipe, tmp_path / "probe", CPU)
    misfits = checkpoint.restore(begun, checkpoint.read(finished.folder)[0], what_fits=True)
    assert all(name.startswith("stages.") for name in misfits)
    assert torch.equal(begun.model.stem.conv.weight, finished.model.stem.conv.weight)


def test_override_without_a_run_is_refused(tiny: Recipe) -> None:
    with pytest.raises(UsageError, match="--override is for a run that is resumed"):
        train(tiny, override=True)


def test_other_classes_are_refused_by_name(
    tiny: Recipe, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    pictures = tmp_path / "pictures"
    shutil.copytree(class_folders, pictures)
    run = train(replace(tiny, epochs=1), data=str(pictures), out=tmp_path / "run", device="cpu")
    (pictures / "bee").rename(pictures / "wasp")
    with pytest.raises(DataError, match="has other classes now: 2, 10, wasp"):
        train(resume=run.folder, device="cpu")


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
        run.epoch_done()
    torch.manual_seed(99)  # nothing may depend on what another process drew
    checkpoint.restore(second, checkpoint.read(second.folder)[0])
    assert second.numbers() == first.numbers()
    for run in (whole, second):
        train_epoch(run)
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
    shutil.rmtree(folder / ".last.older")
    (folder / "last").rename(folder / ".last.older")  # the moment between the two renames of bundle.write
    assert checkpoint.is_run(folder)
    run = build(finished.recipe, folder, CPU)
    found, word = checkpoint.read(folder)
    assert word == "The last checkpoint was not finished: the run goes on from the checkpoint before it."
    checkpoint.restore(run, found)
    assert run.step == finished.step


def test_there_must_be_something_to_go_on_with(tmp_path: Path) -> None:
    for make in (lambda: None, (tmp_path / "last").mkdir):
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


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    good = state_of(folder / "last")
    flip(folder / "last" / "train_state.safetensors")
    run = train(resume=folder, device="cpu")
    log = (folder / "log.txt").read_text()
    assert "train_state.safetensors" in log
    assert "the run goes on from the checkpoint before it" in log
    assert f"Resumed at epoch 2, step {finished.step * 2 // 3}." in log
    assert (folder / "last.damaged" / "train_state.safetensors").is_file()
    assert run.step == finished.step
    assert state_of(folder / "last") == good


def test_two_damaged_checkpoints_are_an_error(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    for name in ("last", ".last.older"):
        flip(folder / name / "train_state.safetensors")
    with pytest.raises(WeightsError, match=r"train_state\.safetensors"):
        train(resume=folder)
    assert (folder / "last").is_dir()


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
