"""How alike two layers represent the same pictures: linear centred kernel alignment (CKA).

Source: Kornblith et al., arXiv:1905.00414 (linear CKA); Nguyen et al., arXiv:2010.15327, section 3 (minibatches,
    with the unbiased estimator of Song et al. 2012).
Shapes: N pictures, F features, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Returns linear CKA of x [N, F] and y [N, G]: |Y'X|^2 / (|X'X| |Y'Y|) of what is centred, Frobenius norms."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def unbiased_hsic(grams: Tensor) -> Tensor:
    """Returns the unbiased estimate of HSIC of every pair of kernels, [L, L], from their Gram matrices [L, N, N]."""
    layers, n, _ = grams.shape
    if n < 4:
        raise ValueError(f"the unbiased estimate needs 4 pictures, and there are {n}")
    off = grams.clone()
    off.diagonal(dim1=1, dim2=2).zero_()
    rows, totals = off.sum(2), off.sum((1, 2))
    flat = off.reshape(layers, -1)
    sums = flat @ flat.T + totals.outer(totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T
    return sums / (n * (n - 3))


class MinibatchCka:
    """Linear CKA of every pair of layers, from batches: HSIC is averaged over them, then normalised."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    @torch.inference_mode()
    def add(self, outputs: Sequence[Tensor]) -> None:
        """Takes in a batch: the output of every layer, [N, ...] each."""
        flat = [output.flatten(1).double() for output in outputs]
        hsic = unbiased_hsic(torch.stack([each @ each.T / each.shape[1] for each in flat]))
        self.total = hsic if self.total is None else self.total + hsic

    def matrix(self) -> Tensor:
        """Returns CKA of every pair, [L, L]."""
        if self.total is None:
            raise ValueError("no batch was added")
        own = self.total.diagonal().clamp_min(1e-30).sqrt()
        return self.total / own.outer(own)
