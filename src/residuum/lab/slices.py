"""A slice through the loss surface: the loss at w + a * x + b * y, along two random directions scaled like the filters.

Source: Li et al., arXiv:1712.09913, section 4: each filter of a direction has the norm of the weights' own filter;
    biases and batch norms stay where they are (as in the authors' code, "ignore biasbn").
Departures: the running statistics of batch norm stay those of the trained net at every point.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from residuum.models.layers import Network

MOST_LOSS = 1e4
"""What a loss that is greater, or not finite, is recorded as: JSON has no infinity."""


def random_direction(model: Network, seed: int) -> dict[str, Tensor]:
    """Returns a direction, parameter by parameter; a pure function of the weights and the seed."""
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
        over = tuple(range(1, weight.ndim))
        own, theirs = (torch.linalg.vector_norm(each, dim=over, keepdim=True) for each in (weight.detach(), drawn))
        direction[name] = drawn * own / (theirs + 1e-10)
    return direction


@torch.inference_mode()
def losses_along(
    model: Network,
    x: dict[str, Tensor],
    y: dict[str, Tensor],
    steps: Sequence[float],
    at: float,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> list[float]:
    """Returns the mean cross-entropy at w + step * x + at * y for each step; the model stays as it is.

    `batches` are pictures and labels, read once for every step.
    """
    moved = copy.deepcopy(model).eval()
    batches, losses = list(batches), []
    weights = dict(model.named_parameters())
    for step in steps:
        for name, weight in moved.named_parameters():
            weight.copy_(weights[name] + step * x[name] + at * y[name])
        total = sum(float(F.cross_entropy(moved(images), labels, reduction="sum")) for images, labels in batches)
        loss = total / sum(len(labels) for _, labels in batches)
        losses.append(min(loss, MOST_LOSS) if loss == loss else MOST_LOSS)
    return losses


def share_not_convex(grid: Sequence[Sequence[float]], tolerance: float = 0.01) -> float:
    """Returns the share, in percent, of the grid's inner points where the loss bends down along a row or
    a column by more than `tolerance` of the loss there. A bowl has none.
    """
    surface = torch.tensor(grid, dtype=torch.float64)
    inner = surface[1:-1, 1:-1]
    along_rows = surface[1:-1, 2:] - 2 * inner + surface[1:-1, :-2]
    along_columns = surface[2:, 1:-1] - 2 * inner + surface[:-2, 1:-1]
    bends = torch.minimum(along_rows, along_columns) < -tolerance * inner
    return 100 * float(bends.double().mean())
