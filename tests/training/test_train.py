"""The whole job: what a run leaves behind, what it never touches, and which weights it keeps."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from residuum import bundle, recipe
from residuum.deploy.predict import load
from residuum.errors import DataError, RecipeError, ResourceError, UsageError
from residuum.evaluation.evaluate import Scores
from residuum.models import create_model, saved
from residuum.recipe import Plateau, Recipe, Sgd
from residuum.training import train as training
from residuum.training.build import build
from residuum.training.choose import choose_recipe
from residuum.training.ending import SAMPLES
from residuum.training.loop import fit
from residuum.training.run import Run
from residuum.training.train import train

CPU = torch.device("cpu")


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def json_of(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_folder_of_the_design(finished: Run) -> None:
    names = {file.relative_to(finished.folder).as_posix() for file in finished.folder.rglob("*") if file.is_file()}
    bundle_files = {"model.safetensors", "model.json", "SHA256SUMS"}
    assert names >= {
        "recipe.toml", "env.json", "data.json", "metrics.jsonl", "metrics.csv", "log.txt", "report.html", "scores.json",
        "predictions.csv", "last/train_state.safetensors", "last/train_state.json",
        *(f"{kind}/{name}" for kind in ("best", "last") for name in bundle_files),
    }  # fmt: skip
    assert {file.name for file in (finished.folder / "best").iterdir()} == bundle_files
    assert not [name for name in names if name.endswith((".pt", ".pth", ".pkl", ".pickle", ".npy", ".tmp"))]
    assert {name.split("/")[0] for name in names if name.startswith(".")} == {".last.older"}  # the checkpoint before


@pytest.mark.usefixtures("without_report")
def test_the_recipe_in_the_folder_is_the_run(finished: Run, tmp_path: Path) -> None:
    assert recipe.read(finished.folder / "recipe.toml") == finished.recipe
    again = train(finished.folder / "recipe.toml", out=tmp_path / "again", device="cpu")
    for kind in ("best", "last"):
        weights = (finished.folder / kind / "model.safetensors").read_bytes()
        assert (again.folder / kind / "model.safetensors").read_bytes() == weights
    assert (again.folder / "predictions.csv").read_bytes() == (finished.folder / "predictions.csv").read_bytes()


def test_records(finished: Run) -> None:
    lines = (finished.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(text) for text in lines]
    steps, epochs = ([r for r in records if r["kind"] == kind] for kind in ("step", "epoch"))
    per_epoch = len(finished.train_loader)
    every = finished.recipe.log_every_steps
    assert [r["step"] for r in steps] == list(range(every, 3 * per_epoch + 1, every))
    assert [r["epoch"] for r in steps] == [1 + (r["step"] - 1) // per_epoch for r in steps]
    assert [(r["epoch"], r["step"]) for r in epochs] == [(e, e * per_epoch) for e in (1, 2, 3)]
    for record in records:
        assert {"kind", "epoch", "step", "loss", "lr", "images_per_s"} <= record.keys()
        assert np.isfinite([value for value in record.values() if not isinstance(value, str)]).all()
        assert record["images_per_s"] > 0
    for record in epochs:
        assert {"val_top1", "val_top5", "val_loss", "val_ece", "seconds"} <= record.keys()
        assert 0 <= record["val_top1"] <= record["val_top5"] <= 100
    table = rows_of(finished.folder / "metrics.csv")
    assert [row["step"] for row in table] == [str(r["step"]) for r in records]
    assert [row["val_top1"] for row in table] == [str(r.get("val_top1", "")) for r in records]


def test_predictions(finished: Run) -> None:
    assert finished.result is not None
    rows = rows_of(finished.folder / "predictions.csv")
    assert finished.parts.test is not None
    assert finished.result.part == "test"
    assert [row["file"] for row in rows] == [finished.parts.test.name(at) for at in range(len(finished.parts.test))]
    for row in rows:
        assert row["label"] == Path(row["file"]).parent.name  # the class folder, whatever the network said
        assert row["correct"] == str(row["predicted"] == row["label"])
        assert 1 / 3 - 1e-6 <= float(row["prob"]) <= 1
    right = sum(row["correct"] == "True" for row in rows)
    scores = json_of(finished.folder / "scores.json")
    assert scores["top1"] == pytest.approx(100 * right / len(rows))
    assert (scores["part"], scores["images"]) == ("test", len(rows))
    assert scores["top5"] == 100  # of three classes


def test_facts_about_data_and_machine(finished: Run, class_folders: Path) -> None:
    data = json_of(finished.folder / "data.json")
    assert data["source"] == str(class_folders)
    assert data["classes"] == ["2", "10", "bee"]  # in natural order
    counts = data["counts"]
    assert sum(counts[part]["bee"] for part in ("train", "val", "test")) == 22
    assert abs(sum(counts["test"].values()) - 66 / 4) <= 1
    assert data["split"]["seed"] == finished.recipe.data.split_seed
    assert data["split"]["held_out"] == {"val": 0.25, "test": 0.25}
    environment = json_of(finished.folder / "env.json")
    assert (environment["device_type"], environment["precision"]) == ("cpu", "fp32")
    assert environment["versions"]["torch"]


def test_the_report_needs_nothing_else(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href|url|import)\s*[=(]?\s*["']?\s*(?:https?:)?//""", page)
    assert "http://" not in page.replace("http://www.w3.org/", "")  # SVG's name, which is not fetched
    assert not re.findall(r"<(?:script|link|iframe)[^>]+(?:src|href)", page)
    for source in re.findall(r"""<img[^>]+src=["']([^"']+)""", page):
        assert source.startswith("data:image/")
    for said in ("resnet20_cifar", "bee", f"residuum predict {finished.folder / 'best'}"):
        assert said in page


def test_plots_are_pictures(finished: Run) -> None:
    plots = sorted((finished.folder / "plots").glob("*.png"))
    assert len(plots) >= 4  # curves, confusions, training pictures, mistakes
    for file in plots:
        with PIL.Image.open(file) as picture:
            picture.load()
            assert min(picture.size) > 50


def test_the_log_is_for_people(finished: Run) -> None:
    log = (finished.folder / "log.txt").read_text(encoding="utf-8")
    assert "model resnet20_cifar" in log
    assert log.count("val_top1") == 3


def test_a_run_is_never_overwritten(finished: Run, tiny: Recipe) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")}
    with pytest.raises(UsageError, match=r"is not empty.*never overwritten.*--resume"):
        train(tiny, out=finished.folder)
    assert {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")} == before


def test_runs_are_numbered(tmp_path: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "finish", lambda _: None)
    wanted = replace(tiny, epochs=1, name="a name/with ../ signs", data=replace(tiny.data, source="synthetic:16x2x8"))
    (tmp_path / "runs" / "a_name_with_.._signs-2").mkdir(parents=True)
    folders = [train(wanted, device="cpu").folder.as_posix() for _ in range(2)]
    assert folders == ["runs/a_name_with_.._signs-1", "runs/a_name_with_.._signs-3"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": "nowhere"}, DataError),
        ({"model": "resnet5O"}, UsageError),
        ({"model.groups": 7}, UsageError),
        ({"optim.lrr": 1}, RecipeError),
        ({"epochs": 0}, RecipeError),
        ({"data.normalise": "imagenet", "data": "digits"}, RecipeError),
        ({"precision": "fp16"}, UsageError),
        ({"data.val_fraction": 0, "schedule.name": "plateau"}, RecipeError),
        ({"augment.start_px": 16}, RecipeError),
    ],
    ids=str,
)
def test_a_run_that_cannot_begin_leaves_nothing(
    tmp_path: Path, tiny: Recipe, changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(tiny, out=tmp_path / "a" / "run", device="cpu", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_matter_of_the_disk(tmp_path: Path, tiny: Recipe) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ResourceError, match="Cannot write"):
            train(tiny, out=out)
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("data", "name"),
    [(None, "digits"), ("digits", "digits"), ("cifar10", "resnet20_cifar10_fast"), ("my/photos", "photos")],
)
def test_the_recipe_follows_from_the_pictures(data: str | None, name: str) -> None:
    chosen = choose_recipe(None, data, {"epochs": "3"})
    assert (chosen.name, chosen.epochs, chosen.data.source) == (name, 3, data or "digits")


def test_a_recipe_is_a_name_a_file_or_itself(tmp_path: Path, tiny: Recipe) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(recipe.to_toml(tiny), encoding="utf-8")
    for wanted in (file, str(file), tiny):
        assert choose_recipe(wanted, None, {"lr": 0.7}).optim.lr == 0.7
    with pytest.raises(UsageError, match="Did you mean"):
        choose_recipe("digit", None, {})
    with pytest.raises(UsageError, match="does not name an image set"):
        choose_recipe("photos", None, {})


def test_another_network_does_not_inherit_options_that_it_has_not() -> None:
    assert choose_recipe("photos_scratch", "x", {"model": "resnet34"}).model.options() == {"zero_init_last": True}
    assert choose_recipe("photos_scratch", "x", {"model": "plain18"}).model.options() == {}
    asked = choose_recipe("photos_scratch", "x", {"model": "plain18", "model.drop_path": 0.1})
    assert asked.model.options() == {"drop_path": 0.1}  # to be refused by the network, not forgotten
    with pytest.raises(UsageError, match="no option 'drop_path'"):
        create_model(asked.model.name, **asked.model.options())


def scores_of(top1: float, loss: float) -> Scores:
    return Scores(10, top1, 100.0, loss, 0.0, (), np.zeros((3, 3), np.int64))


def test_best_is_the_best_validation_accuracy_then_the_lowest_loss(tmp_path: Path, tiny: Recipe) -> None:
    run = build(replace(tiny, average_decay=0.0, epochs=6), tmp_path, CPU)
    kept = []
    measured = [(50.0, 1.0), (80.0, 2.0), (80.0, 2.0), (80.0, 1.5), (70.0, 0.1), None]
    for epoch, scores in enumerate(measured, start=1):
        with torch.no_grad():
            for parameter in run.model.parameters():
                parameter.fill_(epoch)
        assert run.epoch == epoch - 1
        if scores:
            run.scored(scores_of(*scores))
        run.epoch_done()
        for kind in ("best", "last"):
            tensors, card = bundle.read(tmp_path / kind)
            assert tensors["stem.conv.weight"].flat[0] == card["epoch"]
        kept.append(bundle.read(tmp_path / "best")[1]["epoch"])
        assert bundle.read(tmp_path / "last")[1]["epoch"] == epoch
    assert kept == [1, 2, 2, 4, 4, 4]
    assert run.best_epoch == 4


def test_the_best_of_a_real_run(finished: Run) -> None:
    epochs = finished.records.epochs()
    best = max(epochs, key=lambda record: (record["val_top1"], -float(str(record["val_loss"]))))
    card = saved.load(finished.folder / "best").card
    assert card["epoch"] == finished.best_epoch == best["epoch"]
    assert card["scores"]["val"]["top1"] == best["val_top1"]


def test_without_validation_pictures_the_last_weights_are_kept(tmp_path: Path, tiny: Recipe) -> None:
    run = build(replace(tiny, data=replace(tiny.data, val_fraction=0.0)), tmp_path, CPU)
    fit(run)
    assert run.val_loader is None
    best, last = ((tmp_path / kind / "model.safetensors").read_bytes() for kind in ("best", "last"))
    assert best == last
    assert run.best_epoch == run.recipe.epochs


@dataclass(frozen=True)
class Sealed:
    """A test part that notes when it is looked at, and tells nothing but how many pictures it has."""

    looked: Callable[[str], object]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str) -> object:
        return self.looked(name)


def test_the_test_pictures_are_not_looked_at_before_the_end(tmp_path: Path, tiny: Recipe) -> None:
    run, twin = (build(replace(tiny, epochs=2), tmp_path / name, CPU) for name in ("sealed", "twin"))
    assert run.parts.test is not None
    sealed: Any = Sealed(lambda name: pytest.fail(f"the test part was asked for its {name}"), len(run.parts.test))
    run.parts = replace(run.parts, test=sealed)
    fit(run)
    fit(twin)
    assert (run.best_epoch, run.best) == (twin.best_epoch, twin.best)


def test_what_is_kept_is_the_average(finished: Run) -> None:
    tensors, _ = bundle.read(finished.folder / "last")
    averaged = finished.averaged.model.state_dict()
    assert all(np.array_equal(value, averaged[name].numpy()) for name, value in tensors.items())
    weights = finished.model.state_dict()
    assert not any(
        np.array_equal(tensors[name], weights[name].numpy()) for name in tensors if name.endswith("conv1.weight")
    )


def test_epochs_between_measurements_count_for_patience(tmp_path: Path, tiny: Recipe) -> None:
    """Measured in epochs 1, 3 and 5 only, a plateau of two epochs is one from epoch 1 to 3."""
    schedule = Plateau(patience_epochs=2, factor=0.5)
    run = build(replace(tiny, schedule=schedule, optim=Sgd(lr=0.8)), tmp_path, CPU)
    rates = []
    for epoch, error in enumerate((50.0, None, 50.0, None, 40.0), start=1):
        run.epoch = epoch
        if error is not None:
            run.scored(scores_of(100 - error, 1.0))
        run.epoch_done()
        rates.append(run.schedule(epoch + 0.5, run.val_errors))
    assert run.val_errors == [50, 50, 50, 50, 40]
    assert rates == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.4])


@pytest.mark.usefixtures("without_report")
def test_the_samples_can_be_predicted(tmp_path: Path, tiny: Recipe) -> None:
    """A run on pictures that are no files leaves some of the held-out ones to try prediction on."""
    run = train(tiny, out=tmp_path / "run", device="cpu", epochs=1)
    assert run.sample is not None
    files = sorted(run.sample.iterdir())
    assert len(files) == SAMPLES
    test = run.parts.test
    assert test is not None
    for place, file in enumerate(files):
        assert file.stem == f"{place}-{run.classes[int(test.labels[place])]}"
        assert np.array_equal(np.asarray(PIL.Image.open(file)), np.asarray(test.open(place)))
    answers = load(run.folder / "best", device="cpu").predict([str(file) for file in files])
    rows = rows_of(run.folder / "predictions.csv")[: len(files)]
    assert [answer.label for answer in answers] == [row["predicted"] for row in rows]
