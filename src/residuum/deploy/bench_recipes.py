"""Which recipe a measurement runs: the one that is meant, without what does not belong to its speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from residuum.models import MODELS
from residuum.recipe import ALIASES, Augment, Data, Recipe, ResizedCrop, Sgd, Steps
from residuum.recipes import RECIPES
from residuum.threads import cores
from residuum.training.choose import DEFAULTS, SCRATCH, choose, choose_recipe

_SMALL_PX = 64
_RANDOM_CLASSES = 10
_RANDOM_BYTES = 2**28
"""As much memory as random pictures may take; what needs more of them sees them again."""

_LR = 0.01  # which learns something from noise, and loses nothing to it


def recipe_for_training(
    wanted: str | Path | Recipe | None, data: str | None, changes: Mapping[str, object], steps: int
) -> tuple[Recipe, list[str]]:
    """Returns the recipe to measure, and remarks on what is not as in training.

    Without a recipe it follows from the pictures, as in `train`; without pictures from the network, and the pictures
    are random ones.

    Raises:
        UsageError: a name, key or value that does not exist.
        DataError: the pictures cannot be used.
    """
    given = {ALIASES.get(key, key): value for key, value in changes.items()}
    if data is not None:
        chosen, notes = choose(wanted, data, given, download=False)
    else:
        chosen = choose_recipe(wanted or _recipe_of(given), "synthetic", given)
        chosen, notes = _with_random_pictures(chosen, steps), ["The pictures are random, and need no decoding."]
    if chosen.augment.start_px:
        notes = [*notes, f"The pictures are of {chosen.data.img_size} pixels throughout, as at the recipe's end."]
    return _for_its_speed(chosen), notes


def _recipe_of(given: Mapping[str, object]) -> Recipe:
    """Returns the usual recipe for a network that is named, or for ResNet-20."""
    name = str(given.get("model.name", "resnet20_cifar"))
    px = MODELS[name].card.input_px
    if px <= _SMALL_PX:
        return RECIPES["resnet20_cifar10_fast"].build()
    scratch = RECIPES[SCRATCH].build()
    look = replace(scratch.data, img_size=px, resize_px=round(px / 0.875))
    plain = Sgd(lr=_LR, momentum=0.9, weight_decay=1e-4)
    return replace(scratch, name="plain", data=look, optim=plain, label_smoothing=0.0)


def _with_random_pictures(chosen: Recipe, steps: int) -> Recipe:
    px, batch = chosen.data.img_size, chosen.data.batch_size
    most = max(2 * batch, _RANDOM_BYTES // (3 * px * px))
    count = max(min(steps * batch, most), _RANDOM_CLASSES)
    source = f"synthetic:{count}x{_RANDOM_CLASSES}x{px}"
    return replace(chosen, data=replace(chosen.data, source=source, val_fraction=0.0, test_fraction=0.0))


def _for_its_speed(chosen: Recipe) -> Recipe:
    """Returns a recipe as fast as another: without scores, checkpoints and downloads, at one size and a low rate."""
    return replace(
        chosen,
        early_stop_epochs=0,
        save_every_minutes=0.0,
        save_every_steps=0,
        model=replace(chosen.model, weights="none"),
        augment=replace(chosen.augment, start_px=0),
        optim=replace(chosen.optim, lr=min(chosen.optim.lr, _LR)),
        schedule=Steps(),
    )


def recipe_for_data(wanted: str | Path | Recipe | None, data: str, changes: Mapping[str, object]) -> Recipe:
    """Returns the recipe whose loading is measured: the one that is named, that of a set with a name, or the usual cuts
    and flips at 224 pixels.

    Raises:
        UsageError: a name, key or value that does not exist.
    """
    usual = Recipe(
        name="plain",
        data=Data(img_size=224, resize_px=256, batch_size=64, eval_batch_size=64),
        augment=Augment(crop=ResizedCrop(), flip="random"),
    )
    known = data in DEFAULTS
    chosen = choose_recipe(wanted if wanted is not None or known else usual, data, changes)
    every = replace(chosen.data, val_fraction=0.0, test_fraction=0.0, folds=0, workers=chosen.data.workers or cores())
    return replace(chosen, data=every)
