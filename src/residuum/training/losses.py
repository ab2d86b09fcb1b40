"""What training minimises: cross-entropy over the classes, or every class as a yes-or-no question; and where a picture
may have several classes, the latter.

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
    loss: Literal["auto", "cross_entropy", "bce"], label_smoothing: float, class_weights: Tensor | None = None
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

    each_picture = bce if loss == "bce" else cross_entropy
    return each_picture if class_weights is None else weighted


def of_labels(label_smoothing: float, yes_weights: Tensor | None = None) -> Criterion:
    """Returns the loss of logits [N, K] for targets [N, K] in 0..1, any number of them 1: the binary cross-entropy, a
    mean over N and K. With `yes_weights` [K] the part that a class's yes has in it counts so much.

    Source: targets are smoothed towards one half, as in Keras (`BinaryCrossentropy`): a question has two answers.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=yes_weights)

    return loss
