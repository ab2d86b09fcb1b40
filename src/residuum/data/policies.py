"""Sequences of random operations on pictures: RandAugment and TrivialAugment, with torchvision's operations and
strengths.

Which operations a picture gets, and how strong, comes from its own random numbers and never from torch's. Pictures of
a batch that get the same operation of the same strength are done together, which changes nothing for any of them.

Source: arXiv:1909.13719 (RandAugment); arXiv:2103.10158 ("wide" TrivialAugment); torchvision's RandAugment and
    TrivialAugmentWide for the operations and their strengths.
Departures: rotation, shear and translation interpolate bilinearly and bring in the mean colour from outside, not black.
Shapes: N pictures of C channels (1 or 3), H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from residuum import recipe
from residuum.data.randomness import Draws

BINS = 31
"""Strengths have numbers from 0 to 30, RandAugment's scale."""

Fill = list[float]


@dataclass(frozen=True)
class Operation:
    """`apply(images, strength, fill)` on uint8 [N, C, H, W], and its 31 evenly spaced strengths.

    They go from `first` to `last`, which is None where the operation has no strength, and a multiple of the picture's
    `side` where that is given. `signed` ones go either way at random; `whole` ones are rounded.
    """

    apply: Callable[[Tensor, float, Fill], Tensor]
    first: float = 0.0
    last: float | None = None
    signed: bool = False
    side: str = ""
    whole: bool = False

    def strength(self, number: int, sign: int, height: int, width: int) -> float:
        """Returns a strength, computed in float32 as torchvision does; `sign` is 1 or -1, for signed ones."""
        if self.last is None:
            return 0.0
        last = self.last * {"height": height, "width": width}.get(self.side, 1)
        strength = float(torch.linspace(self.first, last, BINS)[number])
        return (sign if self.signed else 1) * (round(strength) if self.whole else strength)


@dataclass(frozen=True)
class Policy:
    """`ops` operations of `operations` at random, one after the other, of strength `magnitude` (None: random)."""

    operations: Mapping[str, Operation]
    ops: int
    magnitude: int | None
    fill: tuple[int, ...]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        operations = list(self.operations.values())
        has_strength = np.array([operation.last is not None for operation in operations])
        signed = np.array([operation.signed for operation in operations])
        fill = [float(value) for value in self.fill]
        for turn in range(self.ops):
            chosen = (draws.uniform(f"policy_operation_{turn}") * len(operations)).astype(np.int64)
            numbers = (draws.uniform(f"policy_strength_{turn}") * BINS).astype(np.int64)
            numbers = numbers if self.magnitude is None else np.full_like(numbers, self.magnitude)
            negative = (draws.uniform(f"policy_sign_{turn}") < 0.5) & signed[chosen]
            plans = np.stack([chosen, numbers * has_strength[chosen], 1 - 2 * negative], axis=1)
            distinct, plan_of = np.unique(plans, axis=0, return_inverse=True)
            for plan, (operation, number, sign) in enumerate(distinct.tolist()):
                which = torch.from_numpy(np.flatnonzero(plan_of.reshape(-1) == plan)).to(
                    images.device, non_blocking=True
                )
                strength = operations[operation].strength(number, sign, *images.shape[2:])
                images[which] = operations[operation].apply(images[which], strength, fill)
        return images


def policy_of(policy: recipe.RandAugment | recipe.TrivialAugment, fill: tuple[int, ...]) -> Policy:
    """Returns the whole-batch stage for a recipe's policy; `fill` is the colour, 0..255, that comes in from outside."""
    if isinstance(policy, recipe.RandAugment):
        return Policy(RAND_AUGMENT, policy.ops, policy.magnitude, fill)
    return Policy(TRIVIAL_AUGMENT, 1, None, fill)


def _affine(
    images: Tensor,
    fill: Fill,
    *,
    shift: tuple[int, int] = (0, 0),
    shear: tuple[float, float] = (0, 0),
    centre: list[float] | None = None,
) -> Tensor:
    moved = functional.affine(
        images,
        angle=0.0,
        translate=list(shift),
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=fill,
        center=centre,
    )
    return torch.as_tensor(moved)


def _identity(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return images


def _shear_x(images: Tensor, strength: float, fill: Fill) -> Tensor:
    return _affine(images, fill, shear=(strength, 0), centre=[0, 0])  # about the corner, as in AutoAugment's own code


def _shear_y(images: Tensor, strength: float, fill: Fill) -> Tensor:
    return _affine(images, fill, shear=(0, strength), centre=[0, 0])


def _translate_x(images: Tensor, strength: float, fill: Fill) -> Tensor:
    return _affine(images, fill, shift=(int(strength), 0))


def _translate_y(images: Tensor, strength: float, fill: Fill) -> Tensor:
    return _affine(images, fill, shift=(0, int(strength)))


def _rotate(images: Tensor, strength: float, fill: Fill) -> Tensor:
    return torch.as_tensor(functional.rotate(images, strength, interpolation=InterpolationMode.BILINEAR, fill=fill))


def _brightness(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.adjust_brightness(images, 1 + strength))


def _color(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.adjust_saturation(images, 1 + strength))


def _contrast(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.adjust_contrast(images, 1 + strength))


def _sharpness(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.adjust_sharpness(images, 1 + strength))


def _posterize(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.posterize(images, int(strength)))


def _solarize(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.solarize(images, 255 * strength))


def _auto_contrast(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.autocontrast(images))


def _equalize(images: Tensor, strength: float, fill: Fill) -> Tensor:  # noqa: ARG001
    return torch.as_tensor(functional.equalize(images))


def _space(slope: float, shift: float, side: bool, degrees: float, factor: float, bits: int) -> Mapping[str, Operation]:
    return {
        "Identity": Operation(_identity),
        "ShearX": Operation(_shear_x, last=slope, signed=True),
        "ShearY": Operation(_shear_y, last=slope, signed=True),
        "TranslateX": Operation(_translate_x, last=shift, signed=True, side="width" if side else ""),
        "TranslateY": Operation(_translate_y, last=shift, signed=True, side="height" if side else ""),
        "Rotate": Operation(_rotate, last=degrees, signed=True),
        "Brightness": Operation(_brightness, last=factor, signed=True),
        "Color": Operation(_color, last=factor, signed=True),
        "Contrast": Operation(_contrast, last=factor, signed=True),
        "Sharpness": Operation(_sharpness, last=factor, signed=True),
        "Posterize": Operation(_posterize, first=8, last=bits, whole=True),
        "Solarize": Operation(_solarize, first=1, last=0),
        "AutoContrast": Operation(_auto_contrast),
        "Equalize": Operation(_equalize),
    }


RAND_AUGMENT = _space(slope=0.3, shift=150 / 331, side=True, degrees=30, factor=0.9, bits=4)
"""torchvision's names and ranges; the shift is a part of the side, as AutoAugment's 150 pixels are of Inception's
331."""

TRIVIAL_AUGMENT = _space(slope=0.99, shift=32, side=False, degrees=135, factor=0.99, bits=2)
"""The "wide" ranges of arXiv:2103.10158, Table 1; the shift is in pixels."""
