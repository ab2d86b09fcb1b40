"""Mean and standard deviation of an image set's channels, for normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residuum.data.sets import ImageSet, ResidentSet, opened, sampled
from residuum.errors import PictureError

_SAMPLE_PX = 64
"""JPEG of a sample may be decoded down to this shorter side: averages over areas do not need more."""

_SMALLEST_STD = 1 / 255
"""A channel that never changes would otherwise be divided by zero."""


def statistics(images: ImageSet, limit: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of each channel on the 0..1 scale.

    Of a resident set every pixel counts. Of an encoded one it is `limit` pictures spread evenly over the set, each
    with the same weight whatever its size; bad pictures are left out, as the loader is what reports them.

    Raises:
        PictureError: all pictures of the sample are bad.
    """
    counts = _resident_counts(images) if isinstance(images, ResidentSet) else _sampled_counts(images, limit)
    levels = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ levels
    variance = np.maximum(weights @ levels**2 - mean**2, 0)
    std = np.maximum(np.sqrt(variance), _SMALLEST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())


def _resident_counts(images: ResidentSet) -> NDArray[np.float64]:
    """How often each channel has each of the 256 values. Shapes: [C, 256]."""
    channels = images.images.shape[3]
    counts = np.zeros((channels, 256))
    for start in range(0, len(images), 512):  # so that the copies stay small
        counts += _histograms(images.images[start : start + 512])
    return counts


def _sampled_counts(images: ImageSet, limit: int) -> NDArray[np.float64]:
    counts = np.zeros((3 if images.mode == "RGB" else 1, 256))
    first: PictureError | None = None
    for _, found in opened(images, sampled(images, limit), _SAMPLE_PX):
        if isinstance(found, PictureError):
            first = first or found
        else:
            pixels = np.asarray(found).reshape(found.height * found.width, -1)
            counts += _histograms(pixels) / len(pixels)
    if first is not None and not counts.any():
        raise first
    return counts


def _histograms(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shapes: uint8 [..., C] -> [C, 256]."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    return np.stack([np.bincount(flat[:, channel], minlength=256) for channel in range(flat.shape[1])]).astype(
        np.float64
    )
