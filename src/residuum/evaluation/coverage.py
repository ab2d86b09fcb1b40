"""How many answers one can have, and how right they are: accuracy against coverage, and thresholds between the two.

Whoever answers only where the best class has at least some probability answers fewer pictures (the coverage), and is
right on more of these.

Source: El-Yaniv and Wiener, JMLR 11 (2010), section 2 (risk and coverage); Geifman and El-Yaniv, arXiv:1705.08500.
Shapes: N pictures, M different probabilities. Fractions are on the 0..1 scale; who shows them makes them percent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from residuum.evaluation.metrics import Floats

AUTO_COVERAGE = 0.95
"""The share of the pictures it is chosen on that a threshold of "auto" answers."""

ACCURACIES = (0.9, 0.95, 0.99, 0.999)
"""The accuracies whose coverage is told."""

_DIGITS = 1e6  # thresholds are rounded down to so many parts of one, which lets in who chose them


class Point(NamedTuple):
    """Who answers from a `threshold` on answers the share `coverage` of the pictures, and is right on the share
    `accuracy` of these (1 where there are none)."""

    threshold: float
    coverage: float
    accuracy: float


class Curve(NamedTuple):
    """Accuracy against coverage, a point for each probability that occurs, the surest first; [M] each."""

    thresholds: Floats
    coverage: Floats
    accuracy: Floats


def curve_of(confidence: Floats, correct: NDArray[np.bool_]) -> Curve:
    """Returns the curve of at least one picture; pictures of equal probability are answered together. [N], [N]"""
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last picture of each probability
    answered = last + 1.0
    right = np.cumsum(correct[order])[last]
    return Curve(ranked[last], answered / len(order), right / answered)


def at_accuracy(curve: Curve, accuracy: float) -> Point | None:
    """Returns the point of the largest coverage whose accuracy is at least so high, or None where there is none."""
    reached = np.flatnonzero(curve.accuracy >= accuracy)
    if not len(reached):
        return None
    place = reached[-1]
    return Point(float(curve.thresholds[place]), float(curve.coverage[place]), float(curve.accuracy[place]))


def at_threshold(confidence: Floats, correct: NDArray[np.bool_], threshold: float) -> Point:
    """Returns the point of a threshold; [N], [N]."""
    answered = confidence >= threshold
    count = int(answered.sum())
    return Point(threshold, count / len(confidence), int(correct[answered].sum()) / count if count else 1.0)


def threshold_for(confidence: Floats, coverage: float = AUTO_COVERAGE) -> float:
    """Returns the highest threshold, rounded down to six digits, that answers at least the share `coverage`; [N]."""
    wanted = math.ceil(coverage * len(confidence) - 1e-9)
    lowest = np.sort(confidence)[len(confidence) - max(wanted, 1)]
    return math.floor(float(lowest) * _DIGITS) / _DIGITS
