"""How strongly layers respond: the standard deviation of what each batch norm puts out.

Source: He et al., arXiv:1512.03385, Figure 7: the output of each 3x3 layer, after its batch norm and before anything
    else that is not linear (relu or addition).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from residuum.models.layers import Network


@torch.inference_mode()
def response_stds(model: Network, batches: Iterable[Tensor]) -> list[float]:
    """Returns the standard deviation over all pictures, channels and places of the output of each batch norm, in the
    order of running; shortcuts' norms are left out. The model is in evaluation mode.
    """
    totals: dict[str, list[float]] = {}

    def add(name: str, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        values = output.double()
        total = totals.setdefault(name, [0, 0.0, 0.0])
        total[0] += values.numel()
        total[1] += float(values.sum())
        total[2] += float(values.square().sum())

    with ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, nn.BatchNorm2d) and "shortcut" not in name:
                stack.callback(layer.register_forward_hook(partial(add, name)).remove)
        for images in batches:
            model(images)
    return [math.sqrt(max(squares / count - (total / count) ** 2, 0.0)) for count, total, squares in totals.values()]
