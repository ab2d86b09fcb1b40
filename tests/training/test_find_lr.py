"""The learning-rate finder: a search that leaves nothing behind but its choice, its table and its plot."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from residuum import recipe
from residuum.errors import UsageError
from residuum.evaluation.plots import draw_lr_search
from residuum.recipe import Recipe, Transfer
from residuum.training import find_lr
from residuum.training import train as training
from residuum.training.find_lr import HIGHEST, LOWEST, LrSearch
from residuum.training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(find_lr, "STEPS", 25)
    return 25


def test_the_choice_is_a_tenth_of_the_rate_with_the_lowest_average() -> None:
    rates = tuple(10.0**e for e in range(-6, 2))
    averages = (2.0, 2.0, 1.9, 1.5, 0.8, 0.9, 5.0, 9.0)
    search = LrSearch(rates, averages, averages)
    assert search.chosen == pytest.approx(1e-3)
    assert "optim.lr = 0.001" in search.in_words()


def test_the_rates_rise_evenly_until_the_loss_does(tiny: Recipe, few_steps: int) -> None:
    wanted = recipe.override(tiny, {"accumulate": 1})
    found = find_lr.find_lr(wanted, CPU)
    steps = np.diff(np.log(found.rates))
    assert found.rates[0] == LOWEST
    assert steps == pytest.approx([math.log(HIGHEST / LOWEST) / (few_steps - 1)] * len(steps))
    assert len(found.rates) == len(found.losses) == len(found.averages) <= few_steps
    assert LOWEST / 10 <= found.chosen <= HIGHEST / 10
    weights = 0.1 * 0.9 ** np.arange(len(found.losses))[::-1]  # of the last average, which is freed of its start
    assert found.averages[-1] == pytest.approx(np.dot(weights, found.losses) / weights.sum())
    assert find_lr.find_lr(wanted, CPU) == found


@pytest.mark.usefixtures("few_steps")
def test_training_uses_it_and_says_so(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    wanted = recipe.override(tiny, {"epochs": 1, "accumulate": 1})
    run = train(wanted, out=tmp_path / "run", device="cpu", find_lr=True)
    with (run.folder / "lr_search.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["average"]))
    assert run.recipe.optim.lr == pytest.approx(float(best["lr"]) / 10, rel=0.06)
    assert recipe.read(run.folder / "recipe.toml").optim.lr == run.recipe.optim.lr
    assert f"optim.lr = {run.recipe.optim.lr:g}: in {len(rows)} steps" in (run.folder / "log.txt").read_text()
    by_hand = train(wanted, out=tmp_path / "by hand", device="cpu", lr=run.recipe.optim.lr)
    weights = [(each.folder / "last" / "model.safetensors").read_bytes() for each in (run, by_hand)]
    assert weights[0] == weights[1]  # the search has left nothing in the network


def test_it_searches_with_everything_that_ever_learns(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[bool]] = []

    def watched(run: training.Run, batch: object) -> float:  # noqa: ARG001
        seen.append([parameter.requires_grad for parameter in run.model.parameters()])
        return math.nan if len(seen) > 1 else 1.0

    monkeypatch.setattr(find_lr, "_loss_before", watched)
    wanted = recipe.override(tiny, {"transfer.freeze": "stem", "transfer.head_epochs": 2})
    assert wanted.transfer == Transfer(freeze="stem", head_epochs=2)
    assert len(find_lr.find_lr(wanted, CPU).rates) == 1  # what is not finite ends it
    assert seen[0].count(False) == 3  # the stem's convolution and norm


@pytest.mark.parametrize("more", [{"lr": 0.1}, {"changes": {"optim.lr": 0.1}}, {"resume": "run"}], ids=str)
def test_a_rate_that_is_known_is_not_searched(more: dict[str, object], tiny: Recipe) -> None:
    with pytest.raises(UsageError, match="--find-lr chooses"):
        train(tiny, find_lr=True, **more)  # type: ignore[arg-type]


def test_the_plot_is_a_picture() -> None:
    rates = tuple(np.geomspace(1e-6, 10, 60).tolist())
    losses = tuple((2 + np.sin(np.arange(60)) / 9 - np.linspace(0, 1.4, 60)).tolist())
    with PIL.Image.open(io.BytesIO(draw_lr_search(rates, losses, losses, 0.02))) as picture:
        assert min(picture.size) > 400


def test_a_folder_that_is_taken_is_refused_before_the_search(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "search_lr", lambda *_: pytest.fail("it searched first"))
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UsageError, match=r"is not empty.*Give another --out\.$"):
        train(tiny, out=tmp_path, device="cpu", find_lr=True)
