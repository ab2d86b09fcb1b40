"""Smaller pictures at first: a network that pools over its whole last map learns from them too, for less.

Source: Tan and Le, arXiv:2104.00298, section 4 (progressive learning), without its growing regularisation.
Shapes: N pictures, C channels, S x S pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from residuum.errors import RecipeError
from residuum.recipe import Augment

Resize = Callable[[Tensor, float], Tensor]

_STEP_PX = 8  # from 24 pixels straight to 32: at 28, with maps of 28, 14 and 7, a step takes almost as long as at 32


def build(augment: Augment, img_size: int) -> Resize:
    """Returns a function of images [N, C, S, S] and the part of the run that is done; by default it gives its input.

    Raises:
        RecipeError: `start_px` is larger than the side that it grows to.
    """
    if augment.start_px > img_size:
        raise RecipeError(
            f"The recipe key 'augment.start_px' cannot be {augment.start_px}.",
            expected=f"Expected at most data.img_size, which is {img_size}; 0 is off.",
            hint=f"Set augment.start_px={img_size // 2}, for example.",
        )
    return functools.partial(_grown, augment, img_size) if augment.start_px else _unchanged


def side_px(augment: Augment, img_size: int, done: float) -> int:
    """Returns the side in pixels when `done` of the run, in 0..1, is behind."""
    if done >= augment.grow_until:
        return img_size
    grown_px = (img_size - augment.start_px) * done / augment.grow_until
    return min(img_size, augment.start_px + int(grown_px / _STEP_PX + 0.5) * _STEP_PX)


def _unchanged(images: Tensor, done: float) -> Tensor:  # noqa: ARG001
    return images


def _grown(augment: Augment, img_size: int, images: Tensor, done: float) -> Tensor:
    side = side_px(augment, img_size, done)
    if side >= img_size:
        return images
    return functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
