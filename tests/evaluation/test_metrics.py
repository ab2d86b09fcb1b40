"""Metrics against scikit-learn, SciPy and calculation by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from residuum.evaluation import metrics

Case = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Labels and logits of 1..40 pictures and 2..8 classes; logits from few values, so that ties are common."""
    classes, images = draw(st.integers(2, 8)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([2, 4, 1000]))
    labels = rng.integers(0, draw(st.integers(1, classes)), images)
    return labels, rng.integers(0, steps, (images, classes)) / steps * draw(st.sampled_from([1.0, 8.0]))


@settings(max_examples=80, deadline=None)
@given(cases(), st.integers(1, 12))
def test_top_k_agrees_with_scikit_learn_ties_included(case: Case, k: int) -> None:
    labels, logits = case
    classes = logits.shape[1]
    if k >= classes:
        assert metrics.top_k_accuracy(logits, labels, k) == 1.0
        return
    # Of equal scores scikit-learn prefers the higher class and residuum the lower: mirrored, they are one rule.
    mirrored = logits[:, 1] if classes == 2 else logits[:, ::-1]
    if classes == 2:
        expected = accuracy_score(labels, (mirrored > logits[:, 0]).astype(int))
    else:
        expected = top_k_accuracy_score(classes - 1 - labels, mirrored, k=k, labels=np.arange(classes))
    assert metrics.top_k_accuracy(logits, labels, k) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_confusion_and_class_metrics_agree_with_scikit_learn(case: Case) -> None:
    labels, logits = case
    classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predicted, classes)
    np.testing.assert_array_equal(confusion, confusion_matrix(labels, predicted, labels=np.arange(classes)))
    expected: Any = precision_recall_fscore_support(labels, predicted, labels=np.arange(classes), zero_division=0.0)
    for ours, theirs in zip(metrics.class_metrics(confusion), expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_cross_entropy_agrees_with_scikit_learn(case: Case) -> None:
    labels, logits = case
    log_probs = metrics.log_softmax(logits)
    np.testing.assert_allclose(log_probs, scipy.special.log_softmax(logits, axis=1), rtol=1e-12, atol=1e-14)
    probs = scipy.special.softmax(logits, axis=1)
    expected = log_loss(labels, probs, labels=np.arange(logits.shape[1]))
    assert metrics.cross_entropy(log_probs, labels).mean() == pytest.approx(expected, rel=1e-10)


def test_log_softmax_of_large_logits_is_finite_and_exact() -> None:
    log_probs = metrics.log_softmax(np.array([[1000.0, 0.0], [-1e30, 1e30]], dtype=np.float32))
    np.testing.assert_array_equal(log_probs[0], [0.0, -1000.0])
    assert np.isfinite(log_probs).all()


@settings(max_examples=80, deadline=None)
@given(cases())
def test_calibration_bins_agree_with_scikit_learn(case: Case) -> None:
    labels, logits = case
    probs = scipy.special.softmax(logits, axis=1)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = metrics.calibration_bins(confidence, correct)
    accuracy, mean_confidence = calibration_curve(correct, confidence, n_bins=15, strategy="uniform")
    filled = bins.images > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(bins.confidence[filled], mean_confidence, rtol=1e-12)
    assert bins.images.sum() == len(labels)
    assert not bins.accuracy[~filled].any()


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: 0.97 and 0.99 are in the last one (accuracy 1/2, confidence 0.98), 0.5 in the eighth (7/15, 8/15].
    bins = metrics.calibration_bins(np.array([0.97, 0.99, 0.5]), np.array([True, False, True]))
    assert bins.images.tolist() == [0] * 7 + [1] + [0] * 6 + [2]
    assert metrics.calibration_error(bins) == pytest.approx((2 * abs(0.5 - 0.98) + 1 * abs(1 - 0.5)) / 3, rel=1e-12)


def test_an_edge_belongs_to_the_bin_below() -> None:
    bins = metrics.calibration_bins(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), bins=2)
    assert bins.images.tolist() == [2, 1]


@settings(max_examples=50, deadline=None)
@given(cases())
def test_calibration_error_with_one_bin_is_confidence_minus_accuracy(case: Case) -> None:
    labels, logits = case
    probs = scipy.special.softmax(logits, axis=1)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    one = metrics.calibration_error(metrics.calibration_bins(confidence, correct, bins=1))
    assert one == pytest.approx(abs(confidence.mean() - correct.mean()), abs=1e-12)
    # By the triangle inequality, finer bins can only tell more.
    assert metrics.calibration_error(metrics.calibration_bins(confidence, correct)) >= one - 1e-12


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_wilson_interval_agrees_with_scipy(case: tuple[int, int]) -> None:
    right, images = case
    expected = scipy.stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(right, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("images", [*range(1, 300), 10_000, 12_345_678])
def test_the_interval_holds_its_fraction_and_ends_where_it_does(images: int) -> None:
    assert metrics.wilson_interval(0, images)[0] == 0.0
    assert metrics.wilson_interval(images, images)[1] == 1.0
    for right in {0, 1, images // 3, images - 1, images}:
        low, high = metrics.wilson_interval(right, images)
        assert 0 <= low <= right / images <= high <= 1
