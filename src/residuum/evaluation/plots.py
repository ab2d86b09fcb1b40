"""Drawings of a run, each a function that returns a PNG.

Colours are Okabe and Ito's, which colour-blind readers tell apart; lines also differ in style, which is seen in grey.
Only Matplotlib's objects are used (no pyplot), so that drawing leaves no global state and is safe from threads.

Shapes: N pictures of H x W pixels and C channels, K classes, E epochs.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from residuum.evaluation.metrics import CalibrationBins, wilson_interval

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
"""Source: Okabe, Ito: Color Universal Design (2008)."""
INK, QUIET, LINE = "#1f2328", "#626a73", "#d9d6cf"

ANNOTATED_CLASSES = 20
"""Up to so many classes, the confusion matrix says its numbers."""
MATRIX_CLASSES = 40
"""Beyond so many classes, a matrix cannot be read: the most frequent confusions are listed in its place."""
LISTED_CONFUSIONS = 20
MIN_STEPS = 8
"""With fewer records of steps, the learning rate is drawn from those of epochs."""

_CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
)
_DPI = 144


def draw_curves(records: Sequence[Mapping[str, object]]) -> bytes:
    """Draws loss, accuracy and learning rate over the epochs.

    `records` are those of metrics.jsonl: of kind "epoch" (`epoch`, `step`, `loss`, `lr`, and where they were measured
    `val_loss` and `val_top1`, or `val_map`, in percent), and of kind "step" (`step`, `lr`), which make the learning
    rate finer. What is not finite is left out.
    """
    epochs = [record for record in records if record.get("kind", "epoch") == "epoch"]
    x = _column(epochs, "epoch")
    figure = Figure(figsize=(11.5, 3.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _lines(
        left,
        x,
        [
            ("training", _column(epochs, "loss"), BLUE, "-"),
            ("validation", _column(epochs, "val_loss"), VERMILION, "--"),
        ],
    )
    _log_if_wide(left, np.concatenate([_column(epochs, "loss"), _column(epochs, "val_loss")]))
    several = any("val_map" in record for record in epochs)  # a picture may have several classes
    accuracy = _column(epochs, "val_map" if several else "val_top1")
    _lines(middle, x, [("validation", accuracy, VERMILION, "--")])
    _mark_best(middle, x, accuracy)
    _draw_rate(right, records, epochs)
    score = "Mean average precision, %" if several else "Accuracy, %"
    for axes, title in ((left, "Loss"), (middle, score), (right, "Learning rate")):
        axes.set_title(title, loc="left", pad=24, fontsize=11, fontweight="bold", color=INK)
        axes.set_xlabel("epoch", color=QUIET)
        axes.set_xlim(0, 1.02 * max(x, default=1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return png(figure)


def draw_confusion(confusion: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Draws what was taken for what: a matrix coloured by the fraction of its row, or beyond 40 classes the worst.

    Shapes: `confusion` [K, K], rows true.
    """
    if len(classes) > MATRIX_CLASSES:
        return _draw_worst_confusions(confusion, classes)
    cell = max(0.42 if len(classes) <= ANNOTATED_CLASSES else 0.24, 1.8 / len(classes))
    side = 2.2 + cell * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    images = confusion.sum(axis=1, keepdims=True)
    fractions = np.divide(confusion, images, out=np.zeros(confusion.shape), where=images > 0)
    shown = axes.imshow(np.ma.masked_equal(fractions, 0), cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    if len(classes) <= ANNOTATED_CLASSES:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if fractions[row, column] > 0.4 else INK
                axes.text(
                    column, row, f"{count}", ha="center", va="center", color=colour, fontsize=_fitting(int(count))
                )
    names = [short(name, 18) for name in classes]
    upright = max(map(len, names)) * 0.085 <= cell  # inches of a letter in this size
    axes.set_xticks(range(len(classes)))
    axes.set_xticklabels(names, rotation=0 if upright else 90, parse_math=False, family=font_families())
    axes.set_yticks(range(len(classes)))
    axes.set_yticklabels(names, parse_math=False, family=font_families())
    axes.set_xlabel("predicted", color=QUIET)
    axes.set_ylabel("true", color=QUIET)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#eceae5", linewidth=0.6)
    axes.tick_params(which="both", length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        shown, ax=axes, shrink=0.6, aspect=22, pad=0.02, ticks=(0, 0.01, 0.05, 0.2, 0.5, 1), format="%g"
    )
    bar.set_label("fraction of the true class", color=QUIET)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=QUIET)
    return png(figure)


def draw_calibration(bins: CalibrationBins, without: CalibrationBins | None = None) -> bytes:
    """Draws how often the network is right against how sure it is, and how many pictures that is about; beside it, how
    often it was right `without` its temperature."""
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    edges = np.linspace(0, 100, len(bins.images) + 1)
    centres, width = (edges[:-1] + edges[1:]) / 2, edges[1] * 0.86
    filled = np.flatnonzero(bins.images)
    right = 100 * bins.accuracy[filled]
    counts = np.rint(bins.accuracy * bins.images).astype(int)
    low, high = 100 * np.array([wilson_interval(int(counts[bin_]), int(bins.images[bin_])) for bin_ in filled]).T
    upper.bar(centres[filled], right, width=width, color="#8fc1e0", label="how often it is right")
    upper.errorbar(
        centres[filled],
        right,
        yerr=(right - low, high - right),
        fmt="none",
        ecolor=BLUE,
        capsize=3,
        label="95 % interval",
    )
    upper.plot([0, 100], [0, 100], color=INK, linestyle=":", linewidth=1.5, label="as often right as sure")
    if without is not None:
        told = np.flatnonzero(without.images)
        upper.plot(
            100 * without.confidence[told], 100 * without.accuracy[told], "s--", color=VERMILION, ms=5, linewidth=1.3,
            label="without temperature",
        )  # fmt: skip
    upper.set(xlim=(0, 100), ylim=(0, 102))
    upper.set_ylabel("right, %", color=QUIET)
    lower.bar(centres, bins.images, width=width, color=QUIET, alpha=0.7)
    lower.set_ylabel("pictures", color=QUIET)
    lower.set_xlabel("how sure the network is, %", color=QUIET)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        plain(axes)
    legend(upper, 3 if without is None else 2)
    return png(figure)


def draw_lr_search(rates: Sequence[float], losses: Sequence[float], averages: Sequence[float], chosen: float) -> bytes:
    """Draws the loss against a rising learning rate, and the rate that was chosen. Shapes: [S] each."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=QUIET, alpha=0.6, ms=5, label="loss of a step")
    axes.plot(rates, averages, "-", color=BLUE, linewidth=2, label="moving average")
    lowest = min(range(len(averages)), key=averages.__getitem__)
    label = f"lowest: {rates[lowest]:.2g}"
    axes.plot(rates[lowest], averages[lowest], "o", color=ORANGE, mec=INK, mew=0.8, ms=8, label=label)
    axes.axvline(chosen, color=VERMILION, linestyle="--", linewidth=1.8, label=f"chosen: {chosen:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate", color=QUIET)
    axes.set_ylabel("loss", color=QUIET)
    least, most = min(averages), max(averages[: max(len(averages) // 2, 1)])
    axes.set_ylim(least - 0.2 * (most - least) - 1e-3, most + 0.8 * (most - least) + 1e-3)
    plain(axes)
    legend(axes, 3)
    return png(figure)


def short(text: str, length: int) -> str:
    """Returns `text` on one line and at most so long, its middle left out."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split()) or "?"
    head = (length - 1) // 2
    return line if len(line) <= length else f"{line[: length - 1 - head]}…{line[-head:]}"


@cache
def font_families() -> list[str]:
    """Fonts for names in any script, as far as the machine has them."""
    installed = set(font_manager.fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG; equal figures give equal bytes."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that no installed font has is drawn as boxes; the report's own text has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _draw_worst_confusions(confusion: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]
    cells = [
        (row, column) for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[row, column]
    ]
    figure = Figure(figsize=(9, 1.2 + 0.3 * max(len(cells), 1)), layout="constrained")
    axes = figure.subplots()
    counts = [int(wrong[cell]) for cell in cells]
    axes.barh(range(len(cells)), counts, color=BLUE, height=0.6)
    for place, (count, (row, _)) in enumerate(zip(counts, cells, strict=True)):
        axes.text(count, place, f" {count} of {confusion[row].sum()}", va="center", fontsize=9, color=QUIET)
    names = [f"{short(classes[row], 24)}  →  {short(classes[column], 24)}" for row, column in cells]
    axes.set_yticks(range(len(cells)))
    axes.set_yticklabels(names, parse_math=False, family=font_families())
    axes.set_ylim(max(len(cells), 1) - 0.4, -0.6)
    axes.set_xlim(0, max(counts, default=1) * 1.15)
    axes.set_title(
        f"The {len(cells)} most frequent of {np.count_nonzero(wrong)} confusions  (true  →  predicted)",
        loc="left", fontsize=11, fontweight="bold", color=INK,
    )  # fmt: skip
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    return png(figure)


def _draw_rate(axes: Axes, records: Sequence[Mapping[str, object]], epochs: Sequence[Mapping[str, object]]) -> None:
    """The learning rate by step where enough steps were recorded, else by epoch."""
    steps = [record for record in records if record.get("kind") == "step"]
    per_epoch = _column(epochs[-1:], "step") / _column(epochs[-1:], "epoch")
    by_step = len(steps) >= MIN_STEPS and np.isfinite(per_epoch).all() and len(per_epoch) == 1
    x = _column(steps, "step") / per_epoch if by_step else _column(epochs, "epoch")
    rates = _column(steps if by_step else epochs, "lr")
    _lines(axes, x, [("", rates, GREEN, "-")])
    positive = rates[np.isfinite(rates) & (rates > 0)]
    if len(positive) > 2 and len(np.unique(positive)) <= len(positive) // 4:
        _log_if_wide(axes, positive)  # a schedule of decades, which only a logarithmic axis shows
    if axes.get_yscale() == "linear" and axes.lines:
        axes.set_ylim(bottom=0)


def _lines(axes: Axes, x: NDArray[np.float64], lines: Sequence[tuple[str, NDArray[np.float64], str, str]]) -> None:
    """Plots the (name, y, colour, style) that have a finite point; names stand above the axes, clear of the lines."""
    for name, y, colour, style in lines:
        known = np.isfinite(x) & np.isfinite(y)
        marker = "o" if known.sum() <= 12 else ""
        if known.any():
            axes.plot(x[known], y[known], style, color=colour, linewidth=1.8, marker=marker, ms=4, label=name or None)
    plain(axes)
    if axes.get_legend_handles_labels()[0]:
        legend(axes, 2)
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=QUIET)
        axes.set_yticks([])


def _mark_best(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if not np.isfinite(y).any():
        return
    best = int(np.nanargmax(np.where(np.isfinite(y), y, -np.inf)))
    axes.plot(
        x[best],
        y[best],
        "*",
        color=ORANGE,
        mec=INK,
        mew=0.8,
        ms=13,
        label=f"best: {y[best]:.2f} in epoch {x[best]:.0f}",
    )
    legend(axes, 2)


def _log_if_wide(axes: Axes, values: NDArray[np.float64]) -> None:
    """A logarithmic axis where the values span more than a factor of 20."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
        logarithmic(axes, closely=finite.max() < 1000 * finite.min())


def logarithmic(axes: Axes, *, closely: bool) -> None:
    """Makes the upright axis logarithmic, with plain numbers at 1, 10, 100 and, if `closely`, at 2 and 5 of each."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if closely else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def plain(axes: Axes, label_size: float = 9) -> None:
    """Leaves two lines of the frame, quiet ones, and horizontal lines behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=label_size, colors=QUIET)


def legend(axes: Axes, columns: int, line_length: float = 1.8) -> None:
    """Puts the legend above the axes, where it covers nothing; lines in it are `line_length` letters long."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9, labelcolor=INK,
        borderaxespad=0.2, borderpad=0, handlelength=line_length, columnspacing=1.4,
    )  # fmt: skip


def _column(records: Sequence[Mapping[str, object]], key: str) -> NDArray[np.float64]:
    """The values of `key`; NaN where there is none."""
    values: list[Any] = [record.get(key) for record in records]
    return np.array([value if isinstance(value, int | float) else math.nan for value in values], dtype=np.float64)


def _fitting(count: int) -> float:
    """A size of type at which a count fits into its cell."""
    return min(9.0, 30 / len(str(count)))
