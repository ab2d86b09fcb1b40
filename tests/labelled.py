"""Pictures that may have several classes, and the table that says which: a class is a channel that is brighter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

CLASSES = ("blue", "green", "red")
"""In the order in which a set has them; red is the first channel."""


def write_pictures(folder: Path, count: int = 96, *, px: int = 8, vary_px: int = 0) -> Path:
    """Writes pictures of noise into `folder`, and the table `labels.csv` beside them, which it returns.

    A third have red, half have green, one in six has blue, and some have none. Sides vary by up to `vary_px`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["path,label"]
    for number in range(count):
        has = {"red": number % 3 == 0, "green": number % 4 < 2, "blue": number % 6 == 1}
        side = px + int(random.integers(0, vary_px + 1))
        pixels = random.integers(0, 100, (side, side, 3))
        pixels += 120 * np.array([has["red"], has["green"], has["blue"]])
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'|'.join(name for name in has if has[name])}")
    table = folder / "labels.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table
