"""The laboratory's drawings: what stands along the axes, and legends that cover nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure

from residuum.lab import plots
from residuum.lab.plots import Panel, Series

GRID = np.array([[3.0, 2, 3], [2, 1, 2], [3, 2, 3]])
LINES = [Series(f"net {number}", range(20), [number + 1] * 20, number) for number in range(6)]
PANELS = [Panel("left", "epoch", "error, %", LINES), Panel("right", "block", "norm", LINES[:1], log=True)]
DRAW: dict[str, Callable[[], object]] = {
    "lines": lambda: plots.draw_lines(PANELS),
    "lines of their own": lambda: plots.draw_lines(PANELS, share_y=False),
    "bars": lambda: plots.draw_bars(["a", "b"], {"one": [1, 9], "two": [9, 1]}, title="t", y="multiply-adds"),
    "matrices": lambda: plots.draw_matrices({"a": GRID / 3, "b": GRID / 4}, axis="block", value="similarity"),
    "contours": lambda: plots.draw_contours({"a": GRID, "b": 2 * GRID}, [-1, 0, 1]),
    "surfaces": lambda: plots.draw_surfaces({"a": GRID, "b": 2 * GRID}, [-1, 0, 1]),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Figure]:
    def draw(name: str) -> Figure:
        figures: list[Figure] = []
        monkeypatch.setattr(plots, "png", figures.append)
        DRAW[name]()
        figures[0].draw_without_rendering()
        return figures[0]

    return draw


@pytest.mark.parametrize("name", DRAW)
def test_axes_are_labelled(name: str, drawn: Callable[[str], Figure]) -> None:
    figure = drawn(name)
    for axes in figure.axes:
        assert axes.get_ylabel(), "axes, or a bar of colours"
        assert axes.get_label() == "<colorbar>" or axes.get_xlabel() or [t.get_text() for t in axes.get_xticklabels()]
        if hasattr(axes, "get_zlabel"):
            assert axes.get_zlabel()


@pytest.mark.parametrize("name", [name for name in DRAW if name.startswith(("lines", "bars"))])
def test_legends_and_titles_cover_nothing(name: str, drawn: Callable[[str], Figure]) -> None:
    for axes in drawn(name).axes:
        legend = axes.get_legend()
        assert legend is not None
        above = legend.get_window_extent()
        assert above.y0 >= axes.get_window_extent().y1
        title = axes.title if axes.title.get_text() else axes._left_title
        assert title.get_text()
        assert title.get_window_extent().y0 >= above.y1, "the title covers the legend"
        assert title.get_window_extent().y1 <= axes.figure.bbox.y1, "the title is cut off"


def test_lines_differ_in_more_than_colour(drawn: Callable[[str], Figure]) -> None:
    lines = drawn("lines").axes[0].lines
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in lines}) == len(lines) == 6
    assert len({line.get_marker() for line in lines}) == 6


def test_bars_differ_in_more_than_colour(drawn: Callable[[str], Figure]) -> None:
    first, second = drawn("bars").axes[0].containers
    assert first[0].get_hatch() != second[0].get_hatch()


def test_numbers_on_axes_have_no_exponent() -> None:
    assert [plots.in_short(value) for value in (0.3871, 5.23, 68.8, 388.6, 2512.0)] == [
        "0.39",
        "5.2",
        "69",
        "390",
        "2500",
    ]
