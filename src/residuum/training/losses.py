"""What training minimises: cross-entropy over the classes, or every class as a yes-or-no question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Criterion = Callable[[Tensor, Tensor], Tensor]


def build(loss: Literal["cross_entropy", "bce"], label_smoothing: float) -> Criterion:
    """Returns the loss of logits [N, K] for labels [N] or soft targets [N, K]: a mean over the N pictures."""

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)

    def bce(logits: Tensor, targets: Tensor) -> Tensor:
        """Source: arXiv:2110.00476, section 3: targets smoothed, summed over classes here and divided by N and K."""
        classes = logits.shape[1]
        if targets.dtype == torch.int64:
            targets = functional.one_hot(targets, classes).to(logits.dtype)
        targets = targets * (1 - label_smoothing) + label_smoothing / classes
        return functional.binary_cross_entropy_with_logits(logits, targets)

    return cross_entropy if loss == "cross_entropy" else bce
