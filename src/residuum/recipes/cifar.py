"""CIFAR-10: the nets of Table 6 and Figure 6 as published, and ResNet-20 in minutes.

Source: He et al., arXiv:1512.03385, section 4.2.
Departures of the 2015 recipes:
    the mean and standard deviation of each colour, not the per-pixel mean, normalise the pictures;
    164 epochs of 391 updates are 64,124 updates, the last of each epoch of 80 pictures instead of 128;
    ResNet-110 is warmed up for one epoch (391 updates), not until its training error is under 80 % (about 400 updates).
"""

from __future__ import annotations

from dataclasses import replace

from residuum.recipe import Augment, Data, Expect, Model, Muon, OneCycle, PadCrop, Recipe, Sgd, Steps
from residuum.recipes import RECIPES

_TABLE_6 = "arXiv:1512.03385, Table 6"
_FIGURE_6 = "arXiv:1512.03385, Figure 6, left (read off the curves: no number is printed)"


def _as_published(model: str) -> Recipe:
    """64,000 updates of 128 pictures; the rate divided by 10 at 32,000 and 48,000 (section 4.2)."""
    return Recipe(
        name=f"{model.removesuffix('_cifar')}_cifar10_2015",
        epochs=164,
        precision="fp32",
        model=Model(model),
        data=Data("cifar10", batch_size=128, val_fraction=0.0),
        augment=Augment(crop=PadCrop(px=4), flip="random"),
        optim=Sgd(lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
        schedule=Steps(at_epochs=(82, 123)),
    )


@RECIPES.register(Expect(top1_error=8.75, source=_TABLE_6, seeds=5))
def resnet20_cifar10_2015() -> Recipe:
    """ResNet-20 on CIFAR-10 as published."""
    return _as_published("resnet20_cifar")


@RECIPES.register(Expect(top1_error=7.51, source=_TABLE_6, seeds=5))
def resnet32_cifar10_2015() -> Recipe:
    """ResNet-32 on CIFAR-10 as published."""
    return _as_published("resnet32_cifar")


@RECIPES.register(Expect(top1_error=7.17, source=_TABLE_6, seeds=5))
def resnet44_cifar10_2015() -> Recipe:
    """ResNet-44 on CIFAR-10 as published."""
    return _as_published("resnet44_cifar")


@RECIPES.register(Expect(top1_error=6.97, source=_TABLE_6, seeds=5))
def resnet56_cifar10_2015() -> Recipe:
    """ResNet-56 on CIFAR-10 as published."""
    return _as_published("resnet56_cifar")


@RECIPES.register(Expect(top1_error=6.61, source=f"{_TABLE_6}: mean of five; the best is 6.43", seeds=5))
def resnet110_cifar10_2015() -> Recipe:
    """ResNet-110 on CIFAR-10 as published, with its warm-up at a tenth of the rate."""
    schedule = Steps(at_epochs=(82, 123), warmup_epochs=1, warmup_factor=0.1, warmup="constant")
    return replace(_as_published("resnet110_cifar"), schedule=schedule)


@RECIPES.register(Expect(top1_error=7.93, source=_TABLE_6))
def resnet1202_cifar10_2015() -> Recipe:
    """ResNet-1202 on CIFAR-10 as published, with activation checkpointing so that it fits into 24 GB."""
    schedule = Steps(at_epochs=(82, 123), warmup_epochs=1, warmup_factor=0.1, warmup="constant")
    model = Model("resnet1202_cifar", checkpoint_activations=True)
    return replace(_as_published("resnet1202_cifar"), model=model, schedule=schedule)


@RECIPES.register(Expect(source=_FIGURE_6))
def plain20_cifar10_2015() -> Recipe:
    """Plain-20 on CIFAR-10 as published."""
    return _as_published("plain20_cifar")


@RECIPES.register(Expect(source=_FIGURE_6))
def plain32_cifar10_2015() -> Recipe:
    """Plain-32 on CIFAR-10 as published."""
    return _as_published("plain32_cifar")


@RECIPES.register(Expect(source=_FIGURE_6))
def plain44_cifar10_2015() -> Recipe:
    """Plain-44 on CIFAR-10 as published."""
    return _as_published("plain44_cifar")


@RECIPES.register(Expect(source=_FIGURE_6))
def plain56_cifar10_2015() -> Recipe:
    """Plain-56 on CIFAR-10 as published."""
    return _as_published("plain56_cifar")


@RECIPES.register(Expect(source=f"{_FIGURE_6}: above 60 % error"))
def plain110_cifar10_2015() -> Recipe:
    """Plain-110 on CIFAR-10 as published: the net that does not train."""
    return _as_published("plain110_cifar")


@RECIPES.register(Expect(top1_error=8.75, source=f"{_TABLE_6}, in under 20 minutes on two cores", seeds=3))
def resnet20_cifar10_fast() -> Recipe:
    """ResNet-20 on CIFAR-10 in minutes on two cores: Muon, one cycle, smaller pictures at first, alternating flips.

    Rates, optimizer and augmentation were chosen on held-out training pictures, the number of epochs by the time that
    they take; the recipe itself trains on all 50,000 and keeps its last weights.
    """
    return Recipe(
        name="resnet20_cifar10_fast",
        epochs=25,
        label_smoothing=0.05,
        log_every_steps=50,
        model=Model("resnet20_cifar"),
        data=Data("cifar10", batch_size=128, val_fraction=0.0),
        augment=Augment(crop=PadCrop(px=4), flip="alternate", start_px=16, grow_until=0.8),
        optim=Muon(lr=0.05, weight_decay=0.02, plain_factor=5.0),
        schedule=OneCycle(peak=0.2),
    )


@RECIPES.register(Expect(top1_error=6.0, source="our own goal: 94 % in seconds on one GPU, 40 seeds", seeds=40))
def swift_resnet10_cifar10_94() -> Recipe:
    """Swift ResNet-10 on CIFAR-10 to 94 %: Muon, a falling rate, fast biases, alternating flips (arXiv:2404.00498).

    Run: benchmarks/gpu.py cifar94
    """
    return Recipe(
        name="swift_resnet10_cifar10_94",
        epochs=9,
        label_smoothing=0.2,
        log_every_steps=50,
        model=Model("swift_resnet10_cifar"),
        data=Data("cifar10", batch_size=1000, eval_batch_size=2000, val_fraction=0.0),
        augment=Augment(crop=PadCrop(px=2), flip="alternate"),
        optim=Muon(
            lr=0.05, momentum=0.6, weight_decay=1.0, plain_factor=1.0, plain_weight_decay=0.05, bias_factor=20.0
        ),
        schedule=OneCycle(peak=0.05, initial_factor=0.2),
    )


@RECIPES.register(Expect(top1_error=4.0, source="our own goal: 96 % in seconds on one GPU, 16 seeds", seeds=16))
def swift_wide_resnet10_cifar10_96() -> Recipe:
    """Swift wide ResNet-10 on CIFAR-10 to 96 %: longer, with wider crops and erased rectangles.

    Run: benchmarks/gpu.py cifar96
    """
    recipe = swift_resnet10_cifar10_94()
    return replace(
        recipe,
        name="swift_wide_resnet10_cifar10_96",
        epochs=36,
        model=Model("swift_wide_resnet10_cifar"),
        augment=Augment(crop=PadCrop(px=4), flip="alternate", erasing=0.8),
    )


@RECIPES.register(Expect(top1_error=6.0, source="our own goal: 94 % in under 20 minutes on two cores", seeds=3))
def swift_resnet7_cifar10_fast() -> Recipe:
    """Swift ResNet-7 on CIFAR-10 to 94 % in minutes on two cores: Muon, one cycle, smaller pictures at first.

    Run: residuum train --recipe swift_resnet7_cifar10_fast --data cifar10, and then residuum evaluate RUN/best --views
    mirror, by which its source scores too.
    """
    fast = resnet20_cifar10_fast()
    return replace(
        fast,
        name="swift_resnet7_cifar10_fast",
        epochs=11,
        label_smoothing=0.2,
        model=Model("swift_resnet7_cifar"),
        data=replace(fast.data, batch_size=256),
        augment=Augment(crop=PadCrop(px=2), flip="alternate", start_px=16, grow_until=0.9),
        optim=Muon(lr=0.04, momentum=0.6, weight_decay=0.02, plain_factor=5.0),
        schedule=OneCycle(peak=0.05, initial_factor=0.2),
    )
