"""The end of a run: a temperature from its validation pictures, in the bundle that it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import residuum
from residuum import bundle
from residuum.calibration import Calibration
from residuum.evaluation.calibrate import calibrate
from residuum.evaluation.trained import evaluate_in_full
from residuum.models import saved
from residuum.recipe import Augment, Recipe
from residuum.training import train as training
from residuum.training.run import Run
from residuum.training.train import train


@pytest.fixture(scope="module")
def run(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with enough validation pictures for a temperature, and a threshold chosen on them."""
    wanted = replace(tiny, epochs=2, average_decay=0.0, augment=Augment(), unknown_below="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_summary", lambda *_: None)
        return train(wanted, data="synthetic:200x3x8", out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


def test_the_bundle_has_what_calibrating_it_again_finds(run: Run, tmp_path: Path) -> None:
    found = saved.load(run.folder / "best").calibration
    again = calibrate(run.folder / "best", out=tmp_path / "again", unknown_below="auto", device="cpu").calibration
    assert found.temperature == pytest.approx(again.temperature, rel=1e-6)
    assert found.temperature != 1.0
    assert found.unknown_below == pytest.approx(again.unknown_below, abs=2e-6)
    assert found.found["pictures"] == "validation"
    assert found.found["images"] == again.found["images"] == len(run.parts.val or ()) == 50
    assert found.found["loss"] < found.found["uncalibrated"]["loss"]
    assert found.found["coverage"] >= 95


def test_scores_are_with_it_and_those_without_are_kept(run: Run) -> None:
    scores = json.loads((run.folder / "scores.json").read_text("utf-8"))
    done = evaluate_in_full(
        run.folder / "best", None, None, precision="fp32", batch_size=32, device="cpu", workers=1,
        on_bad_image="error",
    )  # fmt: skip
    assert done.reliance is not None
    assert scores["loss"] == pytest.approx(done.scores.loss, abs=1e-6)
    assert scores["calibration"]["temperatures"] == [saved.load(run.folder / "best").calibration.temperature]
    without = scores["calibration"]["uncalibrated"]
    assert without["loss"] == pytest.approx(done.reliance.uncalibrated.loss, abs=1e-6)
    assert without["loss"] != pytest.approx(scores["loss"], rel=1e-4)
    assert scores["coverage"]["unknown_below"] == saved.load(run.folder / "best").calibration.unknown_below
    log = (run.folder / "log.txt").read_text("utf-8")
    assert "chosen on 50 validation pictures: calibration error" in log
    assert "Unknown below a probability of" in log


def test_a_finished_run_that_goes_on_finds_the_same_and_may_change_its_threshold(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "write_summary", lambda *_: None)
    sums = (run.folder / "best" / "SHA256SUMS").read_bytes()
    train(resume=run.folder, device="cpu")
    assert (run.folder / "best" / "SHA256SUMS").read_bytes() == sums
    train(resume=run.folder, device="cpu", changes={"unknown_below": 0.25})
    changed = saved.load(run.folder / "best").calibration
    assert changed.unknown_below == 0.25
    train(resume=run.folder, device="cpu", changes={"unknown_below": "auto"})
    assert (run.folder / "best" / "SHA256SUMS").read_bytes() == sums


@pytest.mark.parametrize("below", ["none", 0.7])
def test_without_validation_pictures_it_is_one_and_that_is_said(
    below: str | float, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "write_summary", lambda *_: None)
    data = replace(tiny.data, source="synthetic:24x3x8", val_fraction=0.0, test_fraction=0.0)
    wanted = replace(tiny, epochs=1, data=data, unknown_below=below)  # type: ignore[arg-type]
    train(wanted, out=tmp_path / "run", device="cpu")
    found = saved.load(tmp_path / "run" / "best").calibration
    assert found == Calibration(1.0, None if below == "none" else 0.7)
    assert ("calibration" in bundle.read(tmp_path / "run" / "best")[1]) == (below != "none")
    assert "There are no validation pictures to choose a temperature on: it is 1" in (
        tmp_path / "run" / "log.txt"
    ).read_text("utf-8")


def test_the_scores_that_chose_the_weights_stay_as_they_were(run: Run) -> None:
    """They were measured without a temperature, which came later."""
    recorded = bundle.read(run.folder / "best")[1]["scores"]["val"]
    done = evaluate_in_full(
        run.folder / "best", None, "val", precision="fp32", batch_size=32, device="cpu", workers=1,
        on_bad_image="error",
    )  # fmt: skip
    assert done.reliance is not None
    assert done.reliance.uncalibrated.summary() == pytest.approx(recorded, abs=1e-4)
    assert residuum.evaluate(run.folder / "best", split="val", device="cpu").top1 == recorded["top1"]
