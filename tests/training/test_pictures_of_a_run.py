"""The pictures of a run: bad ones are reported, and a set that changed is not taken for the one that was trained on."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residuum.data.loading import Batch
from residuum.deploy.predict import load
from residuum.errors import DataError, DivergedError, Interrupted
from residuum.evaluation.trained import evaluate
from residuum.recipe import Recipe
from residuum.training.run import build
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


def test_what_diverged_does_not_take_the_good_checkpoints_place(tiny: Recipe, tmp_path: Path) -> None:
    run = build(tiny, tmp_path / "run", CPU)
    run.stop.signal = 2
    run.epoch_loss.fill_(math.nan)
    with pytest.raises(DivergedError):
        run.stop_if_asked()
    assert not (run.folder / "last").exists()
    run.epoch_loss.zero_()
    with pytest.raises(Interrupted):
        run.stop_if_asked()
    assert (run.folder / "last").is_dir()


def test_a_batch_that_bad_pictures_emptied_keeps_its_number(tiny: Recipe, photos: Path, tmp_path: Path) -> None:
    """So that the steps after it, and a run resumed there, are those of a run that has it."""
    bad = photos / "2" / "0.png"
    bad.write_bytes(b"")
    data = replace(
        tiny.data, source=str(photos), batch_size=2, on_bad_image="skip", val_fraction=0.0, test_fraction=0.0
    )
    run = build(replace(tiny, data=data, accumulate=1), tmp_path / "run", CPU)
    batches: list[Batch] = list(run.train_loader.epoch(0))
    numbers = [batch.number for batch in batches]
    assert len(numbers) == len(run.train_loader) - 1
    (emptied,) = set(range(len(run.train_loader))) - set(numbers)
    assert numbers == [number for number in range(len(run.train_loader)) if number != emptied]
    assert [batch.number for batch in run.train_loader.epoch(0, start=emptied)] == numbers[emptied:]
