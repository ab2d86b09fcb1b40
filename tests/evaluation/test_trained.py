"""Scores of a bundle: on the pictures that training held out, or on any other set with its classes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

import residuum
from residuum import bundle
from residuum.deploy.predict import load
from residuum.errors import DataError, PictureError, UsageError, WeightsError
from residuum.evaluation.evaluate import Scores
from residuum.evaluation.trained import evaluate, evaluate_in_full
from residuum.training.run import Run


@pytest.fixture(scope="module")
def best(finished: Run) -> Path:
    return finished.folder / "best"


def summary(scores: Scores) -> dict[str, object]:
    return scores.as_dict()


def test_by_default_it_is_the_part_that_the_run_reported_on(best: Path, finished: Run, class_folders: Path) -> None:
    assert finished.result is not None
    own = finished.result.scores.as_dict()
    assert residuum.evaluate(best, device="cpu").as_dict() == own
    assert evaluate(best, str(class_folders), device="cpu").as_dict() == own  # the same set, named
    assert evaluate(best, f"{class_folders}/../{class_folders.name}", "Test", device="cpu").as_dict() == own


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_same_pictures_are_held_out(best: Path, finished: Run, split: str) -> None:
    told = evaluate_in_full(
        best, None, split, precision="fp32", batch_size=7, device="cpu", workers=1, on_bad_image="error"
    )
    part = getattr(finished.parts, split)
    assert [told.images.name(at) for at in range(len(told.images))] == [part.name(at) for at in range(len(part))]
    assert told.scores.images == len(part)
    assert told.skipped == {}
    assert split in told.what


def test_validation_scores_are_those_that_chose_the_weights(best: Path) -> None:
    recorded = bundle.read(best)[1]["scores"]["val"]
    scores = evaluate(best, split="val", device="cpu").summary()
    assert scores == pytest.approx(recorded, abs=1e-4)


def test_scores_are_scikit_learns(best: Path, finished: Run, class_folders: Path, tmp_path: Path) -> None:
    """On a copy with a picture less, which is another set: nothing is held out of it."""
    copied = shutil.copytree(class_folders, tmp_path / "copy")
    (copied / "bee" / "7.png").unlink()
    scores = evaluate(best, str(copied), device="cpu")
    files = sorted(copied.rglob("*.png"))
    answers = load(best, device="cpu").predict([str(file) for file in files])
    classes = list(finished.classes)
    true, predicted = [file.parent.name for file in files], [str(answer.label) for answer in answers]
    assert scores.images == 65
    assert scores.top1 == pytest.approx(100 * accuracy_score(true, predicted))
    assert scores.top5 == 100
    assert scores.confusion.tolist() == confusion_matrix(true, predicted, labels=classes).tolist()
    order = sorted(classes)  # as log_loss takes its columns
    probs = [[{g.label: g.prob for g in answer.top}[name] for name in order] for answer in answers]
    assert scores.loss == pytest.approx(log_loss(true, probs, labels=order), abs=1e-6)
    by_class = precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
    for at, score in enumerate(scores.classes):
        assert score.name == classes[at]
        assert (score.precision, score.recall, score.f1) == pytest.approx([100 * part[at] for part in by_class[:3]])
        assert score.images == by_class[3][at]


def test_classes_are_matched_by_name(best: Path, class_folders: Path, tmp_path: Path) -> None:
    """A set of two of the three classes, whose numbers there are others than in the network."""
    for name in ("bee", "10"):
        shutil.copytree(class_folders / name, tmp_path / "two" / name)
    scores = evaluate(best, str(tmp_path / "two"), device="cpu")
    assert [score.name for score in scores.classes] == ["2", "10", "bee"]
    assert [score.images for score in scores.classes] == [0, 22, 22]
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows(
            [str(picture), picture.parent.name] for picture in sorted((tmp_path / "two").rglob("*.png"))[::-1]
        )
    assert summary(evaluate(best, str(tmp_path / "table.csv"), device="cpu"))["confusion"] == scores.confusion.tolist()


def test_an_unknown_class_is_refused(best: Path, class_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(class_folders, tmp_path / "more")
    shutil.copytree(class_folders / "bee", tmp_path / "more" / "wasp")
    with pytest.raises(DataError, match="does not know: wasp") as caught:
        evaluate(best, str(tmp_path / "more"), device="cpu")
    assert caught.value.exit_code == 3


def test_a_class_more_in_the_own_set_is_refused(best: Path, class_folders: Path, tmp_path: Path) -> None:
    tensors, card = bundle.read(best)
    changed = shutil.copytree(class_folders, tmp_path / "changed")
    card["data"] |= {"source": str(changed), "place": str(changed)}
    bundle.write(tmp_path / "best", tensors, card)
    assert evaluate(tmp_path / "best", device="cpu").images == evaluate(best, device="cpu").images
    shutil.copytree(class_folders / "bee", changed / "wasp")
    with pytest.raises(DataError, match="has other classes now"):
        evaluate(tmp_path / "best", device="cpu")


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_workers_do_not_matter(best: Path, finished: Run, batch_size: int, workers: int) -> None:
    assert finished.result is not None
    scores = evaluate(best, batch_size=batch_size, workers=workers, device="cpu")
    assert scores.confusion.tolist() == finished.result.scores.confusion.tolist()
    assert scores.loss == pytest.approx(finished.result.scores.loss, abs=1e-6)


def test_bad_pictures(best: Path, class_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(class_folders, tmp_path / "set")
    bad = tmp_path / "set" / "bee" / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(PictureError, match=r"bad\.png"):
        evaluate(best, str(tmp_path / "set"), device="cpu")
    assert evaluate(best, str(tmp_path / "set"), device="cpu", on_bad_image="skip").images == 66


def test_what_is_not_there(best: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no part 'holdout'"):
        evaluate(best, split="holdout", device="cpu")
    with pytest.raises(DataError):
        evaluate(best, str(tmp_path / "nowhere"), device="cpu")
    with pytest.raises(WeightsError):
        evaluate(tmp_path, device="cpu")
    for wrong in ({"precision": "fp64"}, {"device": "cuda:99"}, {"batch_size": 0}, {"on_bad_image": "eror"}):
        with pytest.raises(UsageError):
            evaluate(best, **wrong)  # type: ignore[arg-type]


def test_a_bundle_that_does_not_say_what_it_was_trained_on(best: Path, class_folders: Path, tmp_path: Path) -> None:
    tensors, card = bundle.read(best)
    bundle.write(tmp_path / "best", tensors, {**card, "data": {}})
    with pytest.raises(WeightsError, match="does not say which set"):
        evaluate(tmp_path / "best", device="cpu")
    assert evaluate(tmp_path / "best", str(class_folders), device="cpu").images == 66


def test_a_bundle_from_python_needs_no_recipe(best: Path, class_folders: Path, tmp_path: Path) -> None:
    tensors, card = bundle.read(best)
    kept = {key: card[key] for key in ("model", "classes", "preprocessing")}
    bundle.write(tmp_path / "best", tensors, kept)
    scores = evaluate(tmp_path / "best", str(class_folders), device="cpu")
    assert np.trace(scores.confusion) == round(scores.top1 * 66 / 100)
