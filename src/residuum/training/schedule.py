"""Learning rates: pure functions of progress, and for the plateau schedule of the validation errors so far.

A schedule is called with the progress in epochs (a float, at the middle of the step) and the validation errors of the
epochs done, and returns the learning rate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from residuum import recipe

Schedule = Callable[[float, Sequence[float]], float]


def build(schedule: recipe.Schedule, lr: float, epochs: float) -> Schedule:
    """Returns the learning rate as a function of (progress in epochs, validation errors so far)."""
    if isinstance(schedule, recipe.OneCycle):
        return functools.partial(_one_cycle, schedule, lr, epochs)
    if isinstance(schedule, recipe.Steps):
        return functools.partial(_steps, schedule, lr)
    if isinstance(schedule, recipe.Cosine):
        return functools.partial(_cosine, schedule, lr, epochs)
    return functools.partial(_plateau, schedule, lr)


def _warmup(schedule: recipe.Steps | recipe.Cosine | recipe.Plateau, epoch: float) -> float:
    """The factor of the warm-up at `epoch`; 1 after it."""
    if epoch >= schedule.warmup_epochs:
        return 1.0
    if schedule.warmup == "constant":
        return schedule.warmup_factor
    return schedule.warmup_factor + (1 - schedule.warmup_factor) * epoch / schedule.warmup_epochs


def _steps(schedule: recipe.Steps, lr: float, epoch: float, _: Sequence[float]) -> float:
    passed = sum(epoch >= at for at in schedule.at_epochs)
    return lr * schedule.factor**passed * _warmup(schedule, epoch)


def _cosine(schedule: recipe.Cosine, lr: float, epochs: float, epoch: float, _: Sequence[float]) -> float:
    done = max(0.0, epoch - schedule.warmup_epochs) / max(epochs - schedule.warmup_epochs, 1e-9)
    factor = schedule.final_factor + (1 - schedule.final_factor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return lr * factor * _warmup(schedule, epoch)


def _one_cycle(schedule: recipe.OneCycle, lr: float, epochs: float, epoch: float, _: Sequence[float]) -> float:
    done = min(epoch / epochs, 1.0)
    if done < schedule.peak:
        return lr * (schedule.initial_factor + (1 - schedule.initial_factor) * done / schedule.peak)
    left = (1 - done) / max(1 - schedule.peak, 1e-9)
    return lr * (schedule.final_factor + (1 - schedule.final_factor) * left)


def _plateau(schedule: recipe.Plateau, lr: float, epoch: float, val_errors: Sequence[float]) -> float:
    factor, best, waited = 1.0, math.inf, 0
    for error in val_errors:
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited >= schedule.patience_epochs:
            factor, waited = factor * schedule.factor, 0
    return lr * max(factor, schedule.min_factor) * _warmup(schedule, epoch)
