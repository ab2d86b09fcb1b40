"""The temperature of a network: the one number that its logits are divided by so that it is as sure as it is right.

It minimises the cross-entropy of pictures that the network was not trained on. In its inverse that is convex, so that
there is one minimum, which Newton's method finds.

Source: Guo et al., arXiv:1706.04599, section 4.2; Platt, Probabilistic Outputs for Support Vector Machines (1999),
    section 2.2 (one mistake more).
Departures: every picture counts for 1 - 1 / (N + 2) as its label and for 1 / (N + 2) as the best of the other classes,
    as if there were one mistake more: a network that makes none would be infinitely sure otherwise. Fewer than 30
    pictures say nothing, and it lies between 0.1 and 10.
Shapes: N pictures, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from residuum.evaluation.metrics import Floats, Ints, cross_entropy, log_softmax

FEWEST = 30
"""Fewer pictures leave the temperature at 1."""
LEAST, MOST = 0.1, 10.0

_ROWS = 8192  # pictures at a time, so that float64 copies stay small
_TURNS = 100


def fit_temperature(logits: NDArray[np.floating], labels: Ints) -> float:
    """Returns the temperature whose probabilities fit the labels best; their loss is never above that of 1.

    Shapes: [N, K], [N].
    """
    if len(labels) < FEWEST or logits.shape[1] < 2:
        return 1.0
    low, high = 1 / MOST, 1 / LEAST
    inverse = 1.0
    pull = _one_mistake_more(logits, labels)
    for _ in range(_TURNS):
        slope, curvature = _derivatives(logits, labels, inverse)
        slope += pull
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-10 * inverse:
            break
        inverse = following
    temperature = 1 / inverse
    return temperature if mean_loss(logits, labels, temperature) <= mean_loss(logits, labels) else 1.0


def tempered(logits: NDArray[np.floating], temperature: float | Floats) -> Floats:
    """Returns the logits divided by the temperature, or by one for each picture; [N, K], [N] -> [N, K].

    In float64, where no two of them become equal.
    """
    return np.asarray(logits.astype(np.float64) / np.reshape(temperature, (-1, 1)))


def confidence_and_losses(
    logits: NDArray[np.floating], labels: Ints, temperature: float | Floats
) -> tuple[Floats, Floats]:
    """Returns the probability of the best class, and the loss in nats, of each picture; [N, K], [N] -> 2 x [N]."""
    confidence, losses = np.empty(len(labels)), np.empty(len(labels))
    temperatures = np.broadcast_to(temperature, len(labels))
    for rows in _slices(len(labels)):
        log_probs = log_softmax(tempered(logits[rows], temperatures[rows]))
        confidence[rows] = np.exp(log_probs.max(axis=1))
        losses[rows] = cross_entropy(log_probs, labels[rows])
    return confidence, losses


def mean_loss(logits: NDArray[np.floating], labels: Ints, temperature: float | Floats = 1.0) -> float:
    """Returns the mean cross-entropy, in nats; [N, K], [N]."""
    return math.fsum(confidence_and_losses(logits, labels, temperature)[1]) / len(labels)


def _one_mistake_more(logits: NDArray[np.floating], labels: Ints) -> float:
    """The slope, in the inverse temperature, that a mistake more than there is adds to the mean loss."""
    margins = []
    for rows in _slices(len(labels)):
        others = logits[rows].astype(np.float64)
        own = others[np.arange(len(others)), labels[rows]].copy()
        others[np.arange(len(others)), labels[rows]] = -np.inf
        margins.append(own - others.max(axis=1))
    return float(np.concatenate(margins).mean()) / (len(labels) + 2)


def _derivatives(logits: NDArray[np.floating], labels: Ints, inverse: float) -> tuple[float, float]:
    """The first and second derivatives of the mean loss in the inverse temperature."""
    slope = curvature = 0.0
    for rows in _slices(len(labels)):
        z = logits[rows].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        probs = np.exp(inverse * z)
        probs /= probs.sum(axis=1, keepdims=True)
        mean = (probs * z).sum(axis=1)
        slope += float((mean - z[np.arange(len(z)), labels[rows]]).sum())
        curvature += float(((probs * z * z).sum(axis=1) - mean * mean).sum())
    return slope / len(labels), curvature / len(labels)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))
