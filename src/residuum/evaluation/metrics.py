"""Scores of a classifier as pure functions of arrays.

Shapes: N pictures, K classes, B bins. Fractions are on the 0..1 scale; who shows them makes them percent.
Source: calibration error: Guo et al., arXiv:1706.04599, section 2; interval: Wilson, JASA 22 (1927), pages 209-212.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CALIBRATION_BINS = 15
"""Equal-width bins of confidence (arXiv:1706.04599, Table 1)."""


class ClassMetrics(NamedTuple):
    """Per class: the fraction of the predicted that is right, of the true that is found, their harmonic mean; [K]."""

    precision: Floats
    recall: Floats
    f1: Floats


class CalibrationBins(NamedTuple):
    """Per bin of confidence: pictures, mean confidence and accuracy (both 0 where a bin is empty); [B] each."""

    images: Ints
    confidence: Floats
    accuracy: Floats


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """The logarithms of the probabilities, in float64; [N, K] -> [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def softmax(logits: NDArray[np.floating]) -> Floats:
    """The probabilities of classes of which a picture has one, in float64; [N, K] -> [N, K]."""
    return np.asarray(np.exp(log_softmax(logits)))


def cross_entropy(log_probs: Floats, labels: Ints) -> Floats:
    """The loss of each picture, in nats; [N, K], [N] -> [N]."""
    return np.asarray(-log_probs[np.arange(len(labels)), labels])


def ranked(scores: NDArray[np.floating], k: int) -> Ints:
    """The `k` best classes, best first, of equal ones the lower first; all where K < k; [N, K] -> [N, min(k, K)]."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)


def hits(top: Ints, labels: Ints, k: int) -> NDArray[np.bool_]:
    """Whether the label is among the first `k` of `top` (all where there are fewer); [N, any], [N] -> [N]."""
    return np.asarray((top[:, :k] == labels[:, None]).any(axis=1))


def top_k_accuracy(scores: NDArray[np.floating], labels: Ints, k: int) -> float:
    """The fraction of pictures whose label is among the `k` best classes; `k` beyond K counts as K."""
    return int(hits(ranked(scores, k), labels, k).sum()) / len(labels)


def confusion_matrix(labels: Ints, predicted: Ints, num_classes: int) -> Ints:
    """How many pictures of class `row` were called class `column`; [N], [N] -> [K, K]."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_metrics(confusion: Ints) -> ClassMetrics:
    """Precision, recall and F1 of each class; 0 where nothing was predicted or nothing is there; [K, K] -> 3 x [K]."""
    right = np.diag(confusion).astype(np.float64)
    predicted, true = confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassMetrics(_ratio(right, predicted), _ratio(right, true), _ratio(2 * right, predicted + true))


def calibration_bins(confidence: Floats, correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS) -> CalibrationBins:
    """Sorts pictures into `bins` equal-width bins (low, high] of confidence; [N], [N] -> 3 x [bins]."""
    inner_edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    place = np.searchsorted(inner_edges, confidence, side="left")
    images = np.bincount(place, minlength=bins).astype(np.int64)
    return CalibrationBins(
        images,
        _ratio(np.bincount(place, confidence, bins).astype(np.float64), images),
        _ratio(np.bincount(place, correct, bins).astype(np.float64), images),
    )


def calibration_error(bins: CalibrationBins) -> float:
    """The expected calibration error: the mean over pictures of |accuracy - confidence| of their bin."""
    gaps = bins.images * np.abs(bins.accuracy - bins.confidence)
    return math.fsum(gaps) / int(bins.images.sum())


def wilson_interval(right: int, images: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The score interval of the fraction `right / images`; the default `z` makes it the 95 % interval."""
    fraction, scale = right / images, 1 + z * z / images
    centre = (fraction + z * z / (2 * images)) / scale
    half = z / scale * math.sqrt(fraction * (1 - fraction) / images + (z / (2 * images)) ** 2)
    # At the ends the formula gives 0 and 1, but not its rounding.
    return 0.0 if right == 0 else centre - half, 1.0 if right == images else centre + half


def _ratio(part: Floats, whole: Ints) -> Floats:
    """`part / whole`, and 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
