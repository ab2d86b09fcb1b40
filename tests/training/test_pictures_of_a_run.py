"""The pictures of a run: bad ones are reported, and a set that changed is not taken for the one that was trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from residuum.data.loading import Batch
from residuum.data.sources import open_parts
from residuum.deploy.predict import load
from residuum.errors import DataError
from residuum.evaluation.trained import evaluate
from residuum.recipe import Recipe
from residuum.training.build import build
from residuum.training.loop import train_epoch
from residuum.training.run import Run
from residuum.training.summary import MISTAKES, worst_mistakes
from residuum.training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def photos(class_folders: Path, tmp_path: Path) -> Path:
    """A copy of the class folders that a test may change."""
    return Path(shutil.copytree(class_folders, tmp_path / "photos"))


@pytest.mark.parametrize("side_px", [None, 8])
def test_skipped_pictures_are_in_every_record(tiny: Recipe, photos: Path, tmp_path: Path, side_px: int | None) -> None:
    """Also where all pictures have one small size, so that the set is kept in memory."""
    import PIL.Image

    if side_px:
        for file in photos.rglob("*.png"):
            PIL.Image.open(file).resize((side_px, side_px)).save(file)
    bad = photos / "2" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    wanted = replace(tiny, epochs=1, data=replace(tiny.data, on_bad_image="skip"))
    run = train(wanted, data=str(photos), out=tmp_path / "run", device="cpu")
    assert list(run.skipped) == [str(bad)]
    assert list(json.loads((run.folder / "data.json").read_text())["skipped"]) == [str(bad)]
    assert str(bad) in (run.folder / "log.txt").read_text()
    assert bad.name in (run.folder / "report.html").read_text()
    assert run.sample is not None
    assert run.sample != bad
    files = [run.sample] if run.sample.is_file() else sorted(run.sample.iterdir())
    assert all(prediction.error is None for prediction in load(run.folder / "best").predict([str(f) for f in files]))


@pytest.mark.parametrize("side_px", [None, 8])
@pytest.mark.usefixtures("without_report")
def test_more_than_5_percent_bad_pictures_stop_it_wherever_they_are(
    tiny: Recipe, photos: Path, tmp_path: Path, side_px: int | None
) -> None:
    """Of 66 pictures 3 may be bad: no part alone has more, and all together do."""
    import PIL.Image

    wanted = replace(tiny, epochs=1, data=replace(tiny.data, on_bad_image="skip"))
    parts = open_parts(replace(wanted.data, source=str(photos)))
    assert parts.val is not None
    assert parts.test is not None
    bad = [Path(part.name(at)) for part, at in ((parts.train, 0), (parts.train, 9), (parts.val, 0), (parts.test, 0))]
    for file in photos.rglob("*.png") if side_px else ():
        PIL.Image.open(file).resize((8, 8)).save(file)
    for file in bad[:3]:
        file.write_bytes(b"")
    run = train(wanted, data=str(photos), out=tmp_path / "run", device="cpu")
    assert len(run.skipped) == 3
    bad[3].write_bytes(b"")
    with pytest.raises(DataError, match="4 of 66 pictures cannot be used"):
        train(wanted, data=str(photos), out=tmp_path / "other", device="cpu")


@pytest.mark.usefixtures("without_report")
def test_a_set_that_changed_is_not_the_one_that_was_trained_on(tiny: Recipe, photos: Path, tmp_path: Path) -> None:
    run = train(replace(tiny, epochs=1), data=str(photos), out=tmp_path / "run", device="cpu")
    before = evaluate(run.folder / "best", device="cpu")
    assert run.result is not None
    assert before.top1 == run.result.scores.top1
    (photos / "2" / "0.png").unlink()  # a split drawn anew would hold other pictures out
    with pytest.raises(DataError, match="has other pictures now than in training"):
        evaluate(run.folder / "best", device="cpu")
    with pytest.raises(DataError, match="has other pictures now than when the run"):
        train(resume=run.folder, device="cpu")
    shutil.copy(photos / "2" / "1.png", photos / "2" / "0.png")
    assert evaluate(run.folder / "best", device="cpu").images == before.images


def test_a_batch_that_bad_pictures_emptied_keeps_its_number(tiny: Recipe, photos: Path, tmp_path: Path) -> None:
    """So that the steps after it, and a run resumed there, are those of a run that has it."""
    bad = photos / "2" / "0.png"
    bad.write_bytes(b"")
    data = replace(
        tiny.data, source=str(photos), batch_size=2, on_bad_image="skip", val_fraction=0.0, test_fraction=0.0
    )
    run = build(replace(tiny, data=data, accumulate=1), tmp_path / "run", CPU)
    batches: list[Batch] = list(run.train_loader.epoch(0))
    assert [batch.number for batch in batches] == list(range(len(run.train_loader)))
    (emptied,) = [batch.number for batch in batches if len(batch.labels) < 2]
    assert [run.counts(batch) == [] for batch in batches] == [n == emptied for n in range(len(batches))]
    rest = list(run.train_loader.epoch(0, start=emptied + 1))
    assert [batch.number for batch in rest] == list(range(emptied + 1, len(batches)))
    train_epoch(run)
    assert run.epoch_steps == len(batches) - 1
    assert run.step == len(batches)


def test_the_surest_mistakes_have_the_maps_of_explain(finished: Run) -> None:
    """As `residuum explain` draws them from the file and the bundle, in the run's own report."""
    assert finished.result is not None
    predictor = load(finished.folder / "best", device="cpu")
    mistakes = worst_mistakes(finished, finished.result, predictor.model)
    assert 0 < len(mistakes) <= MISTAKES
    for mistake in mistakes:
        alone = predictor.explain(mistake.name, label=mistake.predicted)
        assert alone.label == mistake.predicted != mistake.label
        assert mistake.heat is not None
        np.testing.assert_allclose(mistake.heat, alone.heat, rtol=1e-3, atol=1e-6)
        assert mistake.seen == alone.seen
    assert "Grad-CAM" in (finished.folder / "report.html").read_text(encoding="utf-8")
