"""Makes the probabilities of a trained network as sure as they are right, on pictures that it was not trained on.

`fit` chooses a temperature and, if wanted, the threshold below which the answer is "unknown". How good the temperature
is is told by pictures that did not choose it: each half of them is judged with that of the other half.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from residuum import bundle as bundles
from residuum import hardware
from residuum.calibration import KEY, Calibration, Threshold, checked
from residuum.data.loading import EvalLoader
from residuum.data.parts import PART_NAMES
from residuum.data.sets import ImageSet
from residuum.data.sources import find, open_single, part_name
from residuum.data.verification import OnBadImage
from residuum.distributed import ALONE, World, joined
from residuum.errors import UsageError, WeightsError
from residuum.evaluation import coverage, metrics
from residuum.evaluation.evaluate import Batch, asked_of_all, join
from residuum.evaluation.origin import reading_of, trained_on
from residuum.evaluation.temperature import FEWEST, confidence_and_losses, fit_temperature
from residuum.evaluation.trained import Watch, as_they_come, pictures_of, refuse_unknown
from residuum.models import saved

_HALVES_SEED = 0


@dataclass(frozen=True)
class Collected:
    """What a network answered to pictures, before any temperature: `logits` float32 [N, K], `labels` int64 [N], and the
    pictures' `indices` [N] in their set."""

    indices: NDArray[np.int64]
    logits: NDArray[np.floating]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Calibrated:
    """A bundle with a calibration, in `folder`; `what` are the pictures that it was chosen on, in words, and `skipped`
    the reason by file. The processes of `world` have made it together."""

    folder: Path
    calibration: Calibration
    what: str
    skipped: dict[str, str]
    world: World


def collect(
    model: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
) -> Collected:
    """Returns the logits of every picture, in the set's order, which the processes of `world` share out.

    Raises:
        DataError: there are no pictures, or the network does not tell as many classes apart.
        DivergedError: the network answers with numbers that are not finite.
    """
    parts = asked_of_all(
        model, lambda images: (model(images),), batches, num_classes,
        lambda batch, logits: Collected(batch.indices, logits, batch.labels.cpu().numpy().astype(np.int64)),
        autocast, world,
    )  # fmt: skip
    return join(parts)


def fit(collected: Collected, unknown_below: Threshold = "none") -> Calibration:
    """Chooses a temperature and a threshold on pictures that the network was not trained on.

    `unknown_below` "auto" is the highest threshold that answers 95 % of the pictures. `found` tells, with keys in
    percent: `images`, `top1`, `loss` and `ece` with the temperature; `uncalibrated` the same two without it;
    `cross_fitted` the same two where each half of the pictures has the temperature of the other; and, of a threshold,
    `coverage` and `accuracy` of the answers above it, and whether it was `chosen` here.

    Raises:
        UsageError: `unknown_below` is not what it can be.
    """
    temperature = fit_temperature(collected.logits, collected.labels)
    confidence, _ = confidence_and_losses(collected.logits, collected.labels, temperature)
    correct = collected.logits.argmax(axis=1) == collected.labels
    below = _threshold(unknown_below, confidence)
    found: dict[str, Any] = {
        "images": len(collected.labels),
        "top1": 100 * float(correct.mean()),
        **_judged(collected, correct, temperature),
        "uncalibrated": _judged(collected, correct, 1.0),
    }
    if len(collected.labels) >= 2 * FEWEST:
        found["cross_fitted"] = _judged(collected, correct, cross_fitted(collected))
    if below is not None:
        point = coverage.at_threshold(confidence, correct, below)
        chosen = unknown_below == "auto"
        found |= {"coverage": 100 * point.coverage, "accuracy": 100 * point.accuracy, "chosen": chosen}
    return Calibration(temperature, below, found)


def cross_fitted(collected: Collected, seed: int = _HALVES_SEED) -> metrics.Floats:
    """Returns for each picture the temperature of the half of the pictures that it is not in; [N]."""
    first = halves(len(collected.labels), seed)
    temperatures = np.empty(len(first))
    for half in (first, ~first):
        temperatures[~half] = fit_temperature(collected.logits[half], collected.labels[half])
    return temperatures


def halves(count: int, seed: int = _HALVES_SEED) -> NDArray[np.bool_]:
    """Returns which of so many pictures are in the first of two random halves; [N]."""
    drawn = np.random.Philox(key=np.array([seed, 3], dtype=np.uint64)).random_raw(count)
    first = np.zeros(count, dtype=bool)
    first[np.argsort(drawn, kind="stable")[: count // 2]] = True
    return first


def in_words(found: Calibration, pictures: str) -> str:
    """Returns in a sentence or two what was chosen on `pictures` ("359 validation pictures") and what it is worth."""
    facts = found.found
    if facts["images"] < FEWEST:
        said = f"{pictures} are too few to choose a temperature: it stays at 1, as the network gives its probabilities."
    else:
        judged = facts.get("cross_fitted", facts)
        said = (
            f"Temperature {found.temperature:.3f}, chosen on {pictures}: calibration error {judged['ece']:.2f} % "
            f"({facts['uncalibrated']['ece']:.2f} % without)."
        )
    if found.unknown_below is not None:
        said += (
            f" Unknown below a probability of {found.unknown_below:.4g}: {facts['coverage']:.1f} % of them are "
            f"answered, and {facts['accuracy']:.1f} % of these are right."
        )
    return said


def calibrate(
    bundle: str | Path,
    data: str | None = None,
    split: str | None = None,
    *,
    out: str | Path,
    unknown_below: Threshold = "none",
    precision: hardware.Precision = "fp32",
    batch_size: int = 256,
    device: str = "auto",
    workers: int = 0,
    on_bad_image: OnBadImage = "error",
    watch: Watch = as_they_come,
) -> Calibrated:
    """Writes the bundle again, as `out`, with a temperature and, if wanted, a threshold.

    They are chosen on a part of `data`: `split`, or validation, else test, else all of it. Without `data` it is the
    validation part that training held out. The pictures must not be among those that the network was trained on.

    Raises:
        WeightsError: the bundle cannot be used, or its network gives a picture any number of classes.
        DataError: the set, the part or a picture cannot be used, or a class is unknown to the network.
        UsageError: there is something at `out`, the part was trained on, or an argument cannot be what it is.
        ResourceError: `out` cannot be written.
    """
    folder, out = Path(bundle), Path(out)
    refuse_unknown("one", batch_size, on_bad_image)
    _threshold(unknown_below, np.ones(1))
    with joined() as world:
        world.from_main(lambda: _refuse_to_overwrite(out))
        place = hardware.choose_device(device, world.local_rank)
        autocast = hardware.autocast(hardware.choose_precision(precision, place), place)
        trained = saved.load(folder, place)
        _refuse_several(trained, folder)
        with world.one_after_the_other():
            images, what, skipped = _pictures(trained, data, split, on_bad_image)
        loader = EvalLoader(
            images, trained.preprocessing, batch_size, device=place, channels_last=True, workers=workers,
            on_bad_image=on_bad_image, world=world,
        )  # fmt: skip
        batches = watch(loader, len(images)) if world.is_main else loader
        found = fit(collect(trained.model, batches, len(trained.classes), autocast, world), unknown_below)
        for other in world.gather(loader.skipped):
            skipped |= other
        found = Calibration(found.temperature, found.unknown_below, {"pictures": what, **found.found})
        world.from_main(lambda: write(folder, out, found))
    return Calibrated(out, found, what, skipped, world)


def write(folder: Path, out: Path, found: Calibration) -> None:
    """Writes the bundle in `folder` as `out`, which may be the same, with a calibration.

    Raises: what `bundle.read` and `bundle.write` raise.
    """
    tensors, card = bundles.read(folder)
    bundles.write(out, tensors, {**card, KEY: found.as_dict()})


def _refuse_several(trained: saved.Saved, folder: Path) -> None:
    """Raises WeightsError where each class has a threshold of its own: a temperature is of all classes together."""
    if trained.thresholds is not None:
        raise WeightsError(
            f"The network in {folder} gives a picture any number of classes, and takes no temperature.",
            expected="Expected a network that gives a picture one class.",
            hint="Nothing needs doing: training has chosen a threshold for each of its classes.",
        )


def _pictures(
    trained: saved.Saved, data: str | None, split: str | None, on_bad_image: OnBadImage
) -> tuple[ImageSet, str, dict[str, str]]:
    if data is None or trained_on(trained.card, data):
        part = split or "val"
        if PART_NAMES.get(part.lower()) == "train":
            raise UsageError(
                f"The network was trained on the part {part!r} of this set.",
                expected="Expected pictures that are new to it: of those it has learnt it is surer than of others.",
                hint="Leave out --split for the validation part, or name other pictures with --data.",
            )
        return pictures_of([trained], data, part, on_bad_image)
    reading, mode = reading_of(trained), trained.preprocessing.mode
    found = find(data, reading)
    if split is None:
        split = "val" if len(found.parts.get("val", ())) else part_name(found, None, data)
    what = f"{data}, part {split}" if found.divided else data
    return open_single(data, split, trained.classes, mode=mode, labels=reading), what, {}


def _refuse_to_overwrite(out: Path) -> None:
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            f"There is something at {out} already.",
            expected="Expected a new folder: a bundle is never overwritten.",
            hint="Give another --out.",
        )


def _threshold(wanted: Threshold, confidence: metrics.Floats) -> float | None:
    if wanted == "none":
        return None
    return coverage.threshold_for(confidence) if wanted == "auto" else checked(wanted)


def _judged(collected: Collected, correct: NDArray[np.bool_], temperature: float | metrics.Floats) -> dict[str, float]:
    confidence, losses = confidence_and_losses(collected.logits, collected.labels, temperature)
    bins = metrics.calibration_bins(confidence, correct)
    return {"loss": math.fsum(losses) / len(losses), "ece": 100 * metrics.calibration_error(bins)}
