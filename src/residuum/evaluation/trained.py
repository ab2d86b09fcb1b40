"""Scores of a trained network, or of several together: on a part of the set it was trained on, or of any other with its
classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from residuum import hardware, recipe
from residuum.data.loading import EvalLoader
from residuum.data.parts import PART_NAMES, same_pictures
from residuum.data.sets import ImageSet
from residuum.data.sources import open_parts, open_single
from residuum.data.verification import OnBadImage
from residuum.distributed import World, joined
from residuum.errors import DataError, UsageError, WeightsError
from residuum.evaluation.evaluate import Batch, Predictions, Scores
from residuum.evaluation.multilabel import LabelPredictions, LabelScores
from residuum.evaluation.multilabel import evaluate as score_labels
from residuum.evaluation.multilabel import rows as label_rows
from residuum.evaluation.origin import AS_IN_TRAINING, chosen_on, reading_of, source_of, trained_on
from residuum.evaluation.reliance import Reliance
from residuum.evaluation.tempered import Tempered, evaluate_both
from residuum.evaluation.views import Averaged, Kind, ViewLoader
from residuum.models import inference, saved

Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True)
class Knn:
    """Whose votes gave a picture its class: those of the `k` most similar of the `known` training pictures, by the
    vectors of a `stage`, in proportion to exp(similarity / temperature)."""

    k: int
    known: int
    stage: int
    temperature: float


@dataclass(frozen=True)
class Evaluation:
    """How networks fared: `models` are their names, `kind` is what they saw of each picture, `what` the pictures in
    words, `skipped` the reason by file, `world` the processes that found it out together. `knn` is there where
    neighbours voted in place of the classifier: shares of votes are no probabilities, so that the scores' loss and
    calibration say little. `reliance` is there for a classifier that gives a picture one class; a threshold of
    "unknown" is the first network's. `chosen_here` says which of the first network's temperature and threshold were
    chosen on these very pictures. Where a picture may have several classes, scores and predictions are of that
    kind."""

    models: tuple[str, ...]
    kind: Kind
    what: str
    scores: Scores | LabelScores
    predictions: Predictions | LabelPredictions
    images: ImageSet
    skipped: dict[str, str]
    world: World
    knn: Knn | None = None
    reliance: Reliance | None = None
    chosen_here: tuple[str, ...] = ()


def evaluate(
    bundle: str | Path,
    data: str | None = None,
    split: str | None = None,
    *,
    views: Kind = "one",
    ensemble: Sequence[str | Path] = (),
    precision: hardware.Precision = "fp32",
    batch_size: int = 256,
    device: str = "auto",
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
) -> Scores | LabelScores:
    """Scores the network in `bundle` on a part of `data`: `split`, or test, else validation, else all of it.

    Without `data` it is the set that the network was trained on, with the same pictures held out. `views` is what it
    sees of each picture: "one" (the centre), that and its "mirror", these and a small "shift", "ten" crops, or
    "multiscale"; `ensemble` are bundles of more networks. The probabilities of all views and networks are averaged,
    each network's with its own temperature. Of a network that gives a picture several classes, they are scores of that
    kind, at the bundle's thresholds (the mean ones of an ensemble). Processes that were started together, by torchrun
    or srun, share the pictures, and each returns the scores of all of them.

    Raises:
        WeightsError: a bundle cannot be used, or has other classes than the first.
        DataError: the set, the part or a picture cannot be used, or a class is unknown to the network.
        UsageError: an argument cannot be what it is.
    """
    return evaluate_in_full(
        bundle,
        data,
        split,
        kind=views,
        ensemble=ensemble,
        precision=precision,
        batch_size=batch_size,
        device=device,
        workers=workers,
        on_bad_image=on_bad_image,
    ).scores


def as_they_come(batches: Iterable[Batch], count: int) -> Iterable[Batch]:  # noqa: ARG001
    return batches


def evaluate_in_full(
    bundle: str | Path,
    data: str | None,
    split: str | None,
    *,
    kind: Kind = "one",
    ensemble: Sequence[str | Path] = (),
    precision: hardware.Precision,
    batch_size: int,
    device: str,
    workers: int,
    on_bad_image: OnBadImage,
    watch: Watch = as_they_come,
) -> Evaluation:
    """As `evaluate`, with everything that led to the scores; `watch` sees the batches, and how many pictures there are.

    Raises: what `evaluate` raises.
    """
    refuse_unknown(kind, batch_size, on_bad_image)
    with joined() as world:
        place = hardware.choose_device(device, world.local_rank)
        number_format = hardware.choose_precision(precision, place)
        hardware.autocast(number_format, place)  # which makes float32 what it says on GPUs
        networks = {str(folder): saved.load(Path(folder), place) for folder in (bundle, *ensemble)}
        _refuse_unlike(networks)
        trained = list(networks.values())
        with world.one_after_the_other():
            images, what, skipped = pictures_of(trained, data, split, on_bad_image)
        answering = [inference.answering(network.model, number_format) for network in trained]
        model, loader = _seeing(trained, answering, kind, images, batch_size, place, workers, on_bad_image, world)
        batches = watch(loader, len(images)) if world.is_main else loader
        scores, predictions, told = _judged(trained, model, batches, world)
        for found in world.gather(loader.skipped):
            skipped |= found
    models = tuple(network.card["model"]["name"] for network in trained)
    chosen = chosen_on(trained[0], what)
    return Evaluation(
        models, kind, what, scores, predictions, images, skipped, world, reliance=told, chosen_here=chosen
    )


def _judged(
    networks: Sequence[saved.Saved], model: Tempered | Averaged, batches: Iterable[Batch], world: World
) -> tuple[Scores, Predictions, Reliance] | tuple[LabelScores, LabelPredictions, None]:
    """Returns how networks that answer together as `model` fare, and how far they are to be relied on."""
    classes, below = networks[0].classes, networks[0].calibration.unknown_below
    if networks[0].thresholds is None:
        return evaluate_both(model, batches, classes, world=world, unknown_below=below)
    return *score_labels(model, batches, classes, world=world, thresholds=_mean_thresholds(networks)), None


def _seeing(
    networks: Sequence[saved.Saved],
    answering: Sequence[nn.Module],
    kind: Kind,
    images: ImageSet,
    batch_size: int,
    device: torch.device,
    workers: int,
    on_bad_image: OnBadImage,
    world: World,
) -> tuple[Tempered | Averaged, EvalLoader | ViewLoader]:
    """Returns what answers, and the batches that it takes: one network's centre crops as training's own evaluation has
    them, anything else as views."""
    if kind == "one" and len(networks) == 1:
        return Tempered(answering[0], networks[0].calibration.temperature), EvalLoader(
            images,
            networks[0].preprocessing,
            batch_size,
            device=device,
            channels_last=True,
            workers=workers,
            on_bad_image=on_bad_image,
            world=world,
        )
    loader = ViewLoader(
        images,
        [network.preprocessing for network in networks],
        kind,
        batch_size,
        device=device,
        channels_last=True,
        workers=workers,
        on_bad_image=on_bad_image,
        world=world,
    )
    how = [network.preprocessing for network in networks]
    temperatures = [network.calibration.temperature for network in networks]
    several = networks[0].thresholds is not None
    return Averaged(list(zip(answering, how, strict=True)), kind, temperatures, several=several), loader


def refuse_unknown(kind: str, batch_size: int, on_bad_image: str) -> None:
    """Raises UsageError for an argument that cannot be."""
    if kind not in get_args(Kind):
        raise UsageError(
            f"views={kind!r} cannot be.",
            expected=f"Expected one of {', '.join(get_args(Kind))}.",
            hint="Leave it out for the centre of each picture.",
        )
    if batch_size < 1 or on_bad_image not in get_args(OnBadImage):
        raise UsageError(
            f"batch_size={batch_size} with on_bad_image={on_bad_image!r} cannot be.",
            expected=f"Expected a batch_size from 1, and one of {', '.join(get_args(OnBadImage))}.",
            hint="Leave them out for the defaults.",
        )


def _refuse_unlike(networks: Mapping[str, saved.Saved]) -> None:
    """Raises WeightsError where networks cannot answer together: for their classes, the order of these, or colours."""
    (first, one), *others = networks.items()
    for name, other in others:
        if other.classes != one.classes:
            how = "the same classes in another order" if set(other.classes) == set(one.classes) else "other classes"
            raise WeightsError(
                f"The network in {name} has {how} than {first}: {_named(other.classes)}; {_named(one.classes)}.",
                expected="Expected the same classes in the same order: probabilities are averaged place by place.",
                hint="Leave that bundle out, or train it on the same class folders.",
            )
        if (other.thresholds is None) != (one.thresholds is None):
            one_class, several = (name, first) if other.thresholds is None else (first, name)
            raise WeightsError(
                f"The network in {one_class} gives a picture one class, that in {several} any number of them.",
                expected="Expected the same: their probabilities mean different things.",
                hint="Leave that bundle out.",
            )
        if other.preprocessing.mode != one.preprocessing.mode:
            raise WeightsError(
                f"The network in {name} takes pictures of mode {other.preprocessing.mode}, that in {first} of mode "
                f"{one.preprocessing.mode}.",
                expected="Expected the same: all grey (L) or all in colour (RGB).",
                hint="Leave that bundle out.",
            )


def _named(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5:,} more" if len(classes) > 5 else "")


def pictures_of(
    networks: Sequence[saved.Saved], data: str | None, split: str | None, on_bad_image: OnBadImage
) -> tuple[ImageSet, str, dict[str, str]]:
    """Returns the pictures to score, what they are in words, and what was left out with the reason.

    Where `data` is a set that one of the networks was trained on, they are what was held out then.
    """
    owners = [network for network in networks if data is None or trained_on(network.card, data)]
    trained = owners[0] if owners else networks[0]
    if data is not None and not owners:
        reading, mode = reading_of(trained), trained.preprocessing.mode
        images = open_single(data, split, trained.classes, mode=mode, labels=reading)
        return images, data if split is None else f"{data}, part {split}", {}
    own = data or source_of(trained)
    if not own or "recipe" not in trained.card:
        raise WeightsError(
            "The bundle does not say which set it was trained on.",
            expected="Expected a bundle that 'residuum train' wrote.",
            hint="Name the set: residuum evaluate BUNDLE --data DATA",
        )
    changes = {"data.source": own, "data.on_bad_image": on_bad_image}
    parts = open_parts(recipe.override(recipe.from_dict(trained.card["recipe"]), changes).data)
    name = parts.deciding if split is None else PART_NAMES.get(split.lower())
    if name is None or name not in parts.by_name:
        raise DataError(
            f"The set that the model was trained on has no part {split!r}.",
            expected=f"It has {', '.join(parts.by_name)}.",
            hint="Leave out --split, or name another set with --data.",
        )
    images = parts.by_name[name]
    if images.classes != trained.classes:
        raise DataError(
            f"The set {own!r} has other classes now: {', '.join(images.classes[:10])}.",
            expected=f"Expected {', '.join(trained.classes[:10])}.",
            hint="Name the set to evaluate on: residuum evaluate BUNDLE --data DATA",
        )
    if not same_pictures(parts.record, trained.card["data"], (name,)):
        raise DataError(
            f"The set {own!r} has other pictures now than in training, so that its part '{name}' is another one.",
            expected="Expected the same files: otherwise pictures that were trained on may be among those held out.",
            hint="Name pictures that are new to the model: residuum evaluate BUNDLE --data DATA",
        )
    for other in networks:
        alike = same_pictures(parts.record, other.card.get("data", {}), (name,))
        if not alike and trained_on(other.card, own):
            raise DataError(
                f"The networks divided the set {own!r} in other ways: its part '{name}' is not the same for all.",
                expected="Expected the same pictures: otherwise one may have been trained on what another held out.",
                hint="Train them with one data.split_seed, or name pictures that are new to all: --data DATA",
            )
    return images, f"{own}, part {name} {AS_IN_TRAINING}", dict(parts.skipped)


def _mean_thresholds(networks: Sequence[saved.Saved]) -> list[float]:
    """Returns the mean threshold of each class, over networks that have some."""
    by_class = zip(*(network.thresholds or () for network in networks), strict=True)
    return [math.fsum(each) / len(each) for each in by_class]


def rows(
    predictions: Predictions, images: ImageSet, classes: tuple[str, ...], unknown_below: float | None = None
) -> list[dict[str, object]]:
    """Returns one row a picture for a table: file, label, predicted, prob, correct; and where an answer may be
    "unknown", whether it is: then `predicted` is the most probable class all the same."""
    best, probs = predictions.top[:, 0], predictions.probs[:, 0]
    return [
        {
            "file": images.name(int(index)),
            "label": classes[int(label)],
            "predicted": classes[int(guess)],
            "prob": round(float(prob), 6),
            "correct": bool(guess == label),
            **({} if unknown_below is None else {"unknown": bool(prob < unknown_below)}),
        }
        for index, label, guess, prob in zip(predictions.indices, predictions.labels, best, probs, strict=True)
    ]


def rows_of(done: Evaluation) -> list[dict[str, object]]:
    """Returns one row a picture of an evaluation, as `rows` does; of several classes they have | between them."""
    if isinstance(done.scores, LabelScores) and isinstance(done.predictions, LabelPredictions):
        return label_rows(done.predictions, done.images, done.scores)
    assert isinstance(done.predictions, Predictions)
    below = done.reliance.chosen.threshold if done.reliance and done.reliance.chosen else None
    return rows(done.predictions, done.images, tuple(score.name for score in done.scores.classes), below)
