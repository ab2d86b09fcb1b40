"""Pictures for people: what the network saw, and its most confident mistakes, as files and as grids.

Shapes: N pictures of H x W pixels and C channels (1 for grey, 3 for RGB).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from residuum.evaluation.plots import INK, QUIET, VERMILION, font_families, png, short

SMALL_PX = 96
"""Pictures with a shorter side are shown enlarged, each pixel a square."""
MAX_PX = 320
"""Longer sides are scaled down for a report."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows. Shapes: `pixels` uint8 [H, W, C]."""

    pixels: NDArray[np.uint8]
    label: str


@dataclass(frozen=True)
class Mistake:
    """A picture that the network got wrong: its file, its class, what the network said and how sure it was (0..1).

    `heat` is what spoke for the wrong class, [h, w], on the part of the picture that the network has `seen` (left, top,
    right and bottom, as fractions).
    """

    pixels: NDArray[np.uint8]
    name: str
    label: str
    predicted: str
    prob: float
    heat: NDArray[np.float32] | None = None
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def as_pixels(images: NDArray[np.floating], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undoes the normalisation: what the network saw as pixels; float [N, C, H, W] -> uint8 [N, H, W, C]."""
    scaled = images * np.reshape(std, (1, -1, 1, 1)) + np.reshape(mean, (1, -1, 1, 1))
    return np.asarray(np.rint(scaled.transpose(0, 2, 3, 1).clip(0, 1) * 255), dtype=np.uint8)


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """Returns a picture of mode RGB or L as pixels; uint8 [H, W, C]."""
    return np.atleast_3d(np.asarray(picture, dtype=np.uint8))


def encode(pixels: NDArray[np.uint8], max_px: int = MAX_PX) -> bytes:
    """Returns a picture as a file for a page: PNG where it is small, else JPEG, its longer side at most `max_px`;
    uint8 [H, W, C]."""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if is_small(pixels):
        picture.save(file, "PNG", optimize=True)
    else:
        picture.thumbnail((max_px, max_px))
        picture.save(file, "JPEG", quality=88)
    return file.getvalue()


def shown_name(name: str) -> str:
    """Returns what a thumbnail has room for of a picture's name: of a path, the file in its folder."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])


def is_small(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture needs enlarging to be looked at; uint8 [H, W, C]."""
    height, width, _ = pixels.shape
    return bool(min(height, width) < SMALL_PX)


def draw_pictures(pictures: Sequence[Picture]) -> bytes:
    """Draws pictures side by side, each with its class under it; returns a PNG."""
    figure, cells = _grid(len(pictures), columns=8, cell_in=1.2, text_in=0.24)
    for axes, picture in zip(cells, pictures, strict=True):
        _show(axes, picture.pixels)
        _write(axes, 0, short(picture.label, 15), INK)
    return png(figure)


def draw_mistakes(mistakes: Sequence[Mistake]) -> bytes:
    """Draws mistakes side by side: what the network said, how sure it was, the true class, the file; returns a PNG."""
    figure, cells = _grid(len(mistakes), columns=6, cell_in=1.6, text_in=0.58)
    for axes, mistake in zip(cells, mistakes, strict=True):
        _show(axes, mistake.pixels)
        _write(axes, 0, f"{short(mistake.predicted, 13)}, {100 * mistake.prob:.0f} % sure", VERMILION)
        _write(axes, 1, f"is {short(mistake.label, 18)}", INK)
        _write(axes, 2, short(mistake.name.replace("\\", "/").rsplit("/", 1)[-1], 22), QUIET)
    return png(figure)


def _grid(count: int, columns: int, cell_in: float, text_in: float) -> tuple[Figure, list[Axes]]:
    """A figure with square cells of `cell_in` inches, and `text_in` under each."""
    columns, gap = min(columns, max(count, 1)), 0.14
    rows = max(math.ceil(count / columns), 1)
    width, height = columns * (cell_in + gap) + gap, rows * (cell_in + text_in + gap) + gap
    figure = Figure(figsize=(width, height))
    cells = []
    for place in range(count):
        left = gap + (place % columns) * (cell_in + gap)
        top = gap + (place // columns) * (cell_in + text_in + gap)
        cells.append(figure.add_axes((left / width, 1 - (top + cell_in) / height, cell_in / width, cell_in / height)))
    if not count:
        figure.text(0.5, 0.5, "none", ha="center", va="center", color=QUIET)
    return figure, cells


def _show(axes: Axes, pixels: NDArray[np.uint8]) -> None:
    grey = pixels.shape[2] == 1
    axes.imshow(
        pixels[:, :, 0] if grey else pixels,
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        interpolation="nearest" if is_small(pixels) else "antialiased",
    )
    axes.set_axis_off()


def _write(axes: Axes, line: int, text: str, colour: str) -> None:
    """Writes one of the lines under a picture."""
    axes.annotate(
        text, (0, 0), (0, -4 - 12 * line), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=8,
        color=colour, family=font_families(), parse_math=False, annotation_clip=False,
    )  # fmt: skip
