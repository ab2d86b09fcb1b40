"""The moving average against its recurrence written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from residuum.training.averaging import MovingAverage, NoAverage, build


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def step(model: nn.Module, number: int) -> None:
    """Changes weights, running statistics and the count of batches."""
    torch.manual_seed(number)
    model.train()
    model(torch.randn(4, 3, 5, 5) + number)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("decay", [0.2, 0.9, 0.999])
def test_the_recurrence_buffers_included(decay: float) -> None:
    model = network()
    model(torch.zeros(1, 3, 5, 5))
    average = MovingAverage(model, decay)
    expected = {name: value.double().numpy().copy() for name, value in model.state_dict().items()}
    for number in range(1, 31):
        step(model, number)
        average.update(model)
        now = min(decay, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            weights = value.double().numpy()
            expected[name] = now * expected[name] + (1 - now) * weights if value.is_floating_point() else weights
    for name, value in average.model.state_dict().items():
        # Thirty roundings of float32, each of at most half a unit in the last place of numbers up to 200.
        np.testing.assert_allclose(
            value.double().numpy(), expected[name], rtol=1e-6, atol=30 * 200 * 2**-25, err_msg=name
        )
    assert average.updates == 30
    assert any(name.endswith("running_var") for name in expected)


def test_it_starts_from_the_model_and_is_another_one() -> None:
    model = network()
    model(torch.zeros(1, 3, 5, 5))
    average = MovingAverage(model.train(), 0.9)
    before = {name: value.clone() for name, value in average.model.state_dict().items()}
    torch.testing.assert_close(before, dict(model.state_dict()))
    step(model, 1)
    torch.testing.assert_close(dict(average.model.state_dict()), before)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert not average.model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_average_keeps_its_memory_format() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    average = MovingAverage(model, 0.9)
    average.update(model)
    assert average.model.weight.is_contiguous(memory_format=torch.channels_last)


def test_off_is_the_model_itself() -> None:
    model = nn.Linear(2, 2)
    average = build(model, 0.0)
    assert isinstance(average, NoAverage)
    average.update(model)
    assert average.model is model
    assert isinstance(build(model, 0.5), MovingAverage)
