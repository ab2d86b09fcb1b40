"""Opens any picture safely. No torch.

A picture is a JPEG, PNG, WebP, GIF (first frame), BMP or TIFF file, told by its content and never by its name. It
comes out decoded completely, upright, with 8 bits a channel, as RGB or grey. Nothing here writes a file, and
everything may be called from threads.

What the modes become: alpha and transparent colours lie over white; CMYK, palettes and the like go through Pillow's
conversion to RGB; 16-bit grey is divided by 257 and rounded; 32-bit integers are taken for 16-bit values (so did Pillow
once open 16-bit PNG) and refused outside their range; floating-point values are on the 0..1 scale and refused outside
it.

Departures: Pillow reads 16-bit colour as its high byte, which differs from division by 257 by at most 1.
Shapes: H rows, W columns, C channels.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

# The two plugins that Pillow would otherwise find by importing every plugin it has.
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from residuum.errors import PictureError

Mode = Literal["RGB", "L"]

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", TiffImagePlugin.TiffImageFile.format)
"""The formats that are opened, by Pillow's names."""

FORMAT_OF_EXTENSION: Mapping[str, str] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": WebPImagePlugin.WebPImageFile.format,
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""What a file's extension, in lower case, promises."""

EXTENSIONS: frozenset[str] = frozenset(FORMAT_OF_EXTENSION)
"""Extensions, in lower case, of the files that are taken for pictures when a folder is searched."""

PIXEL_LIMIT = 178_956_970
"""The most pixels a picture may have: Pillow's own limit for what could be a decompression bomb, 512 MiB as RGB."""

_DECODER_ERRORS = (
    OSError,  # truncated or broken data; UnidentifiedImageError
    EOFError,
    SyntaxError,  # Pillow's word for a malformed header
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,  # with NotImplementedError
    MemoryError,
    ImportError,  # a codec that this Pillow lacks
    struct.error,
    zlib.error,
    ImageCms.PyCMSError,
    Image.DecompressionBombError,
    Warning,  # where the user made Pillow's warnings into errors
)
"""Everything that Pillow's plugins raise on hostile bytes, named one by one."""

_TRANSPOSE: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright (EXIF 2.32, section 4.6.4)."""


@dataclass(frozen=True)
class Facts:
    """What a picture's file is, beside its pixels: what `residuum check` reports.

    `format` is one of `FORMATS`; `width` and `height` are as stored, before `orientation` (EXIF's 1..8) is applied;
    `mode` is Pillow's mode as stored; `bits` are those of a channel; `frames` is more than 1 for an animation or
    several pages.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    alpha: bool
    orientation: int
    frames: int


def open_picture(
    source: str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic],
    mode: Mode = "RGB",
    *,
    name: str | None = None,
    at_least_px: int | None = None,
) -> Image.Image:
    """Returns the picture decoded completely, upright, with 8 bits a channel, in `mode`; alpha lies over white.

    `source` is a path, a file's bytes, a Pillow picture, or an array of uint8 or uint16 in [H, W] or [H, W, C] with C
    of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha). `name` is what messages call it. With `at_least_px` a JPEG
    may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps that many pixels.

    Raises:
        PictureError: it cannot be opened safely; the error names it and the reason.
    """
    name = name if name is not None else name_of(source)
    _silence()
    with ExitStack() as stack:
        try:
            picture = _opened(source, name, stack)
            if at_least_px is not None and isinstance(picture, JpegImagePlugin.JpegImageFile) and picture is not source:
                picture.draft(None, (at_least_px, at_least_px))
            orientation = _load(picture, name)
            return _finish(picture, mode, orientation, name, shared=isinstance(source, Image.Image))
        except _DECODER_ERRORS as error:
            raise PictureError(name, _reason(error)) from error


def examine(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> tuple[Image.Image, Facts]:
    """Returns what `open_picture` does in RGB, and the facts about the file.

    Raises:
        PictureError: it cannot be opened safely; the error names it and the reason.
    """
    name = name if name is not None else name_of(source)
    _silence()
    with ExitStack() as stack:
        try:
            picture = _opened(source, name, stack)
            rawmode = _rawmode(picture)
            orientation = _load(picture, name)
            finished = _finish(picture, "RGB", orientation, name)
            turned = orientation in (5, 6, 7, 8)
            facts = Facts(
                format="JPEG" if picture.format == "MPO" else picture.format or "",
                width=finished.height if turned else finished.width,
                height=finished.width if turned else finished.height,
                mode=picture.mode,
                bits=_bits(picture.mode, rawmode),
                alpha=_has_alpha(picture),
                orientation=orientation,
                frames=_frames(picture),
            )
        except _DECODER_ERRORS as error:
            raise PictureError(name, _reason(error)) from error
    return finished, facts


def is_plain(content: bytes) -> bool:
    """Whether an encoded picture is a JPEG that `open_picture` decodes as it lies there: no MPO, and upright. Only its
    header is read."""
    _silence()
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            return picture.format == "JPEG" and _orientation(picture) == 1
    except _DECODER_ERRORS:
        return False


def name_of(source: object) -> str:
    """What messages call a picture that nobody named."""
    if isinstance(source, str | os.PathLike):
        return os.fsencode(source).decode("utf-8", "backslashreplace")
    return {bytes: "<bytes>", np.ndarray: "<array>"}.get(type(source), "<picture>")


def _opened(
    source: str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic], name: str, stack: ExitStack
) -> Image.Image:
    """Returns the picture with its header read and nothing decoded; `stack` closes what was opened for it."""
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        picture = source
    else:
        try:
            picture = stack.enter_context(Image.open(stack.enter_context(_bytes_of(source, name)), formats=FORMATS))
        except UnidentifiedImageError as error:
            raise PictureError(name, "it is not an image of a known format, or its header is broken") from error
    _check_size(picture.size, name)
    return picture


def _bytes_of(source: str | os.PathLike[str] | bytes, name: str) -> BinaryIO:
    """Returns the encoded picture as a file open for reading: a handle, so that Pillow never maps the user's file."""
    if isinstance(source, bytes):
        if not source:
            raise PictureError(name, "the file is empty")
        return BytesIO(source)
    try:
        status = Path(source).stat()
        if stat.S_ISDIR(status.st_mode):
            raise PictureError(name, "it is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise PictureError(name, "it is not a regular file")  # a pipe would wait for ever
        if status.st_size == 0:
            raise PictureError(name, "the file is empty")
        return Path(source).open("rb")
    except FileNotFoundError as error:
        raise PictureError(name, "there is no such file") from error
    except OSError as error:
        raise PictureError(name, f"the file cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a zero byte in the name
        raise PictureError(name, f"this cannot be a file's name ({error})") from error


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height == 0:
        raise PictureError(name, "it has no pixels")
    if width * height > PIXEL_LIMIT:
        raise PictureError(name, f"it has {width} x {height} pixels, more than the limit of {PIXEL_LIMIT:,}")


def _load(picture: Image.Image, name: str) -> int:
    """Decodes the first frame and returns EXIF's orientation."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        orientation = _orientation(picture)  # decoding makes a TIFF upright and forgets how it was
        picture.load()
    else:
        picture.load()
        orientation = _orientation(picture)  # a PNG may carry EXIF behind its pixels
    _check_size(picture.size, name)
    return orientation


def _finish(picture: Image.Image, mode: Mode, orientation: int, name: str, *, shared: bool = False) -> Image.Image:
    """Returns a decoded picture as a new, upright one in `mode`, which shares nothing with the file."""
    finished = _to_mode(picture, mode, name)
    if finished is picture:  # whose pixels are taken as they are, where nobody else has them
        finished = picture.copy() if shared else picture._new(picture.im)
    if orientation in _TRANSPOSE and not isinstance(picture, TiffImagePlugin.TiffImageFile):
        finished = finished.transpose(_TRANSPOSE[orientation])
    finished.info = {}
    return finished


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info


def _frames(picture: Image.Image) -> int:
    """The number of frames; 1 where what follows the first frame is broken, for only the first is used."""
    try:
        return int(getattr(picture, "n_frames", 1))
    except _DECODER_ERRORS:
        return 1


def _rawmode(picture: Image.Image) -> str:
    """How the samples lie in the file, in Pillow's words ('RGB;16B'), or an empty string where Pillow does not say."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else None
    if isinstance(arguments, tuple) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else ""


def _bits(mode: str, rawmode: str) -> int:
    if mode == "1":
        return 1
    if mode in ("I", "F"):
        return 32
    return 16 if mode.startswith("I;16") or ";16" in rawmode else 8


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation; 1 where there is none or EXIF is broken, which viewers ignore too."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _to_mode(picture: Image.Image, mode: Mode, name: str) -> Image.Image:
    """Returns a new picture with 8 bits a channel in `mode`, alpha over white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _to_8_bit(picture, name)
    elif _has_alpha(picture):
        picture = _over_white(picture)
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def _to_8_bit(picture: Image.Image, name: str) -> Image.Image:
    """Returns 16-bit, 32-bit or floating-point grey as L; see the module's docstring for the scales."""
    values = np.asarray(picture)
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise PictureError(name, "it has floating-point values outside 0..1, whose scale is not known")
        return Image.fromarray(np.rint(values.astype(np.float64) * 255).astype(np.uint8))
    if values.min() < 0 or values.max() > 65_535:
        raise PictureError(name, "it has 32-bit values outside 0..65535, whose scale is not known")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(
        np.uint8
    )  # equals rint(x / 257): 257 is odd, so there are no ties
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _over_white(picture: Image.Image) -> Image.Image:
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and any(value > 255 for value in key):
        # The transparent colour of a 16-bit PNG; of the pixels only the high bytes are left to compare with.
        picture = picture.copy()
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    if picture.mode == "La":
        picture = picture.convert("LA")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _from_array(pixels: NDArray[np.generic], name: str) -> Image.Image:
    """Returns an array as a picture of 8 bits a channel."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    if pixels.ndim not in (2, 3) or channels not in modes:
        raise PictureError(
            name,
            f"an array of shape {list(pixels.shape)} is not a picture in [H, W] or [H, W, C] with C of 1, 2, 3 or 4",
        )
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PictureError(
            name, f"an array of {pixels.dtype} has no known scale; give uint8 (0..255) or uint16 (0..65535)"
        )
    _check_size((pixels.shape[1], pixels.shape[0]), name)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels if channels > 1 else pixels.reshape(pixels.shape[:2]))
    return Image.frombytes(modes[channels], (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def _reason(error: BaseException) -> str:
    """Pillow's error as a reason that can follow 'Cannot use the picture NAME:'."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than the limit of {PIXEL_LIMIT:,}"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"the file is truncated ({text})" if text != "EOFError" else "the file is truncated"
    return f"it does not decode ({text})"


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def _silence() -> None:
    """Keeps Pillow's warnings about odd metadata and large pictures away: here a picture is either good or an error.

    A filter that stays is safe with threads, unlike `warnings.catch_warnings`, which swaps the filters of all
    threads. It is put back in front when other filters have come before it, and it touches no other module's
    warnings.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=r"PIL\.")
