"""A learning rate from a short trial: it rises from step to step, and the loss says how far it may.

Source: Smith, arXiv:1506.01186, section 3.3 (the range test); a tenth of the rate with the lowest loss is a rule of
    fastai's.
Shapes: S steps.
"""

from __future__ import annotations

import csv
import itertools
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from residuum.data.loading import Batch
from residuum.distributed import ALONE, World
from residuum.errors import DivergedError
from residuum.recipe import Recipe
from residuum.training import optim
from residuum.training.build import build
from residuum.training.embedded import embed_once
from residuum.training.loop import train_step
from residuum.training.run import Run

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
"""The rates that are tried, evenly spaced in their logarithm."""

_MEMORY = 0.9  # of the moving average of the losses
_TOO_MUCH = 4.0  # times the lowest loss: what comes then is not worth the wait
_FIRST = 10  # steps before that is asked


@dataclass(frozen=True)
class LrSearch:
    """The rates that were tried, the loss before each step and its moving average [S each], and the rate to train with:
    a tenth of that whose average is the lowest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    averages: tuple[float, ...]

    @property
    def chosen(self) -> float:
        """The rate to train with, to two digits."""
        best = min(range(len(self.averages)), key=self.averages.__getitem__)
        return float(f"{self.rates[best] / 10:.1e}")

    def in_words(self) -> str:
        """Returns what was found, in a sentence."""
        return (
            f"optim.lr = {self.chosen:g}: in {len(self.rates)} steps of a rising rate the loss was lowest at "
            f"{10 * self.chosen:.2g}, and a tenth of that is safe (plots/lr_search.png)."
        )

    def write(self, folder: Path) -> None:
        """Writes lr_search.csv and plots/lr_search.png into a run folder."""
        from residuum.evaluation.plots import draw_lr_search  # matplotlib, which other runs need at their end only

        with (folder / "lr_search.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("lr", "loss", "average"))
            writer.writerows(zip(self.rates, self.losses, self.averages, strict=True))
        (folder / "plots").mkdir(exist_ok=True)
        (folder / "plots" / "lr_search.png").write_bytes(
            draw_lr_search(self.rates, self.losses, self.averages, self.chosen)
        )


def find_lr(wanted: Recipe, device: torch.device, world: World = ALONE) -> LrSearch:
    """Trains the recipe's network for at most 100 steps of a rising rate, and forgets it.

    Raises:
        DivergedError: the loss is not finite from the first step on.
    """
    with tempfile.TemporaryDirectory(prefix="residuum-lr-") as folder:
        run = build(wanted, Path(folder), device, world=world)
        embed_once(run)
        return _search(run)


def _search(run: Run) -> LrSearch:
    rates: list[float] = []
    losses: list[float] = []
    averages: list[float] = []
    average = 0.0
    run.thawing.begin(run.thawing.all_learn_from)
    for number, batch in enumerate(itertools.islice(_batches(run), STEPS)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        optim.set_lr(run.optimizer, rate)
        loss = _loss_before(run, batch)
        if not math.isfinite(loss):
            break
        average = _MEMORY * average + (1 - _MEMORY) * loss
        rates.append(rate)
        losses.append(loss)
        averages.append(average / (1 - _MEMORY ** (number + 1)))
        if number >= _FIRST and averages[-1] > _TOO_MUCH * min(averages):
            break
    if not rates:
        raise DivergedError(
            f"The loss is not finite before the first step, at a learning rate of {LOWEST:g}.",
            expected="Expected a finite loss.",
            hint="Look at the pictures with: residuum check DATA",
        )
    return LrSearch(tuple(rates), tuple(losses), tuple(averages))


def _loss_before(run: Run, batch: Batch) -> float:
    """Takes a step, and returns the loss that it began with."""
    loss, _ = train_step(run, batch, run.counts(batch) or [len(batch.labels)])
    run.step += 1
    return loss


def _batches(run: Run) -> Iterator[Batch]:
    for epoch in itertools.count():
        for batch in run.train_loader.epoch(epoch):
            if run.counts(batch):
                yield batch
