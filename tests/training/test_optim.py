"""Optimizers: what decays, and that a step is the published one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from residuum.models import MODELS, create_model
from residuum.recipe import AdamW, Sgd
from residuum.training.optim import build, parameter_groups, set_lr

FAMILY: dict[str, dict[str, Any]] = {
    "plain18": {},
    "plain20_cifar": {},
    "resnet18": {"shortcut": "C"},
    "resnet20_cifar": {},
    "resnet50": {"stride_in": "1x1"},
    "wide_resnet50_2": {},
    "resnext50_32x4d": {"drop_path": 0.1},
    "wrn16_8_cifar": {},
    "swift_resnet10_cifar": {},
}
"""A network of every kind: plain and residual, basic and bottleneck, wide, grouped, pre-activation."""


def blueprint(name: str) -> nn.Module:
    """The network without weights."""
    with torch.device("meta"):
        return create_model(name, **FAMILY.get(name, {}))


@pytest.mark.parametrize("name", FAMILY)
def test_only_matrices_and_kernels_decay(name: str) -> None:
    """In these networks all norms' parameters and all biases are vectors, and nothing else is."""
    model = blueprint(name)
    decayed, spared = parameter_groups(model, 0.5, decay_all=False)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(p) for p in model.parameters() if p.ndim >= 2]  # type: ignore[attr-defined]
    assert [id(p) for p in spared["params"]] == [id(p) for p in model.parameters() if p.ndim < 2]  # type: ignore[attr-defined]
    assert spared["params"]


@pytest.mark.parametrize("name", FAMILY)
def test_decay_all_decays_all(name: str) -> None:
    model = blueprint(name)
    (group,) = parameter_groups(model, 0.5, decay_all=True)
    assert group["weight_decay"] == 0.5
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]  # type: ignore[attr-defined]


def test_the_family_is_all_that_is_registered() -> None:
    """What is not in the table differs from one that is in the number of its blocks, or their width or groups."""
    kinds = {
        frozenset(type(layer) for layer in blueprint(name).modules()) for name in FAMILY if name != "resnext50_32x4d"
    }
    for name in MODELS.names():
        if not any(depth in name for depth in ("101", "110", "152", "1202")):
            with torch.device("meta"):
                assert frozenset(type(layer) for layer in create_model(name).modules()) in kinds, name


def test_parameters_are_told_apart_by_module_not_by_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_like_name = nn.Linear(3, 3)
            self.conv = nn.GroupNorm(1, 3)
            self.scale = nn.Parameter(torch.ones(3))

    odd = Odd()
    decayed, spared = parameter_groups(odd, 0.1, decay_all=False)
    assert {id(p) for p in decayed["params"]} == {id(odd.scale), id(odd.norm_like_name.weight)}  # type: ignore[attr-defined]
    assert {id(p) for p in spared["params"]} == {id(p) for p in odd.conv.parameters()} | {id(odd.norm_like_name.bias)}  # type: ignore[attr-defined]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).double()


def gradients(model: nn.Module, number: int) -> list[Tensor]:
    torch.manual_seed(100 + number)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 5, 5, dtype=torch.float64)), torch.tensor([0, 1, 1, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_sgd(momentum: float, nesterov: bool, decay_all: bool) -> None:
    """v = m v + (g + d w); w = w - lr v, or with Nesterov w - lr (g + d w + m v) (Sutskever et al. 2013)."""
    model = network()
    recipe = Sgd(lr=0.3, momentum=momentum, nesterov=nesterov, weight_decay=0.2, decay_all=decay_all)
    optimizer = build(recipe, model)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    speeds = [torch.zeros_like(weight) for weight in weights]
    for number in range(3):
        for at, gradient in enumerate(gradients(model, number)):
            pull = gradient + (0.2 * weights[at] if decay_all or weights[at].ndim > 1 else 0)
            speeds[at] = momentum * speeds[at] + pull
            weights[at] = weights[at] - 0.3 * (pull + momentum * speeds[at] if nesterov else speeds[at])
        optimizer.step()
        torch.testing.assert_close(list(model.parameters()), weights, check_layout=False)


@pytest.mark.parametrize("decay_all", [False, True])
def test_adamw(decay_all: bool) -> None:
    """arXiv:1711.05101, Algorithm 2, with the decay times the rate, as in torch."""
    model = network()
    optimizer = build(AdamW(lr=0.03, beta1=0.8, beta2=0.95, weight_decay=0.2, decay_all=decay_all), model)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for number in range(1, 4):
        for at, gradient in enumerate(gradients(model, number)):
            first[at] = 0.8 * first[at] + 0.2 * gradient
            second[at] = 0.95 * second[at] + 0.05 * gradient**2
            step = (first[at] / (1 - 0.8**number)) / ((second[at] / (1 - 0.95**number)).sqrt() + 1e-8)
            decay = 0.2 * weights[at] if decay_all or weights[at].ndim > 1 else 0
            weights[at] = weights[at] - 0.03 * (step + decay)
        optimizer.step()
        torch.testing.assert_close(list(model.parameters()), weights)


def test_the_rate_is_that_of_every_group() -> None:
    optimizer = build(Sgd(lr=0.3), network())
    assert len(optimizer.param_groups) == 2
    set_lr(optimizer, 0.07)
    assert [group["lr"] for group in optimizer.param_groups] == [0.07, 0.07]
