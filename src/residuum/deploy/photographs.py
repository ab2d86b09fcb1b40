"""Pictures to measure on where there are none: JPEG files that cost about as much to decode as a camera's.

What a JPEG costs is decided by its size and its detail. These have large soft shapes, finer ones and a little grain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

WIDTH, HEIGHT = 500, 375
"""The usual size of ImageNet's photos."""

_QUALITY = 90
_CLASSES = ("ants", "bees")


def photographs(folder: Path, count: int, *, width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> None:
    """Writes so many pictures into two class folders; the same ones wherever it is done."""
    random = np.random.default_rng(seed)
    for number in range(count):
        place = folder / _CLASSES[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(random, width, height).save(place / f"{number}.jpg", quality=_QUALITY)


def picture(random: np.random.Generator, width: int, height: int) -> PIL.Image.Image:
    """Returns one picture: random colours on enlarged grids of 4, 16 and 64 points, the finer the weaker, and grain."""
    pixels = np.zeros((height, width, 3), dtype=np.float32)
    for points, weight in ((4, 0.55), (16, 0.25), (64, 0.15)):
        colours = random.integers(0, 256, (points, points, 3), dtype=np.uint8)
        enlarged = PIL.Image.fromarray(colours).resize((width, height), PIL.Image.Resampling.BICUBIC)
        pixels += weight * np.asarray(enlarged, dtype=np.float32)
    pixels += 0.05 * random.integers(0, 256, (height, width, 1))
    return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
