"""Heat maps for people: laid over the picture that they explain.

The picture is drawn dark and grey, without its own colours; what speaks for the class is coloured from purple to bright
yellow (Matplotlib's inferno), so that brighter means more, in colour, to colour-blind readers and in grey. A line
surrounds the places with at least half of the most. What the network does not see of a picture is darker still.

Shapes: H x W pixels, C channels (1 for grey, 3 for RGB); h x w places of a map.
"""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from residuum.evaluation.pictures import is_small
from residuum.evaluation.plots import INK, QUIET, font_families, png, short

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as fractions of a picture's width and height."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
COLOURS = "inferno"
HALF = 0.5
"""The part of the most that a line surrounds."""

_ENLARGED_PX = 192  # the shorter side that a small picture is enlarged to,
_LONGEST_PX = 1280  # unless the longer one would be longer than this
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_DIM, _UNSEEN = 0.62, 0.3  # how bright the picture is under the colours, and where the network does not see it
_OPACITY = 0.82


def relative(heat: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns a map as parts of its most; all zeros where nothing speaks for the class; [h, w] -> [h, w]."""
    most = float(heat.max())
    return np.asarray(heat / most if most > 0 else np.zeros(heat.shape), dtype=np.float64)


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a small picture with each pixel as a square of many, and any other as it is; [H, W, C]."""
    shorter, longer = sorted(pixels.shape[:2])
    times = max(1, min(math.ceil(_ENLARGED_PX / shorter), _LONGEST_PX // longer)) if is_small(pixels) else 1
    return np.asarray(pixels.repeat(times, axis=0).repeat(times, axis=1))


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.floating], seen: Box = WHOLE) -> NDArray[np.uint8]:
    """Lays a map over the part of a picture that the network has seen; uint8 [H, W, C], [h, w] -> uint8 [H', W', 3].

    H' and W' are those of `enlarged`.
    """
    shown = enlarged(pixels)
    base = shown[:, :, 0] / 255 if shown.shape[2] == 1 else shown @ np.array(_GREY) / 255
    rows, columns = _slices(base.shape, seen)
    drawn = np.repeat(_UNSEEN * base[:, :, None], 3, axis=2)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    fine = Image.fromarray(relative(heat).astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.asarray(fine, dtype=np.float64).clip(0, 1)
    strength = strength[max(0, -rows.start) :, max(0, -columns.start) :][: base.shape[0], : base.shape[1]]
    rows, columns = slice(max(0, rows.start), rows.stop), slice(max(0, columns.start), columns.stop)  # without borders
    opacity = _OPACITY * strength[:, :, None]
    colours = mpl.colormaps[COLOURS](strength)[:, :, :3]
    drawn[rows, columns] = (1 - opacity) * _DIM * base[rows, columns, None] + opacity * colours
    inside = strength >= HALF
    drawn[rows, columns][_edge(inside, thickness=max(1, min(height, width) // 150))] = 1
    return np.asarray(np.rint(255 * drawn), dtype=np.uint8)


def side_by_side(pixels: NDArray[np.uint8], heat: NDArray[np.floating], seen: Box = WHOLE) -> NDArray[np.uint8]:
    """Returns the picture and, to its right, the same with the map over it; uint8 [H', W'', 3]."""
    left = enlarged(pixels)
    left = np.repeat(left, 3, axis=2) if left.shape[2] == 1 else left
    gap = np.full((left.shape[0], max(2, left.shape[1] // 40), 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, overlay(pixels, heat, seen)], axis=1)


def draw_explanation(
    pixels: NDArray[np.uint8],
    heat: NDArray[np.floating],
    *,
    seen: Box = WHOLE,
    name: str,
    said: str,
    asked: str,
    how: str,
) -> bytes:
    """Draws a picture called `name`, and beside it the map, with its scale; returns a PNG.

    `said` is what the network says of the picture, `asked` the class that the map speaks for, `how` the method, each in
    a few words. Shapes: `pixels` uint8 [H, W, C], `heat` [h, w].
    """
    shown = enlarged(pixels)
    height, width = shown.shape[:2]
    ratio = min(max(width / height, 0.4), 2.5)
    tall = min(4.6, 9.2 / ratio) if ratio > 1 else 4.6
    figure = Figure(figsize=(2 * max(tall * ratio, 2.6) + 1.5, tall + 0.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(shown[:, :, 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=255)
    right.imshow(overlay(pixels, heat, seen))
    framed = max(seen[:2]) > 0 or min(seen[2:]) < 1
    if framed:
        x0, y0, x1, y1 = (part * side for part, side in zip(seen, (width, height, width, height), strict=True))
        for colour, style in (("white", "-"), (INK, (0, (4, 4)))):
            frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.2, ls=style)
            frame.set_clip_on(False)
            left.add_patch(frame)
    _title(left, said, short(name.replace("\\", "/").rsplit("/", 1)[-1], 40) + (" (framed: seen)" if framed else ""))
    _title(right, f"what speaks for {asked}", how if heat.max() > 0 else f"{how}: nothing does")
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=right, shrink=0.85, aspect=24, pad=0.03, ticks=(0, HALF, 1))
    bar.ax.set_yticklabels(["nothing", "half", "the most"])
    bar.ax.axhline(HALF, color="white", linewidth=1.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=QUIET)
    return png(figure)


def _title(axes: Axes, first: str, second: str) -> None:
    axes.set_axis_off()
    for text, lift, size, weight, colour in ((first, 18, 11, "bold", INK), (second, 5, 9, "normal", QUIET)):
        axes.annotate(
            text, (0, 1), (0, lift), xycoords="axes fraction", textcoords="offset points", fontsize=size,
            fontweight=weight, color=colour, family=font_families(), parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _slices(shape: tuple[int, ...], seen: Box) -> tuple[slice, slice]:
    """Returns the rows and columns that were seen, at least one of each."""
    height, width = shape[:2]
    edges = [round(part * side) for part, side in zip(seen, (width, height, width, height), strict=True)]
    left, top, right, bottom = edges
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))


def _edge(inside: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The places inside with one outside within `thickness`, above, below, left or right; the border is no edge."""
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        for step in range(1, thickness + 1):
            for sign in (step, -step):
                moved = np.roll(inside, sign, axis)
                wrapped = [slice(None), slice(None)]
                wrapped[axis] = slice(0, sign) if sign > 0 else slice(sign, None)
                moved[tuple(wrapped)] = True
                edge |= inside & ~moved
    return edge
