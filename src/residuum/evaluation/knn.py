"""k-nearest-neighbour accuracy: how well the vectors of a network tell classes apart, without any training.

Each picture is given the class of the most similar training pictures, whose votes count the more the more similar they
are; where a picture may have several classes, the neighbours vote on each. Classes are the set's own, and need not be
those that the network was trained on.

Source: Wu et al., arXiv:1805.01978, section 3.4, as in DINO (arXiv:2104.14294).
Shapes: N pictures, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from residuum import hardware
from residuum.data.labels import Labels, are_several
from residuum.data.loading import EvalLoader
from residuum.data.sets import ImageSet, in_mode
from residuum.data.sources import find, part_name
from residuum.data.verification import OnBadImage
from residuum.distributed import ALONE, announced
from residuum.errors import DataError, UsageError
from residuum.evaluation import metrics, multilabel, neighbours
from residuum.evaluation.embedding import Vectors, embed_all
from residuum.evaluation.evaluate import TOP, Predictions, Scores, score
from residuum.evaluation.multilabel import LabelPredictions, LabelScores
from residuum.evaluation.origin import reading_of, trained_on
from residuum.evaluation.precision_recall import HALF
from residuum.evaluation.trained import Evaluation, Knn, Watch, as_they_come, pictures_of
from residuum.models import saved
from residuum.models.embedding import embedder

_LEAST_SHARE = 1e-12  # of votes for a class that may be there, so that its logit is finite


class _Parts(NamedTuple):
    known: ImageSet
    asked: ImageSet
    what: str
    apart: bool  # the two are the same pictures, of which none may vote for itself
    skipped: dict[str, str]


def evaluate_knn(
    bundle: str | Path,
    data: str | None = None,
    split: str | None = None,
    *,
    k: int = 20,
    temperature: float = neighbours.TEMPERATURE,
    stage: int | None = None,
    precision: hardware.Precision = "fp32",
    batch_size: int = 256,
    device: str = "auto",
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    watch: Watch = as_they_come,
) -> Evaluation:
    """Classifies a part of `data` (`split`, or test, else validation) by its nearest pictures of the training part.

    Without `data` it is the set that the network was trained on, with the same pictures held out. Where the part is
    the training part, as in a set that is not divided, no picture votes for itself. `stage` counts from 1 (default: the
    last, as the classifier sees it).

    Raises:
        WeightsError: the bundle cannot be used.
        DataError: the set, the part or a picture cannot be used.
        UsageError: an argument cannot be what it is.
    """
    _refuse(k, temperature, batch_size)
    place = hardware.choose_device(device)
    autocast = hardware.autocast(hardware.choose_precision(precision, place), place)
    trained = saved.load(Path(bundle), place)
    network = embedder(trained.model, stage)
    parts = _parts(trained, data, split, on_bad_image)
    skipped = dict(parts.skipped)

    def vectors_of(images: ImageSet) -> Vectors:
        loader = EvalLoader(
            images, trained.preprocessing, batch_size, device=place, channels_last=True, workers=workers,
            on_bad_image=on_bad_image,
        )  # fmt: skip
        made = embed_all(network, watch(loader, len(images)), autocast)
        skipped.update(loader.skipped)
        return Vectors(made.indices, neighbours.unit(made.vectors))

    known = vectors_of(parts.known)
    asked = known if parts.apart else vectors_of(parts.asked)
    found = neighbours.nearest(asked.vectors, known.vectors, k, apart_from_itself=parts.apart)
    classes = parts.asked.classes
    shares = neighbours.votes(found, parts.known.labels[known.indices], len(classes), temperature)
    scores, predictions = _judged(shares, asked.indices, parts.asked.labels[asked.indices], classes)
    return Evaluation(
        models=(trained.card["model"]["name"],),
        kind="one",
        what=parts.what,
        scores=scores,
        predictions=predictions,
        images=parts.asked,
        skipped=skipped,
        world=ALONE,
        knn=Knn(found.rows.shape[1], len(known.indices), network.stage, temperature),
    )


def _refuse(k: int, temperature: float, batch_size: int) -> None:
    """Raises UsageError for what cannot be."""
    if k < 1 or temperature <= 0 or batch_size < 1:
        raise UsageError(
            f"k={k}, temperature={temperature:g} and batch_size={batch_size} cannot be.",
            expected="Expected k and batch_size from 1, and a temperature above 0.",
            hint="k=20 is usual.",
        )
    if announced().size > 1:
        raise UsageError(
            f"{announced().size} processes cannot search for neighbours together.",
            expected="Expected one process.",
            hint="Start it without torchrun or srun.",
        )


def _parts(trained: saved.Saved, data: str | None, split: str | None, on_bad_image: OnBadImage) -> _Parts:
    """Returns the pictures whose classes are known, and those to classify; any classes, and not only the network's."""
    if data is None or trained_on(trained.card, data):
        known, all_known, _ = pictures_of([trained], data, "train", on_bad_image)
        asked, what, skipped = pictures_of([trained], data, split, on_bad_image)
        return _checked(_Parts(known, asked, what, apart=what == all_known, skipped=skipped))
    found = find(data, reading_of(trained))
    name = part_name(found, split, data)
    if not len(found.parts.get("train", ())):
        raise DataError(
            f"{data} has no training pictures, only the parts {', '.join(found.parts)}.",
            expected="Expected a part called train, whose pictures vote.",
            hint="To score the network's own classes on it, leave out --knn.",
        )
    mode = trained.preprocessing.mode
    known, asked = in_mode(found.parts["train"], mode), in_mode(found.parts[name], mode)
    what = data if split is None else f"{data}, part {split}"
    return _checked(_Parts(known, asked, what, apart=name == "train", skipped={}))


def _checked(parts: _Parts) -> _Parts:
    if parts.known.classes != parts.asked.classes or len(parts.known) < 1 + parts.apart:
        raise DataError(
            f"{len(parts.known):,} training pictures of {len(parts.known.classes)} classes cannot vote for pictures of "
            f"{len(parts.asked.classes)} classes.",
            expected="Expected training pictures of the same classes, two of them at least.",
            hint="See what the set holds with: residuum check DATA",
        )
    return parts


def _judged(
    shares: NDArray[np.float64], indices: NDArray[np.int64], labels: Labels, classes: tuple[str, ...]
) -> tuple[Scores, Predictions] | tuple[LabelScores, LabelPredictions]:
    """Returns the scores of votes; of several classes, half of the votes say that one is there."""
    if are_several(labels):
        exact = shares.clip(_LEAST_SHARE, 1 - _LEAST_SHARE)
        said = multilabel.answers(indices, labels == 1, np.log(exact) - np.log1p(-exact))
        return multilabel.score(said, classes, [HALF] * len(classes)), said
    predictions = _predictions(shares, indices, labels)
    return score(predictions, classes), predictions


def _predictions(shares: NDArray[np.float64], indices: NDArray[np.int64], labels: Labels) -> Predictions:
    top = metrics.ranked(shares, TOP)
    return Predictions(
        indices=indices,
        labels=labels.astype(np.int64, copy=False),
        top=top,
        probs=np.take_along_axis(shares, top, axis=1),
        losses=-np.log(np.maximum(shares[np.arange(len(labels)), labels], np.finfo(np.float64).tiny)),
    )
