"""Scores of yes-or-no answers as pure functions of arrays: precision, recall, and what weighs one against the other.

Shapes: N answers, one for each picture. Fractions are on the 0..1 scale.
Source: average precision: Manning, Raghavan, Schütze: Introduction to Information Retrieval (2008), section 8.4, as
    scikit-learn computes it, without interpolation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HALF = 0.5
"""The threshold of a class that no picture speaks for or against."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Fractions(NamedTuple):
    """The fraction of the yes that is right, of the true that is found, and their harmonic mean; 0 where undefined."""

    precision: Any
    recall: Any
    f1: Any


def average_precision(scores: Floats, truth: Bools) -> float:
    """Returns the mean precision over the true answers, ranked by `scores`, equal ones at once; [N], [N].

    It is not a number where nothing is true.
    """
    yes, cut = _ranked(scores, truth)
    if not len(yes) or not yes[-1]:
        return math.nan
    precision, recall = yes / (cut + 1), yes / yes[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def best_threshold(probs: Floats, truth: Bools) -> float:
    """Returns the threshold in 0..1 for which F1 is the largest, when an answer is yes from there on; [N], [N].

    It lies in the middle between two neighbouring answers, of equally good ones as near to one half as can be. One half
    too where nothing is true.
    """
    yes, cut = _ranked(probs, truth)
    if not len(yes) or not yes[-1]:
        return HALF
    f1 = 2 * yes / (cut + 1 + yes[-1])
    ranked = -np.sort(-probs)
    above, below = ranked[cut], np.append(ranked[cut[:-1] + 1], 0.0)
    middle = (above + below) / 2
    thresholds = np.where(middle > below, middle, above)[f1 == f1.max()]
    return float(thresholds[np.argmin(np.abs(thresholds - HALF))])


def fractions(right: Any, said: Any, true: Any) -> Fractions:
    """Returns precision, recall and F1 from counts: of the yes that are right, of those said, of those true."""
    return Fractions(_ratio(right, said), _ratio(right, true), _ratio(2 * np.asarray(right), np.add(said, true)))


def _ranked(scores: Floats, truth: Bools) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns how many are true among the best, and the place of the last of these, for each different score; [C]
    each."""
    order = np.argsort(-scores, kind="stable")
    cut = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))[: len(scores)]
    return np.cumsum(truth[order], dtype=np.int64)[cut], cut


def _ratio(part: Any, whole: Any) -> Floats:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))
