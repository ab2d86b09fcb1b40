"""Accuracy against coverage: by hand, by brute force, and with probabilities that many pictures share."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score

from residuum.evaluation.coverage import at_accuracy, at_threshold, curve_of, threshold_for

Case = tuple[NDArray[np.float64], NDArray[np.bool_]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Probabilities, of which many are equal, and who is right."""
    images = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([2, 5, 1000]))
    return random.integers(1, steps + 1, images) / steps, random.random(images) < 0.7


def test_by_hand() -> None:
    confidence, correct = np.array([0.9, 0.5, 0.9, 0.7]), np.array([True, True, False, True])
    curve = curve_of(confidence, correct)
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.5]
    assert curve.coverage.tolist() == [0.5, 0.75, 1.0]
    assert curve.accuracy.tolist() == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    assert at_accuracy(curve, 0.6) == pytest.approx((0.5, 1.0, 0.75))
    assert at_accuracy(curve, 0.99) is None


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0, 1))
def test_the_largest_coverage_of_an_accuracy_is_found(case: Case, accuracy: float) -> None:
    confidence, correct = case
    points = [at_threshold(confidence, correct, threshold) for threshold in np.unique(confidence)]
    reaching = [point.coverage for point in points if point.accuracy >= accuracy]
    found = at_accuracy(curve_of(confidence, correct), accuracy)
    assert (found.coverage if found else None) == (max(reaching) if reaching else None)
    if found:
        answered = confidence >= found.threshold
        assert found.accuracy == pytest.approx(accuracy_score(np.ones(answered.sum()), correct[answered]))


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0.01, 1))
def test_a_threshold_answers_at_least_what_it_is_for_and_no_higher_one_does(case: Case, coverage: float) -> None:
    confidence, correct = case
    threshold = threshold_for(confidence, coverage)
    assert at_threshold(confidence, correct, threshold).coverage >= coverage - 1e-9
    higher = confidence[confidence > threshold + 1e-6]  # it is rounded down to six digits
    if len(higher):
        assert at_threshold(confidence, correct, float(higher.min())).coverage < coverage


def test_of_a_hundred_pictures_the_five_least_sure_are_unknown() -> None:
    confidence = np.random.default_rng(0).permutation(np.arange(1, 101)) / 100
    threshold = threshold_for(confidence)
    assert threshold == pytest.approx(0.06)
    assert (confidence < threshold).sum() == 5


def test_who_answers_nothing_is_never_wrong() -> None:
    point = at_threshold(np.array([0.3, 0.4]), np.array([True, False]), 0.9)
    assert (point.coverage, point.accuracy) == (0.0, 1.0)
    assert math.isfinite(threshold_for(np.array([0.3])))
