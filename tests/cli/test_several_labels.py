"""Every command on pictures that may have several classes: what it says of them, or why it does not."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from speaking import Say, Trained

import residuum
from labelled import CLASSES, write_pictures
from residuum.cli.main import main
from residuum.data.labels import named
from residuum.evaluation.multilabel import LabelScores


class Labelled(NamedTuple):
    """A network trained for two epochs on a table, and what the command said of it."""

    table: Path
    run: Path
    out: str
    err: str

    @property
    def bundle(self) -> Path:
        return self.run / "best"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    place = tmp_path_factory.mktemp("labelled")
    table = write_pictures(place / "set", 60)
    words = ["--data", str(table), "--model", "resnet20_cifar", "--weights", "none", "--img-size", "8", "--epochs", "2"]
    words += ["--set", "model.width=0.5", "--set", "augment.flip=none", "--device", "cpu", "--out", str(place / "run")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["train", *words]) == 0
    return Labelled(table, place / "run", out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def truth(labelled: Labelled) -> dict[str, list[str]]:
    """File -> its classes."""
    lines = labelled.table.read_text(encoding="utf-8").splitlines()[1:]
    cells = [line.split(",") for line in lines]
    return {str(labelled.table.parent / path): [n for n in label.split("|") if n] for path, label in cells}


def test_training_says_how_labels_are_read_and_how_it_went(labelled: Labelled) -> None:
    assert "A picture may have several of the 3 classes" in labelled.err
    assert "val mAP" in labelled.err
    assert "Validation mAP" in labelled.out
    assert "all answers right" in labelled.out
    assert "accuracy" not in labelled.out


def test_predictions_have_all_classes_that_reach_their_thresholds(
    labelled: Labelled, truth: dict[str, list[str]], say: Say
) -> None:
    thresholds = dict(zip(CLASSES, json.loads((labelled.bundle / "model.json").read_text())["thresholds"], strict=True))
    said = say("predict", labelled.bundle, labelled.table.parent, "--json")
    assert (said.code, said.err) == (0, "")
    rows = said.json["predictions"]
    assert [row["file"] for row in rows] == list(truth)
    for row in rows:
        assert list(row) == ["file", "label", "prob", "unknown", "top", "labels", "error"]
        assert row["top"][0] == {"label": row["label"], "prob": row["prob"]}
        probs = {guess["label"]: guess["prob"] for guess in row["top"]}
        assert list(probs.values()) == sorted(probs.values(), reverse=True)
        assert row["labels"] == [name for name in probs if probs[name] >= thresholds[name]]
    assert len({len(row["labels"]) for row in rows}) > 1, "pictures must differ in how many classes they have"
    assert rows[3] == residuum.load(labelled.bundle).predict(rows[3]["file"]).as_dict()


def test_lines_and_tables_of_predictions(labelled: Labelled, say: Say, tmp_path: Path) -> None:
    file = str(labelled.table.parent / "0.png")
    [row] = say("predict", labelled.bundle, file, "--json").json["predictions"]
    table = tmp_path / "said.csv"
    line = say("predict", labelled.bundle, file, "--top", "1", "--csv", table).out
    with table.open(newline="", encoding="utf-8") as lines:
        [written] = csv.DictReader(lines)
    assert list(written) == ["file", "labels", "label", "prob", "error"]
    assert written["labels"] == "|".join(row["labels"])
    assert written["label"] == row["label"]
    whole = say("predict", labelled.bundle, file).out
    before, _, after = whole.removeprefix(f"{file}: ").strip().partition("; not ")
    for guess in row["top"]:
        assert f"{guess['label']} {100 * guess['prob']:.1f} %" in (before if guess["label"] in row["labels"] else after)
    assert all(name in line for name in row["labels"])


def test_a_picture_that_cannot_be_used_has_no_labels(labelled: Labelled, say: Say, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture", encoding="utf-8")
    said = say("predict", labelled.bundle, tmp_path / "a.png", "--json")
    assert said.code == 3
    [row] = said.json["predictions"]
    assert (row["labels"], row["top"], row["label"]) == ([], [], None)


def test_evaluation(labelled: Labelled, truth: dict[str, list[str]], say: Say, tmp_path: Path) -> None:
    """Of the whole table, as the test part of a set that the network was not trained on: nothing is held out of it."""
    other = labelled.table.with_name("copy.csv")
    first, *lines = labelled.table.read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([f"{first},split", *(f"{line},test" for line in lines)]) + "\n", encoding="utf-8")
    said = say("evaluate", labelled.bundle, "--data", other, "--json", "--csv", tmp_path / "rows.csv", "-q")
    assert said.code == 0
    classes, rows = named(["|".join(names) for names in truth.values()])
    found = residuum.load(labelled.bundle).predict(list(truth), top=3)
    probs = np.array([[next(g.prob for g in one.top if g.label == name) for name in classes] for one in found])
    assert said.json["map"] == pytest.approx(100 * average_precision_score(rows, probs), rel=1e-6)
    assert said.json["images"] == 60
    assert "confusion" not in said.json
    scores = residuum.evaluate(labelled.bundle, str(other), device="cpu")
    assert isinstance(scores, LabelScores)
    assert scores.map == said.json["map"]
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as lines:
        table = list(csv.DictReader(lines))
    assert [row["predicted"].split("|") for row in table] == [sorted(one.labels or ()) or [""] for one in found]
    words = say("evaluate", labelled.bundle, "--data", other, "-q").out
    assert f"mAP                 {scores.map:.2f} %" in words
    assert "threshold" in words
    assert "Accuracy" not in words


def test_the_part_that_was_held_out_is_scored_as_in_training(labelled: Labelled, say: Say) -> None:
    said = say("evaluate", labelled.bundle, "--json", "-q")
    scores = json.loads((labelled.run / "scores.json").read_text(encoding="utf-8"))
    assert said.json["images"] == 12
    assert said.json["map"] == pytest.approx(scores["map"])
    assert said.json["subset_accuracy"] == scores["subset_accuracy"]


def test_views_ensembles_and_neighbours(labelled: Labelled, say: Say, tmp_path: Path) -> None:
    twin = shutil.copytree(labelled.bundle, tmp_path / "twin")
    one, ten, twice, knn = (
        say("evaluate", labelled.bundle, "-q", "--json", *more).json
        for more in ([], ["--views", "ten"], ["--ensemble", twin], ["--knn", "5"])
    )
    assert ten["loss"] != one["loss"]
    assert twice["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert twice["map"] == pytest.approx(one["map"])
    assert [row["threshold"] for row in twice["classes"]] == [row["threshold"] for row in one["classes"]]
    assert "loss" not in knn
    assert knn["knn"]["k"] == 5
    assert 0 < knn["map"] <= 100
    assert {row["threshold"] for row in knn["classes"]} == {0.5}
    words = say("evaluate", labelled.bundle, "-q", "--knn", "5").out
    assert "Neighbours          5 of 48" in words


def test_explanations(labelled: Labelled, say: Say, tmp_path: Path) -> None:
    file = labelled.table.parent / "0.png"
    [said] = say("predict", labelled.bundle, file, "--json").json["predictions"]
    for method in ("grad-cam", "occlusion"):
        found = say(
            "explain",
            labelled.bundle,
            file,
            "--class",
            "green",
            "--method",
            method,
            "--out",
            tmp_path / method,
            "--json",
        )
        [row] = found.json["explanations"]
        assert row["labels"] == said["labels"]
        assert row["label"] == said["label"]
        assert row["prob"] == pytest.approx(said["prob"])
        green = next(guess["prob"] for guess in said["top"] if guess["label"] == "green")
        assert row["class_prob"] == pytest.approx(green)


def test_vectors_carry_the_labels(labelled: Labelled, truth: dict[str, list[str]], say: Say, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    assert say("embed", labelled.bundle, "--data", labelled.table, "--out", out, "-q").code == 0
    index = residuum.Index(out)
    assert index.labels == ["|".join(sorted(names)) or None for names in truth.values()]


def test_another_table_is_read_as_the_network_answers(labelled: Labelled, say: Say, tmp_path: Path) -> None:
    """One without a single |, in which a label may be empty, is of any number of classes too."""
    folder = labelled.table.parent
    lines = [f"{number}.png,{label}" for number, label in enumerate(["red", "green", "", "blue", "red", "green"])]
    (folder / "plain.csv").write_text("\n".join(["path,label", *lines]) + "\n", encoding="utf-8")
    knn = say("evaluate", labelled.bundle, "--data", folder / "plain.csv", "--knn", "2", "--json", "-q")
    assert knn.code == 0, knn.err
    assert (knn.json["images"], [row["threshold"] for row in knn.json["classes"]]) == (6, [0.5] * 3)
    out = tmp_path / "v.parquet"
    said = say("embed", labelled.bundle, "--data", folder / "plain.csv", "--out", out, "-q")
    assert said.code == 0, said.err
    index = residuum.Index(out)
    assert index.labels == ["red", "green", None, "blue", "red", "green"]
    assert index.picture(2).size == (8, 8)


def test_a_check(labelled: Labelled, say: Say) -> None:
    said = say("check", labelled.table, "--no-report", "-q")
    assert said.code == 0
    assert "A picture may have several of the 3 classes" in said.out
    assert "have none of the classes" in said.out


def test_what_does_not_fit_is_refused_in_three_parts(
    labelled: Labelled, trained: Trained, pictures: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table, bundle, train = labelled.table, labelled.bundle, ("train", "--weights", "none", "--data")
    cases = {
        ("evaluate", bundle, "--data", pictures): (3, "gives each picture one class"),
        ("evaluate", trained.bundle, "--data", table): (3, "any number of classes"),
        ("evaluate", bundle, "--ensemble", trained.bundle): (4, "other classes"),
        (*train, table, "--set", "loss=cross_entropy"): (2, "cannot be 'cross_entropy'"),
        (*train, pictures, "--set", "data.labels=several"): (3, "gives each picture one class"),
        (*train, table, "--set", "data.labels=many"): (2, "'data.labels' cannot be 'many'"),
        (*train, table, "--unknown-below", "auto"): (2, "unknown_below = 'auto' cannot be"),
        (*train, table, "--unknown-below", "0.5"): (2, "unknown_below = 0.5 cannot be"),
        ("predict", bundle, table.parent, "--unknown-below", "auto"): (2, "unknown_below cannot be 'auto'"),
        ("predict", bundle, table.parent, "--unknown-below", "0"): (2, "unknown_below cannot be 0.0"),
        ("calibrate", bundle, "--out", "calibrated"): (4, "takes no temperature"),
        ("check", table, "--bundle", trained.bundle): (3, "Suspicious labels cannot be looked for"),
        ("reproduce", "degradation", "--data", table, "--seeds", "1"): (3, "any number of classes"),
    }
    for words, (code, what) in cases.items():
        said = say(*words, "-q")
        assert said.code == code, said.err
        assert what in said.err
        assert len([line for line in said.err.splitlines() if line.strip()]) >= 2
        assert "Traceback" not in said.err
    assert not (tmp_path / "calibrated").exists()


def test_a_threshold_of_unknown_is_none_where_it_is_said_to_be(labelled: Labelled, say: Say) -> None:
    plain = say("predict", labelled.bundle, labelled.table.parent / "0.png")
    assert say("predict", labelled.bundle, labelled.table.parent / "0.png", "--unknown-below", "none") == plain
    assert plain.code == 0


def test_a_cache_is_evaluated_like_the_table_that_it_was_made_of(labelled: Labelled, say: Say, tmp_path: Path) -> None:
    made = say("cache", labelled.table, "--out", tmp_path / "cache", "-q")
    assert made.code == 0, made.err
    theirs = say("evaluate", labelled.bundle, "--data", labelled.table, "--split", "val", "--json").json
    ours = say("evaluate", labelled.bundle, "--data", tmp_path / "cache", "--split", "val", "--json").json
    for name in ("map", "macro_f1", "loss", "classes"):
        assert ours[name] == theirs[name]
