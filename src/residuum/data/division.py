"""How the pictures of a source become the parts that training needs: what is missing is held out, or dealt to folds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from residuum import recipe
from residuum.data.labels import counts
from residuum.data.parts import ORDER, Found, PartName, folds_of, stratified_split
from residuum.data.sets import ImageSet, subset
from residuum.errors import DataError, UsageError

_SPLIT_STREAM = {"val": 0, "test": 1}


def divide(found: Found, data: recipe.Data) -> tuple[dict[PartName, ImageSet], dict[str, object]]:
    """Returns the parts, what is missing held out of the training pictures, and a record of how.

    Raises:
        DataError: there are fewer pictures than folds.
        UsageError: nothing would be left to train on, or there is no such fold.
    """
    parts: dict[PartName, ImageSet] = {name: part for name, part in found.parts.items() if len(part)}
    total = len(parts["train"])
    val_fraction = data.val_fraction
    if data.folds or data.fold:
        val_fraction = 0.0
        former = parts.pop("val", None)
        if former is not None:
            parts.setdefault("test", former)
    wanted: dict[PartName, float] = {"test": data.test_fraction, "val": val_fraction}
    held = {name: fraction for name, fraction in wanted.items() if name not in parts and fraction > 0}
    if sum(held.values()) >= 1:
        raise UsageError(
            f"val_fraction {data.val_fraction:g} and test_fraction {data.test_fraction:g} leave nothing to train on.",
            expected="Expected a sum below 1.",
            hint="For example: --set data.val_fraction=0.1 --set data.test_fraction=0.2",
        )
    for name, fraction in held.items():
        train = parts["train"]
        share = fraction * total / len(train)
        kept, out = stratified_split(train.labels, share, data.split_seed, _SPLIT_STREAM[name])
        if len(out):
            parts["train"], parts[name] = subset(train, kept), subset(train, out)
    how: dict[str, object] = {
        "seed": data.split_seed,
        "held_out": {name: fraction for name, fraction in held.items() if name in parts},
        "found": [name for name in ORDER if name in found.parts],
    }
    if data.folds or data.fold:
        parts["train"], parts["val"] = _fold(parts["train"], data)
        how |= {"fold": data.fold, "folds": data.folds}
    return {name: parts[name] for name in ORDER if name in parts}, how


def _fold(train: ImageSet, data: recipe.Data) -> tuple[ImageSet, ImageSet]:
    """Returns the training pictures without fold number `data.fold` of `data.folds`, and that fold."""
    if data.folds < 2 or data.fold >= data.folds:
        raise UsageError(
            f"There is no fold {data.fold} of {data.folds}.",
            expected="Expected at least 2 folds, counted from 0.",
            hint="Train on each of them in turn with: residuum train --folds 5",
        )
    if len(train) < data.folds:
        raise DataError(
            f"{len(train):,} pictures cannot be dealt out to {data.folds} folds.",
            expected="Expected at least as many pictures as folds.",
            hint="Use fewer folds.",
        )
    place = folds_of(train.labels, data.folds, data.split_seed)
    return subset(train, np.flatnonzero(place != data.fold)), subset(train, np.flatnonzero(place == data.fold))


def split_warnings(parts: Mapping[PartName, ImageSet], data: recipe.Data) -> list[str]:
    """Returns in sentences what the division of a set does not give."""
    wanted = {"val": 0.0 if data.folds else data.val_fraction, "test": data.test_fraction}
    said = [
        f"There are too few pictures to hold out {fraction:g} of them: there is no '{name}' part."
        for name, fraction in wanted.items()
        if fraction > 0 and name not in parts
    ]
    return [*said, *_unlearnt(parts["train"], data)]


def _unlearnt(train: ImageSet, data: recipe.Data) -> list[str]:
    """Names the classes that a fold holds every picture of: what is learnt without it knows nothing of them."""
    if not data.folds:
        return []
    none = np.flatnonzero(counts(train.labels, len(train.classes)) == 0)
    if not len(none):
        return []
    names = ", ".join(train.classes[place] for place in none[:10]) + (", ..." if len(none) > 10 else "")
    return [
        f"Fold {data.fold + 1} of {data.folds} holds every picture of {names}: its network has not one to learn from, "
        "and cannot recognise them. Add pictures, or leave such classes out."
    ]
