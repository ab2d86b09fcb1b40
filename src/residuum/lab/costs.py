"""What networks cost, against the paper: rows of Table 1, and the memory that a backward pass needs.

The modules run on torch's "meta" device, which knows shapes and computes nothing.
Source: He et al., arXiv:1512.03385, Table 1, Figure 5 and section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residuum.lab.findings import Row
from residuum.models import create_model
from residuum.models.complexity import measure
from residuum.models.layers import Network

BYTES = 4  # a float32


@dataclass(frozen=True)
class Published:
    """A column of Table 1: multiply-adds in units of 10^9, and the exact parameter count of the same network with 1000
    classes in torchvision."""

    giga_multiply_adds: float
    params: int
    blocks: tuple[int, int, int, int]
    bottleneck: bool


TABLE_1 = {
    "resnet18": Published(1.8, 11_689_512, (2, 2, 2, 2), False),
    "resnet34": Published(3.6, 21_797_672, (3, 4, 6, 3), False),
    "resnet50": Published(3.8, 25_557_032, (3, 4, 6, 3), True),
    "resnet101": Published(7.6, 44_549_160, (3, 4, 23, 3), True),
    "resnet152": Published(11.3, 60_192_808, (3, 8, 36, 3), True),
}
"""Source: arXiv:1512.03385, Table 1; parameters: torchvision's weight metadata."""

SIZES = {"conv1": 112, "conv2_x": 56, "conv3_x": 28, "conv4_x": 14, "conv5_x": 7}
"""Output sizes in pixels. Source: Table 1."""

VGG19_GIGA = 19.6
VGG16_GIGA = 15.3
"""Multiply-adds of VGG in units of 10^9. Source: arXiv:1512.03385, sections 3.3 and 4.1."""


def as_published(name: str) -> Network:
    """Returns a net of Table 1 as the paper has it: bottlenecks stride in their first 1x1 convolution."""
    with torch.device("meta"):
        return create_model(name, **({"stride_in": "1x1"} if TABLE_1[name].bottleneck else {}))


def anatomy(name: str) -> Row:
    """Returns a net's layers with output size, parameters and multiply-adds, and the output size of every stage."""
    model = as_published(name)
    complexity = measure(model, 224)
    layers = [
        [layer.name, layer.kind, list(layer.output_shape), layer.params, layer.multiply_adds]
        for layer in complexity.layers
        if layer.kind not in ("ReLU", "Identity", "Flatten")
    ]
    last_of = {"conv1": "stem.conv"} | {
        f"conv{number + 2}_x": f"stages.{number}.{depth - 1}." for number, depth in enumerate(TABLE_1[name].blocks)
    }
    sizes = {
        row: next(layer.output_shape[-1] for layer in reversed(complexity.layers) if layer.name.startswith(start))
        for row, start in last_of.items()
    }
    return {"params": complexity.params, "multiply_adds": complexity.multiply_adds, "sizes": sizes, "layers": layers}


def activation_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Returns how many bytes a forward pass in training keeps for the backward pass, for an input of `shape`; weights
    are not counted. What two layers keep of the same memory counts once.
    """
    kept: dict[int, Tensor] = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    own |= {buffer.untyped_storage()._cdata for buffer in model.buffers()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept.setdefault(storage, tensor)  # held, so that its number is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.device("meta"):
        output = model.train()(torch.empty(shape).requires_grad_())
    del output
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())


def cost(model: nn.Module, shape: tuple[int, int, int], batch_size: int = 1) -> Row:
    """Returns parameters, multiply-adds for one picture, and bytes kept for the backward pass of a batch."""
    channels, side, _ = shape
    complexity = measure(model, side, channels)
    return {
        "params": complexity.params,
        "multiply_adds": complexity.multiply_adds,
        "activation_bytes": activation_bytes(model, (batch_size, *shape)),
    }
