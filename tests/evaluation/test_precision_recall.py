"""Average precision against scikit-learn, and thresholds against trying every one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from residuum.evaluation.precision_recall import average_precision, best_threshold, fractions

ANSWERS = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30)


@given(ANSWERS)
@settings(deadline=None)
def test_average_precision_is_scikit_learns(answers: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 8 for score, _ in answers])
    truth = np.array([true for _, true in answers])
    found = average_precision(scores, truth)
    if truth.any():
        assert found == pytest.approx(average_precision_score(truth, scores), rel=1e-12)
    else:
        assert math.isnan(found)


@given(ANSWERS)
@settings(deadline=None)
def test_no_threshold_has_a_better_f1(answers: list[tuple[int, bool]]) -> None:
    probs = np.array([score / 8 for score, _ in answers])
    truth = np.array([true for _, true in answers])
    found = best_threshold(probs, truth)
    if not truth.any():
        assert found == 0.5
        return

    def f1(threshold: float) -> float:
        return float(f1_score(truth, probs >= threshold, zero_division=0.0))

    every = np.unique(np.concatenate([probs, [0.0, 1.0]]))
    assert f1(found) == pytest.approx(max(map(f1, every)))
    assert 0 <= found <= 1


def test_a_threshold_lies_in_the_middle_and_near_one_half() -> None:
    assert best_threshold(np.array([0.9, 0.8, 0.2]), np.array([True, True, False])) == 0.5
    assert best_threshold(np.array([0.9, 0.1]), np.array([True, False])) == 0.5
    assert best_threshold(np.array([0.3, 0.1]), np.array([True, True])) == 0.05  # half of the lowest
    # One of the two, or all four, are said to be so: F1 is two thirds, at 0.85 and at 0.3, which is nearer to one half.
    assert best_threshold(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, False, True])) == 0.3


def test_neighbouring_floats_are_told_apart() -> None:
    low = np.nextafter(0.5, 0)
    threshold = best_threshold(np.array([0.5, low]), np.array([True, False]))
    assert low < threshold <= 0.5


def test_fractions_of_nothing_are_zero() -> None:
    found = fractions(np.array([2, 0, 0]), np.array([4, 0, 3]), np.array([2, 0, 0]))
    assert found.precision.tolist() == [0.5, 0, 0]
    assert found.recall.tolist() == [1, 0, 0]
    assert found.f1.tolist() == pytest.approx([2 / 3, 0, 0])
