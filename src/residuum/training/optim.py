"""Optimizers: which parameters decay, and the learning rate of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from residuum import recipe
from residuum.errors import RecipeError
from residuum.models.layers import Network
from residuum.training.eager import SGD, AdamW
from residuum.training.muon import Muon
from residuum.training.transfer import parts_of

_ALL_AT_ONCE = recipe.Transfer()

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    """Returns two groups: what decays, and what does not (biases and the parameters of norms, unless `decay_all`).

    Parameters are told apart by the type of the module that owns them, never by name.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spare = not decay_all and (isinstance(module, NORMS) or name == "bias")
            (spared if spare else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


def build(optim: recipe.Optim, model: Network, transfer: recipe.Transfer = _ALL_AT_ONCE) -> torch.optim.Optimizer:
    """Returns the recipe's optimizer over the model's parameters.

    Raises:
        RecipeError: weights of fixed length are to decay.
    """
    if isinstance(optim, recipe.Muon):
        if optim.fixed_length and optim.weight_decay:
            raise RecipeError(
                f"The recipe key 'optim.weight_decay' cannot be {optim.weight_decay:g} with optim.fixed_length.",
                expected="Expected 0: weights that are brought to a length before every step have nothing to decay.",
                hint="Use: --set optim.weight_decay=0",
            )
        return Muon(_divided(_muon_groups(optim, model), model, transfer), lr=optim.lr, momentum=optim.momentum)
    groups = _divided(parameter_groups(model, optim.weight_decay, optim.decay_all), model, transfer)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if isinstance(optim, recipe.Sgd):
        nesterov = optim.nesterov and optim.momentum > 0  # without momentum it is the same step, and torch refuses it
        return SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov, fused=fused)
    return AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=fused)


def _muon_groups(optim: recipe.Muon, model: Network) -> list[dict[str, Any]]:
    hidden = {id(weight) for weight in model.stages.parameters() if weight.ndim > 1}
    weights = [weight for weight in model.parameters() if id(weight) in hidden]
    orthogonal = {"orthogonal": True, "fixed_length": optim.fixed_length, "ns_steps": optim.ns_steps}
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": optim.weight_decay, **orthogonal}]
    plain_momentum = optim.momentum if optim.plain_momentum is None else optim.plain_momentum
    shifts = {id(getattr(layer, "bias", None)) for layer in model.modules() if isinstance(layer, (*NORMS, nn.Conv2d))}
    for group in parameter_groups(model, optim.plain_weight_decay, decay_all=False):
        group["momentum"] = plain_momentum
        rest = [p for p in group["params"] if id(p) not in hidden]
        if optim.bias_factor is not None or optim.bias_weight_decay:
            own = [p for p in rest if id(p) in shifts]
            rest = [p for p in rest if id(p) not in shifts]
            factor = optim.plain_factor if optim.bias_factor is None else optim.bias_factor
            of_biases = {"lr_factor": factor, "weight_decay": optim.bias_weight_decay}
            groups += [{**group, "params": own, **of_biases}] if own else []
        groups.append({**group, "params": rest, "lr_factor": optim.plain_factor})
    return groups


def _divided(groups: list[dict[str, Any]], model: Network, transfer: recipe.Transfer) -> list[dict[str, Any]]:
    """Returns the groups, where `transfer` needs it split into those of the parts, whose rates fall from the head on.

    A part's parameters begin to learn together, and fused optimizers need the state of a group to begin at once.
    """
    if transfer == _ALL_AT_ONCE:
        return groups
    parts = parts_of(model)
    place = {id(parameter): number for number, part in enumerate(parts) for parameter in part.parameters()}
    split = []
    for group in groups:
        for number in range(len(parts)):
            own = [parameter for parameter in group["params"] if place[id(parameter)] == number]
            factor = group.get("lr_factor", 1.0) * transfer.layer_decay ** (len(parts) - 1 - number)
            split += [{**group, "params": own, "lr_factor": factor}] if own else []
    return split


def set_lr(optimizer: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """Sets the learning rate of every group: `lr`, times the group's own `lr_factor` where it has one.

    A tensor without dimensions on the parameters' device is never read by the host.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
