"""Counts a network's parameters and multiply-adds, layer by layer, by running the real module and watching its layers.

The module runs once on torch's "meta" device, which knows shapes and computes nothing, so that ResNet-152 costs a
fraction of a second and nothing of the module changes.
Departures: as in the residual nets' papers, multiply-adds are those of convolutions and linear layers; norms,
    activations and pooling count as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Layer:
    """One run of one layer: its name, its class, its output's shape without the batch, and what it costs."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    multiply_adds: int


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one picture: in all, and layer by layer in the order of running."""

    params: int
    multiply_adds: int
    layers: tuple[Layer, ...]


def measure(model: nn.Module, input_px: int, in_channels: int = 3) -> Complexity:
    """Counts parameters and multiply-adds of `model` for one picture of `input_px` by `input_px` pixels.

    A layer that runs twice has two rows; its parameters are counted in the first.
    """
    rows: list[Layer] = []
    seen: set[nn.Module] = set()

    def watch(name: str, layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        params = 0 if layer in seen else sum(weight.numel() for weight in layer.parameters())
        seen.add(layer)
        row = Layer(name, type(layer).__name__, tuple(output.shape[1:]), params, _multiply_adds(layer, output))
        rows.append(row)

    with ExitStack() as stack, torch.no_grad(), _evaluating(model):
        for name, layer in model.named_modules():
            if next(layer.children(), None) is None:
                stack.callback(layer.register_forward_hook(partial(watch, name)).remove)
        weights = {name: torch.empty_like(value, device="meta") for name, value in _tensors(model)}
        functional_call(model, weights, torch.empty(1, in_channels, input_px, input_px, device="meta"))
    params = sum(weight.numel() for weight in model.parameters())
    return Complexity(params, sum(row.multiply_adds for row in rows), tuple(rows))


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    """Returns the multiply-adds of one picture: those of one output value times the output's values."""
    values = output[0].numel()
    if isinstance(layer, nn.Conv2d):
        return values * math.prod(layer.kernel_size) * (layer.in_channels // layer.groups)
    if isinstance(layer, nn.Linear):
        return values * layer.in_features
    return 0


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every layer in evaluation mode, then each back in the mode it was in."""
    modes = {layer: layer.training for layer in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training
