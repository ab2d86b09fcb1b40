"""Drawings of experiments, each a function that returns a PNG: lines in panels, bars, heat maps, contours, surfaces.

Colours are Okabe and Ito's; lines differ in style and marker too, so that they are told apart in grey. Legends stand
above the axes and cover nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D  # noqa: F401 (registers the projection "3d")
from numpy.typing import NDArray

from residuum.evaluation.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    QUIET,
    VERMILION,
    legend,
    logarithmic,
    plain,
    png,
)

PURPLE, SKY = "#CC79A7", "#56B4E9"
_LOOKS = (
    (VERMILION, "--", "s"),
    (BLUE, "-", "o"),
    (ORANGE, "-.", "^"),
    (GREEN, ":", "D"),
    (PURPLE, (0, (5, 1, 1, 1, 1, 1)), "v"),
    (SKY, (0, (8, 2)), "P"),
)
_MARKERS = 12  # on a line, at most
_LABEL_SIZE = 10
_LINE_LENGTH = 3.0  # of a line in the legend, in letters: its style can be told


@dataclass(frozen=True)
class Series:
    """A line: its name, its points, and the half-width of the band around it, if any. `look` numbers its colour, style
    and marker; a `faint` line is the companion of another one of the same look (its training error, say)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    look: int
    band: Sequence[float] = ()
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes: title, what stands along both, and the lines."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log: bool = False
    limits: tuple[float, float] | None = None


def draw_lines(panels: Sequence[Panel], *, share_y: bool = True) -> bytes:
    """Draws panels side by side."""
    height = 3.8 + 0.22 * max(-(-len(panel.series) // 2) for panel in panels)
    figure = Figure(figsize=(5.4 * len(panels) + 0.6, height), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=share_y, squeeze=False)[0]
    for panel, each in zip(panels, axes, strict=True):
        plain(each, _LABEL_SIZE)
        for series in panel.series:
            _line(each, series)
        each.set_xlabel(panel.x, color=QUIET)
        each.set_ylabel(panel.y, color=QUIET)
        each.tick_params(labelleft=True)
        if all(float(x).is_integer() for series in panel.series for x in series.x):
            each.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if panel.limits is not None:
            each.set_ylim(*panel.limits)
        if panel.log:
            each.set_yscale("log")
            low, high = each.get_ylim()
            logarithmic(each, closely=high < 300 * low)
        names = -(-len(panel.series) // 2)
        legend(each, 2, _LINE_LENGTH)
        each.set_title(panel.title, loc="left", pad=12 + 15 * names, fontsize=12, fontweight="bold", color=INK)
    return png(figure)


def draw_bars(groups: Sequence[str], bars: Mapping[str, Sequence[float]], *, title: str, y: str) -> bytes:
    """Draws groups of bars side by side, each bar with its value; `bars` is name -> one value for each group."""
    figure = Figure(figsize=(max(6.0, 1.5 + 1.5 * len(groups)), 4.2), layout="constrained")
    axes = figure.subplots()
    plain(axes, _LABEL_SIZE)
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = np.arange(len(groups)) + (number - (len(bars) - 1) / 2) * width
        colour, hatch = ((BLUE, ""), ("#f0b48a", "//"), (GREEN, ".."))[number % 3]
        drawn = axes.bar(places, values, width=0.92 * width, color=colour, hatch=hatch, edgecolor="white", label=name)
        axes.bar_label(drawn, fmt="%.3g", fontsize=8, color=QUIET, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(y, color=QUIET)
    axes.margins(y=0.12)
    legend(axes, 3, _LINE_LENGTH)
    axes.set_title(title, loc="left", pad=28, fontsize=12, fontweight="bold", color=INK)
    return png(figure)


def draw_matrices(matrices: Mapping[str, NDArray[np.float64]], *, axis: str, value: str) -> bytes:
    """Draws square matrices side by side in one scale from 0 to 1, the first row at the bottom."""
    figure = Figure(figsize=(4.3 * len(matrices) + 1.0, 4.3), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for each, (name, matrix) in zip(axes, matrices.items(), strict=True):
        size = len(matrix)
        shown = each.imshow(
            matrix, origin="lower", cmap="cividis", vmin=0, vmax=1, extent=(0.5, size + 0.5, 0.5, size + 0.5)
        )
        each.set_title(name, loc="left", fontsize=12, fontweight="bold", color=INK)
        each.set_xlabel(axis, color=QUIET)
        each.set_ylabel(axis, color=QUIET)
        each.tick_params(length=0, labelsize=9, colors=QUIET)
        each.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=list(axes), shrink=0.85, pad=0.02)
    bar.set_label(value, color=QUIET)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=QUIET)
    return png(figure)


def draw_contours(grids: Mapping[str, NDArray[np.float64]], coordinates: Sequence[float]) -> bytes:
    """Draws slices of loss surfaces as contours, in the same levels, evenly spaced in the logarithm of the loss."""
    figure = Figure(figsize=(4.6 * len(grids) + 0.9, 4.5), layout="constrained")
    axes = figure.subplots(1, len(grids), squeeze=False)[0]
    levels = _levels(grids)
    for each, (name, grid) in zip(axes, grids.items(), strict=True):
        shown = each.contourf(
            coordinates, coordinates, np.clip(grid, levels[0], levels[-1]), levels=levels, cmap="cividis", norm="log"
        )
        lines = each.contour(
            coordinates, coordinates, np.clip(grid, levels[0], levels[-1]), levels=levels[::2], colors="white",
            linewidths=0.7,
        )  # fmt: skip
        each.clabel(lines, levels=lines.levels[::2], fmt=in_short, fontsize=7)
        each.plot(0, 0, "+", color="white", ms=12, mew=2)
        each.set_title(name, loc="left", fontsize=12, fontweight="bold", color=INK)
        each.set_xlabel("along direction 1 (norms of the filters)", color=QUIET)
        each.set_ylabel("along direction 2", color=QUIET)
        each.set_aspect("equal")
        each.tick_params(length=0, labelsize=9, colors=QUIET)
        each.spines[:].set_visible(False)
    bar = figure.colorbar(
        shown, ax=list(axes), shrink=0.85, pad=0.02, format=FuncFormatter(lambda value, _: in_short(value))
    )
    bar.set_label("loss (cross-entropy, logarithmic)", color=QUIET)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, which="both", labelsize=9, colors=QUIET)
    return png(figure)


def draw_surfaces(grids: Mapping[str, NDArray[np.float64]], coordinates: Sequence[float]) -> bytes:
    """Draws slices of loss surfaces as surfaces, in one scale; height and colour are the logarithm of the loss."""
    figure = Figure(figsize=(5.2 * len(grids), 4.6), layout="constrained")
    x, y = np.meshgrid(coordinates, coordinates)
    levels = _levels(grids)
    low, high = np.log10(levels[0]), np.log10(levels[-1])
    for number, (name, grid) in enumerate(grids.items(), start=1):
        axes: Any = figure.add_subplot(1, len(grids), number, projection="3d")
        height = np.log10(np.clip(grid, levels[0], levels[-1]))
        axes.plot_surface(
            x, y, height, cmap="cividis", vmin=low, vmax=high, linewidth=0.2, edgecolor="#00000040",
            rstride=1, cstride=1,
        )  # fmt: skip
        axes.set_zlim(low, high)
        axes.set_title(name, loc="left", fontsize=12, fontweight="bold", color=INK)
        axes.set_xlabel("direction 1", color=QUIET)
        axes.set_ylabel("direction 2", color=QUIET)
        axes.set_zlabel("loss", color=QUIET, labelpad=14)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.zaxis.set_major_formatter(FuncFormatter(lambda value, _: in_short(10**value)))
        axes.tick_params(labelsize=8, colors=QUIET)
        axes.view_init(elev=32, azim=-58)
        axes.set_box_aspect(None, zoom=0.82)
    return png(figure)


def in_short(value: float) -> str:
    """Returns a number with two digits that count, and never with an exponent: '0.39', '5.2', '390'."""
    return f"{float(f'{value:.2g}'):g}" if value < 1e6 else f"{value:.2g}"


def _levels(grids: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Levels from the least loss of all grids to the greatest, of at most a thousand times that."""
    least = max(min(float(grid.min()) for grid in grids.values()), 1e-3)
    most = max(float(grid.max()) for grid in grids.values())
    return np.geomspace(least, min(max(most, 1.5 * least), 1000 * least), 17)


def _line(axes: Axes, series: Series) -> None:
    colour, style, marker = _LOOKS[series.look % len(_LOOKS)]
    x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
    every = max(1, len(x) // _MARKERS)
    if len(series.band):
        band = np.asarray(series.band, dtype=np.float64)
        axes.fill_between(x, y - band, y + band, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        x, y, linestyle=style, color=colour, linewidth=1.0 if series.faint else 2.0, label=series.name,
        marker=marker, markevery=every, ms=3.5 if series.faint else 5.5,
        markerfacecolor="white" if series.faint else colour,
    )  # fmt: skip
