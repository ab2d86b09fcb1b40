"""Predictions: any kind of source, in order, whatever is wrong with some; the same as evaluation's."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import residuum
from residuum import imaging
from residuum.deploy.predict import Prediction, Predictor, load
from residuum.errors import PictureError, UsageError, WeightsError
from residuum.training.run import Run


@pytest.fixture(scope="module")
def predictor(finished: Run) -> Predictor:
    return residuum.load(finished.folder / "best", device="cpu")


@pytest.fixture(scope="module")
def files(class_folders: Path) -> list[Path]:
    return sorted(class_folders.rglob("*.png"))[::7]


def probs_of(prediction: Prediction) -> dict[str, float]:
    return {guess.label: guess.prob for guess in prediction.top}


def test_one_picture_from_every_kind_of_source(predictor: Predictor, files: list[Path]) -> None:
    file = files[0]
    picture = PIL.Image.open(file)
    pixels = np.asarray(picture)
    sources: list[Any] = [
        file,
        str(file),
        file.read_bytes(),
        picture,
        picture.copy(),
        pixels,
        np.asfortranarray(pixels),
    ]
    answers = [predictor.predict(source) for source in sources]
    assert all(isinstance(answer, Prediction) for answer in answers)
    assert len({answer.top for answer in answers}) == 1
    assert [answer.file for answer in answers[:3]] == [str(file), str(file), "bytes"]
    assert answers[5].file == "array"
    assert answers[0].error is None


def test_a_list_keeps_its_order(predictor: Predictor, files: list[Path]) -> None:
    answers = predictor.predict([str(file) for file in files])
    assert [answer.file for answer in answers] == [str(file) for file in files]
    single = [predictor.predict(file) for file in files]
    assert len({answer.top for answer in single}) > 1
    for answer, alone in zip(answers, single, strict=True):
        assert probs_of(answer) == pytest.approx(probs_of(alone), abs=1e-6)
    assert predictor.predict(tuple(files)) == answers  # type: ignore[call-overload]
    assert predictor.predict([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, 4, 1000])
def test_the_batch_size_does_not_matter(predictor: Predictor, files: list[Path], batch_size: int) -> None:
    """Matrix products of another size add up in another order: float32 agrees to about 1e-7, which is 1e-6 here."""
    for answer, other in zip(
        predictor.predict(list(files), batch_size=batch_size), predictor.predict(list(files)), strict=True
    ):
        assert probs_of(answer) == pytest.approx(probs_of(other), abs=1e-6)


def test_what_cannot_be_used_is_a_row_and_the_others_are_predicted(
    predictor: Predictor, files: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    bad: list[Any] = [
        broken,
        tmp_path / "empty.png",
        tmp_path / "none.png",
        tmp_path,
        b"no picture",
        np.zeros((3, 3, 7)),
    ]
    mixed: list[Any] = [files[0], *bad[:3], files[1], *bad[3:], files[2]]
    for batch_size in (1, 3, 32):
        answers = predictor.predict(mixed, batch_size=batch_size)
        assert [answer.error is None for answer in answers] == [True, *[False] * 3, True, *[False] * 3, True]
        good = [answer for answer in answers if answer.error is None]
        assert [answer.file for answer in good] == [str(file) for file in files[:3]]
        for answer in answers:
            if answer.error is not None:
                assert (answer.top, answer.label, answer.prob) == ((), None, None)
                assert answer.as_dict()["top"] == []
        assert answers[1].file == str(broken)
    assert predictor.predict([broken])[0].error
    for source in bad:
        with pytest.raises(PictureError):
            predictor.predict(source)


def test_nothing_but_bad_pictures(predictor: Predictor) -> None:
    assert [answer.error is None for answer in predictor.predict([b"x", b"y"])] == [False, False]


@pytest.mark.parametrize("top", [1, 2, 3, 5, 1000])
def test_top_is_at_most_all_classes(predictor: Predictor, files: list[Path], top: int) -> None:
    answer = predictor.predict(files[0], top=top)
    assert len(answer.top) == min(top, 3)
    probs = [guess.prob for guess in answer.top]
    assert probs == sorted(probs, reverse=True)
    assert (answer.label, answer.prob) == (answer.top[0].label, probs[0])
    assert answer.top == predictor.predict(files[0], top=3).top[:top]


def test_probabilities_add_up_to_one(predictor: Predictor, files: list[Path]) -> None:
    for answer in predictor.predict(list(files), top=3):
        assert sum(guess.prob for guess in answer.top) == pytest.approx(1, abs=1e-12)
        assert {guess.label for guess in answer.top} == {"2", "10", "bee"}
        assert all(0 <= guess.prob <= 1 for guess in answer.top)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"top": -1}, {"batch_size": 0}, {"batch_size": -3}], ids=str)
def test_less_than_one_is_refused(predictor: Predictor, files: list[Path], wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        predictor.predict(list(files), **wrong)
    with pytest.raises(UsageError):
        next(predictor.stream(files, **wrong))


def test_it_is_the_softmax_of_the_network_on_the_prepared_picture(predictor: Predictor, files: list[Path]) -> None:
    prepared = imaging.prepare(imaging.open_picture(files[3]), predictor.preprocessing)
    pixels = torch.from_numpy(prepared)[None].double() / 255
    mean, std = (
        torch.tensor(values, dtype=torch.float64)[None, :, None, None]
        for values in (predictor.preprocessing.mean, predictor.preprocessing.std)
    )
    with torch.inference_mode():
        expected = torch.softmax(predictor.model(((pixels - mean) / std).float()).double(), dim=1)[0].tolist()
    probs = probs_of(predictor.predict(files[3]))
    assert [probs[name] for name in predictor.classes] == pytest.approx(expected, abs=1e-5)


def test_predictions_agree_with_the_evaluation_of_the_run(predictor: Predictor, finished: Run) -> None:
    """`predictions.csv` was written by evaluation, which goes another way from file to tensor."""
    with (finished.folder / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    answers = predictor.predict([row["file"] for row in rows], batch_size=5)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.prob == pytest.approx(float(row["prob"]), abs=2e-6)  # the table rounds to 1e-6
        assert answer.label == row["predicted"]


def test_a_stream_takes_no_more_than_a_batch_at_a_time(predictor: Predictor, files: list[Path]) -> None:
    taken = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(1)
            yield files[0]

    stream = predictor.stream(endless(), batch_size=4)
    assert [next(stream).file for _ in range(6)] == [str(files[0])] * 6
    assert len(taken) == 8
    stream.close()  # type: ignore[attr-defined]


def test_bf16_says_about_the_same(finished: Run, predictor: Predictor, files: list[Path]) -> None:
    rough = load(finished.folder / "best", device="cpu", precision="bf16")
    for answer, other in zip(rough.predict(list(files)), predictor.predict(list(files)), strict=True):
        assert probs_of(answer) == pytest.approx(probs_of(other), abs=0.1)  # 8 bits a number, 20 layers
        assert probs_of(answer) != probs_of(other)


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "best", device="cpu")
    assert caught.value.exit_code == 4
