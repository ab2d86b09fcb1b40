"""CIFAR-10: the nets of Table 6 and Figure 6 as published, and ResNet-20 in minutes.

Source: He et al., arXiv:1512.03385, section 4.2.
Departures of the 2015 recipes:
    the mean and standard deviation of each colour, not the per-pixel mean, normalise the pictures;
    164 epochs of 391 updates are 64,124 updates, the last of each epoch of 80 pictures instead of 128;
    ResNet-110 is warmed up for one epoch (391 updates), not until its training error is under 80 % (about 400 updates).
"""

from __future__ import annotations

from dataclasses import replace

from residuum.recipe import Augment, Data, Expect, Model, Muon, OneCycle, PadCrop, Recipe, Sgd, Steps, Transfer
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


_OF_THE_SOURCE = Muon(
    lr=0.24,
    momentum=0.6,
    weight_decay=0.0,
    fixed_length=True,
    ns_steps=3,
    plain_factor=0.085,
    plain_momentum=0.85,
    plain_weight_decay=0.2,
    bias_factor=440.0,
    bias_weight_decay=4e-5,
)
"""What moves the weights in airbench94_muon, by the author of arXiv:2404.00498 (2024), in batches of 2,000.

There the loss is a batch's sum, and the head of C features divides by C. Of the mean loss, its rate of the head, 0.67,
is 0.67 * 2,000 / C**2, here for 256 features; and that of biases, 0.053, is 106. At the full rate 0.004 of what decays
goes in a step: 0.24 * 0.085 * 0.2 of the head, 0.24 * 440 * 4e-5 of the biases.
"""


def _swift(model: str, epochs: int, crop_px: int, optim: Muon, *, batch_size: int = 2000) -> Recipe:
    """Training as in airbench94_muon, but that scales and the head's biases learn, at the head's rate, and that the
    stem's biases do not slow down over the first three eighths."""
    return Recipe(
        epochs=epochs,
        label_smoothing=0.2,
        log_every_steps=5,
        model=Model(model),
        data=Data("cifar10", batch_size=batch_size, eval_batch_size=2000, val_fraction=0.0),
        augment=Augment(crop=PadCrop(px=crop_px, fill="reflect"), flip="alternate"),
        optim=optim,
        schedule=OneCycle(peak=0.0),
    )


@RECIPES.register(Expect(top1_error=6.0, source="our own goal: 94 % in under 20 minutes on two cores", seeds=3))
def swift_resnet7_cifar10_fast() -> Recipe:
    """Swift ResNet-7 on CIFAR-10 to 94 % in minutes on two cores: Muon, a falling rate, fast biases, alternating flips.

    Batches of 1,000, with rates that were found for them (docs/log.md); the head decays by 0.4 of what it does in the
    source. The stem's biases stop after four epochs, at three quarters of their rate.
    Run: residuum train --recipe swift_resnet7_cifar10_fast --data cifar10, and then residuum evaluate RUN/best --views
    shift: like its source it is scored by moved and mirrored pictures, by ten where the source takes six.
    """
    optim = replace(_OF_THE_SOURCE, lr=0.2, ns_steps=5, plain_factor=0.02, plain_momentum=None, bias_factor=260.0)
    recipe = _swift("swift_resnet7_cifar", 15, 2, optim, batch_size=1000)
    return replace(recipe, name="swift_resnet7_cifar10_fast", transfer=Transfer(stem_until_epoch=4))


@RECIPES.register(Expect(top1_error=6.0, source="our own goal: 94 % in seconds on one GPU, 40 seeds", seeds=40))
def swift_resnet10_cifar10_94() -> Recipe:
    """Swift ResNet-10 on CIFAR-10 to 94 % in seconds on a GPU, by the same steps.

    Run: benchmarks/gpu.py cifar94
    """
    return replace(_swift("swift_resnet10_cifar", 9, 2, _OF_THE_SOURCE), name="swift_resnet10_cifar10_94")


@RECIPES.register(Expect(top1_error=4.0, source="our own goal: 96 % in seconds on one GPU, 16 seeds", seeds=16))
def swift_wide_resnet10_cifar10_96() -> Recipe:
    """Swift wide ResNet-10 on CIFAR-10 to 96 %: longer, with wider crops and erased rectangles.

    Run: benchmarks/gpu.py cifar96
    """
    optim = replace(_OF_THE_SOURCE, plain_factor=0.021, plain_weight_decay=0.8)  # for 512 features
    recipe = _swift("swift_wide_resnet10_cifar", 36, 4, optim)
    return replace(recipe, name="swift_wide_resnet10_cifar10_96", augment=replace(recipe.augment, erasing=0.8))
