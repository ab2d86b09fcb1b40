"""What training minimises: cross-entropy over the classes, or every class as a yes-or-no question.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Criterion = Callable[[Tensor, Tensor], Tensor]


def build(
    loss: Literal["cross_entropy", "bce"], label_smoothing: float, class_weights: Tensor | None = None
) -> Criterion:
    """Returns the loss of logits [N, K] for labels [N] or soft targets [N, K]: a mean over the N pictures.

    With `class_weights` [K] a picture counts as much as its class says, and a mixture as its parts do. The sum is
    divided by N all the same, so that the means of parts of a batch add up to that of the batch.
    """

    def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction=reduction)

    def bce(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Source: arXiv:2110.00476, section 3: targets smoothed, summed over classes here and divided by N and K."""
        classes = logits.shape[1]
        if targets.dtype == torch.int64:
            targets = functional.one_hot(targets, classes).to(logits.dtype)
        targets = targets * (1 - label_smoothing) + label_smoothing / classes
        each = functional.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
        return each.mean(dim=1) if reduction == "none" else each

    def weighted(logits: Tensor, targets: Tensor) -> Tensor:
        assert class_weights is not None
        counts = class_weights[targets] if targets.dtype == torch.int64 else targets @ class_weights
        return (each_picture(logits, targets, "none") * counts).mean()

    each_picture = cross_entropy if loss == "cross_entropy" else bce
    return each_picture if class_weights is None else weighted
