"""Nets for 224-pixel pictures: ImageNet as in 2015, and as today.

Source: He et al., arXiv:1512.03385, section 3.4; Wightman et al., arXiv:2110.00476, Table 2, procedure A2.
Departures of the 2015 recipes:
    the usual mean and standard deviation of each colour, not the per-pixel mean, normalise the pictures;
    the paper says "up to 600,000 updates" and "when the error plateaus": here 120 epochs, and a plateau is five epochs
    without a better validation error.
Departures of the strong recipe from A2:
    AdamW at a rate of its own, not LAMB; batches of 1,024, not 2,048; every picture once a batch, without repeated
    augmentation.
"""

from __future__ import annotations

from residuum.recipe import (
    AdamW,
    Augment,
    Cosine,
    Data,
    Expect,
    Model,
    Plateau,
    RandAugment,
    Recipe,
    ResizedCrop,
    ScaleCrop,
    Sgd,
)
from residuum.recipes import RECIPES

_TABLE_2 = "arXiv:1512.03385, Table 2 (ten crops)"
_TABLE_3 = "arXiv:1512.03385, Table 3 (ten crops)"


def _as_published(model: Model) -> Recipe:
    """Batches of 256, rate 0.1 divided by 10 on plateaus, scales 256 to 480, crops of 224, colour (section 3.4)."""
    return Recipe(
        name=f"{model.name}_imagenet_2015",
        epochs=120,
        precision="fp32",
        model=model,
        data=Data("", img_size=224, resize_px=256, batch_size=256, normalise="imagenet", val_fraction=0.05),
        augment=Augment(crop=ScaleCrop(min_px=256, max_px=480), flip="random", lighting=0.1),
        optim=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
        schedule=Plateau(patience_epochs=5),
    )


@RECIPES.register(Expect(top1_error=27.94, source=_TABLE_2))
def plain18_imagenet_2015() -> Recipe:
    """Plain-18 on ImageNet as published."""
    return _as_published(Model("plain18"))


@RECIPES.register(Expect(top1_error=28.54, source=_TABLE_2))
def plain34_imagenet_2015() -> Recipe:
    """Plain-34 on ImageNet as published: deeper, and worse."""
    return _as_published(Model("plain34"))


@RECIPES.register(Expect(top1_error=27.88, source=_TABLE_2))
def resnet18_imagenet_2015() -> Recipe:
    """ResNet-18 on ImageNet as published, with shortcuts A."""
    return _as_published(Model("resnet18", shortcut="A"))


@RECIPES.register(Expect(top1_error=25.03, source=_TABLE_2))
def resnet34_imagenet_2015() -> Recipe:
    """ResNet-34 on ImageNet as published, with shortcuts A."""
    return _as_published(Model("resnet34", shortcut="A"))


@RECIPES.register(Expect(top1_error=22.85, source=_TABLE_3))
def resnet50_imagenet_2015() -> Recipe:
    """ResNet-50 on ImageNet as published: shortcuts B, strides in the first 1x1."""
    return _as_published(Model("resnet50", shortcut="B", stride_in="1x1"))


@RECIPES.register(Expect(top1_error=21.75, source=_TABLE_3))
def resnet101_imagenet_2015() -> Recipe:
    """ResNet-101 on ImageNet as published."""
    return _as_published(Model("resnet101", shortcut="B", stride_in="1x1"))


@RECIPES.register(Expect(top1_error=21.43, source=_TABLE_3))
def resnet152_imagenet_2015() -> Recipe:
    """ResNet-152 on ImageNet as published."""
    return _as_published(Model("resnet152", shortcut="B", stride_in="1x1"))


@RECIPES.register(
    Expect(top1_error=20.2, source="arXiv:2110.00476, Table 1, A2 (one crop); this recipe departs from it")
)
def resnet50_imagenet_strong() -> Recipe:
    """ResNet-50 on ImageNet as trained today: 300 epochs, yes-or-no losses, mixing, RandAugment, drop-path."""
    return Recipe(
        name="resnet50_imagenet_strong",
        epochs=300,
        loss="bce",
        model=Model("resnet50", zero_init_last=True, drop_path=0.05),
        data=Data(
            "",
            img_size=224,
            resize_px=236,
            interpolation="bicubic",
            batch_size=1024,
            normalise="imagenet",
            val_fraction=0.05,
        ),
        augment=Augment(
            crop=ResizedCrop(area_min=0.08),
            flip="random",
            policy=RandAugment(ops=2, magnitude=7),
            mixup=0.1,
            cutmix=1.0,
        ),
        accumulate=4,
        optim=AdamW(lr=2e-3, weight_decay=0.02),
        schedule=Cosine(warmup_epochs=5),
    )
