"""The part of a JPEG that a crop shows, to Pillow's bits, without decoding the rest. All else is Pillow's to open.

Rows below the part are not decoded, rows above and columns beside it only as far as the next ones need them: with
`jpeg.c` (see `native`) and the libjpeg-turbo that Pillow itself has loaded. Where one of the two is missing, or gives
other bits than Pillow, or where a picture is anything but an ordinary upright JPEG, Pillow decodes all of it.

What Pillow refuses stays refused. A part counts only where libjpeg had nothing to object to, a warning included, and
where the data behind it go on to the marker that ends the picture, with no other marker before it: damage to what lies
between is none that a full decode would refuse, because libjpeg fills in what it cannot read and only warns. Otherwise
Pillow decodes the picture and says what is wrong with it. Decoding the rest without keeping it would notice no more.

Shapes: H rows, W columns, C channels (1 for grey, 3 for RGB). Parts are left, top, right, bottom, in pixels.
Source: libjpeg-turbo, doc/libjpeg.txt, "Partial image decompression".
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageFile, _imaging

from residuum import native, pixels
from residuum.decoding import PIXEL_LIMIT, Mode, is_plain, name_of, open_picture

_SOURCE = Path(__file__).with_name("jpeg.c")

_FUNCTIONS = (
    "jpeg_std_error", "jpeg_CreateDecompress", "jpeg_destroy_decompress", "jpeg_read_header", "jpeg_start_decompress",
    "jpeg_crop_scanline", "jpeg_skip_scanlines", "jpeg_read_scanlines", "jpeg_resync_to_restart",
)  # fmt: skip
"""What `jpeg.c` uses of libjpeg-turbo, in the order of its table."""

_BLOCKS_PX = 16  # the widest and highest group of blocks: columns begin at a multiple of it
_AROUND_PX = 16  # of such a group, so that what is kept has neighbours to be smoothed with as in a full decode

_READ_LIMIT = 2**26  # larger files are left to Pillow, which need not have them in memory


@dataclass(frozen=True)
class Photo:
    """An ordinary JPEG of which only the header was read. `denominator` is 1, 2, 4 or 8: at which part of its size it
    is decoded, where it is `width` x `height`; `scan` is the byte at which its pixels begin."""

    content: bytes
    width: int
    height: int
    channels: int
    scan: int
    denominator: int = 1

    def part(self, wanted: pixels.Part) -> pixels.Cutout | None:
        """Returns the pixels of a part, and a few more beside it; None where Pillow has to decode the whole of it."""
        loaded = library()
        return None if loaded is None else _part(loaded, self, wanted)


def seen(
    source: str | os.PathLike[str] | bytes,
    mode: Mode = "RGB",
    *,
    name: str | None = None,
    at_least_px: int | None = None,
) -> pixels.Picture:
    """Returns what `decoding.open_picture` does, to the bit; of an ordinary JPEG nothing may be decoded yet.

    Raises:
        PictureError: it cannot be opened safely. Of what is not decoded yet, whoever asks for pixels raises it.
    """
    if library() is None:
        return open_picture(source, mode, name=name, at_least_px=at_least_px)
    content = source if isinstance(source, bytes) else _read(source)
    # What was read is not read again; but a message names the path.
    again: str | os.PathLike[str] | bytes = source if content is None else content
    if name is None and not isinstance(source, bytes):
        name = name_of(source)
    whole = functools.partial(open_picture, again, mode, name=name, at_least_px=at_least_px)
    photo = None if content is None else photo_of(content, mode, at_least_px)
    return whole() if photo is None else pixels.Undecoded((photo.width, photo.height), photo.part, whole)


def photo_of(content: bytes, mode: Mode, at_least_px: int | None = None) -> Photo | None:
    """Returns a picture that can be decoded in parts, at the scale that Pillow takes for `at_least_px`; None where it
    is not an ordinary JPEG that is upright and becomes `mode` by itself."""
    loaded = library()
    if loaded is None or ImageFile.LOAD_TRUNCATED_IMAGES:
        return None
    facts = (ctypes.c_int64 * 5)()
    if not content.startswith(b"\xff\xd8\xff") or loaded.c.header(content, len(content), facts):
        return None
    width, height, components, scan, asks_pillow = facts
    limit = min(PIXEL_LIMIT, PIL.Image.MAX_IMAGE_PIXELS or PIXEL_LIMIT)  # beyond which Pillow has a word to say
    if width * height > limit or (mode == "L" and components != 1) or (asks_pillow and not is_plain(content)):
        return None
    denominator = 1
    if at_least_px is not None:
        most = min(width // at_least_px, height // at_least_px)
        denominator = next(scale for scale in (8, 4, 2, 1) if most >= scale or scale == 1)
    across, down = (-(-side // denominator) for side in (width, height))
    return Photo(content, across, down, 3 if mode == "RGB" else 1, scan, denominator)


def _read(path: str | os.PathLike[str]) -> bytes | None:
    """Returns what is in a file; None where that is for `open_picture` to do, or to refuse."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path costs as much as the call)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _READ_LIMIT:
            return None
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class _Library:
    """Our `c`, and the table of libjpeg-turbo's functions, which `keeps` them loaded."""

    c: ctypes.CDLL
    table: ctypes.Array[ctypes.c_void_p]
    keeps: ctypes.CDLL


def _part(loaded: _Library, photo: Photo, wanted: pixels.Part) -> pixels.Cutout | None:
    """As `Photo.part`."""
    left = max(0, wanted[0] - _AROUND_PX) // _BLOCKS_PX * _BLOCKS_PX
    right, first = min(photo.width, wanted[2] + _AROUND_PX), max(0, wanted[1] - _AROUND_PX)
    top, bottom = wanted[1], wanted[3]
    shape = (bottom - top, right - left, photo.channels)
    if min(shape) < 1:
        return None
    count = shape[0] * shape[1] * shape[2]
    memory: NDArray[np.uint8] = np.empty(count + pixels.SPARE_BYTES, dtype=np.uint8)
    failed = loaded.c.part(
        loaded.table, photo.content, len(photo.content), photo.scan, photo.denominator, photo.width, photo.height,
        photo.channels, left, first, top, right, bottom, memory.ctypes.data,
    )  # fmt: skip
    if failed:
        return None
    return pixels.Cutout(memory[:count].reshape(shape), (left, top), (photo.width, photo.height))


@functools.cache
def library() -> _Library | None:
    """Returns what decodes parts; None where there is no compiler or no libjpeg-turbo for it, or where it does not give
    the bits of Pillow's full decode."""
    loaded = _loaded()
    return loaded if loaded is not None and pixels.library() is not None and _is_pillows(loaded) else None


def _loaded() -> _Library | None:
    compiled = native.library(_SOURCE)
    if compiled is None:
        return None
    try:
        pillows = ctypes.CDLL(_imaging.__file__)  # among whose libraries the functions are looked up
        addresses = [ctypes.cast(getattr(pillows, name), ctypes.c_void_p) for name in _FUNCTIONS]
    except (OSError, AttributeError):
        return None
    number, whole = ctypes.c_int, ctypes.c_int64
    compiled.header.argtypes = [ctypes.c_char_p, whole, ctypes.POINTER(whole)]
    compiled.part.argtypes = [ctypes.c_void_p, ctypes.c_char_p, whole, whole, *[number] * 9, ctypes.c_void_p]
    return _Library(compiled, (ctypes.c_void_p * len(addresses))(*addresses), pillows)


def _is_pillows(loaded: _Library) -> bool:
    """Whether parts are Pillow's, of JPEGs of every kind that is decoded so."""
    size = (165, 151)
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(noise).resize(size)
    kinds: list[dict[str, object]] = [{"subsampling": number} for number in (0, 1, 2)]
    kinds += [{"progressive": True}, {"restart_marker_blocks": 2}, {"restart_marker_rows": 1, "subsampling": 0}]
    for mode, options in [*(("RGB", options) for options in kinds), ("L", {})]:
        file = io.BytesIO()
        picture.convert(mode).save(file, "JPEG", quality=85, **options)
        content = file.getvalue()
        facts = (ctypes.c_int64 * 5)()
        if loaded.c.header(content, len(content), facts):
            return False
        for denominator in (1, 2, 4, 8):
            lazy = PIL.Image.open(io.BytesIO(content))
            lazy.draft(None, (size[0] // denominator, size[1] // denominator))
            wanted = np.asarray(lazy).reshape(lazy.height, lazy.width, -1)
            photo = Photo(content, lazy.width, lazy.height, wanted.shape[2], facts[3], denominator)
            for part in _corners(lazy.size):
                cut = _part(loaded, photo, part)
                if cut is None or not np.array_equal(cut.of(part), wanted[part[1] : part[3], part[0] : part[2]]):
                    return False
    return True


def _corners(size: tuple[int, int]) -> list[pixels.Part]:
    """Returns a part in each corner and one in the middle."""
    across, down = ([(0, side // 2 + 1), (side // 3, side - side // 4), (side // 2, side)] for side in size)
    return [(left, top, right, bottom) for left, right in across for top, bottom in down]
