"""Values of a recipe that suit the pictures of a set: how many there are, how large, of which classes.

Each rule gives a key, its value and a sentence that says why, and leaves out what the recipe has already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass

from residuum.data.labels import counts
from residuum.data.sets import ImageSet, StreamedSet, opened, sampled
from residuum.data.sources import find
from residuum.download import is_offline
from residuum.errors import NetworkError, ResourceError
from residuum.models import MODELS
from residuum.models.weights import named, obtain, of_model
from residuum.recipe import Recipe

SMALL_PX = 64
"""Pictures whose shorter side is less are for a network without the strides of ImageNet's stem."""

UNEVEN = 3.0
"""From this ratio of the largest class to the smallest on, rare classes come more often."""

FEW = 10
"""With fewer pictures of a class, its figures say little."""

_SAMPLE = 48  # pictures whose size is looked at
_FINE_TUNING_UPDATES, _SCRATCH_UPDATES = 1200, 6000
_HELD_OUT = 10_000  # more validation pictures than this make no figure surer


@dataclass(frozen=True)
class Look:
    """What a set shows at a glance: its training pictures, those of each class, and the shorter side in the middle of
    the sizes. `own_val` is whether it has a validation part, `streamed` whether it is read in a stream."""

    images: int
    counts: Mapping[str, int]
    side_px: int
    own_val: bool
    streamed: bool


def look_at(recipe: Recipe) -> Look:
    """Looks at the training part of the recipe's set; a few pictures are decoded for their sizes.

    Raises:
        DataError: the set cannot be used.
    """
    parts = find(recipe.data.source, recipe.data.labels).parts
    train = parts.get("train")
    if train is None or not len(train):
        return Look(0, {}, recipe.data.img_size, False, False)  # to be refused, in full, where the set is opened
    having = counts(train.labels, len(train.classes))
    own_val = len(parts.get("val", ())) > 0
    return Look(
        images=len(train) if own_val else math.ceil(len(train) * (1 - recipe.data.val_fraction)),
        counts=dict(zip(train.classes, having.tolist(), strict=True)),
        side_px=_side_px(train) or recipe.data.img_size,
        own_val=own_val,
        streamed=isinstance(train, StreamedSet),
    )


def _side_px(images: ImageSet) -> int:
    found = (picture for _, picture in opened(images, sampled(images, _SAMPLE)))
    sides = sorted(min(picture.size) for picture in found if not isinstance(picture, Exception))
    return sides[len(sides) // 2] if sides else 0


def small_network(look: Look, given: Set[str], start: str | None) -> tuple[dict[str, object], list[str]]:
    """Returns the changes that make a recipe for photos one for small pictures, and why; none where they are not.

    Weights to start from decide on the network: `start` is the one that they are of, empty where they do not say it and
    None where there are none. One for small pictures sees small ones, whatever their size.
    """
    input_px = MODELS[start].card.input_px if start else math.inf
    if "model.name" in given or (look.side_px >= SMALL_PX if start is None else input_px > SMALL_PX):
        return {}, []
    small = look.side_px < SMALL_PX
    px = min(max(4 * round(look.side_px / 4), 16), SMALL_PX) if small else int(input_px)
    changes: dict[str, object] = {
        "data.img_size": px,
        "data.resize_px": px,
        "data.batch_size": 64,
        "augment.crop.name": "pad",
        "augment.crop.px": px // 8,
    }
    if start is None:
        changes |= {"model.name": "resnet20_cifar", "optim.lr": 0.1}
    sees = (
        f"the pictures have some {look.side_px} on their shorter side"
        if small
        else "it is a network for small pictures"
    )
    why = f"{start or 'resnet20_cifar'} at {px} pixels: {sees}."
    tables = [table for table in ("augment.crop.", "optim.") if any(key.startswith(table) for key in given)]
    return {key: value for key, value in changes.items() if key not in given and not key.startswith(tuple(tables))}, [
        why
    ]


def weights_for(changes: Mapping[str, object], recipe: Recipe, *, download: bool) -> tuple[str, list[str]]:
    """Returns the weights to start from, "" for none, and a word where there could have been others."""
    asked = changes.get("weights", changes.get("model.weights"))
    if asked is not None:
        return ("" if asked == "none" else str(asked)), []
    model = str(changes.get("model.name", changes.get("model", recipe.model.name)))
    options = sorted(key for key in changes if key.startswith("model.") and key != "model.name")
    if options:
        return "", [f"It starts from random weights: {options[0]} makes {model} another network than ImageNet's."]
    if not any(card.publisher == "torchvision" for card in of_model(model)):
        return "", [f"It starts from random weights: there are none of {model} for ImageNet."]
    try:
        if download or is_offline() or named("imagenet", model).cached.is_file():
            obtain(named("imagenet", model))
    except (NetworkError, ResourceError) as error:
        card = named("imagenet", model)
        return "", [
            f"It starts from random weights, because those of ImageNet cannot be had: {error.what} From few pictures "
            f"it learns less that way. To start from them, put {card.url} at {card.cached}, and train again."
        ]
    return "imagenet", [
        f"{named('imagenet', model).name} to start from: few pictures suffice then (--weights none: from scratch)."
    ]


def fit_to_pictures(recipe: Recipe, look: Look, given: Set[str] = frozenset()) -> tuple[dict[str, object], list[str]]:
    """Returns the keys whose values should be others for these pictures, and a sentence for each.

    Keys that were `given` keep their values.
    """
    values: dict[str, object] = {}
    reasons: list[str] = []

    def choose(key: str, value: object, why: str) -> None:
        if key not in given:
            values[key] = value
            reasons.append(f"{key} = {value}: {why}")

    if not look.images:
        return values, reasons
    least, most = min(look.counts.values()), max(look.counts.values())
    if SMALL_PX <= look.side_px < recipe.data.img_size:
        side = max(32 * (look.side_px // 32), SMALL_PX)
        choose("data.img_size", side, f"the pictures have some {look.side_px} pixels on their shorter side.")
    batch = recipe.data.batch_size
    if "data.batch_size" in given:
        pass
    elif look.images < 10 * batch:
        batch = max(8, min(batch, 2 ** int(math.log2(max(look.images / 10, 8)))))
    elif look.images > 40_000:
        batch = 4 * batch
        choose("optim.lr", 4 * recipe.optim.lr, "in proportion to the batch.")
    if batch != recipe.data.batch_size:
        choose("data.batch_size", batch, f"there are {look.images:,} training pictures.")
    fine_tuning = recipe.model.weights != "none"
    updates, fewest, highest = (_FINE_TUNING_UPDATES, 5, 30) if fine_tuning else (_SCRATCH_UPDATES, 20, 60)
    epochs = min(max(round(updates * batch / look.images), fewest), highest)
    choose(
        "epochs", epochs, f"about {epochs * look.images // batch:,} updates, with {look.images:,} training pictures."
    )
    if not look.own_val and look.images * recipe.data.val_fraction > _HELD_OUT:
        fraction = round(_HELD_OUT / look.images, 3)
        choose("data.val_fraction", fraction, f"{_HELD_OUT:,} pictures are enough to measure on.")
    balanced = {"class_weights", "data.balanced_sampling"} & given
    if least and most / least >= UNEVEN and not balanced:
        how = "class_weights" if look.streamed else "data.balanced_sampling"
        rare = min(look.counts, key=lambda name: look.counts[name])
        choose(how, 0.5, f"the largest class has {most / least:.0f} times as many pictures as {rare}.")
    if 0 < least < FEW and "data.folds" not in given:
        rare = min(look.counts, key=lambda name: look.counts[name])
        reasons.append(f"{rare} has {least} pictures only: --folds 5 says more of it than one validation part.")
    return values, reasons
