"""Suspicious labels: the rule by hand, and planted wrong labels found among digits by somebody else's classifiers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from residuum.data.builtin import digits
from residuum.data.sets import ImageSet, relabelled, subset
from residuum.evaluation.evaluate import Predictions
from residuum.evaluation.label_issues import COLUMNS, disagreements, label_issues, thresholds, write_csv
from residuum.evaluation.metrics import ranked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def parts_of(probs: Floats, labels: Ints, top: int = 5) -> tuple[Floats, Ints, Ints, Floats]:
    """Returns what `disagreements` takes of probabilities [N, K]."""
    best = ranked(probs, top)
    return probs[np.arange(len(labels)), labels], labels, best, np.take_along_axis(probs, best, axis=1)


def test_the_rule_by_hand() -> None:
    """Class 0 is recognised with 0.8 on average, class 1 with 0.5; the mean of class 2 is over two pictures."""
    probs = np.array([
        [0.90, 0.05, 0.05],
        [0.70, 0.20, 0.10],
        [0.10, 0.85, 0.05],  # surely 1
        [0.55, 0.40, 0.05],  # rather 0, but 0 is surer of its own: not confident
        [0.05, 0.25, 0.70],  # 2 reaches its threshold, and its label does not
        [0.10, 0.30, 0.60],
        [0.29, 0.51, 0.20],  # called 2: class 1 just reaches its threshold
    ])  # fmt: skip
    labels = np.array([0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_allclose(thresholds(probs[np.arange(7), labels], labels, 4), [0.8, 0.5, 0.4, np.inf])
    found = disagreements(*parts_of(probs, labels), 3)
    assert found.rows.tolist() == [4, 6]  # margins 0.45 and 0.31
    assert found.suggested.tolist() == [2, 1]
    np.testing.assert_allclose(found.probs, [0.7, 0.51])


def test_the_label_that_is_most_probable_is_never_doubted() -> None:
    """Though it does not reach its own threshold, and another class, which is never sure, reaches its."""
    probs = np.array([[0.99, 0.01], [0.99, 0.01], [0.60, 0.40], [0.70, 0.30]])
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(thresholds(probs[np.arange(4), labels], labels, 2), [0.86, 0.30])
    assert disagreements(*parts_of(probs, labels), 2).rows.tolist() == []


def planted(share: float, seed: int) -> tuple[Ints, Ints]:
    """Returns the digits' labels with a share of them wrong, and which these are."""
    labels = load_digits().target.astype(np.int64)
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    flipped = labels.copy()
    flipped[rows] = (labels[rows] + random.integers(1, 10, len(rows))) % 10
    return flipped, rows


@pytest.fixture(scope="module", params=[0, 1, 2])
def judged(request: pytest.FixtureRequest) -> tuple[Floats, Ints, Ints]:
    """Out-of-fold probabilities of scikit-learn's nearest neighbours for digits of which 2 % are called wrong."""
    labels, wrong = planted(0.02, request.param)
    model = KNeighborsClassifier(10, weights="distance")
    probs = cross_val_predict(model, load_digits().data, labels, cv=4, method="predict_proba")
    return np.asarray(probs, dtype=np.float64), labels, wrong


def test_planted_labels_are_found_among_digits(judged: tuple[Floats, Ints, Ints]) -> None:
    """By a classifier that is wrong on 4 % of the digits itself."""
    probs, labels, wrong = judged
    found = disagreements(*parts_of(probs, labels), 10).rows
    right = int(np.isin(found, wrong).sum())
    assert len(wrong) == 36
    assert right >= 0.7 * len(wrong)
    assert right >= 0.7 * len(found)
    assert np.isin(found[:18], wrong).mean() >= 0.9, "what is planted comes first"


def test_where_the_best_five_are_all_that_is_known_the_same_is_found(judged: tuple[Floats, Ints, Ints]) -> None:
    probs, labels, _ = judged
    few, all_of_them = (disagreements(*parts_of(probs, labels, top), 10) for top in (5, 10))
    np.testing.assert_array_equal(few.rows, all_of_them.rows)
    np.testing.assert_array_equal(few.suggested, all_of_them.suggested)


def test_no_label_is_doubted_where_all_are_right_and_recognised() -> None:
    labels = load_digits().target.astype(np.int64)
    assert len(disagreements(*parts_of(np.eye(10)[labels], labels), 10).rows) == 0


def predictions(probs: Floats, labels: Ints) -> Predictions:
    label_probs, _, top, best = parts_of(probs, labels)
    return Predictions(np.arange(len(labels)), labels, top, best, -np.log(np.maximum(label_probs, 1e-300)))


def test_folds_are_judged_together_under_the_names_of_their_pictures(tmp_path: Path) -> None:
    labels, wrong = planted(0.05, seed=1)
    images: ImageSet = relabelled(digits().parts["train"], labels, tuple("0123456789"))
    model = KNeighborsClassifier(10, weights="distance")
    probs = np.asarray(cross_val_predict(model, load_digits().data, labels, cv=4, method="predict_proba"))
    halves = [np.arange(0, 900), np.arange(900, 1797)]
    parts = [(predictions(probs[rows], labels[rows]), subset(images, rows)) for rows in halves]
    issues = label_issues(parts, images.classes)
    whole = label_issues([(predictions(probs, labels), images)], images.classes)
    assert [issue.as_dict() for issue in issues] == [issue.as_dict() for issue in whole]
    margins = [issue.prob - issue.label_prob for issue in issues]
    assert margins == sorted(margins, reverse=True)
    for issue in whole:
        assert issue.prob == probs[issue.index, int(issue.suggested)]
        assert issue.label_prob == pytest.approx(probs[issue.index, int(issue.label)], abs=1e-9)
    named = {issue.file for issue in issues}
    assert len(named & {f"digits[{row}]" for row in wrong}) >= 0.7 * len(wrong)
    write_csv(tmp_path / "a.csv", issues)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["file"] for row in rows] == [issue.file for issue in issues]
    assert all(row["label"] != row["suggested"] for row in rows)
    assert label_issues([], ("a", "b")) == []
