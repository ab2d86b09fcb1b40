"""The temperature against scikit-learn's, closed forms, and what it must never do."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from residuum.evaluation.temperature import (
    FEWEST,
    LEAST,
    MOST,
    confidence_and_losses,
    fit_temperature,
    mean_loss,
    tempered,
)


class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of scikit-learn's whose input is its logits."""

    def fit(self, x: Any, y: Any) -> Given:  # noqa: ARG002
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x: Any) -> Any:
        return x

    def predict(self, x: Any) -> Any:
        return x.argmax(axis=1)


def drawn(
    images: int, classes: int, temperature: float, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and labels that are as the logits divided by `temperature` say."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, classes)) * 3
    probs = softmax(logits / temperature, axis=1)
    labels = (probs.cumsum(axis=1) < random.random((images, 1))).sum(axis=1).clip(max=classes - 1)
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("classes", [3, 10])
def test_it_is_scikit_learns(classes: int, temperature: float) -> None:
    """One mistake more is, for scikit-learn, every picture a second time with a small weight and its second class."""
    logits, labels = drawn(500, classes, temperature)
    others = logits.copy()
    others[np.arange(500), labels] = -np.inf
    share = 1 / 502
    twice, both = np.concatenate([logits, logits]).astype(np.float64), np.concatenate([labels, others.argmax(axis=1)])
    weights = np.repeat([1 - share, share], 500)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given().fit(twice, both)), method="temperature", cv=5)
    with warnings.catch_warnings():  # that what is frozen is not trained with the weights is as it should be
        warnings.simplefilter("ignore")
        theirs.fit(twice, both, sample_weight=weights)
    ours = fit_temperature(logits, labels)
    np.testing.assert_allclose(softmax(logits / ours, axis=1), theirs.predict_proba(logits), atol=1e-5)
    assert ours == pytest.approx(temperature, rel=0.2)  # what the labels were drawn with


@pytest.mark.parametrize(
    ("margin", "right", "images"), [(4.0, 800, 1000), (0.5, 90, 100), (8.0, 59, 60), (2.0, 60, 60)]
)
def test_two_classes_with_one_margin_have_a_closed_form(margin: float, right: int, images: int) -> None:
    """Where every picture has the logits (m, 0), and r of n are of the first class, the best probability of the first
    class is r / n, but for one mistake more: so T = m / logit(r / n)."""
    logits = np.tile(np.array([margin, 0.0], np.float32), (images, 1))
    labels = (np.arange(images) >= right).astype(np.int64)
    best = right / images - (2 * right - images) / images / (images + 2)
    assert fit_temperature(logits, labels) == pytest.approx(margin / logit(best), rel=1e-8)


def test_scipy_finds_no_better_one() -> None:
    logits, labels = drawn(2000, 5, 1.7, seed=3)
    ours = fit_temperature(logits, labels)
    best = minimize_scalar(lambda t: log_loss(labels, softmax(logits / t, axis=1)), bounds=(0.1, 10), method="bounded")
    assert mean_loss(logits, labels, ours) == pytest.approx(best.fun, abs=1e-5)
    assert ours == pytest.approx(best.x, rel=0.01)
    assert mean_loss(logits, labels, ours) == pytest.approx(log_loss(labels, softmax(logits / ours, axis=1)), abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 80), st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 1.0, 30.0, 1e6]))
def test_the_loss_is_never_worse_and_the_bounds_hold(images: int, classes: int, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(images, classes)) * scale).astype(np.float32)
    labels = random.integers(0, random.integers(1, classes + 1), images)
    temperature = fit_temperature(logits, labels)
    assert LEAST * (1 - 1e-9) <= temperature <= MOST * (1 + 1e-9)
    assert mean_loss(logits, labels, temperature) <= mean_loss(logits, labels)
    if images < FEWEST:
        assert temperature == 1.0


def test_pictures_that_are_all_right_do_not_make_it_infinitely_sure() -> None:
    """With one mistake more, 60 right answers of 60 are about as good as 61 of 62."""
    labels = np.arange(60) % 3
    logits = np.eye(3, dtype=np.float32)[labels] * 2
    temperature = fit_temperature(logits, labels)
    confidence, _ = confidence_and_losses(logits, labels, temperature)
    assert LEAST < temperature < 1
    assert 1 / 62 / 2 < 1 - confidence[0] < 1 / 62 * 2


def test_one_mistake_more_never_makes_the_loss_worse() -> None:
    """Forty right answers of which each is surer than one in forty: the mistake alone would ask for a temperature."""
    labels = np.arange(40) % 3
    assert fit_temperature(np.eye(3, dtype=np.float32)[labels] * 9, labels) == 1.0


def test_a_network_that_is_never_right_is_as_unsure_as_can_be() -> None:
    logits = np.eye(4, dtype=np.float32)[np.zeros(50, int)] * 9
    assert fit_temperature(logits, np.ones(50, np.int64)) == pytest.approx(MOST)


def test_no_two_logits_become_equal() -> None:
    """In float32, neighbours do: so that the class of a picture would change."""
    first = np.float32(1.9)
    logits = np.array([[first, np.nextafter(first, np.float32(2))]], np.float32)
    for temperature in (0.1, 1.3, 3.0, 10.0):
        divided = tempered(logits, temperature)
        assert divided[0, 0] < divided[0, 1]
    assert any(logits[0, 0] / np.float32(t) == logits[0, 1] / np.float32(t) for t in np.linspace(1.1, 3, 200))


def test_each_picture_may_have_its_own() -> None:
    logits, labels = drawn(9000, 3, 1.0)  # more than are looked at together
    each = np.where(np.arange(9000) % 2, 2.0, 0.5)
    confidence, losses = confidence_and_losses(logits, labels, each)
    for temperature in (2.0, 0.5):
        rows = each == temperature
        probs = softmax(logits[rows].astype(np.float64) / temperature, axis=1)
        np.testing.assert_allclose(confidence[rows], probs.max(axis=1), rtol=1e-10)
        np.testing.assert_allclose(losses[rows], -np.log(probs[np.arange(rows.sum()), labels[rows]]), rtol=1e-8)
    assert math.isfinite(mean_loss(logits, labels, each))
