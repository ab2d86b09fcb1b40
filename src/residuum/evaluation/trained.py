"""Scores of a trained network: a bundle, on a part of the set it was trained on or of any other with its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from residuum import hardware, recipe
from residuum.data.loading import Batch, EvalLoader
from residuum.data.parts import PART_NAMES, same_pictures
from residuum.data.sets import ImageSet
from residuum.data.sources import open_parts, open_single
from residuum.data.verification import OnBadImage
from residuum.distributed import World, joined
from residuum.errors import DataError, UsageError, WeightsError
from residuum.evaluation.evaluate import Predictions, Scores
from residuum.evaluation.evaluate import evaluate as score
from residuum.models import saved

Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True)
class Evaluation:
    """How a network fared: `model` is its name, `what` the pictures in words, `skipped` the reason by file, `world` the
    processes that found it out together."""

    model: str
    what: str
    scores: Scores
    predictions: Predictions
    images: ImageSet
    skipped: dict[str, str]
    world: World


def evaluate(
    bundle: str | Path,
    data: str | None = None,
    split: str | None = None,
    *,
    precision: hardware.Precision = "fp32",
    batch_size: int = 256,
    device: str = "auto",
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
) -> Scores:
    """Scores the network in `bundle` on a part of `data`: `split`, or test, else validation, else all of it.

    Without `data` it is the set that the network was trained on, with the same pictures held out. Processes that were
    started together, by torchrun or srun, share the pictures, and each returns the scores of all of them.

    Raises:
        WeightsError: the bundle cannot be used.
        DataError: the set, the part or a picture cannot be used, or a class is unknown to the network.
        UsageError: an argument cannot be what it is.
    """
    return evaluate_in_full(
        bundle,
        data,
        split,
        precision=precision,
        batch_size=batch_size,
        device=device,
        workers=workers,
        on_bad_image=on_bad_image,
    ).scores


def _as_they_come(batches: Iterable[Batch], count: int) -> Iterable[Batch]:  # noqa: ARG001
    return batches


def evaluate_in_full(
    bundle: str | Path,
    data: str | None,
    split: str | None,
    *,
    precision: hardware.Precision,
    batch_size: int,
    device: str,
    workers: int,
    on_bad_image: OnBadImage,
    watch: Watch = _as_they_come,
) -> Evaluation:
    """As `evaluate`, with everything that led to the scores; `watch` sees the batches, and how many pictures there are.

    Raises: what `evaluate` raises.
    """
    if batch_size < 1 or on_bad_image not in get_args(OnBadImage):
        raise UsageError(
            f"batch_size={batch_size} with on_bad_image={on_bad_image!r} cannot be.",
            expected=f"Expected a batch_size from 1, and one of {', '.join(get_args(OnBadImage))}.",
            hint="Leave them out for the defaults.",
        )
    with joined() as world:
        place = hardware.choose_device(device, world.local_rank)
        autocast = hardware.autocast(hardware.choose_precision(precision, place), place)
        trained = saved.load(Path(bundle), place)
        with world.one_after_the_other():
            images, what, skipped = _pictures(trained, data, split, on_bad_image)
        loader = EvalLoader(
            images,
            trained.preprocessing,
            batch_size,
            device=place,
            channels_last=True,
            workers=workers,
            on_bad_image=on_bad_image,
            world=world,
        )
        batches = watch(loader, len(images)) if world.is_main else loader
        scores, predictions = score(trained.model, batches, trained.classes, autocast, world)
        for found in world.gather(loader.skipped):
            skipped |= found
    return Evaluation(trained.card["model"]["name"], what, scores, predictions, images, skipped, world)


def _pictures(
    trained: saved.Saved, data: str | None, split: str | None, on_bad_image: OnBadImage
) -> tuple[ImageSet, str, dict[str, str]]:
    """Returns the pictures to score, what they are in words, and what was left out with the reason."""
    own = trained.card.get("data", {}).get("source", "")
    if data is not None and not _same(data, own):
        images = open_single(data, split, trained.classes, mode=trained.preprocessing.mode)
        return images, data if split is None else f"{data}, part {split}", {}
    if not own or "recipe" not in trained.card:
        raise WeightsError(
            "The bundle does not say which set it was trained on.",
            expected="Expected a bundle that 'residuum train' wrote.",
            hint="Name the set: residuum evaluate BUNDLE --data DATA",
        )
    changes = {"data.source": data or own, "data.on_bad_image": on_bad_image}
    parts = open_parts(recipe.override(recipe.from_dict(trained.card["recipe"]), changes).data)
    by_name = {"test": parts.test, "val": parts.val, "train": parts.train}
    present = {name: part for name, part in by_name.items() if part is not None}
    name = next(iter(present)) if split is None else PART_NAMES.get(split.lower(), split)
    if name not in present:
        raise DataError(
            f"The set that the model was trained on has no part {split!r}.",
            expected=f"It has {', '.join(present)}.",
            hint="Leave out --split, or name another set with --data.",
        )
    images = present[name]
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
    left_out = parts.record.get("skipped")
    return images, f"{own}, part {name} as in training", dict(left_out) if isinstance(left_out, dict) else {}


def _same(data: str, own: str) -> bool:
    """Whether two sources are the same one, so that what was held out in training is held out here."""
    return data == own or (Path(data).exists() and Path(own).exists() and Path(data).resolve() == Path(own).resolve())


def rows(predictions: Predictions, images: ImageSet, classes: tuple[str, ...]) -> list[dict[str, object]]:
    """Returns one row a picture for a table: file, label, predicted, prob, correct."""
    best = predictions.top[:, 0]
    return [
        {
            "file": images.name(int(index)),
            "label": classes[int(label)],
            "predicted": classes[int(guess)],
            "prob": round(float(prob), 6),
            "correct": bool(guess == label),
        }
        for index, label, guess, prob in zip(
            predictions.indices, predictions.labels, best, predictions.probs[:, 0], strict=True
        )
    ]
