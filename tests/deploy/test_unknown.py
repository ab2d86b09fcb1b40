"""Answers that name no class: below the threshold, and never to be confused with a class of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

import residuum
from residuum import bundle
from residuum.deploy.predict import Prediction
from residuum.errors import UsageError
from residuum.training.run import Run


@pytest.fixture(scope="module")
def files(class_folders: Path) -> list[str]:
    return sorted(str(file) for file in class_folders.rglob("*.png"))


@pytest.fixture(scope="module")
def sure(finished: Run, files: list[str]) -> list[Prediction]:
    """What the network says without a threshold."""
    return residuum.load(finished.folder / "best", device="cpu", unknown_below="none").predict(files)


@pytest.fixture(scope="module")
def middle(sure: list[Prediction]) -> float:
    """A probability between those of the pictures."""
    probs = sorted(prediction.prob or 0.0 for prediction in sure)
    return (probs[len(probs) // 2 - 1] + probs[len(probs) // 2]) / 2


def changed(finished: Run, folder: Path, classes: list[str] | None = None, below: float | None = None) -> Path:
    tensors, card = bundle.read(finished.folder / "best")
    calibration = {"temperature": 1.0, "unknown_below": below, "found": {}}
    bundle.write(folder, tensors, {**card, "classes": classes or card["classes"], "calibration": calibration})
    return folder


def test_below_the_threshold_the_answer_is_unknown_and_the_classes_stay(
    finished: Run, files: list[str], sure: list[Prediction], middle: float
) -> None:
    answers = residuum.load(finished.folder / "best", device="cpu", unknown_below=middle).predict(files)
    assert [answer.top for answer in answers] == [answer.top for answer in sure]
    assert {answer.unknown for answer in answers} == {True, False}
    for answer, plain in zip(answers, sure, strict=True):
        assert answer.unknown == (plain.prob < middle)  # type: ignore[operator]
        assert answer.label == ("unknown" if answer.unknown else plain.label)
        assert answer.prob == plain.prob
        said = answer.as_dict()
        assert (said["label"], said["unknown"], said["prob"]) == (answer.label, answer.unknown, plain.prob)
        assert not plain.unknown


def test_the_bundles_own_threshold_holds_unless_another_is_given(
    finished: Run, files: list[str], middle: float, tmp_path: Path
) -> None:
    own = changed(finished, tmp_path / "own", below=middle)
    counts = {
        wanted: sum(a.unknown for a in residuum.load(own, device="cpu", unknown_below=wanted).predict(files))
        for wanted in (None, "auto", "none", 0.0, 1.0)
    }
    assert counts[None] == counts["auto"] == len(files) // 2
    assert counts["none"] == counts[0.0] == 0
    assert counts[1.0] >= counts[None]
    with pytest.raises(UsageError, match="no threshold of its own"):
        residuum.load(finished.folder / "best", device="cpu", unknown_below="auto")
    with pytest.raises(UsageError, match=r"cannot be 1\.5"):
        residuum.load(own, device="cpu", unknown_below=1.5)


def test_a_class_called_unknown_is_another_answer(
    finished: Run, files: list[str], sure: list[Prediction], middle: float, tmp_path: Path
) -> None:
    folder = changed(finished, tmp_path / "named", classes=["unknown", "10", "bee"], below=middle)
    answers = residuum.load(folder, device="cpu").predict(files)
    for answer, plain in zip(answers, sure, strict=True):
        assert answer.unknown == (plain.prob < middle)  # type: ignore[operator]
        if answer.unknown:
            assert answer.label == "(unknown)"
        else:
            assert answer.label == {"2": "unknown"}.get(str(plain.label), plain.label)


def test_a_picture_that_cannot_be_used_is_not_unknown_but_an_error(finished: Run, tmp_path: Path) -> None:
    folder = changed(finished, tmp_path / "own", below=1.0)
    (answer,) = residuum.load(folder, device="cpu").predict([b"no picture"])
    assert answer.error
    assert (answer.unknown, answer.label) == (False, None)
