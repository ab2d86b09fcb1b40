"""Optimizers: which parameters decay, and the learning rate of all."""

from __future__ import annotations

import torch
from torch import nn

from residuum import recipe

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, object]]:
    """Returns two groups: what decays, and what does not (biases and the parameters of norms, unless `decay_all`).

    Parameters are told apart by the type of the module that owns them, never by name.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spare = not decay_all and (isinstance(module, NORMS) or name == "bias")
            (spared if spare else decayed).append(parameter)
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


def build(optim: recipe.Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the recipe's optimizer over the model's parameters."""
    groups = parameter_groups(model, optim.weight_decay, optim.decay_all)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if isinstance(optim, recipe.Sgd):
        nesterov = optim.nesterov and optim.momentum > 0  # without momentum it is the same step, and torch refuses it
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov, fused=fused)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
