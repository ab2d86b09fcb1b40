"""Muon: momentum whose update of every hidden weight is brought to a matrix with singular values near 1.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024),
    https://kellerjordan.github.io/posts/muon/, with the scale `0.2 sqrt(max(rows, columns))` of Liu et al.,
    arXiv:2502.16982, section 2.2, which makes an update about as large as AdamW's; for weights of fixed length,
    Jordan's airbench94_muon (2024), https://github.com/KellerJordan/cifar10-airbench.
Departures: the iteration is done on Gram matrices, which are smaller; in exact arithmetic it is the same. What is no
    hidden weight (the first convolution, the head, norms and biases) is moved by SGD with Nesterov momentum, at a
    fraction of the rate. Convolutions are matrices of [out, in * height * width], as in the first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from residuum.training.eager import Eager

_NS_STEPS = 5
_RMS = 0.2
"""The root mean square of an update at a rate of 1, about AdamW's."""
_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic iteration of the source, tuned for a steep start


class Muon(Eager):
    """Groups with `orthogonal=True` are Muon's, the others SGD's; both with Nesterov momentum and weight decay.

    In Muon's groups the decay is decoupled (`w -= lr * weight_decay * w`), in SGD's it is part of the gradient. With
    `fixed_length=True` a weight of Muon's is brought to the length of an update at a rate of 1 before it is moved, in
    the place of decay; one that is zero stays so until it is moved.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        of_muon = {"orthogonal": False, "fixed_length": False, "ns_steps": _NS_STEPS}
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, **of_muon})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` is not used."""
        assert closure is None, "Muon does not re-evaluate the loss"
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            if group["orthogonal"]:
                self._orthogonal(moved, group)
            else:
                self._plain(moved, group)

    def _velocities(self, parameters: list[Tensor], gradients: list[Tensor], momentum: float) -> list[Tensor]:
        """Returns the Nesterov look-aheads of the momenta, which it updates."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=momentum))

    def _orthogonal(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        velocities = self._velocities(parameters, [_gradient(parameter) for parameter in parameters], group["momentum"])
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, parameter in enumerate(parameters):
            alike[len(parameter), parameter[0].numel()].append(number)
        if group["fixed_length"]:
            wanted = [_RMS * math.sqrt(parameter.numel()) for parameter in parameters]
            lengths = torch._foreach_norm(parameters)
            torch._foreach_clamp_min_(lengths, 1e-7)
            torch._foreach_mul_(parameters, [to / length for to, length in zip(wanted, lengths, strict=True)])
        else:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for shape, numbers in alike.items():  # together, because a product of small matrices is mostly overhead
            together = torch.stack([velocities[number].reshape(shape) for number in numbers])
            updates = orthogonalised(together, group["ns_steps"])
            for number, update in zip(numbers, updates, strict=True):
                parameter = parameters[number]
                _move(parameter, update.reshape(parameter.shape), -group["lr"] * _RMS * math.sqrt(max(shape)))

    def _plain(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [_gradient(parameter) for parameter in parameters]
        decayed = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        velocities = self._velocities(parameters, decayed, group["momentum"])
        if isinstance(group["lr"], Tensor):
            torch._foreach_add_(parameters, torch._foreach_mul(velocities, -group["lr"]))
        else:
            torch._foreach_add_(parameters, velocities, alpha=-group["lr"])


def orthogonalised(matrices: Tensor, ns_steps: int = _NS_STEPS) -> Tensor:
    """Returns `matrices` [M, R, S] with the same singular vectors and singular values between about 0.7 and 1.2; after
    fewer `ns_steps` than five small ones are smaller.

    The iteration `X <- a X + b (X X') X + c (X X')^2 X` is done on the smaller of the two Gram matrices: with
    `Q = a + b G + c G^2` it is `X <- Q X`, and then `G <- Q G Q`.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device).expand_as(gram)
    for step in range(ns_steps):
        factor = _B * gram + _C * gram @ gram
        factor.diagonal(dim1=-2, dim2=-1).add_(_A)
        product = factor @ product
        if step < ns_steps - 1:
            gram = factor @ gram @ factor
    orthogonal: Tensor = product @ x
    return orthogonal.mT if tall else orthogonal


def _move(parameter: Tensor, update: Tensor, factor: float | Tensor) -> None:
    """Adds `factor * update`, where the factor may be a tensor that the host does not know."""
    if isinstance(factor, Tensor):
        parameter.add_(update * factor)
    else:
        parameter.add_(update, alpha=factor)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
