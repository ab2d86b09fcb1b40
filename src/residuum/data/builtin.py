"""Image sets that need no file: scikit-learn's handwritten digits, and synthetic pictures for tests.

Source: Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; UCI Machine Learning Repository), its test
part of 1,797 pictures, as scikit-learn ships it.
"""

from __future__ import annotations

import colorsys
import functools
import re

import numpy as np
from numpy.typing import NDArray

from residuum.data.parts import Found
from residuum.data.sets import ResidentSet
from residuum.errors import DataError

SYNTHETIC = re.compile(r"synthetic(?::([1-9][0-9]{0,6})x([1-9][0-9]{0,3})x([1-9][0-9]{0,3}))?")
"""'synthetic', or 'synthetic:COUNTxCLASSESxPX'."""

_NOISE = 160
"""Width of the noise around a class's colour: wide enough that a pixel says little and a picture says enough."""


def digits() -> Found:
    """Returns the 1,797 digits: grey, 8 x 8, their 0..16 scaled to 0..255."""
    pixels, labels, classes = _digits()
    return Found("digits", {"train": ResidentSet(pixels.copy(), labels.copy(), classes, "L", "digits")}, divided=False)


@functools.cache  # reading its text takes a quarter of a second
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    from sklearn.datasets import load_digits  # heavy, and needed for this set only

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return pixels, np.asarray(bunch.target, dtype=np.int64), tuple(str(name) for name in bunch.target_names)


def synthetic(source: str) -> Found:
    """Returns the pictures that `source` describes, 'synthetic' being 512 of 4 classes and 32 px: noise around a
    colour for each class, the same on every machine.

    Raises:
        DataError: `source` is malformed.
    """
    match = SYNTHETIC.fullmatch(source)
    if match is None:
        raise DataError(
            f"{source!r} describes no synthetic set.",
            expected="Expected 'synthetic' or 'synthetic:COUNTxCLASSESxPX'.",
            hint="For example: --data synthetic:512x4x32",
        )
    count, kinds, px = (
        int(text) if text else default for text, default in zip(match.groups(), (512, 4, 32), strict=True)
    )
    labels = np.arange(count, dtype=np.int64) % kinds
    colours = np.array([colorsys.hsv_to_rgb(kind / kinds, 0.8, 0.8) for kind in range(kinds)]) * 255
    words = np.random.Philox(key=count).random_raw(-(-count * px * px * 3 // 8))
    noise = words.astype("<u8").view(np.uint8)[: count * px * px * 3].reshape(count, px, px, 3)
    spread = noise.astype(np.int32) * _NOISE // 255 - _NOISE // 2
    pixels = np.clip(spread + np.rint(colours).astype(np.int32)[labels, np.newaxis, np.newaxis], 0, 255).astype(
        np.uint8
    )
    classes = tuple(f"class{kind}" for kind in range(kinds))
    return Found("synthetic", {"train": ResidentSet(pixels, labels, classes, "RGB", "synthetic")}, divided=False)
