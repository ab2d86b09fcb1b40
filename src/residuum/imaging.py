"""What a picture is and what a network sees of it: the one definition for training, evaluation, prediction and export.

`decoding` opens files safely, and its names are found here too; this file turns an opened picture into an array.
No torch.

Shapes: N pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residuum import pixels
from residuum.decoding import (
    EXTENSIONS,
    FORMAT_OF_EXTENSION,
    FORMATS,
    PIXEL_LIMIT,
    Facts,
    Mode,
    examine,
    open_picture,
)
from residuum.errors import WeightsError

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "FORMAT_OF_EXTENSION",
    "PIXEL_LIMIT",
    "Facts",
    "Mode",
    "Preprocessing",
    "Resize",
    "examine",
    "normalise",
    "open_picture",
    "prepare",
    "prepare_channels_last",
    "resized",
    "scaled_size",
    "seen_part",
    "squared",
]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_STRIP_RATIO = 16
"""From this ratio of its sides on, a strip is cut before its shorter side is resized (see `prepare`)."""

Resize = Literal["shorter-crop", "squash", "pad"]
"""How a picture reaches its square: its middle, the whole of it whatever its shape, or the whole with borders."""


@dataclass(frozen=True)
class Preprocessing:
    """What turns a picture into the network's input; stored in every bundle.

    By `resize`, the shorter side is brought to `resize_px` and the central `img_size` x `img_size` pixels are kept
    ("shorter-crop"); or the whole picture is brought to that square ("squash"); or its longer side is brought to
    `img_size`, and the mean colour fills the rest on both sides ("pad"). Then each channel has its `mean` taken off and
    is divided by its `std`, both on the 0..1 scale.
    """

    mode: Mode
    img_size: int
    resize_px: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "shorter-crop"

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return 3 if self.mode == "RGB" else 1

    @property
    def mean_colour(self) -> tuple[int, ...]:
        """The mean colour as uint8 values, one per channel."""
        return tuple(round(255 * mean) for mean in self.mean)

    def as_dict(self) -> dict[str, object]:
        """Returns the fields as JSON's types; `from_dict` is the inverse."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Preprocessing:
        """Builds it from a bundle's JSON.

        Raises:
            WeightsError: a key is missing or unknown, or a value is not what it must be.
        """
        values = {"resize": "shorter-crop", **values}  # which bundles did not say while there was no other
        wanted = {field.name for field in fields(cls)}
        if set(values) != wanted:
            odd = ", ".join(sorted(wanted.symmetric_difference(values)))
            raise _malformed(f"these keys are missing or unknown: {odd}")
        if values["mode"] not in ("RGB", "L"):
            raise _malformed(f"mode is {values['mode']!r}")
        if values["interpolation"] not in _FILTERS:
            raise _malformed(f"interpolation is {values['interpolation']!r}")
        if values["resize"] not in get_args(Resize):
            raise _malformed(f"resize is {values['resize']!r}")
        for key in ("img_size", "resize_px"):
            if type(values[key]) is not int or not 1 <= cast(int, values[key]) <= 65_536:
                raise _malformed(f"{key} is {values[key]!r}")
        channels = 3 if values["mode"] == "RGB" else 1
        numbers = {key: _numbers(values[key], channels, key) for key in ("mean", "std")}
        if min(numbers["std"]) <= 0:
            raise _malformed(f"std is {values['std']!r}")
        return cls(**{**values, **numbers})  # type: ignore[arg-type]


def prepare(picture: pixels.Picture, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns the network's view of an opened picture: resized with antialiasing, and the centre cropped.

    Shapes: uint8 [C, img_size, img_size]. The picture has `preprocessing.mode`. With "shorter-crop" nothing is padded:
    where `resize_px` is below `img_size`, the shorter side is brought to `img_size`.
    """
    return np.ascontiguousarray(prepare_channels_last(picture, preprocessing).transpose(2, 0, 1))


def prepare_channels_last(picture: pixels.Picture, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns what `prepare` does as uint8 [img_size, img_size, C]."""
    crop_px = preprocessing.img_size
    if preprocessing.resize != "shorter-crop":
        image = squared(pixels.image_of(picture), preprocessing, crop_px)
        return pixels.resample(image, image.size, preprocessing.interpolation)
    part, size = _scaled(picture.size, max(preprocessing.resize_px, crop_px))
    left, top = (round((side - crop_px) / 2) for side in size)
    window = (left, top, left + crop_px, top + crop_px)
    return pixels.resample(picture, size, preprocessing.interpolation, part=part, window=window)


def resized(picture: Image.Image, side_px: int, preprocessing: Preprocessing) -> Image.Image:
    """Returns an opened picture with its shorter side brought to `side_px`, antialiased; or, where `preprocessing`
    squashes or pads, the whole of it as a square of that side.

    A strip more than 16 times as long as wide is cut to that ratio first: no central crop sees its ends, and resizing
    them could cost any amount of memory.
    """
    if preprocessing.resize != "shorter-crop":
        return squared(picture, preprocessing, side_px)
    part, size = _scaled(picture.size, side_px)
    picture = picture if part is None else picture.crop(part)
    return picture if picture.size == size else picture.resize(size, _FILTERS[preprocessing.interpolation])


def _scaled(size: tuple[int, int], side_px: int) -> tuple[pixels.Part | None, tuple[int, int]]:
    """Returns the part of a picture of `size` (width, height) that is kept where it is a strip, and the size at which
    its shorter side is `side_px`."""
    width, height = size
    shorter = min(size)
    part: pixels.Part | None = None
    if max(size) > _STRIP_RATIO * shorter:
        width, height = min(width, _STRIP_RATIO * shorter), min(height, _STRIP_RATIO * shorter)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        part = (left, top, left + width, top + height)
    return part, scaled_size((width, height), side_px)


def scaled_size(size: tuple[int, int], side_px: int) -> tuple[int, int]:
    """Returns the size, width and height, at which the shorter side is `side_px`."""
    width, height = size
    shorter = min(size)
    if shorter == side_px:
        return size
    # The longer side is rounded down, as torchvision's Resize does.
    return max(side_px, width * side_px // shorter), max(side_px, height * side_px // shorter)


def seen_part(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Returns the part of a picture of `size` (width, height) that `prepare` keeps: left, top, right and bottom, as
    fractions of the picture's width and height, to within the rounding of a pixel. With "pad" the borders beside the
    picture count too, so that they may be below 0 and above 1."""
    if preprocessing.resize == "squash":
        return 0.0, 0.0, 1.0, 1.0
    crop_px = preprocessing.img_size
    kept = max(size) if preprocessing.resize == "pad" else min(size) * crop_px / max(preprocessing.resize_px, crop_px)
    across, down = (kept / side / 2 for side in size)
    return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down


def squared(picture: Image.Image, preprocessing: Preprocessing, side_px: int) -> Image.Image:
    """Returns the whole of an opened picture as a square of `side_px`: squashed, or with borders of the mean colour."""
    interpolation = _FILTERS[preprocessing.interpolation]
    if preprocessing.resize == "squash":
        if picture.height > _STRIP_RATIO * picture.width:  # widened before it is shortened, it could take any memory
            picture = picture.resize((picture.width, side_px), interpolation)
        return picture.resize((side_px, side_px), interpolation)
    scale = side_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    colour = preprocessing.mean_colour
    square = Image.new(picture.mode, (side_px, side_px), colour if len(colour) == 3 else colour[0])
    square.paste(picture.resize(size, interpolation), ((side_px - size[0]) // 2, (side_px - size[1]) // 2))
    return square


def normalise(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Returns (x / 255 - mean) / std for each channel. Shapes: uint8 [N, C, H, W] -> float32 [N, C, H, W]."""
    mean = np.asarray(preprocessing.mean, dtype=np.float32).reshape(-1, 1, 1)
    std = np.asarray(preprocessing.std, dtype=np.float32).reshape(-1, 1, 1)
    scaled = images.astype(np.float32)
    scaled /= np.float32(255)
    scaled -= mean
    scaled /= std
    return scaled


def _numbers(values: object, count: int, key: str) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) != count:
        raise _malformed(f"{key} is {values!r}, not a list of {count}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _malformed(f"{key} is {values!r}")
    return tuple(float(value) for value in values)


def _malformed(what: str) -> WeightsError:
    return WeightsError(
        f"The bundle's preprocessing is malformed: {what}.",
        expected="Expected mode, img_size, resize_px, interpolation, mean and std as residuum writes them.",
        hint="Train or download the bundle again.",
    )
