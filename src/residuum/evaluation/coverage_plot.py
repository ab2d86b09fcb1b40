"""The drawing of accuracy against coverage: how right the surest answers are, the more of them one takes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from residuum.evaluation.coverage import Curve, Point, at_accuracy
from residuum.evaluation.metrics import wilson_interval
from residuum.evaluation.plots import BLUE, INK, ORANGE, QUIET, VERMILION, legend, plain, png

_BAND_POINTS = 400  # of the interval around the line, at most
_UNSETTLED = 0.05  # shares of the pictures below this do not decide on the range of the axis


def draw_coverage(curve: Curve, images: int, chosen: Point | None, accuracy: float = 0.99) -> bytes:
    """Draws accuracy against coverage of `images` pictures, where `accuracy` is reached, and the threshold, if any."""
    figure = Figure(figsize=(6.6, 4.6), layout="constrained")
    axes = figure.subplots()
    coverage, right = 100 * curve.coverage, 100 * curve.accuracy
    axes.plot(coverage, right, color=BLUE, linewidth=1.8, label="right, of those answered", zorder=3)
    _band(axes, curve, images)
    axes.axhline(100 * accuracy, color=INK, linestyle=":", linewidth=1.2)
    reached = at_accuracy(curve, accuracy)
    if reached is not None:
        _mark(axes, reached, "o", VERMILION, f"{100 * accuracy:g} % right: {_said(reached)}")
    if chosen is not None:
        _mark(axes, chosen, "*", ORANGE, f"unknown below {chosen.threshold:.3g}: {_said(chosen)}")
    axes.set_xlim(0, 101)
    settled = curve.coverage >= _UNSETTLED  # of a few pictures the line jumps up and down, and may leave the drawing
    lowest = min(float(right[settled].min()), 100 * accuracy)
    axes.set_ylim(max(0.0, lowest - 0.12 * (100 - lowest) - 0.2), 100 + 0.04 * (100 - lowest) + 0.05)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value <= 100 else ""))
    axes.set_xlabel("answered, the surest first, % of the pictures", color=QUIET)
    axes.set_ylabel("right, % of the answers", color=QUIET)
    plain(axes)
    legend(axes, 2)
    return png(figure)


def _band(axes: Axes, curve: Curve, images: int) -> None:
    """The 95 % interval of each accuracy."""
    places = np.unique(np.linspace(0, len(curve.coverage) - 1, _BAND_POINTS).round().astype(int))
    answered = np.rint(curve.coverage[places] * images).astype(int)
    right = np.rint(curve.accuracy[places] * answered).astype(int)
    low, high = (
        100 * np.array([wilson_interval(int(good), int(all_)) for good, all_ in zip(right, answered, strict=True)]).T
    )
    axes.fill_between(
        100 * curve.coverage[places], low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % interval"
    )


def _mark(axes: Axes, point: Point, marker: str, colour: str, label: str) -> None:
    axes.plot(
        100 * point.coverage, 100 * point.accuracy, marker, color=colour, mec=INK, mew=0.8,
        ms=13 if marker == "*" else 8, label=label, zorder=4, clip_on=False, linestyle="none",
    )  # fmt: skip


def _said(point: Point) -> str:
    return f"{100 * point.coverage:.1f} % answered"
