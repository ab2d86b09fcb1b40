"""A folder of photos: from weights that know ImageNet, with the head alone, or from scratch."""

from __future__ import annotations

from dataclasses import replace

from residuum.recipe import AdamW, Augment, Cosine, Data, Expect, Model, Recipe, ResizedCrop, Sgd, Transfer
from residuum.recipes import RECIPES


@RECIPES.register(Expect(source="no figure: it depends on the photos"))
def photos() -> Recipe:
    """ResNet-18 from ImageNet's weights on a folder with one folder of photos for each class.

    The head learns alone for an epoch, so that its first random gradients do not harm the rest.

    Run: residuum train --data FOLDER
    """
    return replace(
        photos_scratch(),
        name="photos",
        epochs=15,
        early_stop_epochs=8,
        model=Model("resnet18", weights="imagenet"),
        data=Data("", img_size=160, resize_px=182, batch_size=32, normalise="imagenet", val_fraction=0.2),
        transfer=Transfer(head_epochs=1, layer_decay=0.7),
        optim=Sgd(lr=0.02, nesterov=True, weight_decay=1e-4),
        schedule=Cosine(warmup_epochs=1),
    )


@RECIPES.register(Expect(source="no figure: it depends on the photos"))
def photos_probe() -> Recipe:
    """The head alone, from embeddings of ResNet-18 that are computed once: a linear probe, seconds on a CPU.

    Run: residuum train --recipe photos_probe --data FOLDER
    """
    return replace(
        photos(),
        name="photos_probe",
        epochs=50,
        early_stop_epochs=0,
        eval_every_epochs=5,
        save_every_epochs=50,
        log_every_steps=20,
        label_smoothing=0.0,
        transfer=Transfer(freeze="all"),
        augment=Augment(),
        optim=AdamW(lr=0.01, weight_decay=0.05),
        schedule=Cosine(),
    )


@RECIPES.register(Expect(source="no figure: it depends on the photos"))
def photos_scratch() -> Recipe:
    """ResNet-18 from random weights on a folder with one folder of photos for each class.

    Run: residuum train --recipe photos_scratch --data FOLDER
    """
    return Recipe(
        name="photos_scratch",
        epochs=60,
        label_smoothing=0.1,
        log_every_steps=1,
        model=Model("resnet18", zero_init_last=True),
        data=Data("", img_size=128, resize_px=146, batch_size=32, normalise="imagenet", val_fraction=0.2),
        augment=Augment(crop=ResizedCrop(area_min=0.25), flip="random", brightness=0.2, contrast=0.2, saturation=0.2),
        optim=Sgd(lr=0.05, nesterov=True, weight_decay=5e-4),
        schedule=Cosine(warmup_epochs=3),
    )
