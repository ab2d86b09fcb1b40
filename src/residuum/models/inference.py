"""A trained network as it computes answers: batch norms folded into convolutions, ReLU and additions done by them.

In evaluation mode a batch norm is a scale and a shift of each channel, which go into the weights and a bias of the
convolution before it: the same function, but for rounding. What follows (ReLU, or the shortcut's addition and ReLU) is
done by oneDNN's convolution while its results are still in the cache; GELU comes after it. In bfloat16 and float16 the
pooled features and the classifier are float32, unlike under autocast, which rounds the logits to 8 bits.

Most 3x3 convolutions in bfloat16 are `winograd.py`'s on CPUs.

The network stays what it is: `answering` makes another way to its logits, with weights of its own.

Source: Jacob et al., arXiv:1712.05877, section 3.2 and Figure C.5 (folding).
Shapes: N pictures, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residuum.models import winograd
from residuum.models.layers import Activation, Block, DropPath, Halving, Network, PreActivationBlock, activation_of
from residuum.models.pool import max_pool

Step = Callable[[Tensor], Tensor]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def answering(model: Network, precision: Literal["fp32", "bf16", "fp16"]) -> nn.Module:
    """Returns what answers as `model` does in evaluation mode, [N, C, H, W] -> float32 logits [N, K], in `precision`.

    Later changes to the weights of `model` do not reach it. A module that it does not know, or that somebody watches
    with a hook, is called as it is.
    """
    return Answering(model, _DTYPES[precision])


class Answering(nn.Module):
    """What `answering` returns. It has no parameters: nothing can train it."""

    def __init__(self, model: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.num_classes = model.num_classes
        with torch.no_grad():
            blocks = [block for stage in model.stages for block in _children(stage)]
            self._steps = [*_in_a_row([model.stem], dtype), *(_of_block(block, dtype) for block in blocks)]
            # What the head does to maps of features is done in `dtype`, and the rest in float32.
            head = _flat([model.head])
            maps = next((place for place, layer in enumerate(head) if isinstance(layer, nn.AdaptiveAvgPool2d)), 0)
            self._steps += _in_a_row(head[:maps], dtype)
            self._classifier = [_float(layer) for layer in head[maps:]]

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, float32 [N, K]."""
        x = images.to(self.dtype, memory_format=torch.channels_last)
        for step in self._steps:
            x = step(x)
        x = x.float()
        for layer in self._classifier:
            x = layer(x)
        return x


class Convolution:
    """A convolution with what follows it: y = act(conv(x) + bias), and y = act(conv(x) + bias + short).

    Where the results are `halved` next, they may be no more than that reads.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        by: Activation | None,
        dtype: torch.dtype,
        *,
        halved: bool = False,
    ) -> None:
        weight, bias = folded(conv, norm)
        self.weight = weight.to(dtype, memory_format=torch.channels_last)
        self.bias = bias.to(dtype)
        self.stride, self.dilation, self.groups = list(conv.stride), list(conv.dilation), conv.groups
        assert not isinstance(conv.padding, str)
        self.padding = list(conv.padding)
        self.activation = by
        self._fuses = weight.device.type == "cpu" and _onednn_has(dtype)
        self._packed = False
        self._channels = conv.in_channels
        quick = dtype == torch.bfloat16 and weight.device.type == "cpu" and winograd.knows(conv)
        self._quick = (winograd.packed(weight.float()), bias.to(torch.float32, copy=True)) if quick else None
        self._halved = halved

    def __call__(self, x: Tensor) -> Tensor:
        return self._convolved(x, None, Halving.read_of(x) if self._halved else None)

    def added_to(self, short: Tensor, x: Tensor) -> Tensor:
        """Returns act(conv(x) + bias + short), which may be in the memory of `short`."""
        return self._convolved(x, short.contiguous(memory_format=torch.channels_last), None)

    def _convolved(self, x: Tensor, short: Tensor | None, size: tuple[int, int] | None) -> Tensor:
        relu = self.activation == "relu"
        how = (self.bias, self.stride, self.padding, self.dilation, self.groups)
        of_onednn = (self.bias, self.padding, self.stride, self.dilation, self.groups)
        if self._quick and winograd.takes(x, self._channels, size):
            y = winograd.convolved(x, *self._quick, short, relu=relu, size=size)
        elif not self._fuses:
            y = F.conv2d(x, self.weight, *how)
            y = y if short is None else y.add_(short)
            y = F.relu_(y) if relu else y
        elif short is None:
            y = torch.ops.mkldnn._convolution_pointwise(
                x, self._packed_for(x), *of_onednn, "relu" if relu else "none", [], ""
            )
        else:
            y = short
            torch.ops.mkldnn._convolution_pointwise_.binary(
                y, x, self._packed_for(x), *of_onednn, "add", 1.0, "relu" if relu else None, [], None
            )
        return F.gelu(y) if self.activation == "gelu" else y

    def _packed_for(self, x: Tensor) -> Tensor:
        """Returns the weights in the order that oneDNN prefers for pictures such as `x`; the first ones decide."""
        if not self._packed:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
            self._packed = True
        return self.weight


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Returns the weight [D, C / groups, h, w] and the bias [D] that do what `conv` and then `norm` do in evaluation
    mode."""
    weight = conv.weight.detach()
    bias = torch.zeros(conv.out_channels, device=weight.device) if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach()
    shift = (bias - norm.running_mean.double()) * scale
    if norm.affine:
        shift = shift + norm.bias.detach()
    return (weight * scale[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype)


def _of_block(block: nn.Module, dtype: torch.dtype) -> Step:
    if isinstance(block, Block) and not _hooked(block):
        steps, short = _in_a_row([block.branch], dtype), block.shortcut
        last = steps.pop()
        if isinstance(last, Convolution):
            last.activation = block.activation
            if short is None:
                return _chain([*steps, last])
            return _joined(steps, last, _chain(_in_a_row([short], dtype)))
    if isinstance(block, PreActivationBlock) and not _hooked(block):
        steps = _in_a_row([block.branch], dtype)
        last = steps.pop()
        if isinstance(last, Convolution):
            activate = _chain(_in_a_row([block.activate], dtype))
            plain = isinstance(block.shortcut, nn.Identity)
            return _pre_activated(activate, steps, last, None if plain else _chain(_in_a_row([block.shortcut], dtype)))
    if isinstance(block, nn.Sequential) and not _hooked(block):
        return _chain(_in_a_row([block], dtype))
    return _called(block, dtype)


def _joined(steps: list[Step], last: Convolution, shortcut: Step) -> Step:
    """y = activation(branch(x) + shortcut(x)); `x` is used up."""

    def step(x: Tensor) -> Tensor:
        y = x
        for each in steps:
            y = each(y)
        short = shortcut(x)
        return last.added_to(short.clone() if short is y else short, y)  # one convolution, which still reads x

    return step


def _pre_activated(activate: Step, steps: list[Step], last: Convolution, shortcut: Step | None) -> Step:
    """y = branch(a) + shortcut(x or a) with a = relu(norm(x)); `x` is used up."""

    def step(x: Tensor) -> Tensor:
        y = activated = activate(x)
        for each in steps:
            y = each(y)
        return last.added_to(x if shortcut is None else shortcut(activated), y)

    return step


def _in_a_row(layers: Iterable[nn.Module], dtype: torch.dtype) -> list[Step]:
    """Returns the steps of layers one after the other, of which a convolution takes in the norm and activation after
    it."""
    waiting, steps = _flat(layers), []
    while waiting:
        layer = waiting.pop(0)
        if not isinstance(layer, nn.Conv2d) or _hooked(layer) or layer.padding_mode != "zeros":
            if not isinstance(layer, nn.Identity | DropPath) or _hooked(layer):
                steps.append(_called(layer, dtype))
            continue
        norm = waiting.pop(0) if waiting and _is_folded(waiting[0]) else None
        by = activation_of(waiting[0]) if waiting and not _hooked(waiting[0]) else None
        if by is not None:
            waiting.pop(0)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        halved = bool(waiting and type(waiting[0]) is Halving and not _hooked(waiting[0]))
        steps.append(Convolution(layer, norm, by, dtype, halved=halved))
    return steps


def _is_folded(layer: nn.Module) -> bool:
    return type(layer) is nn.BatchNorm2d and layer.track_running_stats and not _hooked(layer)


def _flat(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Returns the layers with those of every Sequential in its place."""
    flat: list[nn.Module] = []
    for layer in layers:
        flat += _flat(layer.children()) if isinstance(layer, nn.Sequential) and not _hooked(layer) else [layer]
    return flat


def _children(stage: nn.Module) -> list[nn.Module]:
    return list(stage.children()) if isinstance(stage, nn.Sequential) and not _hooked(stage) else [stage]


def _chain(steps: list[Step]) -> Step:
    def step(x: Tensor) -> Tensor:
        for each in steps:
            x = each(x)
        return x

    return step


def _called(layer: nn.Module, dtype: torch.dtype) -> Step:
    """Returns a layer that is called as it is, on float32 where it has weights of its own that are no norm's; of max
    pooling, the same values faster."""
    if isinstance(layer, nn.MaxPool2d) and not _hooked(layer):
        return lambda x: max_pool(layer, x)
    mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm) or not any(True for _ in layer.parameters())
    if dtype == torch.float32 or mixes:
        return lambda x: layer(x)
    return lambda x: layer(x.float()).to(dtype)


def _float(layer: nn.Module) -> Step:
    return lambda x: layer(x)


def _onednn_has(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolutions are to be had for `dtype`."""
    if not torch._C._has_mkldnn or not torch.backends.mkldnn.enabled:
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _hooked(module: nn.Module) -> bool:
    """Whether somebody watches what goes through a module, and must find it called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
