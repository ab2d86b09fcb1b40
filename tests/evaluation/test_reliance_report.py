"""What a report says and draws of temperature and threshold."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from residuum.evaluation import coverage_plot, metrics, plots
from residuum.evaluation.coverage_plot import draw_coverage
from residuum.evaluation.evaluate import Predictions, score
from residuum.evaluation.plots import draw_calibration
from residuum.evaluation.reliance import Reliance, reliance_of
from residuum.evaluation.reliance_report import how_many, how_sure

PNG = b"\x89PNG" + bytes(30)


def said_by_a_network(
    temperature: float, images: int = 400, margin: float = 4.0, share: float = 0.8
) -> tuple[Predictions, Predictions]:
    """Predictions with a temperature and without."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, images)
    logits = random.normal(size=(images, 3))
    right = random.random(images) < share
    logits[np.arange(images), np.where(right, labels, (labels + 1) % 3)] += margin

    def at(temperature: float) -> Predictions:
        log_probs = metrics.log_softmax(logits / temperature)
        top = metrics.ranked(logits, 3)
        probs = np.exp(np.take_along_axis(log_probs, top, axis=1))
        return Predictions(np.arange(images), labels, top, probs, metrics.cross_entropy(log_probs, labels))

    return at(temperature), at(1.0)


def told(temperature: float, below: float | None = None, **network: float) -> tuple[Reliance, Predictions]:
    predictions, without = said_by_a_network(temperature, **network)  # type: ignore[arg-type]
    uncalibrated = score(without, ("a", "b", "c"))
    return reliance_of(predictions, uncalibrated, without.calibration, (temperature,), below), predictions


def text(markup: str) -> str:
    return re.sub(r"<[^>]*>", "", markup)


@pytest.mark.parametrize("part", ["test", "val"])
def test_the_temperature_is_said_with_what_it_is_worth(part: str) -> None:
    reliance, predictions = told(2.0)
    scores = score(predictions, ("a", "b", "c"))
    said = text(how_sure(scores, predictions, reliance, part, PNG))
    assert f"The expected calibration error is {scores.ece:.2f} %" in said
    assert "a temperature of 2.000, chosen on validation pictures" in said
    assert f"without it the error is {reliance.uncalibrated.ece:.2f} %" in said
    assert ("These pictures also chose the temperature." in said) == (part == "val")


def test_no_temperature_is_not_spoken_of() -> None:
    reliance, predictions = told(1.0)
    scores = score(predictions, ("a", "b", "c"))
    for given in (reliance, None):
        assert "temperature" not in text(how_sure(scores, predictions, given, "test", PNG))


def test_the_surest_answers_and_the_threshold_are_said() -> None:
    reliance, _ = told(2.0, below=0.6)
    said = text(how_many(reliance, PNG))
    assert reliance.chosen is not None
    assert f"it answers {100 * reliance.chosen.coverage:.1f} % of these pictures" in said
    never = text(how_many(told(2.0, share=0.0)[0], PNG))
    assert "99 % of its answers are never right" in never
    assert "train with --unknown-below" in never
    always = text(how_many(told(2.0, share=1.0, margin=20.0)[0], PNG))
    assert "All its answers together are at least 99 % right." in always


def test_pictures_that_chose_the_threshold_are_said_to_have() -> None:
    reliance, _ = told(2.0, below=0.6)
    said = "These pictures also chose the threshold."
    assert said in text(how_many(reliance, PNG, chosen_here=True))
    assert said not in text(how_many(reliance, PNG))
    assert said not in text(how_many(told(2.0)[0], PNG, chosen_here=True))  # there is none


@pytest.mark.parametrize(("images", "share"), [(1, 0.0), (2, 1.0), (300, 0.9)])
def test_any_set_can_be_drawn(images: int, share: float) -> None:
    reliance, predictions = told(2.0, below=0.5, images=images, share=share)
    for png in (
        draw_coverage(reliance.curve, images, None),
        draw_coverage(reliance.curve, images, reliance.chosen),
        draw_calibration(predictions.calibration, reliance.uncalibrated_bins),
    ):
        assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).std() > 1


def test_legends_cover_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    for room in (plots, coverage_plot):
        monkeypatch.setattr(room, "png", figures.append)
    reliance, predictions = told(2.0, below=0.5)
    draw_coverage(reliance.curve, len(predictions), reliance.chosen)
    draw_calibration(predictions.calibration, reliance.uncalibrated_bins)
    for figure in figures:
        figure.draw_without_rendering()
        legend = figure.axes[0].get_legend()
        assert legend is not None
        box, page = legend.get_window_extent(), figure.bbox
        assert box.y0 >= figure.axes[0].get_window_extent().y1
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
