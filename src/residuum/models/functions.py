"""What `fused.py` puts in the place of layers: norm, addition, activation and convolution as autograd's functions.

In the backward pass they compute again, bit for bit, what is cheaper to compute than to keep. Norms, additions and
activations are those of `fused.c` (see `native`), convolutions those of `winograd.py` or torch's.

Shapes: N pictures, C channels, H and W pixels.
"""

from __future__ import annotations

import ctypes
import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residuum import hardware
from residuum.models import winograd
from residuum.models.layers import Activation, Conv2d

_SOURCE = Path(__file__).with_name("fused.c")
_ACTIVATIONS: dict[Activation, int] = {"relu": 0, "gelu": 1}
"""What `fused.c` calls Activation."""


class Expansion(NamedTuple):
    """The end of a bottleneck's branch: a norm, an activation, and a 1x1 convolution of few channels into many."""

    norm: nn.BatchNorm2d
    by: Activation
    conv: Conv2d


class NormActivation(torch.autograd.Function):
    """y = activation(norm(x) + residual) in training, which moves the norm's running statistics.

    Without a residual x alone is kept, which tells the slope. With one, what tells it too, and is likely to be kept by
    the next layer or the block's first: of relu y, of gelu the residual.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, by: Activation
    ) -> Tensor:
        y, statistics = _normalised(norm, by, x, residual, weight, bias)
        ctx.save_for_backward(x, residual if residual is None or by == "gelu" else y, weight, statistics)
        ctx.by = by
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, weight, statistics = ctx.saved_tensors
        to_residual = kept is not None and ctx.needs_input_grad[1]
        return *_gradients(ctx.by, x, kept, gradient, weight, statistics, to_residual), None, None


class NormActivationConv(torch.autograd.Function):
    """conv(activation(norm(x))) in training, without keeping what goes into the convolution, which the backward pass
    computes again from x, nor the convolution's weights in bfloat16."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        of_conv: Tensor,
        norm: nn.BatchNorm2d,
        by: Activation,
        conv: Conv2d,
    ) -> Tensor:
        y, statistics = _normalised(norm, by, x, None, weight, bias)
        ctx.save_for_backward(x, weight, statistics, of_conv)
        ctx.by, ctx.conv = by, conv
        return _convolved(conv, y, of_conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics, of_conv = ctx.saved_tensors
        y = _normalised_again(ctx.by, x, statistics)
        asked = any(ctx.needs_input_grad[:3]), ctx.needs_input_grad[3]
        found = _gradients_before(ctx.conv, gradient, y, of_conv, ctx.by, x, weight, statistics, asked)
        return *found, None, None, None


class Expanded(torch.autograd.Function):
    """activation(last(conv(activation(norm(x)))) + residual) in training, keeping neither what goes into the
    convolution nor what it gives: the backward pass computes both again from x. What is kept beside x is as in
    `NormActivation`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        of_conv: Tensor,
        last_weight: Tensor,
        last_bias: Tensor,
        expansion: Expansion,
        last: nn.BatchNorm2d,
        by: Activation,
    ) -> Tensor:
        into, statistics = _normalised(expansion.norm, expansion.by, x, None, weight, bias)
        wide = _convolved(expansion.conv, into, of_conv).contiguous(memory_format=torch.channels_last)
        y, last_statistics = _normalised(last, by, wide, residual, last_weight, last_bias)
        kept = residual if by == "gelu" else y
        ctx.save_for_backward(x, kept, weight, statistics, of_conv, last_weight, last_statistics)
        ctx.expansion, ctx.by = expansion, by
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, weight, statistics, of_conv, last_weight, last_statistics = ctx.saved_tensors
        _, by, conv = ctx.expansion
        into = _normalised_again(by, x, statistics)
        wide = _convolved(conv, into, of_conv).contiguous(memory_format=torch.channels_last)
        of_wide, of_residual, *of_last = _gradients(
            ctx.by, wide, kept, gradient, last_weight, last_statistics, ctx.needs_input_grad[1], into=wide
        )
        del wide, gradient
        to_x, _, to_weight, to_bias, to_conv, *_ = ctx.needs_input_grad
        asked = to_x or to_weight or to_bias, to_conv
        of_x, *others = _gradients_before(conv, of_wide, into, of_conv, by, x, weight, statistics, asked)
        return of_x, of_residual, *others, *of_last, None, None, None


class Conv(torch.autograd.Function):
    """A convolution of `winograd.py`, in training: of its results all, or the first rows and columns (`size`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: Conv2d, size: tuple[int, int] | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return _convolved(conv, x, weight, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_convolution_gradients(ctx.conv, gradient, x, weight, *ctx.needs_input_grad[:2]), None, None


def _convolved(conv: Conv2d, x: Tensor, weight: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Returns conv(x) in bfloat16; of `size`, which is for those of `winograd.py`, its first rows and columns."""
    if winograd.knows(conv) and winograd.takes(x, conv.in_channels, size):
        return winograd.convolved(x, winograd.packed(weight, kept=False), size=size)
    assert size is None
    return torch.conv2d(x, weight.to(x.dtype), None, conv.stride_on(x), conv.padding, conv.dilation, conv.groups)


def _convolution_gradients(
    conv: Conv2d, gradient: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Returns those of x and, in float32, of the weight, as far as they are asked for, from that of conv(x), or of its
    first rows and columns."""
    to_x: Tensor | None = None
    to_weight: Tensor | None = None
    here = winograd.knows(conv)
    if here:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if of_x and winograd.takes(x, conv.in_channels):
            to_x = winograd.gradient_of_pictures(gradient, weight, (x.shape[2], x.shape[3]))
        if of_weight and winograd.takes_weights_gradient(x, conv.in_channels, (gradient.shape[2], gradient.shape[3])):
            to_weight = winograd.gradient_of_weights(x, gradient)
    left = of_x and to_x is None, of_weight and to_weight is None
    if any(left):
        which = f"convolution's gradient of {'data' if left[0] else 'weights'}"
        if here and gradient.shape[2:] != x.shape[2:]:  # torch's is of all rows and columns
            gradient = F.pad(gradient, (0, x.shape[3] - gradient.shape[3], 0, x.shape[2] - gradient.shape[2]))
        with nullcontext() if all(left) else winograd.seen(which):
            torchs_x, torchs_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight.to(x.dtype), None, conv.stride_on(x), conv.padding, conv.dilation, False, (0, 0),
                conv.groups, (*left, False),
            )  # fmt: skip
        to_x = torchs_x if left[0] else to_x
        to_weight = torchs_weight.float() if left[1] else to_weight
    return to_x, to_weight


def _gradients_before(
    conv: Conv2d,
    gradient: Tensor,
    into: Tensor,
    of_conv: Tensor,
    by: Activation,
    x: Tensor,
    weight: Tensor,
    statistics: Tensor,
    asked: tuple[bool, bool],
) -> tuple[Tensor | None, ...]:
    """Returns those of x, of the norm's weight and bias, and of the convolution's weight, from that of what conv makes
    of `into`, which is activation(norm(x)). Which are `asked` for: the first three, and the last."""
    of_into, of_conv_weight = _convolution_gradients(conv, gradient, into, of_conv, *asked)
    if of_into is None:
        return None, None, None, of_conv_weight
    of_x, _, of_weight, of_bias = _gradients(by, x, None, of_into, weight, statistics, False, into=of_into)
    return of_x, of_weight, of_bias, of_conv_weight


def _normalised(
    norm: nn.BatchNorm2d, by: Activation, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns activation(norm(x) + residual), and [5, C] of the batch: mean, variance, 1 / std, and the scale and shift
    that they and the norm's weights make; moves the running statistics."""
    kernel = library()
    assert kernel is not None
    count, channels = x.numel() // x.shape[1], x.shape[1]
    y = torch.empty_like(x, memory_format=torch.channels_last)
    statistics = torch.empty(5, channels, dtype=torch.float32)
    failed = kernel.norm_activation_forward(
        _ACTIVATIONS[by], _at(x), _at(residual), _at(weight), _at(bias), norm.eps, count, channels, _at(y),
        *_rows(statistics),
    )  # fmt: skip
    _raise_if(failed)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(statistics[0], norm.momentum)
    norm.running_var.lerp_(statistics[1] * (count / (count - 1)), norm.momentum)
    return y, statistics


def _normalised_again(by: Activation, x: Tensor, statistics: Tensor) -> Tensor:
    """Returns activation(norm(x)) in the bits that `_normalised` gave."""
    kernel = library()
    assert kernel is not None
    y = torch.empty_like(x, memory_format=torch.channels_last)
    *_, scale, shift = _rows(statistics)
    kernel.norm_activation_again(_ACTIVATIONS[by], _at(x), scale, shift, x.numel() // x.shape[1], x.shape[1], _at(y))
    return y


def _gradients(
    by: Activation,
    x: Tensor,
    kept: Tensor | None,
    gradient: Tensor,
    weight: Tensor,
    statistics: Tensor,
    to_residual: bool,
    *,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Returns those of x, of the residual, of the norm's weight and bias, from that of activation(norm(x) + residual).

    `kept` is what tells the slope beside x where there is a residual: of relu the result, of gelu the residual. That of
    x comes in the place of `into`, which may be x or the gradient.
    """
    kernel = library()
    assert kernel is not None
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    mean, _, inverse_std, scale, shift = _rows(statistics)
    if into is None or not into.is_contiguous(memory_format=torch.channels_last):
        into = torch.empty_like(x, memory_format=torch.channels_last)
    of_x = into
    of_residual = torch.empty_like(of_x) if to_residual else None
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
    failed = kernel.norm_activation_backward(
        _ACTIVATIONS[by], _at(x), _at(kept), _at(gradient), _at(weight), mean, inverse_std, scale, shift,
        x.numel() // x.shape[1], x.shape[1], _at(of_x), _at(of_residual), _at(of_weight), _at(of_bias),
    )  # fmt: skip
    _raise_if(failed)
    return of_x, of_residual, of_weight, of_bias


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _rows(statistics: Tensor) -> list[int]:
    """Returns where each row of [5, C] lies."""
    return [statistics.data_ptr() + row * 4 * statistics.shape[1] for row in range(len(statistics))]


def _raise_if(failed: int) -> None:
    if failed:
        raise MemoryError("there is no memory for the sums of a batch norm")


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernel, or None where there is no compiler for it or no processor."""
    loaded = hardware.bf16_kernels(_SOURCE)
    if loaded is None:
        return None
    pointer, whole, by = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    loaded.norm_activation_forward.argtypes = [by, *[pointer] * 4, ctypes.c_float, whole, whole, *[pointer] * 6]
    loaded.norm_activation_again.argtypes = [by, *[pointer] * 3, whole, whole, pointer]
    loaded.norm_activation_backward.argtypes = [by, *[pointer] * 8, whole, whole, *[pointer] * 4]
    return loaded
