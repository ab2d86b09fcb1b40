"""Training steps on CPUs with fewer passes over memory, and in less of it: batch norm, addition and activation in one.

Of a step of ResNet-20 in bfloat16 these take a third of the time when each goes through memory on its own. `fused.c`
does them together (see `native`). What they give a convolution alone is not kept for the backward pass, which computes
it again, bit for bit; nor is what the last convolution of a bottleneck makes of few channels. Max pooling is
`pool.py`'s, and most 3x3 convolutions are `winograd.py`'s. Where there is no C compiler, or the processor has no
bfloat16 instructions of AVX-512, everything is computed by torch.

This file is the way through a network's modules; `functions.py` has what it puts in the place of layers.

The network stays what it is: `forward_of` gives another way through the same modules, for training steps alone.

Shapes: N pictures, C channels, H and W pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn

from residuum.models import winograd
from residuum.models.functions import Conv, Expanded, Expansion, NormActivation, NormActivationConv, library
from residuum.models.layers import (
    Activation,
    Block,
    Conv2d,
    Halving,
    Network,
    PreActivationBlock,
    Stage,
    activate_,
    activation_of,
)
from residuum.models.pool import max_pool

_LANES = 16
"""So many channels are computed at a time; others are torch's."""
_FEW = 64
"""Of up to so many channels a 1x1 convolution is computed twice, and not kept: in ResNet-50's first stage, a hundredth
of a step's multiplications for an eighth of what it keeps."""


def forward_of(model: Network, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Returns `model` for training steps: the same function by the fused kernel where that is to be had on `device`.

    What it does not know how to fuse (other devices and number formats, synchronised batch norm, modules with hooks,
    stages that recompute their activations) is computed by the modules themselves.
    """
    if device.type != "cpu" or library() is None:
        return model
    return functools.partial(_forward, model)


def _forward(model: Network, images: Tensor) -> Tensor:
    x = _in_a_row(model.stem, images)
    for stage in model.stages:
        x = _stage(stage, x)
    logits: Tensor = _in_a_row(model.head, x)
    return logits


def _stage(stage: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(stage, Stage) or stage.checkpoint_activations or _hooked(stage):
        y: Tensor = stage(x)
        return y
    for block in stage:
        if isinstance(block, Block) and not _hooked(block):
            x = _block(block, x)
        elif isinstance(block, PreActivationBlock) and not _hooked(block):
            if isinstance(block.shortcut, nn.Identity):
                x = _in_a_row([*_layers(block.activate), *_layers(block.branch)], x) + block.shortcut(x)
            else:
                activated = _in_a_row(block.activate, x)
                x = _in_a_row(block.branch, activated) + block.shortcut(activated)
        else:
            x = _in_a_row(block, x)
    return x


def _block(block: Block, x: Tensor) -> Tensor:
    """y = activation(branch(x) + shortcut(x)), with the branch's last norm, the addition and the activation in one."""
    *first, last = block.branch
    if not isinstance(last, nn.BatchNorm2d) or _hooked(block.branch):  # or drop path, between norm and addition
        y: Tensor = block(x)
        return y
    short = None if block.shortcut is None else block.shortcut(x)
    expansion = _expansion_of(first)
    if expansion is not None and short is not None:
        x, first = _in_a_row(first[:-3], x), first[-3:]
        if _expands(expansion, last, x, short):
            return _expanded(expansion, last, x, short, block.activation)
    return _norm_activation(last, _in_a_row(first, x), short, block.activation)


def _expansion_of(layers: list[nn.Module]) -> Expansion | None:
    """Returns what the layers end with, where it is one."""
    if len(layers) < 3:
        return None
    norm, then, conv = layers[-3:]
    by = _activation(then)
    if by is None or not isinstance(norm, nn.BatchNorm2d) or not _takes_over(conv):
        return None
    is_plain = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    return Expansion(norm, by, conv) if is_plain and conv.in_channels <= min(_FEW, conv.out_channels // 2) else None


def _expands(expansion: Expansion, last: nn.BatchNorm2d, x: Tensor, residual: Tensor) -> bool:
    """Whether `_expanded` computes it."""
    results = (len(x), expansion.conv.out_channels, *x.shape[2:])
    return _fits(expansion.norm, x, None) and _fits(last, residual, None) and residual.shape == results


def _expanded(expansion: Expansion, last: nn.BatchNorm2d, x: Tensor, residual: Tensor, by: Activation) -> Tensor:
    """Returns activation(last(conv(activation(norm(x)))) + residual)."""
    norm, _, conv = expansion
    y: Tensor = Expanded.apply(
        x, residual, norm.weight, norm.bias, conv.weight, last.weight, last.bias, expansion, last, by
    )
    return y


def _in_a_row(layers: nn.Module | list[nn.Module], x: Tensor) -> Tensor:
    """Returns x after the layers of a Sequential, of which a batch norm, the activation and the convolution after it go
    in one."""
    every = _layers(layers) if isinstance(layers, nn.Module) else layers
    at = 0
    while at < len(every):
        layer = every[at]
        then, last = (*every[at + 1 : at + 3], None, None)[:2]
        by = _activation(then)
        if isinstance(layer, nn.BatchNorm2d) and by is not None:
            conv = last if _takes_over(last) else None
            x = _norm_activation(layer, x, None, by, conv)
            at += 2 if conv is None else 3
        else:
            x = _alone(layer, x, then)
            at += 1
    return x


def _alone(layer: nn.Module, x: Tensor, then: nn.Module | None = None) -> Tensor:
    """Returns layer(x), of layers that have a kernel by it; of a convolution, where it can, no more than `then`, which
    comes after it, reads."""
    if isinstance(layer, nn.MaxPool2d) and not _hooked(layer):
        return max_pool(layer, x)
    if _takes_over(layer) and layer.training and winograd.knows(layer):
        size = Halving.read_of(x) if type(then) is Halving and x.ndim == 4 and not _hooked(then) else None
        if not winograd.takes(x, layer.in_channels, size):
            size = None
        if winograd.takes_weights_gradient(x, layer.in_channels, size):
            convolved: Tensor = Conv.apply(x, layer.weight, layer, size)
            return convolved
    y: Tensor = layer(x)
    return y


def _activation(layer: nn.Module | None) -> Activation | None:
    """Returns which activation the layer is that can be computed here, if it is one."""
    return None if layer is None or _hooked(layer) else activation_of(layer)


def _layers(module: nn.Module) -> list[nn.Module]:
    """Returns the layers of a Sequential, or the module itself where somebody watches it or it is another."""
    return list(module) if isinstance(module, nn.Sequential) and not _hooked(module) else [module]


def _norm_activation(
    norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None, by: Activation, conv: Conv2d | None = None
) -> Tensor:
    """Returns activation(norm(x) + residual), or where there is a convolution after it, what that makes of it."""
    if not _fits(norm, x, residual):
        y = norm(x)
        y = activate_(y if residual is None else y.add_(residual), by)
        return y if conv is None else _alone(conv, y)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    result: Tensor
    if conv is None:
        result = NormActivation.apply(x, residual, norm.weight, norm.bias, norm, by)
    else:
        result = NormActivationConv.apply(x, norm.weight, norm.bias, conv.weight, norm, by, conv)
    return result


def _takes_over(layer: nn.Module | None) -> TypeGuard[Conv2d]:
    """Whether it is a convolution that can be computed here, as autocast would."""
    return (
        type(layer) is Conv2d
        and layer.bias is None
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.dtype == torch.float32
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not _hooked(layer)
    )


def _fits(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and not _hooked(norm)
        and x.dtype == torch.bfloat16
        and norm.weight.dtype == torch.float32
        and x.shape[1] % _LANES == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and (residual is None or (residual.dtype == x.dtype and residual.shape == x.shape))
        and len(x) * x.shape[2] * x.shape[3] > 1  # one value has no variance; torch says so
    )


def _hooked(module: nn.Module) -> bool:
    """Whether somebody watches what goes through a module, and must find it called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
