"""Training steps on CPUs with fewer passes over memory: batch norm, the addition of the shortcut and ReLU in one.

Of a step of ResNet-20 in bfloat16 they take a third of the time when each goes through memory on its own. `fused.c`
does them together (see `native`). Where there is no C compiler, or the processor has no bfloat16 instructions of
AVX-512, everything is computed by torch.

The network stays what it is: `forward_of` gives another way through the same modules, for training steps alone.

Shapes: N pictures, C channels, H and W pixels.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residuum import hardware, native
from residuum.models.layers import Block, Network, PreActivationBlock, Stage

_SOURCE = Path(__file__).with_name("fused.c")
_LANES = 16
"""So many channels are computed at a time; others are torch's."""


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
            activated = _in_a_row(block.activate, x)
            short = block.shortcut(x if isinstance(block.shortcut, nn.Identity) else activated)
            x = _in_a_row(block.branch, activated) + short
        else:
            x = _in_a_row(block, x)
    return x


def _block(block: Block, x: Tensor) -> Tensor:
    """y = relu(branch(x) + shortcut(x)), with the branch's last norm, the addition and the relu in one."""
    *first, last = block.branch
    if not isinstance(last, nn.BatchNorm2d):  # drop path, which comes between the norm and the addition
        y: Tensor = block(x)
        return y
    short = None if block.shortcut is None else block.shortcut(x)
    return _norm_relu(last, _in_a_row(first, x), short)


def _in_a_row(layers: nn.Module | list[nn.Module], x: Tensor) -> Tensor:
    """Returns x after the layers of a Sequential, of which a batch norm and the relu after it go in one."""
    every = list(layers.children()) if isinstance(layers, nn.Sequential) and not _hooked(layers) else layers
    if isinstance(every, nn.Module):
        y: Tensor = every(x)
        return y
    following: Iterator[nn.Module | None] = iter([*every[1:], None])
    skip = False
    for layer, then in zip(every, following, strict=True):
        if skip:
            skip = False
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(then, nn.ReLU) and not _hooked(then):
            x, skip = _norm_relu(layer, x, None), True
        else:
            x = layer(x)
    return x


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None) -> Tensor:
    """Returns relu(norm(x) + residual); [N, C, H, W]."""
    if not _fits(norm, x, residual):
        y = norm(x)
        return torch.relu_(y if residual is None else y.add_(residual))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    result: Tensor = _NormReLU.apply(x, residual, norm.weight, norm.bias, norm)
    return result


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


class _NormReLU(torch.autograd.Function):
    """y = relu(norm(x) + residual) in training, which moves the norm's running statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d
    ) -> Tensor:
        kernel = library()
        assert kernel is not None
        count, channels = x.numel() // x.shape[1], x.shape[1]
        y = torch.empty_like(x, memory_format=torch.channels_last)
        mean, variance, inverse_std = torch.empty(3, channels, dtype=torch.float32)
        failed = kernel.norm_relu_forward(
            _at(x), _at(residual), _at(weight), _at(bias), norm.eps, count, channels,
            _at(y), _at(mean), _at(variance), _at(inverse_std),
        )  # fmt: skip
        _raise_if(failed)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance.mul_(count / (count - 1)), norm.momentum)
        ctx.save_for_backward(x, y, weight, mean, inverse_std)
        ctx.has_residual = residual is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel = library()
        assert kernel is not None
        x, y, weight, mean, inverse_std = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = torch.empty_like(x, memory_format=torch.channels_last)
        of_residual = torch.empty_like(of_x) if ctx.has_residual and ctx.needs_input_grad[1] else None
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
        failed = kernel.norm_relu_backward(
            _at(x), _at(y), _at(gradient), _at(weight), _at(mean), _at(inverse_std), x.numel() // x.shape[1],
            x.shape[1], _at(of_x), _at(of_residual), _at(of_weight), _at(of_bias),
        )  # fmt: skip
        _raise_if(failed)
        return of_x, of_residual, of_weight, of_bias, None


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _raise_if(failed: int) -> None:
    if failed:
        raise MemoryError("there is no memory for the sums of a batch norm")


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernel, or None where there is no compiler for it or no processor."""
    if "avx512_bf16" not in hardware.instructions():
        return None
    loaded = native.library(_SOURCE)
    if loaded is None:
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int64
    loaded.norm_relu_forward.argtypes = [*[pointer] * 4, ctypes.c_float, whole, whole, *[pointer] * 4]
    loaded.norm_relu_backward.argtypes = [*[pointer] * 6, whole, whole, *[pointer] * 4]
    return loaded
