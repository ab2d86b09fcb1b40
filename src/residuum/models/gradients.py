"""What a network's convolutions pay for their two gradients: that of their data and that of their weights.

Shapes: N pictures of C channels, H x W pixels.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

_TIMES = 3


class _Convolution(NamedTuple):
    """One convolution: the shapes of its input, weight and output, and how it goes over the input."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    output: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    learns: bool
    first: bool


def input_share(
    model: nn.Module,
    shape: tuple[int, int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    channels_last: bool,
    without: Callable[[nn.Conv2d], bool] | None = None,
) -> float:
    """Returns the part, in 0..1, of the backward time of a network's convolutions that their data's gradients take.

    Each is timed by itself on random numbers, for pictures of `shape` [N, C, H, W]. The first convolution's data are
    the pictures, whose gradient nobody needs. Convolutions that are `without` are left out. A network that
    has no others has 0.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    of_inputs = of_weights = 0.0
    for convolution, count in Counter(_convolutions(model, shape, without)).items():
        if not convolution.first:
            of_inputs += count * _seconds(convolution, (True, False, False), device, dtype, layout)
        if convolution.learns:
            of_weights += count * _seconds(convolution, (False, True, False), device, dtype, layout)
    return of_inputs / (of_inputs + of_weights) if of_inputs else 0.0


def _convolutions(
    model: nn.Module, shape: tuple[int, int, int, int], without: Callable[[nn.Conv2d], bool] | None = None
) -> list[_Convolution]:
    """Returns the network's convolutions, some left out, in the order of running, by a run on torch's "meta" device."""
    found: list[tuple[nn.Conv2d, _Convolution]] = []
    learning = {layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad}

    def watch(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        assert not isinstance(layer.padding, str)
        convolution = _Convolution(
            tuple(inputs[0].shape), tuple(layer.weight.shape), tuple(output.shape), layer.stride, layer.padding,
            layer.dilation, layer.groups, layer in learning, not found,
        )  # fmt: skip
        found.append((layer, convolution))

    every = (*model.named_parameters(), *model.named_buffers())
    weights = {name: torch.empty_like(value, device="meta") for name, value in every}
    with ExitStack() as stack, torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                stack.callback(layer.register_forward_hook(watch).remove)
        functional_call(model, weights, torch.empty(shape, device="meta"))
    return [convolution for layer, convolution in found if without is None or not without(layer)]


def _seconds(
    convolution: _Convolution,
    wanted: tuple[bool, bool, bool],
    device: torch.device,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> float:
    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)

    gradient, x, weight = random(convolution.output), random(convolution.input), random(convolution.weight)
    took = []
    for _ in range(1 + _TIMES):
        _wait(device)
        started = time.perf_counter()
        torch.ops.aten.convolution_backward(
            gradient, x, weight, None, convolution.stride, convolution.padding, convolution.dilation, False, (0, 0),
            convolution.groups, wanted,
        )  # fmt: skip
        _wait(device)
        took.append(time.perf_counter() - started)
    return statistics.median(took[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
