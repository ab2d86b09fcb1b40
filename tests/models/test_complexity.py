"""Counting, against formulas by hand, and without a trace on the module."""

from __future__ import annotations

import torch
from torch import nn

from residuum.models import create_model
from residuum.models.complexity import Layer, measure


def test_a_net_counted_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    counted = measure(model, 9, in_channels=4)
    assert counted.layers[0] == Layer("0", "Conv2d", (8, 5, 5), 8 * 2 * 9 + 8, 8 * 5 * 5 * 2 * 9)
    assert counted.layers[1] == Layer("1", "BatchNorm2d", (8, 5, 5), 16, 0)
    assert counted.layers[-1] == Layer("5", "Linear", (5,), 45, 40)
    assert len(counted.layers) == 6
    assert counted.multiply_adds == 8 * 5 * 5 * 2 * 9 + 40
    assert counted.params == 8 * 2 * 9 + 8 + 16 + 45


def test_a_layer_that_runs_twice_costs_twice_and_has_its_weights_once() -> None:
    layer = nn.Conv2d(4, 4, 1, bias=False)
    counted = measure(nn.Sequential(layer, nn.ReLU(), layer), 2, in_channels=4)
    assert (counted.params, counted.multiply_adds) == (16, 2 * 16 * 4)
    assert [row.params for row in counted.layers] == [16, 0, 0]


def test_nothing_of_the_module_changes() -> None:
    model = create_model("resnet20_cifar", drop_path=0.5)
    model.stages[0].eval()  # a part frozen by its user
    modes = [layer.training for layer in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert measure(model, 32).params == 269_722
    assert [layer.training for layer in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(value.device.type == "cpu" for value in model.state_dict().values())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_one_channel() -> None:
    assert measure(create_model("resnet20_cifar", in_channels=1), 32, in_channels=1).params == 269_722 - 2 * 16 * 9
