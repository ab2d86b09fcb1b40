"""What convolutions pay for their gradients: which ones there are, and that a share is a share."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from residuum.models import create_model
from residuum.models.complexity import measure
from residuum.models.gradients import _convolutions, input_share

CPU = torch.device("cpu")


def share(model: nn.Module, px: int = 8) -> float:
    return input_share(model, (2, 3, px, px), CPU, torch.float32, channels_last=True)


def test_the_convolutions_are_those_that_a_run_of_the_network_has() -> None:
    model = create_model("resnet20_cifar", num_classes=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = _convolutions(model, (2, 3, 32, 32))
    counted = [layer for layer in measure(model, 32).layers if layer.kind == "Conv2d"]
    assert [convolution.output[1:] for convolution in found] == [layer.output_shape for layer in counted]
    assert [convolution.first for convolution in found] == [True] + [False] * 18
    assert len(Counter(found)) < len(found)  # equal ones are timed once
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_single_convolution_pays_for_its_weights_alone() -> None:
    assert share(nn.Conv2d(3, 8, 3)) == 0.0


def test_frozen_weights_cost_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).requires_grad_(False)
    assert share(model) == 1.0


def test_a_network_without_convolutions_has_no_share() -> None:
    assert share(nn.Flatten()) == 0.0


def test_what_is_left_out_has_no_part() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
    found = _convolutions(model, (2, 3, 8, 8), lambda layer: layer.kernel_size == (3, 3))
    assert [(convolution.weight, convolution.first) for convolution in found] == [
        ((4, 3, 1, 1), True),
        ((4, 4, 1, 1), False),
    ]
    shape = (2, 3, 8, 8)
    assert input_share(model, shape, CPU, torch.float32, channels_last=True, without=lambda _: True) == 0.0


def test_a_network_pays_for_both() -> None:
    assert 0.1 < share(create_model("resnet20_cifar", width=0.5), 16) < 0.9


@pytest.mark.slow
def test_a_convolution_to_many_channels_pays_more_for_weights_with_a_tall_kernel() -> None:
    narrow = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1))
    assert 0.2 < share(narrow, 64) < 0.8
