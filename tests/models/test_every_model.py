"""The battery: what every registered network must do, its card being true. Registering a network tests it.

Shapes and counts come from the "meta" device, which computes nothing; gradients and weights are real.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

from residuum.models import MODELS, Network, create_model
from residuum.models._catalog import options_of
from residuum.models.complexity import measure
from residuum.models.resnet_swift import SwiftResNet

NAMES = MODELS.names()


def small_px(name: str) -> int:
    """A small picture that leaves every batch norm several values."""
    return 16 if MODELS[name].card.input_px == 32 else 64


@cache
def blueprint(name: str) -> Network:
    """The network without weights."""
    with torch.device("meta"):
        return create_model(name).eval()


WIDTHS = {
    "wide_resnet50_2": 0.5, "wide_resnet101_2": 0.5, "resnext50_32x4d": 0.5, "resnext101_32x8d": 1.0,
    "resnext101_64x4d": 1.0, "wrn16_8_cifar": 2.0, "wrn28_10_cifar": 2.5,
}  # fmt: skip
"""A quarter of what is no multiple of 1 already."""


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> Iterator[tuple[str, Network]]:
    """Each network at a quarter of its width, where it has such an option: layers and wiring are the same."""
    torch.manual_seed(0)
    narrow = {"width": WIDTHS.get(request.param, 0.25)} if "width" in options_of(MODELS[request.param].build) else {}
    yield request.param, create_model(request.param, **narrow)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_the_exact_counts(name: str) -> None:
    card = MODELS[name].card
    counted = measure(blueprint(name), card.input_px)
    assert (counted.params, counted.multiply_adds) == (card.params, card.multiply_adds)
    assert sum(layer.params for layer in counted.layers) == card.params
    assert counted.layers[-1].output_shape == (card.num_classes,)
    assert (blueprint(name).num_classes, blueprint(name).in_channels) == (card.num_classes, card.in_channels)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_finest_first_and_halve(name: str) -> None:
    model, px = blueprint(name), small_px(name)
    with torch.no_grad():
        features = model.features(torch.empty(2, 3, px, px, device="meta"))
    channels, strides = model.feature_channels, model.feature_strides
    px -= isinstance(model, SwiftResNet)  # whose patches of two pixels are one fewer than its pixels
    assert len(features) == len(model.stages)
    assert [tuple(each.shape) for each in features] == [
        (2, depth, px // stride, px // stride) for depth, stride in zip(channels, strides, strict=True)
    ]
    assert all(coarse == 2 * fine for fine, coarse in itertools.pairwise(strides))


def test_every_parameter_gets_a_gradient(network: tuple[str, Network]) -> None:
    name, model = network
    images = torch.randn(2, 3, small_px(name), small_px(name))
    logits = model(images)
    assert logits.shape == (2, model.num_classes)
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.isfinite().all(), key
        assert weight.grad.any(), key
    model.zero_grad(set_to_none=True)


def test_the_state_survives_safetensors(network: tuple[str, Network]) -> None:
    state = network[1].state_dict()
    again = load(save(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(value, again[key]) for key, value in state.items())


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_channels_are_free(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=7, in_channels=1)
        model.reset_head(3)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    assert (first.in_channels, last.out_features, model.num_classes) == (1, 3, 3)
