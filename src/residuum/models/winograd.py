"""3x3 convolutions of bfloat16 on CPUs in 16 multiplications where the sum over the kernel takes 36 (see `native`, and
`winograd.c`).

Transformed pictures and weights are rounded to bfloat16 once more, so that results are about twice as far from exact
ones as those of a sum over the kernel in bfloat16 (`tests/models/test_winograd.py`), and a network's gradients, which
have the rounding of all its values in them, up to a seventh farther (`docs/log.md`). Where there is no C compiler, or
the processor has no bfloat16 instructions of AVX-512, torch computes everything.

Source: Lavin and Gray, arXiv:1509.09308, section 4.1 (F(2x2, 3x3)), and section 4.3 for the gradient of the weights.
Shapes: N pictures, C and D channels before and after, H and W pixels, h and w pixels of results.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.profiler import record_function

from residuum import hardware

_SOURCE = Path(__file__).with_name("winograd.c")
_GROUP, _ADDED = 32, 1.5
"""So many channels are taken at a time; so many times the products of all channels may be those of all groups. With 16
channels, transforming would cost what is saved."""
_WASTE, _WASTE_OF_WEIGHTS = 1.5, 2.0
"""So many times the pixels of a map may lie in its tiles of 2x2; in those of a map of 3x3 are 16/9."""
_PLACES = 16  # of a transformed tile


def knows(conv: nn.Conv2d) -> bool:
    """Whether `conv` is a convolution of the kind that is computed here."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and _in_groups(conv.in_channels) * _in_groups(conv.out_channels)
        <= _ADDED * conv.in_channels * conv.out_channels
        and library() is not None
    )


def takes(x: Tensor, channels: int, size: tuple[int, int] | None = None) -> bool:
    """Whether what such a convolution of `channels` makes of x, as many rows and columns as x has or `size`, is
    computed here, and faster; without a size, x's gradient too."""
    return _fits(x, channels, size, _WASTE)


def takes_weights_gradient(x: Tensor, channels: int, size: tuple[int, int] | None = None) -> bool:
    """The same of the gradient of the weights."""
    return _fits(x, channels, size, _WASTE_OF_WEIGHTS)


def _fits(x: Tensor, channels: int, size: tuple[int, int] | None, waste: float) -> bool:
    if x.ndim != 4:
        return False
    high, wide = size or x.shape[2:]
    return (
        x.device.type == "cpu"
        and x.shape[1] == channels
        and x.dtype == torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
        and (high + high % 2) * (wide + wide % 2) <= waste * high * wide
    )


class Packed(NamedTuple):
    """Weights as `convolved` reads them, for so many channels before and after."""

    values: Tensor
    in_channels: int
    out_channels: int


def packed(weight: Tensor, *, turned: bool = False, kept: bool = True) -> Packed:
    """Returns float32 weights [D, C, 3, 3] as `convolved` reads them, or, `turned`, as it reads those of the gradient
    of the convolution's pictures; where they are not `kept`, in memory that this thread's next ones take."""
    kernel = library()
    assert kernel is not None
    assert weight.dtype == torch.float32
    weight = weight.contiguous(memory_format=torch.channels_last)
    outputs, inputs = weight.shape[:2]
    values = (_new if kept else _weights.take)(2 * _PLACES * _in_groups(inputs) * _in_groups(outputs))
    with seen("convolution"):
        kernel.winograd_weights(weight.data_ptr(), inputs, outputs, turned, values.data_ptr())
    return Packed(values, outputs, inputs) if turned else Packed(values, inputs, outputs)


def _in_groups(channels: int) -> int:
    """Returns how many channels there are in all groups of `channels`."""
    return -(-channels // _GROUP) * _GROUP


def convolved(
    x: Tensor,
    u: Packed,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    relu: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Returns conv(x) + bias + residual, or the relu of it: [N, C, H, W] -> [N, D, h, w], all bfloat16 and channels
    last but the bias, which is float32.

    `size` is how many rows and columns of results are wanted, h and w: as many as x has, or from 1 to one more. The
    result takes the memory of `residual`, where there is one.
    """
    kernel = library()
    assert kernel is not None
    high, wide = size or x.shape[2:]
    assert u.in_channels == x.shape[1]
    assert 0 < high <= x.shape[2] + 1
    assert 0 < wide <= x.shape[3] + 1
    shape = _Convolution(x.shape[0], *x.shape[2:], x.shape[1], high, wide, u.out_channels)
    results = (shape.pictures, shape.out_channels, high, wide)
    y = residual
    if y is None:
        y = torch.empty(results, dtype=x.dtype, device="cpu", memory_format=torch.channels_last)
    assert (y.shape, y.dtype) == (results, x.dtype)
    threads = torch.get_num_threads()
    scratch = _scratch.take(threads * kernel.winograd_scratch(shape))
    at_bias, at_residual = (None if each is None else each.data_ptr() for each in (bias, residual))
    with seen("convolution"):
        kernel.winograd_convolve(
            shape,
            x.data_ptr(),
            u.values.data_ptr(),
            at_bias,
            at_residual,
            relu,
            y.data_ptr(),
            scratch.data_ptr(),
            threads,
        )
    return y


def gradient_of_pictures(gradient: Tensor, weight: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Returns the gradient of the convolution's pictures, [N, C, H, W], from that of its results [N, D, h, w]; `size`
    is H and W, where they are not h and w."""
    with seen("convolution's gradient of data"):
        return convolved(gradient, packed(weight, turned=True, kept=False), size=size)


def gradient_of_weights(x: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient of the weights, float32 [D, C, 3, 3], from that of the results [N, D, h, w]."""
    kernel = library()
    assert kernel is not None
    high, wide = gradient.shape[2:]
    shape = _Convolution(x.shape[0], *x.shape[2:], x.shape[1], high, wide, gradient.shape[1])
    assert gradient.shape[0] == x.shape[0]
    assert high <= x.shape[2] + 1
    assert wide <= x.shape[3] + 1
    threads = torch.get_num_threads()
    scratch = _scratch.take(kernel.winograd_scratch_of_weights(shape, threads))
    size = (gradient.shape[1], x.shape[1], 3, 3)
    of_weight = torch.empty(size, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    with seen("convolution's gradient of weights"):
        kernel.winograd_of_weights(
            shape, x.data_ptr(), gradient.data_ptr(), of_weight.data_ptr(), scratch.data_ptr(), threads
        )
    return of_weight


class _Convolution(ctypes.Structure):
    """What `winograd.c` calls Convolution."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("pictures", "height", "width", "in_channels", "high", "wide", "out_channels")
    ]


class _Reused(threading.local):
    """A thread's memory for what is not needed after a call, which would leave holes among what is kept for the
    backward pass."""

    def __init__(self) -> None:
        self._memory = _new(0)

    def take(self, count: int) -> Tensor:
        """Returns `count` bytes, which the next call returns again."""
        if len(self._memory) < count:
            self._memory = _new(count)
        return self._memory[:count]


def _new(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device="cpu")


_weights, _scratch = _Reused(), _Reused()


def seen(name: str) -> AbstractContextManager[object]:
    """Returns a context that a profiler, where there is one, sees by a name that `training/step_profile.py` knows."""
    return record_function(f"residuum: {name}") if _profiler_enabled() else nullcontext()


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernel, or None where there is no compiler for it or no processor."""
    loaded = hardware.bf16_kernels(_SOURCE)
    if loaded is None:
        return None
    pointer, whole, shape = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Convolution)
    loaded.winograd_weights.argtypes = [pointer, whole, whole, ctypes.c_int, pointer]
    loaded.winograd_scratch.argtypes = [shape]
    loaded.winograd_scratch_of_weights.argtypes = [shape, ctypes.c_int]
    loaded.winograd_scratch.restype = loaded.winograd_scratch_of_weights.restype = whole
    loaded.winograd_convolve.argtypes = [shape, *[pointer] * 4, ctypes.c_int, *[pointer] * 2, ctypes.c_int]
    loaded.winograd_of_weights.argtypes = [shape, *[pointer] * 4, ctypes.c_int]
    loaded.winograd_weights.restype = loaded.winograd_convolve.restype = loaded.winograd_of_weights.restype = None
    return loaded
