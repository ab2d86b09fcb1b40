"""The end of a run: a temperature from its validation pictures, in the bundle that it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import residuum
from residuum import bundle
from residuum.calibration import Calibration
from residuum.errors import Interrupted
from residuum.evaluation.calibrate import calibrate
from residuum.evaluation.trained import evaluate_in_full
from residuum.models import saved
from residuum.recipe import Augment, Recipe
from residuum.training.run import Run
from residuum.training.train import train


@pytest.fixture(scope="module")
def run(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with enough validation pictures for a temperature, and a threshold chosen on them."""
    wanted = replace(tiny, epochs=2, average_decay=0.0, augment=Augment(), unknown_below="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("residuum.training.summary.write_summary", lambda *_: None)
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
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
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
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
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


@pytest.mark.parametrize("test_fraction", [0.0, 0.25])
def test_the_bundle_of_a_run_without_validation_pictures_has_its_scores(
    test_fraction: float, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    data = replace(tiny.data, source="synthetic:24x3x8", val_fraction=0.0, test_fraction=test_fraction)
    run = train(replace(tiny, epochs=1, data=data), out=tmp_path / "run", device="cpu")
    part = "test" if test_fraction else "train"
    assert run.result is not None
    assert bundle.read(tmp_path / "run" / "best")[1]["scores"] == {part: run.result.scores.summary()}
    assert residuum.evaluate(tmp_path / "run" / "best", device="cpu").summary() == pytest.approx(
        run.result.scores.summary(), abs=1e-5
    )


def test_the_scores_on_the_test_part_are_in_the_bundle(run: Run) -> None:
    assert run.result is not None
    scores = bundle.read(run.folder / "best")[1]["scores"]
    assert list(scores) == ["val", "test"]
    assert scores["test"] == run.result.scores.summary()


@pytest.mark.parametrize(("val_fraction", "every"), [(0.0, 1), (0.25, 4)], ids=["no validation", "seldom"])
def test_a_run_that_is_to_end_where_it_was_stopped_has_a_result(
    val_fraction: float, every: int, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have kept weights at the end of its recipe only, or at the first epoch that is scored."""
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    data = replace(tiny.data, source="synthetic:24x3x8", val_fraction=val_fraction)
    wanted = replace(tiny, epochs=3, eval_every_epochs=every, data=data)

    def stopped(record: dict[str, object]) -> None:
        if record["kind"] == "epoch" and record["epoch"] == 2:
            raise Interrupted("Stopped.")

    with pytest.raises(Interrupted):
        train(wanted, out=tmp_path / "run", device="cpu", listener=stopped)
    run = train(resume=tmp_path / "run", device="cpu", changes={"epochs": 1})
    best, last = (bundle.read(tmp_path / "run" / kind) for kind in ("best", "last"))
    assert (run.epoch, run.best_epoch, best[1]["epoch"]) == (1, 1, 1)
    assert all((best[0][name] == last[0][name]).all() for name in best[0])
    assert run.result is not None
    assert best[1]["scores"] == {"test": run.result.scores.summary()}


def test_the_weights_at_the_end_are_the_result_where_nothing_chooses_among_them(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was finished, made longer, stopped, and is to end there."""
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    data = replace(tiny.data, source="synthetic:24x3x8", val_fraction=0.0)
    train(replace(tiny, epochs=1, data=data), out=tmp_path / "run", device="cpu")

    def stopped(record: dict[str, object]) -> None:
        if record["kind"] == "epoch" and record["epoch"] == 3:
            raise Interrupted("Stopped.")

    with pytest.raises(Interrupted):
        train(resume=tmp_path / "run", device="cpu", listener=stopped, changes={"epochs": 4})
    run = train(resume=tmp_path / "run", device="cpu", changes={"epochs": 2})
    assert bundle.read(tmp_path / "run" / "best")[1]["epoch"] == run.best_epoch == 2


def test_what_chose_for_itself_is_named(run: Run, tmp_path: Path) -> None:
    """Of the run, the validation pictures; of a bundle that was calibrated, those that this was done on."""

    def chosen_on(folder: Path, data: str | None, split: str | None) -> tuple[str, ...]:
        return evaluate_in_full(
            folder, data, split, precision="fp32", batch_size=32, device="cpu", workers=1, on_bad_image="error"
        ).chosen_here

    best = run.folder / "best"
    assert chosen_on(best, None, "val") == ("temperature", "threshold")
    assert chosen_on(best, None, None) == chosen_on(best, None, "train") == ()
    other = "synthetic:90x3x8"
    calibrate(best, other, out=tmp_path / "other", unknown_below=0.5, device="cpu")
    assert chosen_on(tmp_path / "other", other, None) == ("temperature",)
    assert chosen_on(tmp_path / "other", None, "val") == ()
    assert saved.load(best).calibration.found["chosen"]
    assert not saved.load(tmp_path / "other").calibration.found["chosen"]
