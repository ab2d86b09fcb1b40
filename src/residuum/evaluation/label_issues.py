"""Labels that are likely to be wrong: pictures whose label gets little probability, and another class much.

How sure predictions are of the pictures that carry a label, on average, is that class's threshold. A picture counts for
another class where the probability of that class reaches that class's threshold and is above that of its own. The
predictions must be of pictures that the network was not trained on, as those of cross-validation are: what it has
learnt, it repeats. Some of what is found are wrong labels, others are hard pictures; only people can tell.

Source: Northcutt, Jiang and Chuang, arXiv:1911.00068: the thresholds and the confident joint of section 3.1, whose
    off-diagonal pictures are the issues, ranked by the normalised margin, as in section 3.2.
Departures: of the probabilities only the T largest are known, so that another class is one of these.
Shapes: N pictures, K classes, T best classes, M issues.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from residuum.data.sets import ImageSet
from residuum.evaluation.evaluate import Predictions

SUSPICIOUS = "suspicious_labels.csv"
"""What a run calls its table of label issues."""

COLUMNS = ("file", "label", "suggested", "prob", "label_prob")
"""Of such a table."""

_ROUNDING = 1e-6  # of a mean of equal probabilities

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Disagreements(NamedTuple):
    """The `rows` of pictures whose labels are doubted, the largest margin first, the class that is `suggested` for
    each, and its probability; [M] each."""

    rows: Ints
    suggested: Ints
    probs: Floats


@dataclass(frozen=True)
class LabelIssue:
    """Picture `index` of `images`, whose `label` gets the probability `label_prob`, and the class that is `suggested`
    for it `prob` (0..1)."""

    images: ImageSet
    index: int
    label: str
    suggested: str
    prob: float
    label_prob: float

    @property
    def file(self) -> str:
        """What the picture is called."""
        return self.images.name(self.index)

    def as_dict(self) -> dict[str, object]:
        """The issue in JSON's types, with the keys `COLUMNS`."""
        return {
            "file": self.file,
            "label": self.label,
            "suggested": self.suggested,
            "prob": round(self.prob, 6),
            "label_prob": round(self.label_prob, 6),
        }


def thresholds(label_probs: Floats, labels: Ints, num_classes: int) -> Floats:
    """Returns the mean probability of each class over the pictures that carry its label, infinite where there is none;
    [N], [N] -> [K]."""
    images = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=label_probs, minlength=num_classes)
    return np.asarray(np.divide(sums, images, out=np.full(num_classes, np.inf), where=images > 0))


def disagreements(label_probs: Floats, labels: Ints, top: Ints, probs: Floats, num_classes: int) -> Disagreements:
    """Returns where predictions confidently disagree with labels.

    Shapes: `label_probs`, `labels` [N]: the label of each picture and its probability; `top`, `probs` [N, T]: the best
    classes, best first, and their probabilities.
    """
    reached = probs >= thresholds(label_probs, labels, num_classes)[top] - _ROUNDING
    best = reached.argmax(axis=1)  # the most probable of those that reach their threshold
    at = np.arange(len(labels))
    suggested, prob = top[at, best], probs[at, best]
    rows = np.flatnonzero(reached.any(axis=1) & (suggested != labels) & (prob > label_probs))
    rows = rows[np.argsort(label_probs[rows] - prob[rows], kind="stable")]
    return Disagreements(rows, suggested[rows], prob[rows])


def label_issues(parts: Iterable[tuple[Predictions, ImageSet]], classes: Sequence[str]) -> list[LabelIssue]:
    """Returns the labels that are likely to be wrong, the surest first, from predictions of pictures that the networks
    that made them were not trained on: those of one part, or of all folds together."""
    parts = list(parts)
    if not parts:
        return []
    label_probs = np.exp(-np.concatenate([found.losses for found, _ in parts]))
    labels = np.concatenate([found.labels for found, _ in parts])
    top = np.concatenate([found.top for found, _ in parts])
    probs = np.concatenate([found.probs for found, _ in parts])
    homes = [(images, int(index)) for found, images in parts for index in found.indices]
    return issues_of(homes, label_probs, labels, top, probs, classes)


def write_csv(path: Path, issues: Iterable[LabelIssue]) -> None:
    """Writes a table of label issues, its columns being `COLUMNS`."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(issue.as_dict() for issue in issues)


def issues_of(
    homes: Sequence[tuple[ImageSet, int]],
    label_probs: Floats,
    labels: Ints,
    top: Ints,
    probs: Floats,
    classes: Sequence[str],
) -> list[LabelIssue]:
    """Returns the `disagreements` as issues; `homes` are the set and the index of each picture [N]."""
    found = disagreements(label_probs, labels, top, probs, len(classes))
    return [
        LabelIssue(
            images=homes[row][0],
            index=homes[row][1],
            label=classes[int(labels[row])],
            suggested=classes[int(suggested)],
            prob=float(prob),
            label_prob=float(label_probs[row]),
        )
        for row, suggested, prob in zip(found.rows.tolist(), found.suggested, found.probs, strict=True)
    ]
