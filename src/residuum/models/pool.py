"""Max pooling of bfloat16 on CPUs: some ten times as fast as torch's, which keeps eight bytes for each value, and the
picture, where a byte tells what the gradient needs (see `native`, and `pool.c`).

Where there is no C compiler, or the processor has no bfloat16 instructions of AVX-512, torch computes it.

Shapes: N pictures, C channels, H and W pixels.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residuum import hardware
from residuum.models.layers import Halving

_SOURCE = Path(__file__).with_name("pool.c")
_LANES = 16
"""So many channels are computed at a time; others are torch's."""
_LARGEST = 15  # whose places are told by a byte


def max_pool(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Returns pool(x), [N, C, H, W] -> [N, C, h, w]; whoever watches the module with a hook does not see it called."""
    window = _window(pool)
    if window is None or not _fits(x) or library() is None:
        y: Tensor = pool(x)
        return y
    size, stride, padding = window
    high, wide = (_outputs(side, size, stride, padding, pool.ceil_mode) for side in x.shape[2:])
    if min(high, wide) < 1:
        return cast(Tensor, pool(x))
    shape = _Pool(x.shape[0], *x.shape[2:], x.shape[1], size, stride, padding, high, wide)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _forward(shape, x, None)
    pooled: Tensor = _MaxPool.apply(x, shape)
    return pooled


class _Pool(ctypes.Structure):
    """What `pool.c` calls Pool."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("pictures", "height", "width", "channels", "size", "stride", "padding", "high", "wide")
    ]


def _window(pool: nn.MaxPool2d) -> tuple[int, int, int] | None:
    """Returns size, stride and padding of a square window; None for others."""
    if type(pool) not in (nn.MaxPool2d, Halving) or pool.return_indices:
        return None
    found = []
    for value in (pool.kernel_size, pool.stride, pool.padding, pool.dilation):
        across, down = value if isinstance(value, tuple) else (value, value)
        if across != down:
            return None
        found.append(across)
    size, stride, padding, dilation = found
    return (size, stride, padding) if dilation == 1 and size <= _LARGEST and 2 * padding <= size else None


def _fits(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.ndim == 4
        and x.numel() > 0
        and x.shape[1] % _LANES == 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _outputs(side: int, size: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Returns how many windows there are along a side, as torch counts them: the last one begins within the picture or
    on its left."""
    count = (side + 2 * padding - size + (stride - 1 if ceil_mode else 0)) // stride + 1
    return count - (ceil_mode and (count - 1) * stride >= side + padding)


def _forward(shape: _Pool, x: Tensor, place: Tensor | None) -> Tensor:
    kernel = library()
    assert kernel is not None
    y = _empty(shape, x.dtype, shape.high, shape.wide)
    kernel.max_pool_forward(shape, x.data_ptr(), y.data_ptr(), None if place is None else place.data_ptr())
    return y


def _empty(shape: _Pool, dtype: torch.dtype, high: int, wide: int) -> Tensor:
    size = (shape.pictures, shape.channels, high, wide)
    return torch.empty(size, dtype=dtype, memory_format=torch.channels_last)


class _MaxPool(torch.autograd.Function):
    """Pooling that keeps a byte of each of its values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: _Pool) -> Tensor:
        place = _empty(shape, torch.uint8, shape.high, shape.wide)
        ctx.save_for_backward(place)
        ctx.shape = shape
        return _forward(shape, x, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        kernel = library()
        assert kernel is not None
        (place,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = _empty(ctx.shape, gradient.dtype, ctx.shape.height, ctx.shape.width)
        kernel.max_pool_backward(ctx.shape, gradient.data_ptr(), place.data_ptr(), of_x.data_ptr())
        return of_x, None


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernel, or None where there is no compiler for it or no processor."""
    loaded = hardware.bf16_kernels(_SOURCE)
    if loaded is None:
        return None
    pointer, shape = ctypes.c_void_p, ctypes.POINTER(_Pool)
    loaded.max_pool_forward.argtypes = [shape, pointer, pointer, pointer]
    loaded.max_pool_backward.argtypes = [shape, pointer, pointer, pointer]
    loaded.max_pool_forward.restype = loaded.max_pool_backward.restype = None
    return loaded
