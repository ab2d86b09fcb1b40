"""A run that ends early: when, what it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from residuum.errors import RecipeError
from residuum.evaluation.evaluate import Scores
from residuum.recipe import Recipe
from residuum.training.build import build
from residuum.training.train import train

CPU = torch.device("cpu")


def epochs_until_it_ends(tiny: Recipe, folder: Path, patience: int, top1: list[float], every: int = 1) -> int:
    """How many epochs a run takes whose validation accuracy is as given."""
    wanted = replace(tiny, epochs=len(top1), early_stop_epochs=patience, eval_every_epochs=every)
    run = build(wanted, folder, CPU)
    while run.goes_on():
        if run.evaluates_now():
            run.scored(Scores(10, top1[run.epoch], 100.0, 1.0, 0.0, (), np.zeros((3, 3), np.int64)))
        run.epoch_done()
    return run.epoch


@pytest.mark.parametrize(
    ("patience", "top1", "expected"),
    [
        (0, [50, 40, 30, 20, 10], 5),
        (2, [50, 40, 30, 20, 10], 3),
        (2, [50, 40, 60, 40, 30, 99], 5),
        (3, [50, 50, 50, 50, 50], 4),
        (5, [50, 40, 30, 20, 10], 5),
    ],
)
def test_it_ends_when_the_best_scores_are_so_old(
    patience: int, top1: list[float], expected: int, tiny: Recipe, tmp_path: Path
) -> None:
    assert epochs_until_it_ends(tiny, tmp_path, patience, top1) == expected


def test_age_is_counted_in_epochs_however_often_it_is_measured(tiny: Recipe, tmp_path: Path) -> None:
    assert epochs_until_it_ends(tiny, tmp_path, 2, [50, 50, 50, 50, 40, 40, 99, 99], every=2) == 4


@pytest.mark.usefixtures("without_report")
def test_a_run_that_ended_early_has_ended(tiny: Recipe, tmp_path: Path) -> None:
    """Its report is of the best epoch; resumed, it only reports again."""
    wanted = replace(tiny, epochs=40, early_stop_epochs=2, save_every_epochs=50)
    run = train(wanted, out=tmp_path / "run", device="cpu", lr=1e-9)  # nothing is learned after the first epoch or so
    assert run.best_epoch + 2 == run.epoch < 40
    assert f"Ended after epoch {run.epoch}" in (run.folder / "log.txt").read_text()
    weights = (run.folder / "last" / "model.safetensors").read_bytes()
    again = train(resume=run.folder, device="cpu")
    assert (again.epoch, again.best_epoch) == (run.epoch, run.best_epoch)
    assert (run.folder / "last" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"val_fraction": 0.0}}, "early_stop_epochs needs validation pictures"),
        (
            {"eval_every_epochs": 3},
            r"'early_stop_epochs' cannot be 2\. Expected at least eval_every_epochs, which is 3",
        ),
    ],
)
def test_scores_that_never_come_are_not_waited_for(
    change: dict[str, object], words: str, tiny: Recipe, tmp_path: Path
) -> None:
    data = change.pop("data", {})
    wanted = replace(tiny, early_stop_epochs=2, data=replace(tiny.data, **data), **change)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=words):
        build(wanted, tmp_path, CPU)
