"""Crop and resize as Pillow does, to the same bits, without Pillow's copies; mirror and normalise whole batches.

`pixels.c` reads a picture where it lies, in Pillow's memory or mapped from a file, and writes the result where it is
wanted (see `native`). Where there is no C compiler, Pillow and torch do the same in more steps. No torch.

Shapes: H rows, W columns, C channels (1 for grey, 3 for RGB), the channels innermost.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from residuum import native

_SOURCE = Path(__file__).with_name("pixels.c")
_PILLOW = int(PIL.__version__.split(".")[0])

Interpolation = Literal["bilinear", "bicubic"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Part = tuple[int, int, int, int]

SPARE_BYTES = 64
"""So many bytes behind the last pixel of `Pixels` must be readable."""


@dataclass(frozen=True)
class Pixels:
    """A picture as it lies in memory: uint8 [H, W, C], its rows one after the other, `SPARE_BYTES` behind them."""

    array: NDArray[np.uint8]

    @property
    def width(self) -> int:
        """W."""
        return int(self.array.shape[1])

    @property
    def height(self) -> int:
        """H."""
        return int(self.array.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as Pillow has them."""
        return self.width, self.height

    def image(self) -> PIL.Image.Image:
        """Returns the picture as Pillow's, of mode RGB or L."""
        return PIL.Image.fromarray(self.array if self.array.shape[2] == 3 else self.array[:, :, 0])


@dataclass(frozen=True)
class Cutout:
    """What is in memory of a picture of `size` (width, height): uint8 [H, W, C], its rows one after the other,
    `SPARE_BYTES` behind them, the first pixel at `at` (column, row) of the picture."""

    array: NDArray[np.uint8]
    at: tuple[int, int]
    size: tuple[int, int]

    def of(self, part: Part) -> NDArray[np.uint8]:
        """Returns a part of the picture, which must be in memory."""
        x, y = self.at
        return self.array[part[1] - y : part[3] - y, part[0] - x : part[2] - x]


@dataclass(frozen=True)
class Undecoded:
    """A picture of `size` (width, height) of which nothing is decoded. `part` decodes a part of it, where it can;
    `whole` decodes everything, or raises PictureError."""

    size: tuple[int, int]
    part: Callable[[Part], Cutout | None]
    whole: Callable[[], PIL.Image.Image]

    @property
    def width(self) -> int:
        """W."""
        return self.size[0]

    @property
    def height(self) -> int:
        """H."""
        return self.size[1]


Picture: TypeAlias = PIL.Image.Image | Pixels | Undecoded


def image_of(picture: Picture) -> PIL.Image.Image:
    """Returns a picture as Pillow's; raises PictureError where it is decoded only now, and cannot be."""
    if isinstance(picture, Undecoded):
        return picture.whole()
    return picture.image() if isinstance(picture, Pixels) else picture


def resample(
    picture: Picture,
    size: tuple[int, int],
    interpolation: Interpolation,
    *,
    part: Part | None = None,
    box: Box | None = None,
    window: Part | None = None,
) -> NDArray[np.uint8]:
    """Returns what `picture.crop(part).resize(size, interpolation, box).crop(window)` is in Pillow: uint8 [h, w, C].

    The picture is of mode RGB or L. What is left out is the whole of it. Of what is not decoded yet, only what the
    result is made of is decoded; PictureError where it cannot be.
    """
    kernel = library()
    if kernel is not None:
        there: Picture | Cutout = picture
        if isinstance(picture, Undecoded):
            there = picture.part(_looked_at(picture.size, size, interpolation, part, box, window)) or picture.whole()
        found = _by_kernel(kernel, there, size, interpolation, part, box, window)
        if found is not None:
            return found
        picture = there if isinstance(there, PIL.Image.Image) else picture
    image = image_of(picture)
    image = image if part is None else image.crop(part)
    image = image.resize(size, PIL.Image.Resampling[interpolation.upper()], box)
    array = np.asarray(image if window is None else image.crop(window))
    return array[:, :, None] if array.ndim == 2 else array


def _looked_at(
    from_size: tuple[int, int],
    size: tuple[int, int],
    interpolation: Interpolation,
    part: Part | None,
    box: Box | None,
    window: Part | None,
) -> Part:
    """Returns the part of a picture of `from_size` that `resample` reads, and at most a few pixels around it."""
    left, top, right, bottom = part or (0, 0, *from_size)
    begin_x, begin_y, end_x, end_y = box or (0.0, 0.0, float(right - left), float(bottom - top))
    x, y, to_x, to_y = window or (0, 0, *size)
    radius = 2 if interpolation == "bicubic" else 1

    def reach(begin: float, end: float, count: int, first: int, last: int, side: int) -> tuple[int, int]:
        scale = (end - begin) / count
        support = radius * max(scale, 1.0) + 2
        low, high = begin + (first + 0.5) * scale - support, begin + (last - 0.5) * scale + support
        return max(0, math.floor(low)), min(side, math.ceil(high))

    across = reach(begin_x, end_x, size[0], x, to_x, right - left)
    down = reach(begin_y, end_y, size[1], y, to_y, bottom - top)
    return left + across[0], top + down[0], left + across[1], top + down[1]


def _by_kernel(
    kernel: ctypes.CDLL,
    picture: Picture | Cutout,
    size: tuple[int, int],
    interpolation: Interpolation,
    part: Part | None,
    box: Box | None,
    window: Part | None,
) -> NDArray[np.uint8] | None:
    """As `resample`; None where the picture's pixels are in several pieces of memory."""
    left, top, right, bottom = part or (0, 0, *picture.size)
    x, y, to_x, to_y = window or (0, 0, *size)
    box = box or (0.0, 0.0, float(right - left), float(bottom - top))
    with _memory(picture) as memory:
        if memory is None:
            return None
        address, stride, step, channels = memory
        out = np.empty((to_y - y, to_x - x, channels), dtype=np.uint8)
        failed = kernel.resample(
            address + top * stride + left * step, stride, step, right - left, bottom - top,
            (ctypes.c_float * 4)(*box), *size, interpolation == "bicubic",
            _goes_down_first((right - left, bottom - top), size),
            x, y, to_x - x, to_y - y, out.ctypes.data,
        )  # fmt: skip
    if failed:
        raise MemoryError("there is no memory to resize a picture")
    return out


def mirror(address: int, which: NDArray[np.int64], height: int, width: int, channels: int) -> bool:
    """Mirrors the pictures numbered `which` of uint8 [N, H, W, C] at `address`; returns whether it could."""
    kernel = library()
    if kernel is None:
        return False
    kernel.mirror(address, which.ctypes.data, len(which), height, width, channels)
    return True


def normalise(address: int, pixels: int, mean: tuple[float, ...], std: tuple[float, ...], into: int) -> bool:
    """Writes (x / 255 - mean) / std of `pixels` pixels, uint8 [pixels, C] at `address`, as float32 `into` another;
    returns whether it could."""
    kernel = library()
    if kernel is None:
        return False
    lanes = (_lanes(mean), _lanes(std))
    kernel.normalise(address, pixels, len(mean), lanes[0].ctypes.data, lanes[1].ctypes.data, into)
    return True


@functools.lru_cache(maxsize=64)
def _lanes(values: tuple[float, ...]) -> NDArray[np.float32]:
    """Returns one number a channel, over and over: float32 [48]."""
    return np.resize(np.asarray(values, dtype=np.float32), 48)


@contextmanager
def _memory(picture: Picture | Cutout) -> Iterator[tuple[int, int, int, int] | None]:
    """Yields where a picture's pixels lie (of a cutout: where the whole would begin), how many bytes a row and a pixel
    have there, and C; None where they cannot be had."""
    if isinstance(picture, Pixels | Cutout):
        (_, width, channels), (x, y) = picture.array.shape, picture.at if isinstance(picture, Cutout) else (0, 0)
        yield picture.array.ctypes.data - (y * width + x) * channels, width * channels, channels, channels
        return
    assert isinstance(picture, PIL.Image.Image)
    if picture.mode not in ("RGB", "L"):
        raise ValueError(f"a picture of mode {picture.mode} is not resized here")
    try:
        capsules = picture.__arrow_c_array__()
    except ValueError:  # larger than a block of Pillow's, so in several pieces
        yield None
        return
    array = _ArrowArray.from_address(_pointer(capsules[1], b"arrow_array"))
    if picture.mode == "RGB":
        array = array.children[0].contents
    step, channels = (4, 3) if picture.mode == "RGB" else (1, 1)
    yield int(array.buffers[1]), picture.width * step, step, channels
    del capsules  # which keep the memory


class _ArrowArray(ctypes.Structure):
    """Source: the Arrow C data interface, https://arrow.apache.org/docs/format/CDataInterface.html."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.POINTER(_ArrowArray)),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]


def _pointer(capsule: Any, name: bytes) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(get(capsule, name))


def _goes_down_first(size: tuple[int, int], to: tuple[int, int]) -> bool:
    """Whether Pillow resizes a picture down before it does so across, which changes how results are rounded: version 13
    does where that takes away more than twice as much, as was found by trying."""
    width, height = (before - after for before, after in zip(size, to, strict=True))
    return _PILLOW >= 13 and height > 0 and height > 2 * width


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernel, or None where there is no compiler for it, or where it is not what this version of
    Pillow does."""
    loaded = _loaded()
    return loaded if loaded is not None and _is_pillows(loaded) else None


def _is_pillows(kernel: ctypes.CDLL) -> bool:
    """Whether the kernel gives Pillow's bits, of some noise that is made smaller and larger either way."""
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    boxes: tuple[Box, ...] = ((0, 0, 40, 40), (1.5, 2.2, 37.1, 20.3))
    for size, box in itertools.product(((60, 20), (20, 60), (33, 5), (39, 30)), boxes):
        for kind in get_args(Interpolation):
            wanted = picture.resize(size, PIL.Image.Resampling[kind.upper()], box)
            found = _by_kernel(kernel, picture, size, kind, None, box, None)
            if found is not None and not np.array_equal(found, np.asarray(wanted)):
                return False
    return True


def _loaded() -> ctypes.CDLL | None:
    if sys.byteorder != "little":
        return None  # nobody has tried it there
    loaded = native.library(_SOURCE, "-ffp-contract=off")
    if loaded is None:
        return None
    pointer, number, whole = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    loaded.resample.argtypes = [
        pointer, whole, number, number, number, ctypes.POINTER(ctypes.c_float), *[number] * 8, pointer,
    ]  # fmt: skip
    loaded.mirror.argtypes = [pointer, pointer, *[whole] * 4]
    loaded.normalise.argtypes = [pointer, whole, whole, pointer, pointer, pointer]
    loaded.mirror.restype = loaded.normalise.restype = None
    return loaded
