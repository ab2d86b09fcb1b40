"""Random operations on whole batches, on the device.

Each takes a uint8 batch and its pictures' random numbers and returns a batch, without a loop over pictures. They are
chosen once, so that one that is off costs nothing. `Normalise` is the last and makes the network's input.

Source: arXiv:1512.03385, section 4.2 (PaddedCrop); arXiv:2404.00498, section 3.6 (AlternateFlip); Krizhevsky et al.
    2012, section 4.1, with fb.resnet.torch's figures (Lighting); arXiv:1708.04896, Algorithm 1 (Erasing);
    torchvision's ColorJitter for the rest.
Departures: brightness, contrast and saturation change in this order, not in a random one; each operation rounds to
    uint8 and clips there, Lighting included. What comes from outside of a picture is its set's mean colour, rounded to
    uint8, which normalisation takes to within 0.5 / 255 / std of zero; or what the crop's `fill` says.
Shapes: N pictures of C channels, H x W pixels; S = img_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from residuum import pixels, recipe
from residuum.data.randomness import Draws
from residuum.errors import RecipeError
from residuum.imaging import Preprocessing

Stage = Callable[[Tensor, Draws], Tensor]
"""An operation on a batch, uint8 [N, C, H, W], that may work in place. Float32 only comes out of `Normalise`."""

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it
_TRIES = 10  # of a random rectangle, before nothing is erased: torchvision's

# Of the covariance of ImageNet's colours on the 0..1 scale; vectors are columns. fb.resnet.torch, datasets/imagenet.lua
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def stages_of(augment: recipe.Augment, preprocessing: Preprocessing) -> list[Stage]:
    """Returns the operations on whole batches that `augment` asks for, in the order in which they are done.

    The order is crop, flip, policy, rotation, brightness, contrast, saturation, lighting, erasing; mixing comes after
    normalisation.

    Raises:
        RecipeError: an operation on colours for a grey set.
    """
    for key in ("saturation", "lighting"):
        if preprocessing.mode == "L" and getattr(augment, key):
            raise RecipeError(
                f"The recipe key 'augment.{key}' cannot be {getattr(augment, key):g} for grey pictures.",
                expected="Expected 0 for pictures of one channel.",
                hint=f"Set augment.{key}=0.",
            )
    fill = preprocessing.mean_colour
    stages: list[Stage] = []
    if isinstance(augment.crop, recipe.PadCrop) and augment.crop.px:
        stages.append(PaddedCrop(augment.crop.px, None if augment.crop.fill == "reflect" else fill))
    if augment.flip != "none":
        stages.append(RandomFlip() if augment.flip == "random" else AlternateFlip())
    if not isinstance(augment.policy, recipe.NoPolicy):
        from residuum.data import (
            policies,
        )  # here, because it imports torchvision: a second that most runs need not wait

        stages.append(policies.policy_of(augment.policy, fill))
    if augment.rotate:
        stages.append(Rotation(augment.rotate, fill))
    if augment.brightness:
        stages.append(Brightness(augment.brightness))
    if augment.contrast:
        stages.append(Contrast(augment.contrast))
    if augment.saturation:
        stages.append(Saturation(augment.saturation))
    if augment.lighting:
        stages.append(Lighting(augment.lighting))
    if augment.erasing:
        stages.append(Erasing(augment.erasing, fill))
    return stages


@dataclass(frozen=True)
class PaddedCrop:
    """`px` pixels of `fill`, or without one of the mirrored picture, on every side, then a crop of the old size at one
    of (2 px + 1)^2 places."""

    px: int
    fill: tuple[int, ...] | None

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        n, channels, height, width = images.shape
        tall, wide, places = height + 2 * self.px, width + 2 * self.px, 2 * self.px + 1
        y = (draws.uniform("crop_y") * places).astype(np.int64)
        x = (draws.uniform("crop_x") * places).astype(np.int64)
        if self.fill is None:
            rows, columns = (reflected(side, self.px) for side in (height, width))
            padded = images.permute(0, 2, 3, 1)[:, _on(images, rows)][:, :, _on(images, columns)].contiguous()
        else:
            frame = torch.tensor(self.fill, dtype=torch.uint8, device=images.device).expand(tall, wide, channels)
            padded = frame.reshape(-1).repeat(n, 1).view(n, tall, wide, channels)
            padded[:, self.px : self.px + height, self.px : self.px + width] = images.permute(0, 2, 3, 1)
        # A view of all windows of H rows of W * C bytes, one for each pixel where it may start; they overlap in memory.
        starts = n * tall * wide - (height - 1) * wide - width + 1
        windows = padded.as_strided((starts, height, width * channels), (channels, wide * channels, 1))
        chosen = _on(images, (np.arange(n) * tall + y) * wide + x)
        return windows.index_select(0, chosen).view(n, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class RandomFlip:
    """A random half of the pictures mirrored, anew in every epoch."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _mirrored(images, self.which(draws))

    def which(self, draws: Draws) -> NDArray[np.bool_]:
        """Returns which pictures are mirrored, bool [N]."""
        return draws.uniform("flip") < 0.5


@dataclass(frozen=True)
class AlternateFlip:
    """Every picture mirrored in every second epoch; a random half of them in epoch 0 and the others in epoch 1."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _mirrored(images, self.which(draws))

    def which(self, draws: Draws) -> NDArray[np.bool_]:
        """Returns which pictures are mirrored, bool [N]."""
        first = draws.every_epoch().uniform("flip") < 0.5
        return first ^ (draws.epoch % 2 == 1)


@dataclass(frozen=True)
class Rotation:
    """Each picture turned by an angle in [-degrees, degrees] around its centre, bilinearly."""

    degrees: float
    fill: tuple[int, ...]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        angles = np.radians(self.degrees * (2 * draws.uniform("rotate") - 1))
        return rotated(images, angles, self.fill)


@dataclass(frozen=True)
class Brightness:
    """Each picture multiplied by a factor in [1 - width, 1 + width]."""

    width: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _rounded(images * _factors(images, draws, "brightness", self.width))


@dataclass(frozen=True)
class Contrast:
    """Each picture's difference from its mean grey multiplied by a factor in [1 - width, 1 + width]."""

    width: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
        return _rounded(torch.lerp(mean, images.float(), _factors(images, draws, "contrast", self.width)))


@dataclass(frozen=True)
class Saturation:
    """Each pixel's difference from its grey multiplied by a factor in [1 - width, 1 + width], one for each picture."""

    width: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return _rounded(torch.lerp(_grey(images), images.float(), _factors(images, draws, "saturation", self.width)))


@dataclass(frozen=True)
class Lighting:
    """One colour added to all of a picture: noise of standard deviation `std` along the principal components of
    ImageNet's colours."""

    std: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        noise = np.stack([draws.normal(f"lighting_{component}") for component in range(3)], axis=1)
        colours = 255 * self.std * (noise * _EIGENVALUES) @ np.array(_EIGENVECTORS).T
        return _rounded(images + _on(images, colours.astype(np.float32))[:, :, None, None])


@dataclass(frozen=True)
class Erasing:
    """With `probability`, a rectangle of 2 to 33 % of the area and an aspect ratio of 0.3 to 3.3 becomes `fill`."""

    probability: float
    fill: tuple[int, ...]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        top, left, height, width = self.rectangles(draws, images.shape[2], images.shape[3])
        rows, columns = np.arange(images.shape[2]), np.arange(images.shape[3])
        inside_rows = (top[:, None] <= rows) & (rows < (top + height)[:, None])
        inside_columns = (left[:, None] <= columns) & (columns < (left + width)[:, None])
        erased = _on(images, inside_rows)[:, None, :, None] & _on(images, inside_columns)[:, None, None, :]
        return torch.where(erased, _colour(self.fill, images), images)

    def rectangles(self, draws: Draws, height: int, width: int) -> tuple[NDArray[np.int64], ...]:
        """Returns top, left, height and width of what is erased, int64 [N] each; where nothing is, height and width
        are 0."""
        areas = 0.02 + (0.33 - 0.02) * draws.table(tuple(f"erasing_area_{attempt}" for attempt in range(_TRIES)))
        low, high = math.log(0.3), math.log(3.3)
        ratios = np.exp(
            low + (high - low) * draws.table(tuple(f"erasing_ratio_{attempt}" for attempt in range(_TRIES)))
        )
        heights = np.rint(np.sqrt(height * width * areas * ratios)).astype(np.int64)
        widths = np.rint(np.sqrt(height * width * areas / ratios)).astype(np.int64)
        fits = (heights < height) & (widths < width)
        first = np.arange(len(fits)), fits.argmax(axis=1)
        erased = fits.any(axis=1) & (draws.uniform("erasing") < self.probability)
        tall, wide = heights[first] * erased, widths[first] * erased
        top = (draws.uniform("erasing_y") * (height - tall + 1)).astype(np.int64)
        left = (draws.uniform("erasing_x") * (width - wide + 1)).astype(np.int64)
        return top, left, tall, wide


class Normalise:
    """(x / 255 - mean) / std as float32, the same numbers as `imaging.normalise`, channels last if asked.

    Pictures have `size` (H, W), by default the network's input.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        device: torch.device,
        channels_last: bool,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._numbers = preprocessing.mean, preprocessing.std
        shape = (1, len(preprocessing.mean), *(size or (preprocessing.img_size, preprocessing.img_size)))
        # As large as a picture and laid out like it, so that each operation is one pass over rows without strides.
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[None, :, None, None]
            .expand(shape)
            .contiguous(memory_format=self._format)
            for values in (preprocessing.mean, preprocessing.std)
        )

    def __call__(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 3, 1)
        if self._format is torch.channels_last and _in_reach(rows):
            into = torch.empty(images.shape, dtype=torch.float32, memory_format=torch.channels_last)
            if pixels.normalise(rows.data_ptr(), rows[..., 0].numel(), *self._numbers, into.data_ptr()):
                return into
        values = images.to(torch.float32, memory_format=self._format)
        return values.div_(255).sub_(self._mean).div_(self._std)


def rotated(images: Tensor, angles: NDArray[np.float64], fill: tuple[int, ...]) -> Tensor:
    """Returns uint8 [N, C, H, W], each picture turned counter-clockwise by its angle in radians over `fill`."""
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    height, width = images.shape[2:]
    rows = [[cos, -sin * height / width, zero], [sin * width / height, cos, zero]]
    theta = _on(images, np.array(rows, dtype=np.float32).transpose(2, 0, 1))
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    colour = _colour(fill, images).float()
    return _rounded(functional.grid_sample(images - colour, grid, align_corners=False) + colour)


def reflected(side: int, margin: int) -> NDArray[np.int64]:
    """Returns which pixels of a row of `side` lie in it when both ends are continued by its mirror image, int64 [side
    + 2 margin]."""
    return np.pad(np.arange(side), margin, mode="reflect")


def _on(images: Tensor, values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values).to(images.device, non_blocking=True)


def _in_reach(rows: Tensor) -> bool:
    """Whether the kernel can work on [N, H, W, C]: bytes in the processor's memory, in one piece."""
    return rows.device.type == "cpu" and rows.dtype == torch.uint8 and rows.is_contiguous()


def _colour(values: tuple[int, ...], images: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8, device=images.device)[None, :, None, None]


def _factors(images: Tensor, draws: Draws, stream: str, width: float) -> Tensor:
    factors = 1 + width * (2 * draws.uniform(stream) - 1)
    return _on(images, factors.astype(np.float32))[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """Returns the luma as float32 [N, 1, H, W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.unbind(dim=1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue)[:, None]


def _mirrored(images: Tensor, which: NDArray[np.bool_]) -> Tensor:
    chosen = np.flatnonzero(which)
    rows = images.permute(0, 2, 3, 1)
    if _in_reach(rows) and pixels.mirror(rows.data_ptr(), chosen, *rows.shape[1:]):
        return images
    at = _on(images, chosen)
    images[at] = images[at].flip(-1)
    return images


def _rounded(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)
