"""Drawings: valid, deterministic PNGs for everything a run can leave behind, without global state."""

from __future__ import annotations

import io
import math

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from residuum.evaluation import plots
from residuum.evaluation.metrics import calibration_bins
from residuum.evaluation.pictures import Mistake, Picture, as_pixels, draw_mistakes, draw_pictures, encode

HOSTILE = ["$x^$", "雪", "caf\udce9", "a\nb\tc", "_hidden", "", "x" * 300, "<script>"]


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB"))


def epochs(count: int, **more: float) -> list[dict[str, object]]:
    return [
        {
            "kind": "epoch",
            "epoch": e,
            "step": 9 * e,
            "loss": 2.0 / e,
            "lr": 0.1,
            "val_loss": 2.2 / e,
            "val_top1": 90.0 + e / count,
        }
        | more
        for e in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    "records",
    [
        [],
        epochs(1),
        epochs(164),
        epochs(3, val_top1=math.nan, val_loss=math.inf),
        epochs(3, loss=0.0),
        [{key: value for key, value in record.items() if not key.startswith("val_")} for record in epochs(5)],
        [
            {"kind": "step", "epoch": 0, "step": step, "loss": 1.0, "lr": 0.1 / 10 ** (step // 40)}
            for step in range(1, 100)
        ],
        [{"kind": "step", "step": step, "lr": 0.1} for step in range(30)] + epochs(3),
    ],
)
def test_curves_of_any_run_can_be_drawn(records: list[dict[str, object]]) -> None:
    assert pixels_of(plots.draw_curves(records)).std() > 1


def test_the_legend_covers_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "png", figures.append)
    plots.draw_curves(epochs(30))
    figure = figures[0]
    figure.draw_without_rendering()
    for axes in figure.axes[:2]:
        legend = axes.get_legend()
        assert legend is not None
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    training, validation = figure.axes[0].lines
    assert (training.get_color(), training.get_linestyle()) != (validation.get_color(), validation.get_linestyle())
    assert training.get_linestyle() != validation.get_linestyle(), "told apart in grey"


@pytest.mark.parametrize("classes", [2, 20, 40, 120])
def test_confusions_of_any_number_of_classes_can_be_drawn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    confusion = rng.integers(0, 3, (classes, classes)) + 20 * np.eye(classes, dtype=np.int64)
    confusion[1] = 0
    names = [HOSTILE[k] if k < len(HOSTILE) else f"class {k}" for k in range(classes)]
    drawn = pixels_of(plots.draw_confusion(confusion, names))
    assert drawn.std() > 1
    assert max(drawn.shape) < 2600


def test_perfect_predictions_of_many_classes_can_be_drawn() -> None:
    assert pixels_of(plots.draw_confusion(np.eye(50, dtype=np.int64), [str(k) for k in range(50)])).size


def test_calibration_can_be_drawn_for_one_picture_and_for_many() -> None:
    rng = np.random.default_rng(0)
    for confidence in (np.array([1.0]), np.array([0.5]), rng.random(1000)):
        assert pixels_of(plots.draw_calibration(calibration_bins(confidence, rng.random(len(confidence)) < 0.7))).size


def picture(side: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(side).integers(0, 256, (side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3), (224, 3), (100, 1)])
def test_grids_hold_pictures_of_any_size(side: int, channels: int) -> None:
    shown = [Picture(picture(side, channels), label) for label in HOSTILE]
    assert pixels_of(draw_pictures(shown)).std() > 1
    wrong = [Mistake(picture(side, channels), f"folder/{label}.jpg", label, "other", 0.97) for label in HOSTILE[:7]]
    assert pixels_of(draw_mistakes(wrong)).std() > 1
    encoded = Image.open(io.BytesIO(encode(shown[0].pixels)))
    assert encoded.format == ("PNG" if side < 96 else "JPEG")
    assert encoded.size == (side, side)


def test_empty_grids_say_so() -> None:
    assert pixels_of(draw_pictures([])).std() > 0
    assert pixels_of(draw_mistakes([])).std() > 0


def test_small_pictures_are_encoded_without_loss() -> None:
    pixels = picture(16, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode(pixels)))), pixels)


def test_pixels_come_back_from_normalisation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    normalised = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(as_pixels(normalised, tuple(mean), tuple(std)), pixels)


def test_equal_contents_give_equal_bytes_and_no_global_state() -> None:
    before = dict(mpl.rcParams)
    bins = calibration_bins(np.array([0.5, 0.9]), np.array([True, False]))
    first, second = plots.draw_calibration(bins), plots.draw_calibration(bins)
    assert first == second
    assert b"Matplotlib" not in first
    assert dict(mpl.rcParams) == before


@given(st.text(), st.integers(3, 30))
def test_short_names_are_one_short_line(text: str, length: int) -> None:
    line = plots.short(text, length)
    assert 1 <= len(line) <= length
    assert len(line.splitlines()) == 1
