"""A folder of photos, from scratch."""

from __future__ import annotations

from residuum.recipe import Augment, Cosine, Data, Expect, Model, Recipe, ResizedCrop, Sgd
from residuum.recipes import RECIPES


@RECIPES.register(Expect(source="no figure: it depends on the photos"))
def photos() -> Recipe:
    """ResNet-18 from random weights on a folder with one folder of photos for each class.

    Run: residuum train --data FOLDER
    """
    return Recipe(
        name="photos",
        epochs=60,
        label_smoothing=0.1,
        log_every_steps=1,
        model=Model("resnet18", zero_init_last=True),
        data=Data("", img_size=128, resize_px=146, batch_size=32, normalise="imagenet", val_fraction=0.2),
        augment=Augment(crop=ResizedCrop(area_min=0.25), flip="random", brightness=0.2, contrast=0.2, saturation=0.2),
        optim=Sgd(lr=0.05, nesterov=True, weight_decay=5e-4),
        schedule=Cosine(warmup_epochs=3),
    )
