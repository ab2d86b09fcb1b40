"""What `smoke`, `small` and `full` mean for a net that is trained: one recipe each, the same for every net.

`smoke` shows that an experiment works: narrow nets, a few epochs on the digits. `small` is chosen by arithmetic, so
that four nets of 20 and 56 layers with three seeds take under an hour on two cores: a ResNet-20 trains some 2,200
pictures of 16 pixels a second there, and a ResNet-56 some 720; with what is scored besides, that is 52 minutes. `full`
is the paper's budget.

What `small` has of it goes into steps, because the claims are about training error at the end of a schedule, and a
deep net is slow at first and then faster: batches of 64 take twice as many steps over the same pictures as those of
128; the rate is warmed up, and falls to zero, so that the end of the schedule is the bottom of a valley; pictures are
mirrored and not cropped, so that what stands between a net and its training pictures is optimisation. Every net has the
same of all that.
Departures of `small`: 20,000 of CIFAR-10's training pictures (those that `val_fraction` leaves), shrunk to 16 x 16;
    3,756 updates of 64 in the place of 64,000 of 128; a cosine from 0.05 in the place of steps from 0.1; no crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from residuum import recipe
from residuum.lab.findings import Scale
from residuum.recipe import Augment, Cosine, Data, Model, OneCycle, Recipe, Sgd
from residuum.recipes import RECIPES

DATA = {"smoke": "digits", "small": "cifar10", "full": "cifar10"}
"""The image set of each scale, where --data names none."""

NO_DATA = "none"
"""What an experiment without pictures has in the place of a set."""

CURVE_PICTURES = {"smoke": 256, "small": 2_000, "full": 10_000}
"""How many training and test pictures the points of a curve are measured on."""

TRAINING_PICTURES = 10_000
"""How many training pictures the training error at the end is measured on, at most."""


def recipe_of(model: str, scale: Scale, data: str, seed: int, options: Mapping[str, str]) -> Recipe:
    """Returns how `model`, with `options` such as a shortcut, is trained at a scale."""
    trained = {"smoke": _smoke, "small": _small, "full": _full}[scale](model)
    network = replace(trained.model, **options)  # type: ignore[arg-type]
    pictures = replace(trained.data, source=data)
    return replace(trained, name=label_of(model, options), seed=seed, model=network, data=pictures)


def label_of(model: str, options: Mapping[str, str]) -> str:
    """Returns what reports call a net: its name without the suffix, and its options."""
    return "-".join((model.removesuffix("_cifar"), *options.values()))


def digest(wanted: Recipe) -> str:
    """Returns eight letters that tell recipes apart."""
    return hashlib.sha256(recipe.to_toml(wanted).encode()).hexdigest()[:8]


SMOKE_EPOCHS = 3


def _smoke(model: str) -> Recipe:
    return Recipe(
        epochs=SMOKE_EPOCHS,
        precision="fp32",
        eval_every_epochs=SMOKE_EPOCHS,
        save_every_minutes=0.0,
        model=Model(model, width=0.25),
        data=Data(img_size=8, resize_px=8, batch_size=128, val_fraction=0.0, test_fraction=0.2),
        optim=Sgd(lr=0.1, weight_decay=1e-4),
        schedule=OneCycle(),
    )


SMALL_EPOCHS = 12


def _small(model: str) -> Recipe:
    return Recipe(
        epochs=SMALL_EPOCHS,
        eval_every_epochs=SMALL_EPOCHS,
        save_every_minutes=0.0,
        log_every_steps=100,
        model=Model(model),
        data=Data(img_size=16, resize_px=16, batch_size=64, val_fraction=0.6, test_fraction=0.2),
        augment=Augment(flip="random"),
        optim=Sgd(lr=0.05, momentum=0.9, weight_decay=1e-4, decay_all=True),
        schedule=Cosine(warmup_epochs=1.0),
    )


def _full(model: str) -> Recipe:
    small = model.endswith("_cifar")
    name = f"{model.removesuffix('_cifar')}_{'cifar10' if small else 'imagenet'}_2015"
    return replace(RECIPES[name].build(), save_every_minutes=0.0)  # a point of the curve is of an epoch's end
