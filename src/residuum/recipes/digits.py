"""The first recipe that a newcomer runs: handwritten digits that ship with scikit-learn, in seconds, on any machine."""

from __future__ import annotations

from residuum.recipe import Augment, Data, Expect, Model, OneCycle, PadCrop, Recipe, Sgd
from residuum.recipes import RECIPES


@RECIPES.register(Expect(top1_error=1.5, source="our own goal: 98.5 % of held-out digits within a minute on two cores"))
def digits() -> Recipe:
    """ResNet-20 on scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, shown at 16 x 16.

    Run: residuum train
    """
    return Recipe(
        name="digits",
        epochs=40,
        average_decay=0.98,
        log_every_steps=5,
        model=Model("resnet20_cifar"),
        data=Data("digits", img_size=16, resize_px=16, batch_size=64, val_fraction=0.1, test_fraction=0.2),
        augment=Augment(crop=PadCrop(px=2), rotate=10.0),
        optim=Sgd(lr=0.1, nesterov=True, weight_decay=5e-4),
        schedule=OneCycle(),
    )
