"""Learning rates against torch.optim.lr_scheduler, step by step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from residuum.recipe import Cosine, OneCycle, Plateau, Steps
from residuum.training.schedule import build

LR = 0.4
WARMED = [Steps(at_epochs=(), warmup_epochs=4, warmup_factor=0.1), Plateau(warmup_epochs=4, warmup_factor=0.1)]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def rates(scheduler: lr_scheduler.LRScheduler, count: int) -> list[float]:
    """The rate before each of `count` steps of torch's scheduler."""
    found = []
    for _ in range(count):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("milestones", [(), (3,), (3, 7), (3, 3, 8)])
def test_steps(milestones: tuple[int, ...]) -> None:
    schedule = build(Steps(at_epochs=milestones, factor=0.3), LR, 10)
    torchs = rates(lr_scheduler.MultiStepLR(optimizer(), list(milestones), gamma=0.3), 10)
    for epoch, expected in enumerate(torchs):
        for within in (0.0, 0.01, 0.5, 0.99):
            assert schedule(epoch + within, []) == pytest.approx(expected, rel=1e-12)


def test_a_step_within_an_epoch() -> None:
    schedule = build(Steps(at_epochs=(1.5,), factor=0.1), LR, 3)
    assert [schedule(at, []) for at in (0, 1.49, 1.5, 2.9)] == pytest.approx([LR, LR, LR / 10, LR / 10])


@pytest.mark.parametrize("final_factor", [0.0, 0.05, 1.0])
def test_cosine(final_factor: float) -> None:
    schedule = build(Cosine(final_factor=final_factor), LR, 10)
    torchs = rates(lr_scheduler.CosineAnnealingLR(optimizer(), T_max=10, eta_min=final_factor * LR), 11)
    assert [schedule(epoch, []) for epoch in range(11)] == pytest.approx(torchs, rel=1e-9, abs=1e-12)


def test_cosine_begins_after_its_warmup() -> None:
    schedule = build(Cosine(warmup_epochs=4, warmup_factor=0.1), LR, 14)
    up = rates(lr_scheduler.LinearLR(optimizer(), start_factor=0.1, total_iters=4), 4)
    down = rates(lr_scheduler.CosineAnnealingLR(optimizer(), T_max=10), 11)
    assert [schedule(epoch, []) for epoch in range(15)] == pytest.approx(up + down, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("recipe", WARMED, ids=["steps", "plateau"])
def test_linear_warmup(recipe: Steps | Plateau) -> None:
    torchs = rates(lr_scheduler.LinearLR(optimizer(), start_factor=0.1, total_iters=4), 8)
    assert [build(recipe, LR, 8)(epoch, []) for epoch in range(8)] == pytest.approx(torchs, rel=1e-12)


def test_constant_warmup() -> None:
    schedule = build(Steps(warmup="constant", warmup_epochs=2.5, warmup_factor=0.1), LR, 8)
    torchs = rates(lr_scheduler.ConstantLR(optimizer(), factor=0.1, total_iters=5), 10)
    assert [schedule(step / 2, []) for step in range(10)] == pytest.approx(torchs, rel=1e-12)


@pytest.mark.parametrize("peak", [0.25, 0.5])
def test_one_cycle(peak: float) -> None:
    """torch's cycle of N + 1 steps has its peak at step `pct_start * (N + 1) - 1`, and its end at step N."""
    steps, initial, final = 40, 0.04, 0.001
    cycle = lr_scheduler.OneCycleLR(
        optimizer(),
        max_lr=LR,
        total_steps=steps + 1,
        pct_start=(peak * steps + 1) / (steps + 1),
        anneal_strategy="linear",
        cycle_momentum=False,
        div_factor=1 / initial,
        final_div_factor=initial / final,
    )
    torchs = [cycle.get_last_lr()[0]]
    for _ in range(steps):
        cycle.optimizer.step()
        cycle.step()
        torchs.append(cycle.get_last_lr()[0])
    schedule = build(OneCycle(peak=peak, initial_factor=initial, final_factor=final), LR, 8)
    assert [schedule(step * 8 / steps, []) for step in range(steps + 1)] == pytest.approx(torchs, rel=1e-9)


@pytest.mark.parametrize("peak", [0.0, 1.0])
def test_one_cycle_without_one_of_its_halves(peak: float) -> None:
    schedule = build(OneCycle(peak=peak, initial_factor=0.5, final_factor=0.0), LR, 10)
    values = [schedule(epoch, []) for epoch in range(10)]
    assert values == sorted(values, reverse=peak == 0.0)
    assert values[0] == pytest.approx(LR if peak == 0 else LR / 2)


@given(
    errors=st.lists(st.sampled_from([10.0, 11.0, 12.0, 12.5, 30.0]), max_size=30),
    patience=st.integers(1, 5),
    factor=st.sampled_from([0.1, 0.5]),
    min_factor=st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=100, deadline=None)
def test_plateau(errors: list[float], patience: int, factor: float, min_factor: float) -> None:
    """torch waits one epoch longer than its `patience`, and has a threshold for what is better, which is 0 here."""
    own = Plateau(factor=factor, patience_epochs=patience, min_factor=min_factor)
    schedule, held = build(own, LR, 30), optimizer()
    torchs = lr_scheduler.ReduceLROnPlateau(
        held, mode="min", factor=factor, patience=patience - 1, threshold=0.0, min_lr=min_factor * LR, eps=0.0
    )
    for epoch in range(len(errors)):
        assert schedule(epoch + 0.5, errors[:epoch]) == pytest.approx(held.param_groups[0]["lr"], rel=1e-9)
        torchs.step(errors[epoch])


@pytest.mark.parametrize("recipe", [Steps(at_epochs=(3,)), Cosine(warmup_epochs=1), OneCycle(), Plateau()])
@pytest.mark.parametrize("epochs", [1, 5])
def test_always_finite_and_never_above_the_rate(recipe: Steps | Cosine | OneCycle | Plateau, epochs: int) -> None:
    schedule = build(recipe, LR, epochs)
    for step in range(10 * epochs + 1):
        rate = schedule(step / 10, [50.0] * (step // 10))
        assert math.isfinite(rate)
        assert 0 <= rate <= LR


def test_a_pure_function() -> None:
    schedule = build(Plateau(patience_epochs=1), LR, 5)
    errors = [50.0, 60.0, 70.0]
    assert [schedule(3.5, errors) for _ in range(3)] == pytest.approx([LR / 100] * 3)
    assert schedule(0.5, []) == LR
