"""Scores where a picture may have several classes: every class is a question of its own, is it there or not.

A class is said to be there where its probability, the logistic function of its logit, reaches its threshold. Mean
average precision needs no thresholds: it says how well each class's probability ranks the pictures.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from residuum.data.labels import in_words
from residuum.data.sets import ImageSet
from residuum.distributed import ALONE, World
from residuum.evaluation.evaluate import Batch, asked_of_all, join
from residuum.evaluation.precision_recall import average_precision, best_threshold, fractions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelScore:
    """How one class fared, which `images` pictures have: percent, but for `threshold` (0..1).

    `ap` is the average precision, and None where no picture has the class.
    """

    name: str
    images: int
    ap: float | None
    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class LabelScores:
    """How a network fared on a set whose pictures may have several classes: percent, except `loss`.

    `map` is the mean average precision over the classes that some picture has (0 where there is none); it equals
    scikit-learn's `average_precision_score` where all have. At the thresholds, `macro_f1` is the mean F1 of the
    classes, `micro_f1` that of all answers together, and `subset_accuracy` counts the pictures of which every answer is
    right. `loss` is the mean binary cross-entropy over pictures and classes, in nats.
    """

    images: int
    map: float
    macro_f1: float
    micro_f1: float
    subset_accuracy: float
    loss: float
    classes: tuple[LabelScore, ...]

    @property
    def monitored(self) -> float:
        """The score that decides which weights are kept."""
        return self.map

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The probability from which on each class is said to be there; [K]."""
        return tuple(score.threshold for score in self.classes)

    def summary(self) -> dict[str, int | float]:
        """The scores that are one number each, for a line of a log."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "classes"}

    def as_dict(self) -> dict[str, object]:
        """The scores in JSON's types."""
        return {**self.summary(), "classes": [asdict(score) for score in self.classes]}


@dataclass(frozen=True)
class LabelPredictions:
    """What the network said of each picture: its `logits`, one for each class, and the `losses` in nats.

    Shapes: `indices`, `losses` [N]; `labels` bool [N, K], `logits` float64 [N, K].
    """

    indices: NDArray[np.int64]
    labels: Bools
    logits: Floats
    losses: Floats

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def probs(self) -> Floats:
        """The probability of each class on each picture; [N, K]."""
        return probabilities(self.logits)

    def chosen(self, thresholds: Sequence[float]) -> Bools:
        """Returns whether each class is said to be there; [N, K]."""
        return np.asarray(self.probs >= np.asarray(thresholds))

    def confident_mistakes(self, thresholds: Sequence[float], count: int) -> list[tuple[int, int]]:
        """Returns (row, class) of the wrong answers farthest from their thresholds, at most `count`, surest first: at
        most one of each picture, so that no picture hides the others."""
        probs, edges = self.probs, np.asarray(thresholds)
        said = probs >= edges
        # How much of the way from the threshold to a sure yes, or to a sure no, the answer has gone.
        way = np.maximum(np.where(said, 1 - edges, edges), 1e-12)
        distance = np.abs(probs - edges) / way
        distance[said == self.labels] = -1.0
        worst = distance.argmax(axis=1)
        how_sure = distance[np.arange(len(self)), worst]
        rows = np.argsort(-how_sure, kind="stable")[:count]
        return [(int(row), int(worst[row])) for row in rows if how_sure[row] >= 0]


def probabilities(logits: NDArray[np.floating]) -> Floats:
    """The logistic function of logits, in float64; any shape."""
    exact = np.asarray(logits, dtype=np.float64)
    low = np.exp(-np.abs(exact))
    return np.asarray(np.where(exact >= 0, 1.0, low) / (1.0 + low))


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    classes: Sequence[str],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
    *,
    thresholds: Sequence[float] | None = None,
) -> tuple[LabelScores, LabelPredictions]:
    """As `evaluate.evaluate`, for pictures that may have several classes. Without `thresholds` they are those with the
    best F1 on these very pictures, which says something of them for other pictures only.

    Raises: what `evaluate.evaluate` raises.
    """
    parts = asked_of_all(
        model, lambda images: (model(images),), batches, len(classes),
        lambda batch, logits: answers(batch.indices, batch.labels.cpu().numpy() > 0.5, logits), autocast, world,
    )  # fmt: skip
    predictions = join(parts)
    return score(predictions, classes, thresholds), predictions


def answers(indices: NDArray[np.int64], labels: Bools, logits: NDArray[np.floating]) -> LabelPredictions:
    """Returns the predictions that logits [N, K] are."""
    exact = np.asarray(logits, dtype=np.float64)
    losses = np.maximum(exact, 0) - exact * labels + np.log1p(np.exp(-np.abs(exact)))
    return LabelPredictions(np.asarray(indices, dtype=np.int64), labels, exact, losses.mean(axis=1))


def score(
    predictions: LabelPredictions, classes: Sequence[str], thresholds: Sequence[float] | None = None
) -> LabelScores:
    """Adds up predictions of at least one picture; `thresholds` are as in `evaluate`."""
    labels, probs = predictions.labels, predictions.probs
    if thresholds is None:
        thresholds = [best_threshold(probs[:, k], labels[:, k]) for k in range(len(classes))]
    said = predictions.chosen(thresholds)
    right, positive, true = (said & labels).sum(axis=0), said.sum(axis=0), labels.sum(axis=0)
    each = fractions(right, positive, true)
    # By logits: probabilities of sure answers round to the same number.
    precisions = [100 * average_precision(predictions.logits[:, k], labels[:, k]) for k in range(len(classes))]
    known = [precision for precision in precisions if not math.isnan(precision)]
    images = len(predictions)
    return LabelScores(
        images=images,
        map=math.fsum(known) / max(len(known), 1),
        macro_f1=100 * math.fsum(each.f1) / len(classes),
        micro_f1=100 * float(fractions(right.sum(), positive.sum(), true.sum()).f1),
        subset_accuracy=100 * int((said == labels).all(axis=1).sum()) / images,
        loss=math.fsum(predictions.losses) / images,
        classes=tuple(
            LabelScore(
                name,
                images=int(true[k]),
                ap=None if math.isnan(precisions[k]) else precisions[k],
                threshold=float(thresholds[k]),
                precision=100 * float(each.precision[k]),
                recall=100 * float(each.recall[k]),
                f1=100 * float(each.f1[k]),
            )
            for k, name in enumerate(classes)
        ),
    )


def rows(predictions: LabelPredictions, images: ImageSet, scores: LabelScores) -> list[dict[str, object]]:
    """Returns one row a picture for a table: file, label, predicted, prob, correct. Classes, and the probabilities of
    those that were predicted, have | between them."""
    classes = tuple(score.name for score in scores.classes)
    said, probs = predictions.chosen(scores.thresholds), predictions.probs
    return [
        {
            "file": images.name(int(index)),
            "label": in_words(predictions.labels[row], classes),
            "predicted": in_words(said[row], classes),
            "prob": "|".join(f"{prob:.6f}" for prob in probs[row, said[row]]),
            "correct": bool((said[row] == predictions.labels[row]).all()),
        }
        for row, index in enumerate(predictions.indices)
    ]
