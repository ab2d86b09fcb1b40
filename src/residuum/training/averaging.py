"""The moving average of the weights, and its stand-in that is the model itself.

Source: Polyak and Juditsky 1992; the decay's warm-up `min(decay, (1 + n) / (10 + n))` is TensorFlow's
ExponentialMovingAverage.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class NoAverage:
    """Off: the model itself is what is evaluated and kept."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def update(self, model: nn.Module) -> None:
        """Does nothing."""


class MovingAverage:
    """`average = decay * average + (1 - decay) * weights`, after each step, running statistics included."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the weights of `model`; whole numbers (batch counts) are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = list(self.model.state_dict().values()), list(model.state_dict().values())
        floats = [index for index, value in enumerate(mine) if value.is_floating_point()]
        torch._foreach_lerp_([mine[i] for i in floats], [theirs[i] for i in floats], 1 - decay)
        for own, new in zip(mine, theirs, strict=True):
            if not own.is_floating_point():
                own.copy_(new)


Averaged = NoAverage | MovingAverage


def build(model: nn.Module, decay: float) -> Averaged:
    """Returns the recipe's average; a decay of 0 is none."""
    return MovingAverage(model, decay) if decay else NoAverage(model)
