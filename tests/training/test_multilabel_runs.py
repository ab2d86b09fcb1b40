"""Whole runs on pictures that may have several classes: recipe, loss, thresholds, what is left behind, exact resume."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional

from labelled import CLASSES, write_pictures
from residuum import bundle, recipe
from residuum.calibration import Calibration
from residuum.data.labels import counts
from residuum.errors import RecipeError, Stopped, WeightsError
from residuum.models import saved
from residuum.recipe import Augment, Data, Model, Recipe, Sgd, Transfer
from residuum.training import folds, losses
from residuum.training.build import build
from residuum.training.choose import choose
from residuum.training.loop import fit
from residuum.training.run import LabelResult, Run
from residuum.training.start import resumed
from residuum.training.stop import Stop
from residuum.training.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def wanted(tiny: Recipe, table: Path) -> Recipe:
    """The tiny recipe, with nearly everything switched on, on pictures of several classes."""
    return replace(tiny, class_weights=0.5, data=replace(tiny.data, source=str(table), balanced_sampling=0.5))


@pytest.fixture(scope="module")
def finished(wanted: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(wanted, out=tmp_path_factory.mktemp("runs") / "labels", device="cpu")


def json_of(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_recipe_says_what_followed_from_the_labels(finished: Run) -> None:
    written = recipe.read(finished.folder / "recipe.toml")
    assert (written.loss, written.data.labels) == ("bce", "several")
    log = (finished.folder / "log.txt").read_text(encoding="utf-8")
    assert "A picture may have several of the 3 classes" in log
    assert "--set data.labels=one" in log


def test_the_weights_with_the_best_map_are_kept(finished: Run) -> None:
    epochs = finished.records.epochs()
    maps = [float(str(record["val_map"])) for record in epochs]
    assert finished.best_epoch == 1 + max(
        range(len(maps)), key=lambda at: (maps[at], -float(str(epochs[at]["val_loss"])))
    )
    card = bundle.read(finished.folder / "best")[1]
    assert card["scores"]["val"]["map"] == max(maps)
    assert card["epoch"] == finished.best_epoch
    with (finished.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    assert [float(row["val_map"]) for row in rows] == maps
    assert all(row["val_subset_accuracy"] for row in rows)


def test_thresholds_are_those_of_the_validation_pictures(finished: Run) -> None:
    """Of the epoch whose weights are kept, and not of the last."""
    best = saved.load(finished.folder / "best")
    assert best.thresholds is not None
    assert finished.val_loader is not None
    assert finished.parts.val is not None
    with torch.inference_mode():
        probs = [torch.sigmoid(best.model(batch.images).double()) for batch in finished.val_loader]
    answers, truth = torch.cat(probs).numpy(), finished.parts.val.labels
    for k, threshold in enumerate(best.thresholds):
        every = [f1_score(truth[:, k], answers[:, k] >= cut) for cut in np.unique(answers[:, k])]
        assert f1_score(truth[:, k], answers[:, k] >= threshold) == pytest.approx(max(every))
    assert json_of(finished.folder / "last" / "train_state.json")["thresholds"] == list(finished.thresholds or ())


def test_scores_and_tables_of_the_test_part(finished: Run) -> None:
    result = finished.result
    assert isinstance(result, LabelResult)
    assert result.part == "test"
    assert result.scores.thresholds == saved.load(finished.folder / "best").thresholds
    truth, probs = result.images.labels, result.predictions.probs
    assert result.scores.map == pytest.approx(100 * average_precision_score(truth, probs))
    assert result.scores.map > 100 * truth.mean()  # that is what guessing gives
    scores = json_of(finished.folder / "scores.json")
    assert (scores["part"], scores["map"], len(scores["classes"])) == ("test", result.scores.map, 3)
    with (finished.folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [result.images.name(at) for at in range(24)]
    for at, row in enumerate(rows):
        assert row["label"].split("|") == ([CLASSES[k] for k in np.flatnonzero(truth[at])] or [""])
        assert row["correct"] == str(row["label"] == row["predicted"])
        assert row["predicted"].count("|") == row["prob"].count("|")
    right = sum(row["correct"] == "True" for row in rows)
    assert result.scores.subset_accuracy == pytest.approx(100 * right / 24)


def test_the_report_is_about_several_classes(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    for said in ("which of 3 classes a picture has", "Mean average precision", "Threshold", "Surest wrong answers"):
        assert said in page
    assert "What the data check found" in page
    for unsaid in ("Confusion", "top-1", "Reliability", "Suspicious labels"):
        assert unsaid not in page
    assert {file.name for file in (finished.folder / "plots").iterdir()} >= {
        "curves.png",
        "classes.png",
        "pictures.png",
    }


@pytest.mark.usefixtures("without_report")
def test_a_stopped_run_goes_on_to_the_same_bits(wanted: Recipe, finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"

    def stop(record: dict[str, object]) -> None:
        if record["kind"] == "step" and record["step"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(wanted, out=folder, device="cpu", listener=stop)
    state = json_of(folder / "last" / "train_state.json")
    assert state["step"] == 8
    again = resumed(folder, None, None, {}, CPU, None, override=False, stop=Stop())
    assert again.thresholds == tuple(state["thresholds"]) != (0.5,) * 3  # of the first epoch
    train(resume=folder, device="cpu")
    for kind in ("best", "last"):
        whole, other = (bundle.read_all(place / kind) for place in (finished.folder, folder))
        assert all((whole[0][name] == other[0][name]).all() for name in whole[0])
        assert whole[1] == other[1]
        assert whole[2].get("train_state.safetensors") == other[2].get("train_state.safetensors")
    assert (folder / "predictions.csv").read_bytes() == (finished.folder / "predictions.csv").read_bytes()
    with pytest.raises(RecipeError, match=r"data\.labels"):
        train(resume=folder, device="cpu", changes={"data.labels": "one"})


def test_the_loss_is_pytorchs_with_the_weights_of_the_classes(wanted: Recipe, tmp_path: Path) -> None:
    run = build(wanted, tmp_path, CPU)
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(7, 3, generator=torch.Generator().manual_seed(1))
    yes = torch.from_numpy(counts(run.parts.train.labels, 3)).float()
    expected = functional.binary_cross_entropy_with_logits(
        logits, 0.9 * targets + 0.05, pos_weight=((48 - yes) / yes).sqrt()
    )
    torch.testing.assert_close(run.criterion(logits, targets), expected)
    plain = losses.of_labels(0.0)
    torch.testing.assert_close(plain(logits, targets), functional.binary_cross_entropy_with_logits(logits, targets))
    parts = sum(plain(logits[at], targets[at]) * len(logits[at]) for at in (slice(0, 3), slice(3, 7)))
    torch.testing.assert_close(plain(logits, targets), parts / 7)


def test_another_loss_is_refused(wanted: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cross_entropy") as caught:
        build(replace(wanted, loss="cross_entropy"), tmp_path, CPU)
    assert caught.value.expected
    assert "loss=bce" in caught.value.hint


@pytest.mark.usefixtures("without_report")
def test_without_validation_pictures_thresholds_are_one_half(wanted: Recipe, tmp_path: Path) -> None:
    data = replace(wanted.data, val_fraction=0.0, test_fraction=0.0)
    run = train(replace(wanted, epochs=1, data=data), out=tmp_path / "run", device="cpu")
    assert saved.load(run.folder / "best").thresholds == (0.5, 0.5, 0.5)
    assert "so they are 0.5" in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert isinstance(run.result, LabelResult)
    assert run.result.part == "train"


def test_there_is_no_temperature(finished: Run) -> None:
    """One is of all classes together; the thresholds say of each how sure is sure enough."""
    assert "calibration" not in bundle.read(finished.folder / "best")[1]
    assert "calibration" not in json_of(finished.folder / "scores.json")
    assert "emperature" not in (finished.folder / "log.txt").read_text(encoding="utf-8")
    assert not (finished.folder / "suspicious_labels.csv").exists()


def test_a_bundle_with_both_is_refused(finished: Run, tmp_path: Path) -> None:
    tensors, card = bundle.read(finished.folder / "best")
    card = {key: value for key, value in card.items() if key != "format"}
    for told, fits in ((Calibration(), True), (Calibration(2.0), False), (Calibration(1.0, 0.5), False)):
        folder = tmp_path / f"{told.temperature} {told.unknown_below}"
        bundle.write(folder, tensors, {**card, "calibration": told.as_dict()})
        with contextlib.nullcontext() if fits else pytest.raises(WeightsError, match="temperature") as caught:
            assert saved.load(folder).thresholds
        assert fits or (caught.value.expected and caught.value.hint)


def test_captured_steps_are_those_of_the_loop(wanted: Recipe, tmp_path: Path) -> None:
    """With float targets [N, K], the weights of their yes, label smoothing and balanced sampling."""
    optim, model = Sgd(lr=0.05), replace(wanted.model, drop_path=None)
    plain = replace(wanted, optim=optim, model=model, augment=Augment(), label_smoothing=0.1, accumulate=1)
    runs = [build(replace(plain, capture=capture), tmp_path / str(capture), CPU) for capture in (False, True)]
    for run in runs:
        fit(run)
    ours, theirs = (run.model.state_dict() for run in runs)
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=2e-5, atol=2e-5)
    maps = [[record["val_map"] for record in run.records.history if "val_map" in record] for run in runs]
    assert maps[0] == pytest.approx(maps[1])
    assert runs[1].step == runs[0].step > 0


@pytest.mark.usefixtures("without_report")
def test_a_probe_learns_from_embeddings(wanted: Recipe, finished: Run, tmp_path: Path) -> None:
    """And a batch that memory decides on, and one class alone."""
    model = replace(wanted.model, weights=str(finished.folder / "best"), drop_path=None)
    probe = replace(
        wanted,
        epochs=2,
        model=model,
        transfer=Transfer(freeze="all"),
        augment=Augment(),
        accumulate=0,
        optim=Sgd(lr=0.1),
    )
    run = train(probe, out=tmp_path / "probe", device="cpu")
    assert "learns from their embeddings" in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert isinstance(run.result, LabelResult)
    assert run.result.scores.map > 50


@pytest.mark.usefixtures("without_report")
def test_one_class_is_a_question_too(table: Path, tmp_path: Path) -> None:
    lines = table.read_text(encoding="utf-8").splitlines()[1:]
    only = table.parent / "red.csv"
    only.write_text("path,label\n" + "".join(f"{x.split(',')[0]},{'red' * ('red' in x)}\n" for x in lines), "utf-8")
    data = Data(str(only), labels="several", img_size=8, resize_px=8, batch_size=24)
    small = Recipe(epochs=1, precision="fp32", model=Model("resnet20_cifar", width=0.25), data=data)
    run = train(small, out=tmp_path / "run", device="cpu")
    assert run.classes == ("red",)
    assert isinstance(run.result, LabelResult)
    assert run.result.predictions.logits.shape == (19, 1)


def test_what_suits_the_pictures_is_counted_by_class(table: Path) -> None:
    chosen, reasons = choose(None, str(table), {"weights": "none"})
    assert chosen.data.balanced_sampling == 0.5  # green has three times as many as blue
    assert any("blue" in reason for reason in reasons)
    bars = table.with_name("bars.csv")
    bars.write_text("path,label\n0.png,a|b\n1.png,a\n2.png,a|b\n3.png,a\n", "utf-8")
    assert choose(None, str(bars), {"weights": "none", "data.labels": "one"})[0].data.labels == "one"


@pytest.mark.usefixtures("without_report")
def test_folds(wanted: Recipe, tmp_path: Path) -> None:
    done = folds.cross_validate(replace(wanted, epochs=1), folds=2, out=tmp_path / "folds", device="cpu")
    summary = json_of(tmp_path / "folds" / "folds.json")
    assert done.score == "map"
    assert summary["map"] == done.scores
    assert summary["map_mean"] == pytest.approx(np.mean(done.scores))
    assert "top1" not in summary
    assert summary["label_issues"] is done.label_issues is None  # they are for one class a picture
    assert not (tmp_path / "folds" / "suspicious_labels.csv").exists()
    report = (tmp_path / "folds" / "report.html").read_text(encoding="utf-8")
    assert f"{summary['map_mean']:.2f} %" in report
    assert "Suspicious" not in report
    with (tmp_path / "folds" / "out_of_fold.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == 72  # a quarter is the test part
    for row in rows:
        assert row["label"].count("|") == row["label_prob"].count("|")
        assert (row["predicted"] == row["label"]) == (row["correct"] == "True")


@pytest.mark.parametrize("found", [[0.5, 0.5], [0.5, 0.5, 1.5], "no", [0.5, 0.5, None]])
def test_thresholds_that_cannot_be_are_refused(finished: Run, tmp_path: Path, found: object) -> None:
    tensors, card = bundle.read(finished.folder / "best")
    bundle.write(tmp_path / "other", tensors, {**{k: v for k, v in card.items() if k != "format"}, "thresholds": found})
    with pytest.raises(WeightsError, match="thresholds"):
        saved.load(tmp_path / "other")
