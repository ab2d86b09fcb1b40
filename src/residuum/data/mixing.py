"""Mixing pictures of a batch with each other: mixup and cutmix, on normalised pictures, batch by batch.

Source: arXiv:1710.09412, section 2 (mixup); arXiv:1905.04899, Algorithm A1 (cutmix).
Departures: a picture's partner is the other one of its pair (0 and 1, 2 and 3, ...) in the batch, whose order is
    random already, so that processes that share a batch mix the same pictures; the last of an odd batch is its own
    partner. Each batch has one share and one box. Cutmix's share is that of the box after it was clipped at the border,
    as in the authors' code and in torchvision.
Shapes: N pictures of C channels, H x W pixels; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from residuum import recipe
from residuum.data.randomness import generator

Mixing = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""`mix(images, labels, step)`: float32 [N, C, H, W] and int64 [N], or float32 [N, K] of several classes, -> images and
targets, which are float32 [N, K] where mixed."""

Box = tuple[int, int, int, int]
"""Top, bottom, left, right in pixels, the second and fourth excluded."""


def mixing_of(augment: recipe.Augment, num_classes: int, seed: int) -> Mixing:
    """Returns the mixing that `augment` asks for; `unmixed` where it asks for none."""
    if augment.mixup or augment.cutmix:
        return Mix(augment.mixup, augment.cutmix, num_classes, seed)
    return unmixed


def unmixed(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Returns its input: the stand-in for no mixing."""
    return images, labels


@dataclass(frozen=True)
class Mix:
    """Mixup, cutmix, or one of the two at random, batch by batch: a pure function of (seed, step) and of the batch.

    `mixup` and `cutmix` are the parameters of the Beta distributions of the shares; 0 is off, and both 0 returns the
    input.
    """

    mixup: float
    cutmix: float
    num_classes: int
    seed: int

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Returns images like `images`, and targets float32 [N, K]; of one class each, their rows add up to 1."""
        if not self.mixup and not self.cutmix:
            return unmixed(images, labels, step)
        share, box = self.plan(step, images.shape[2], images.shape[3])
        mixed = images.lerp(partners(images), 1 - share) if box is None else pasted(images, box)
        targets = labels if labels.ndim == 2 else functional.one_hot(labels, self.num_classes).to(torch.float32)
        return mixed, targets.lerp(partners(targets), 1 - share)

    def plan(self, step: int, height: int, width: int) -> tuple[float, Box | None]:
        """Returns what the step's batch does: the share of a picture's own label, and cutmix's box or None for
        mixup."""
        random = generator(self.seed, step, "mixing")
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or random.random() < 0.5)
        if not use_cutmix:
            return float(random.beta(self.mixup, self.mixup)), None
        return box_of(float(random.beta(self.cutmix, self.cutmix)), random.random(2), height, width)


def box_of(
    share: float, centre: np.ndarray[tuple[int], np.dtype[np.float64]], height: int, width: int
) -> tuple[float, Box]:
    """Returns the share that is left by a box of 1 - `share` of the area around `centre` (y, x in 0..1), and the box.

    The box is clipped at the border, so that more than `share` may be left.
    """
    y, x = (int(at * side) for at, side in zip(centre.tolist(), (height, width), strict=True))
    half = 0.5 * math.sqrt(1 - share)
    tall, wide = int(half * height), int(half * width)
    top, bottom, left, right = max(y - tall, 0), min(y + tall, height), max(x - wide, 0), min(x + wide, width)
    return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)


def pasted(images: Tensor, box: Box) -> Tensor:
    """Returns the batch with each picture's pixels inside `box` taken from its partner."""
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners(images[:, :, top:bottom, left:right])
    return mixed


def partners(values: Tensor) -> Tensor:
    """Returns `values` [N, ...] with the two of each pair swapped; the last of an odd number stays where it is."""
    places = torch.arange(len(values), device=values.device) ^ 1
    return values[places.clamp_(max=max(len(values) - 1, 0))]
