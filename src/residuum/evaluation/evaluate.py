"""Scores of a network on an image set: one pass, everything kept by picture, added up once.

Nothing is a mean of means: each picture leaves its loss and its best classes, and the scores are computed from all of
them together, so that neither the batch size nor the order nor the number of processes changes a score.

Shapes: N pictures, K classes, T = min(5, K).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from residuum.distributed import ALONE, World
from residuum.errors import DataError, DivergedError, WeightsError
from residuum.evaluation import metrics

TOP = 5
"""How many of the best classes are kept of each picture, and counted by `top5`."""


Kept = TypeVar("Kept")
"""What is kept of a batch."""


class Batch(Protocol):
    """What `evaluate` reads of a batch."""

    @property
    def images(self) -> object:
        """What the network takes: [N, C, H, W] on the network's device, or the views of N pictures."""

    @property
    def labels(self) -> Tensor:
        """The true classes; int64 [N]."""

    @property
    def indices(self) -> NDArray[np.int64]:
        """The pictures' places in their set; [N]."""


class _Arrays(Protocol):
    """A dataclass of arrays of which each has a row for each picture."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def indices(self) -> NDArray[np.int64]:
        """The pictures' places in their set; [N]."""


Joined = TypeVar("Joined", bound=_Arrays)


@dataclass(frozen=True)
class ClassScore:
    """How one class fared; percent."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """How a network fared on a set: percent, except `loss` (mean cross-entropy in nats).

    `confusion` is [K, K]: how many pictures of class `row` were called class `column`.
    """

    images: int
    top1: float
    top5: float
    loss: float
    ece: float
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]

    @property
    def monitored(self) -> float:
        """The score that decides which weights are kept."""
        return self.top1

    def summary(self) -> dict[str, int | float]:
        """The scores that are one number each, for a line of a log."""
        return {"images": self.images, "top1": self.top1, "top5": self.top5, "loss": self.loss, "ece": self.ece}

    def as_dict(self) -> dict[str, object]:
        """The scores in JSON's types; `from_dict` is the inverse."""
        return {
            **self.summary(),
            "classes": [asdict(score) for score in self.classes],
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """Builds scores from what `as_dict` returned.

        Raises:
            WeightsError: a key is missing or of the wrong type.
        """
        try:
            return cls(
                images=int(values["images"]),
                **{name: float(values[name]) for name in ("top1", "top5", "loss", "ece")},
                classes=tuple(
                    ClassScore(**{f.name: row[f.name] for f in fields(ClassScore)}) for row in values["classes"]
                ),
                confusion=np.asarray(values["confusion"], dtype=np.int64),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"The stored scores are malformed: {error!r}.",
                expected="Expected the keys images, top1, top5, loss, ece, classes and confusion.",
                hint="Measure them again: residuum evaluate BUNDLE",
            ) from error


@dataclass(frozen=True)
class Predictions:
    """What the network said of each picture: its `top` classes, best first, their `probs`, and the `losses` in nats.

    Shapes: `indices`, `labels`, `losses` [N]; `top`, `probs` [N, T].
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    top: NDArray[np.int64]
    probs: NDArray[np.float64]
    losses: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def calibration(self) -> metrics.CalibrationBins:
        """How often the network was right, by how sure it was."""
        return metrics.calibration_bins(self.probs[:, 0], self.correct)

    def confident_mistakes(self, count: int) -> NDArray[np.int64]:
        """Returns the rows of the wrong answers that the network was most sure of, at most `count`, surest first."""
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(-self.probs[wrong, 0], kind="stable")][:count]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the best class is the true one; [N]."""
        return np.asarray(self.top[:, 0] == self.labels)


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    classes: Sequence[str],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
) -> tuple[Scores, Predictions]:
    """Scores `model`, in evaluation mode and back, on every picture of `batches`; predictions are in the set's order.

    The processes of `world` each bring their own batches, and each get the scores of all of them together.

    Raises:
        DataError: there are no pictures, or the network does not tell as many classes apart as `classes` names.
        DivergedError: the network answers with numbers that are not finite.
    """
    predictions = predict(model, batches, classes, autocast, world)
    return score(predictions, classes), predictions


def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    classes: Sequence[str],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
) -> Predictions:
    """Returns what `model`, in evaluation mode and back, says of every picture; raises what `evaluate` raises."""
    return predict_each(model, lambda images: (model(images),), batches, classes, autocast, world)[0]


def predict_each(
    model: nn.Module,
    answers: Callable[[Any], Sequence[Tensor]],
    batches: Iterable[Batch],
    classes: Sequence[str],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
) -> list[Predictions]:
    """As `predict`, for logits that are read in more than one way: `answers` turns a batch's images into those of each.

    Raises: what `evaluate` raises.
    """
    together = asked_of_all(
        model, answers, batches, len(classes), lambda batch, *ways: [_read_logits(logits, batch) for logits in ways],
        autocast, world,
    )  # fmt: skip
    return [join(way) for way in zip(*together, strict=True)]


def asked_of_all(
    model: nn.Module,
    answers: Callable[[Any], Sequence[Tensor]],
    batches: Iterable[Batch],
    num_classes: int,
    keep: Callable[..., Kept],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
) -> list[Kept]:
    """Returns what is kept of each batch of all processes, while `model` is in evaluation mode: what
    `keep(batch, *logits)` makes of the arrays [N, K] that `answers` gives to its images.

    Raises: what `evaluate` raises.
    """
    own: list[Kept] = []
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            with autocast():
                ways = answers(batch.images)
            own.append(keep(batch, *(_checked(logits, batch, num_classes) for logits in ways)))
    kept = [each for of_one in world.gather(own) for each in of_one]
    if not kept:
        raise DataError(
            "There are no pictures to evaluate on.",
            expected="Expected a part of the set with at least one picture.",
            hint="See what the set holds with: residuum check DATA",
        )
    return kept


def join(parts: Sequence[Joined]) -> Joined:
    """Puts dataclasses of arrays [N, ...] of batches or processes together, in the order of their `indices`; a picture
    that two hold counts once."""
    kind = type(parts[0])
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(kind)}
    _, order = np.unique(columns["indices"], return_index=True)
    return kind(**{name: column[order] for name, column in columns.items()})


def score(predictions: Predictions, classes: Sequence[str]) -> Scores:
    """Adds up predictions of at least one picture: float64 sums and counts, divided once."""
    images, labels = len(predictions), predictions.labels
    confusion = metrics.confusion_matrix(labels, predictions.top[:, 0], len(classes))
    by_class = metrics.class_metrics(confusion)
    return Scores(
        images=images,
        top1=100 * int(predictions.correct.sum()) / images,
        top5=100 * int(metrics.hits(predictions.top, labels, TOP).sum()) / images,
        loss=math.fsum(predictions.losses) / images,
        ece=100 * metrics.calibration_error(predictions.calibration),
        classes=tuple(
            ClassScore(name, int(count), 100 * float(precision), 100 * float(recall), 100 * float(f1))
            for name, count, precision, recall, f1 in zip(classes, confusion.sum(axis=1), *by_class, strict=True)
        ),
        confusion=confusion,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every module of `model` into evaluation mode, and each back into its own (frozen norms stay frozen)."""
    former = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in former:
            module.training = training


def _checked(answer: Tensor, batch: Batch, num_classes: int) -> NDArray[np.floating]:
    """Returns the network's answer to a batch as an array: float64 where it is that already, else float32; [N, K].

    Raises:
        DataError: it does not tell as many classes apart.
        DivergedError: it has numbers that are not finite.
    """
    logits: NDArray[np.floating] = (answer if answer.dtype == torch.float64 else answer.float()).cpu().numpy()
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise DataError(
            f"The network answers with shape {list(logits.shape)}, and the set has {num_classes} classes.",
            expected=f"Expected [pictures, {num_classes}].",
            hint="Evaluate on a set with the classes that the network was trained on.",
        )
    if not np.isfinite(logits).all():
        index = batch.indices[int(np.argmin(np.isfinite(logits).all(axis=1)))]
        raise DivergedError(
            f"The network's answer to picture {index} of the set is not finite.",
            expected="Expected numbers.",
            hint="Train with a lower learning rate, or compute in float32: --precision fp32",
        )
    return logits


def _read_logits(logits: NDArray[np.floating], batch: Batch) -> Predictions:
    labels = batch.labels.cpu().numpy().astype(np.int64)
    log_probs = metrics.log_softmax(logits)
    top = metrics.ranked(logits, TOP)
    return Predictions(
        indices=np.asarray(batch.indices, dtype=np.int64),
        labels=labels,
        top=top,
        probs=np.exp(np.take_along_axis(log_probs, top, axis=1)),
        losses=metrics.cross_entropy(log_probs, labels),
    )
