"""Cross-validation: folds against scikit-learn's, a run for each, and what they say together."""

from __future__ import annotations

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from residuum.cli.outcome import of_folds_in_words
from residuum.data.builtin import digits
from residuum.data.parts import Found, folds_of
from residuum.data.sets import relabelled
from residuum.data.sources import open_parts
from residuum.errors import DataError, Interrupted, UsageError, WeightsError
from residuum.recipe import Data, Recipe, override, read
from residuum.training import folds as folding
from residuum.training.folds import Folds, cross_validate
from residuum.training.run import Run


@given(st.lists(st.integers(6, 40), min_size=2, max_size=5), st.integers(2, 6), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_folds_hold_as_many_of_each_class_as_scikit_learns(counts: list[int], folds: int, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    place = folds_of(labels, folds, seed)
    ours = [np.bincount(labels[place == fold], minlength=len(counts)) for fold in range(folds)]
    theirs = [
        np.bincount(labels[held], minlength=len(counts)) for _, held in StratifiedKFold(folds).split(labels, labels)
    ]
    assert [sorted(column) for column in zip(*ours, strict=True)] == [
        sorted(column) for column in zip(*theirs, strict=True)
    ]
    assert np.ptp(np.bincount(place)) <= 1
    assert (folds_of(labels, folds, seed) == place).all()


def test_every_picture_is_held_out_once_and_the_test_part_stays(class_folders: Path) -> None:
    data = Data(str(class_folders), folds=4, test_fraction=0.2)
    parts = [open_parts(replace(data, fold=fold)) for fold in range(4)]
    held = []
    for part in parts:
        assert part.val is not None
        assert part.test is not None
        names = {
            name: {images.name(at) for at in range(len(images))}
            for name, images in (("train", part.train), ("val", part.val))
        }
        assert not names["train"] & names["val"]
        assert len(part.train) + len(part.val) + len(part.test) == 66
        held += sorted(names["val"])
        assert part.record["names"]["test"] == parts[0].record["names"]["test"]  # type: ignore[index]
    assert len(held) == len(set(held)) == 66 - len(parts[0].test or ())


def test_a_validation_part_becomes_the_test_part(class_folders: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).symlink_to(class_folders, target_is_directory=True)
    part = open_parts(Data(str(tmp_path), folds=3))
    assert (len(part.train), len(part.val or ()), len(part.test or ())) == (44, 22, 66)


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (3, 3), (0, 1)])
def test_a_fold_that_is_not_there_is_refused(folds: int, fold: int, class_folders: Path) -> None:
    with pytest.raises(UsageError, match=f"no fold {fold} of {folds}"):
        open_parts(Data(str(class_folders), folds=folds, fold=fold))
    with pytest.raises(DataError, match="cannot be dealt out to 99 folds"):
        open_parts(Data(str(class_folders), folds=99))


def test_a_class_that_a_fold_holds_all_of_is_named(class_folders: Path, tmp_path: Path) -> None:
    for name in ("2", "10"):
        (tmp_path / name).symlink_to(class_folders / name, target_is_directory=True)
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "0.png").symlink_to(class_folders / "bee" / "0.png")
    told = []
    for fold in range(3):
        parts = open_parts(Data(str(tmp_path), folds=3, fold=fold))
        counts = parts.record["counts"]
        assert isinstance(counts, dict)
        said = parts.record["warnings"]
        assert isinstance(said, list)
        warnings = [line for line in said if "holds every picture" in line]
        assert len(warnings) == (counts["train"]["bee"] == 0)
        told += warnings
    assert len(told) == 1
    assert "holds every picture of bee:" in told[0]
    assert "holds" not in str(open_parts(Data(str(tmp_path))).record["warnings"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": "nowhere"},
        {"changes": {"model.weights": "nowhere.safetensors"}},
        {"find_lr": True, "changes": {"lr": 0.1}},
        {"changes": {"optim.lrr": 0.1}},
    ],
    ids=["no set", "no weights", "two rates", "no such key"],
)
def test_what_cannot_begin_leaves_nothing(
    wrong: dict[str, object], tiny: Recipe, class_folders: Path, tmp_path: Path
) -> None:
    def begin(out: Path) -> None:
        words: dict[str, Any] = {"folds": 2, "data": str(class_folders), "out": out, "device": "cpu", **wrong}
        with pytest.raises((DataError, UsageError, WeightsError)):
            cross_validate(tiny, **words)

    begin(tmp_path / "new" / "folds")
    assert not (tmp_path / "new").exists()
    (tmp_path / "own").mkdir()
    begin(tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []


def test_a_signal_before_anything_began_leaves_nothing(tiny: Recipe, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> Run:
        raise Interrupted("Stopped by SIGINT, before there was anything to save.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "train", interrupted)
        with pytest.raises(Interrupted) as caught:
            cross_validate(tiny, folds=2, out=tmp_path / "folds", device="cpu")
    assert "--resume" not in caught.value.hint
    assert not (tmp_path / "folds").exists()


@pytest.fixture(scope="module")
def validated(tiny: Recipe, class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Folds:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("residuum.training.summary.write_summary", lambda *_: None)
        wanted = replace(tiny, epochs=1)
        out = tmp_path_factory.mktemp("folds") / "here"
        return cross_validate(wanted, folds=3, data=str(class_folders), out=out, device="cpu", changes={"seed": 5})


def test_a_run_for_each_fold_and_a_summary(validated: Folds) -> None:
    assert [run.folder.name for run in validated.runs] == ["fold-1", "fold-2", "fold-3"]
    assert [run.recipe.data.fold for run in validated.runs] == [0, 1, 2]
    assert {run.recipe.seed for run in validated.runs} == {5}
    summary = json.loads((validated.folder / "folds.json").read_text())
    each = [json.loads((run.folder / "scores.json").read_text()) for run in validated.runs]
    assert [scores["part"] for scores in each] == ["val"] * 3
    top1 = [scores["top1"] for scores in each]
    assert summary["top1"] == top1
    assert summary["top1_mean"] == pytest.approx(sum(top1) / 3)
    assert summary["top1_std"] == pytest.approx(statistics.stdev(top1))


def test_out_of_fold_predictions_have_every_picture_once(validated: Folds) -> None:
    with (validated.folder / "out_of_fold.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = validated.as_dict()
    assert (
        len(rows)
        == len({row["file"] for row in rows})
        == summary["images"]
        == 66 - len(validated.runs[0].parts.test or ())
    )
    right = sum(row["correct"] == "True" for row in rows)
    assert summary["top1_pooled"] == pytest.approx(100 * right / len(rows))
    for row in rows:
        assert row["label"] == Path(row["file"]).parent.name
        same = row["label"] == row["predicted"]
        assert (row["correct"] == "True") == same
        assert (float(row["label_prob"]) == pytest.approx(float(row["prob"]), abs=2e-6)) or not same
        assert float(row["label_prob"]) <= float(row["prob"]) + 2e-6


def test_suspicious_labels_are_those_of_all_folds_together(validated: Folds) -> None:
    """The thresholds are the means over all folds, as the table of predictions gives them."""
    with (validated.folder / "out_of_fold.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["label"] for row in rows}
    sure = {name: statistics.fmean(float(r["label_prob"]) for r in rows if r["label"] == name) for name in names}
    expected = {
        row["file"] for row in rows if row["correct"] == "False" and float(row["prob"]) > sure[row["predicted"]] + 2e-6
    }
    with (validated.folder / "suspicious_labels.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    by_file = {row["file"]: row for row in rows}
    best = {row["file"] for row in found if row["suggested"] == by_file[row["file"]]["predicted"]}
    assert best == expected
    for row in found:
        assert row["label"] == by_file[row["file"]]["label"] != row["suggested"]
        assert float(row["label_prob"]) == pytest.approx(float(by_file[row["file"]]["label_prob"]), abs=2e-6)
    summary = json.loads((validated.folder / "folds.json").read_text())
    assert [issue["file"] for issue in summary["label_issues"]] == [row["file"] for row in found]
    report = (validated.folder / "report.html").read_text(encoding="utf-8")
    assert f"Judged were all {summary['images']} pictures of the folds" in report
    assert f"{summary['top1_mean']:.2f} %" in report
    assert "fold-3/report.html" in report
    assert all(row["file"].rsplit("/", 1)[-1] in report for row in found)
    said = of_folds_in_words(validated)
    assert ("Suspicious labels    none" in said) != bool(found)
    assert str(validated.folder / "report.html") in said


def test_a_stopped_cross_validation_goes_on_where_it_was(
    validated: Folds, tiny: Recipe, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    real = folding.train

    def interrupted(*arguments: object, **more: object) -> Run:
        if "fold-2" in str(more.get("out")):
            raise Interrupted("Stopped by SIGINT; everything is saved.")
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(folding, "train", interrupted)
    out = tmp_path / "here"
    with pytest.raises(Interrupted) as caught:
        cross_validate(
            replace(tiny, epochs=1), folds=3, data=str(class_folders), out=out, device="cpu", changes={"seed": 5}
        )
    assert caught.value.hint == f"Go on with: residuum train --resume {out}"
    monkeypatch.setattr(folding, "train", real)
    again = cross_validate(resume=out, device="cpu")
    assert again.top1 == validated.top1
    text = (validated.folder / "out_of_fold.csv").read_text()
    assert (out / "out_of_fold.csv").read_text() == text


def test_folds_are_not_for_many_processes(monkeypatch: pytest.MonkeyPatch, tiny: Recipe) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="one after the other"):
        cross_validate(tiny, folds=2)


def test_the_next_command_trains_as_the_folds_did(validated: Folds) -> None:
    report = (validated.folder / "report.html").read_text(encoding="utf-8")
    recipe = validated.folder / "fold-1" / "recipe.toml"
    assert f"residuum train --recipe {recipe} --set data.folds=0" in report
    assert read(recipe) == validated.runs[0].recipe
    whole = open_parts(override(read(recipe), {"data.folds": 0}).data)
    assert whole.val is not None
    assert len(whole.train) + len(whole.val) + len(whole.test or ()) == 66


def test_nothing_is_said_of_unknown_where_every_answer_counts(validated: Folds) -> None:
    assert "unknown" not in (validated.folder / "out_of_fold.csv").read_text().splitlines()[0]
    assert "answered_pooled" not in validated.as_dict()
    assert "Answered" not in of_folds_in_words(validated)
    assert "How many they answer" not in (validated.folder / "report.html").read_text(encoding="utf-8")


def test_answers_that_may_be_unknown_are_told_by_each_networks_own_threshold(
    tiny: Recipe, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    wanted = replace(tiny, epochs=1, unknown_below="auto", data=replace(tiny.data, test_fraction=0.0))
    done = cross_validate(wanted, folds=2, data=str(class_folders), out=tmp_path / "folds", device="cpu")
    below = {
        number: json.loads((run.folder / "scores.json").read_text())["coverage"]["unknown_below"]
        for number, run in enumerate(done.runs, start=1)
    }
    with (done.folder / "out_of_fold.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if abs(float(row["prob"]) - below[int(row["fold"])]) > 1e-6:
            assert row["unknown"] == str(float(row["prob"]) < below[int(row["fold"])])
    answered = [row for row in rows if row["unknown"] == "False"]
    right = [row for row in answered if row["correct"] == "True"]
    assert 0 < len(answered) < len(rows) == 66
    summary = done.as_dict()
    assert summary["answered_pooled"] == pytest.approx(100 * len(answered) / 66)
    assert summary["answered_top1_pooled"] == pytest.approx(100 * len(right) / len(answered))
    share = f"{100 * len(answered) / 66:.1f} %"
    report = (done.folder / "report.html").read_text(encoding="utf-8")
    assert f"they answer {share} of all pictures" in report
    assert "also chose its threshold" in report
    assert f"{summary['answered_pooled']:.2f} % of all pictures" in of_folds_in_words(done)
    with (done.runs[0].folder / "predictions.csv").open(newline="") as file:
        own = {row["file"]: row["unknown"] for row in csv.DictReader(file)}
    assert own == {row["file"]: row["unknown"] for row in rows if row["fold"] == "1"}


@pytest.mark.slow
def test_labels_that_were_planted_among_digits_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in a hundred, drawn by a seed: most are found, and most of what is found was planted."""
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    images = digits().parts["train"]
    random = np.random.default_rng(0)
    wrong = random.choice(len(images), 36, replace=False)
    labels = images.labels.copy()
    labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    mislabelled = Found("digits", {"train": relabelled(images, labels, images.classes)}, divided=False)
    monkeypatch.setattr("residuum.data.builtin.digits", lambda: mislabelled)
    changes = {"epochs": 5, "data.test_fraction": 0.0}
    done = cross_validate("digits", folds=3, out=tmp_path / "here", device="cpu", changes=changes)
    found = {issue.file for issue in done.label_issues}
    right = found & {f"digits[{row}]" for row in wrong}
    assert len(right) >= 0.8 * len(wrong)
    assert len(right) >= 0.8 * len(found)
