"""A random crop of one picture: from an opened picture to uint8 [C, S, S], decoded at reduced scale where the crop
allows. Runs in threads. What is returned lies in memory as [S, S, C].

Source: arXiv:1512.03385, section 3.4 (ScaleCrop); arXiv:1409.4842, section 6, as in torchvision's RandomResizedCrop
    (ResizedCrop).
Departures: the picture is resized as Pillow does it, with antialiasing; a JPEG may have been reduced by a power of
    two before, in its decoder.
Shapes: C channels; S = img_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from residuum import imaging, pixels, recipe
from residuum.errors import RecipeError
from residuum.imaging import Preprocessing

Opener = Callable[[int | None], pixels.Picture]
"""Opens one picture; its argument is the shorter side, in pixels, that suffices (None: all there is)."""

_TRIES = 10  # of a random part, before the centre is taken: torchvision's


class Crop(Protocol):
    """Turns one picture into uint8 [C, S, S]. `streams` name the random numbers that `numbers` holds, in this order."""

    @property
    def streams(self) -> tuple[str, ...]: ...

    def __call__(self, open_picture: Opener, numbers: NDArray[np.float64]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class CenterCrop:
    """The centre, exactly as at evaluation: decoded at full scale, no randomness."""

    preprocessing: Preprocessing
    streams: tuple[str, ...] = ()

    def __call__(self, open_picture: Opener, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:  # noqa: ARG002
        return imaging.prepare_channels_last(open_picture(None), self.preprocessing).transpose(2, 0, 1)


@dataclass(frozen=True)
class ScaleCrop:
    """The shorter side resized to a random whole length in [min_px, max_px], then S x S pixels at a random place."""

    preprocessing: Preprocessing
    min_px: int
    max_px: int
    streams: tuple[str, ...] = ("crop_scale", "crop_y", "crop_x")

    def __call__(self, open_picture: Opener, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        scale, at_y, at_x = numbers.tolist()
        shorter_px = self.min_px + int(scale * (self.max_px - self.min_px + 1))
        picture = open_picture(shorter_px)
        if self.preprocessing.resize != "shorter-crop":
            picture = imaging.squared(pixels.image_of(picture), self.preprocessing, shorter_px)
        side_px, ratio = self.preprocessing.img_size, shorter_px / min(picture.size)
        width, height = (max(shorter_px, round(side * ratio)) for side in picture.size)
        x, y = int(at_x * (width - side_px + 1)), int(at_y * (height - side_px + 1))
        # Only the part that the crop shows is resized; the filter still sees the pixels around it.
        across, down = picture.width / width, picture.height / height
        right, bottom = min((x + side_px) * across, picture.width), min((y + side_px) * down, picture.height)
        box = (x * across, y * down, right, bottom)
        return _resampled(picture, self.preprocessing, box=box)


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the area at a random aspect ratio, resized to S x S; the centre where ten tries do not fit."""

    preprocessing: Preprocessing
    area_min: float
    area_max: float
    ratio_max: float
    streams: tuple[str, ...] = (
        "crop_y",
        "crop_x",
        *(f"crop_area_{attempt}" for attempt in range(_TRIES)),
        *(f"crop_ratio_{attempt}" for attempt in range(_TRIES)),
    )

    def __call__(self, open_picture: Opener, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        tries = self._tries(numbers)
        if self.preprocessing.resize != "shorter-crop":
            return self._of_a_square(open_picture, max(needed_px for _, _, needed_px in tries), numbers)
        first_px = tries[0][2]
        picture = open_picture(first_px)
        box, needed_px = self._part(picture, numbers, tries)
        if first_px <= min(picture.size) < needed_px:  # a later try's smaller part may need a larger scale
            picture = open_picture(needed_px)
            box, _ = self._part(picture, numbers, tries)
        return _resampled(picture, self.preprocessing, part=box)

    def _of_a_square(self, open_picture: Opener, needed_px: int, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
        picture = pixels.image_of(open_picture(needed_px))
        square = imaging.squared(picture, self.preprocessing, min(needed_px, max(picture.size)))
        box, _ = self.part(square, numbers)
        return _resampled(square, self.preprocessing, part=box)

    def part(self, picture: pixels.Picture, numbers: NDArray[np.float64]) -> tuple[pixels.Part, int]:
        """Returns left, top, right, bottom, and the picture's shorter side in pixels that suffices for this part."""
        return self._part(picture, numbers, self._tries(numbers))

    def _part(
        self, picture: pixels.Picture, numbers: NDArray[np.float64], tries: list[tuple[float, float, int]]
    ) -> tuple[pixels.Part, int]:
        at_y, at_x = numbers[:2].tolist()
        for area, ratio, needed_px in tries:
            pixels = area * picture.width * picture.height
            width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < width <= picture.width and 0 < height <= picture.height:
                left, top = int(at_x * (picture.width - width + 1)), int(at_y * (picture.height - height + 1))
                return (left, top, left + width, top + height), needed_px
        ratio = min(max(picture.width / picture.height, 1 / self.ratio_max), self.ratio_max)
        width = min(picture.width, round(picture.height * ratio))
        height = min(picture.height, round(picture.width / ratio))
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return (left, top, left + width, top + height), self.preprocessing.img_size

    def _tries(self, numbers: NDArray[np.float64]) -> list[tuple[float, float, int]]:
        """Returns area, ratio, and the picture's shorter side in pixels at which such a part has S pixels each way."""
        areas = self.area_min + numbers[2 : 2 + _TRIES] * (self.area_max - self.area_min)
        ratios = np.exp((2 * numbers[2 + _TRIES :] - 1) * math.log(self.ratio_max))
        needed_px = np.ceil(self.preprocessing.img_size / np.sqrt(areas * np.minimum(ratios, 1 / ratios))).astype(int)
        return list(zip(areas.tolist(), ratios.tolist(), needed_px.tolist(), strict=True))


def crop_of(crop: recipe.Crop, preprocessing: Preprocessing) -> Crop:
    """Returns what turns a picture into uint8 [C, S, S]; before a padded crop, which is done on batches, the centre.

    Raises:
        RecipeError: a range that is empty, or a side shorter than S.
    """
    if isinstance(crop, recipe.ScaleCrop):
        if not preprocessing.img_size <= crop.min_px <= crop.max_px:
            raise RecipeError(
                f"The crop 'scale' cannot have min_px = {crop.min_px} and max_px = {crop.max_px}.",
                expected=f"Expected img_size <= min_px <= max_px; img_size is {preprocessing.img_size}.",
                hint="Change augment.crop.min_px, augment.crop.max_px or data.img_size.",
            )
        return ScaleCrop(preprocessing, crop.min_px, crop.max_px)
    if isinstance(crop, recipe.ResizedCrop):
        if crop.area_min > crop.area_max:
            raise RecipeError(
                f"The crop 'resized' cannot have area_min = {crop.area_min:g} and area_max = {crop.area_max:g}.",
                expected="Expected area_min <= area_max.",
                hint="Change augment.crop.area_min or augment.crop.area_max.",
            )
        return ResizedCrop(preprocessing, crop.area_min, crop.area_max, crop.ratio_max)
    return CenterCrop(preprocessing)


def _resampled(
    picture: pixels.Picture,
    preprocessing: Preprocessing,
    *,
    part: pixels.Part | None = None,
    box: pixels.Box | None = None,
) -> NDArray[np.uint8]:
    """Returns a part of a picture, or the floating-point box of it, as uint8 [C, S, S]."""
    size = (preprocessing.img_size, preprocessing.img_size)
    return pixels.resample(picture, size, preprocessing.interpolation, part=part, box=box).transpose(2, 0, 1)
