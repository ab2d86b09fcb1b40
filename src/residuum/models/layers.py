"""What residual networks are made of: branches, shortcuts, the block that joins them, stems and heads.

Source: He et al., arXiv:1512.03385, sections 3.2 to 3.4; He et al., arXiv:1603.05027 (the pre-activation order); He
    et al., arXiv:1502.01852 (initialisation); Huang et al., arXiv:1603.09382 (drop path).
Departures: drop path scales the kept branches up in training, so that nothing is scaled at evaluation (the paper
    scales there).
Shapes: N pictures, C channels, H and W pixels, K classes; D channels and h, w pixels after a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from residuum.errors import UsageError

Shortcut = Literal["A", "B", "C"]
StrideIn = Literal["1x1", "3x3"]
StemKind = Literal["imagenet", "cifar"]
Activation = Literal["relu", "gelu"]


class Network(nn.Module):
    """What every network of the room is: `stem`, `stages` and `head`, of which the features are what the stages give.

    The head's classifier is its layer `fc`. `feature_channels` and `feature_strides` describe `features`: the channels,
    and how many input pixels one of theirs spans. `pictures_wanted` is how many training pictures a new network looks
    at before it is trained.
    """

    stem: nn.Module
    stages: nn.Sequential
    head: nn.Module
    num_classes: int
    in_channels: int
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]
    pictures_wanted: int = 0

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns the output of every stage, finest first: [N, `feature_channels[i]`, h, w]."""
        x = self.stem(images)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [N, K] for pictures [N, C, H, W]."""
        logits: Tensor = self.head(self.features(images)[-1])
        return logits

    def reset_head(self, num_classes: int) -> None:
        """Replaces the classifier by a new, randomly initialised one of `num_classes` classes."""
        old = self.head.get_submodule("fc")
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        self.head.set_submodule("fc", new)
        self.num_classes = num_classes

    def look_at(self, images: Tensor) -> None:
        """Takes from normalised training pictures [N, C, H, W] what is not learned by gradients; by default nothing."""


class Conv2d(nn.Conv2d):
    """A convolution that pads by half its odd kernel, and takes a map of one pixel in strides of one.

    The result is the same, and torch 2.14's gradient of bfloat16 weights, which is made of memory that nobody wrote
    where strides are larger than such a map, is right.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride_on(x), self.padding, self.dilation, self.groups)

    def stride_on(self, x: Tensor) -> tuple[int, int]:
        """Returns the stride over maps such as those of `x` [N, C, H, W]."""
        return (1, 1) if x.shape[2:] == (1, 1) else (self.stride[0], self.stride[1])


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Conv2d:
    """Returns a convolution without bias (a batch norm follows or precedes it) that pads by half its kernel.

    Raises:
        UsageError: `groups` does not divide the channels.
    """
    if in_channels % groups or out_channels % groups:
        raise UsageError(
            f"groups={groups} does not divide a convolution from {in_channels} to {out_channels} channels.",
            expected="Expected a number of groups that divides the channels of every 3x3 convolution.",
            hint="Change groups, or width, which multiplies those channels.",
        )
    return Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


def widened(channels: int, width: float) -> int:
    """Returns `channels` times `width`, rounded.

    Raises:
        UsageError: nothing is left.
    """
    wide = round(channels * width)
    if wide < 1:
        raise UsageError(
            f"width={width} leaves none of {channels} channels.",
            expected=f"Expected at least {1 / channels:g}.",
            hint="Choose a greater width.",
        )
    return wide


def basic_branch(
    in_channels: int, channels: int, stride: int, *, width: float, groups: int, stride_in: StrideIn
) -> list[nn.Conv2d]:
    """Returns the convolutions of a basic branch, 3x3 and 3x3, to `width * channels` channels; the first strides."""
    if stride_in != "3x3":
        raise UsageError(
            f"A basic block cannot stride in a {stride_in} convolution.",
            expected="Expected stride_in='3x3': its convolutions are all 3x3.",
            hint="stride_in is an option of networks with bottlenecks, such as resnet50.",
        )
    out_channels = widened(channels, width)
    return [conv(in_channels, out_channels, 3, stride, groups), conv(out_channels, out_channels, 3, 1, groups)]


def bottleneck_branch(
    in_channels: int, channels: int, stride: int, *, width: float, groups: int, stride_in: StrideIn
) -> list[nn.Conv2d]:
    """Returns the convolutions of a bottleneck: 1x1 and 3x3, of `width * channels` channels; 1x1, of `4 * channels`."""
    inner = widened(channels, width)
    strides = {"1x1": (stride, 1), "3x3": (1, stride)}[stride_in]
    return [
        conv(in_channels, inner, 1, strides[0]),
        conv(inner, inner, 3, strides[1], groups),
        conv(inner, 4 * channels, 1),
    ]


class DropPath(nn.Module):
    """In training, zeroes a branch for a picture with probability `rate`, and scales it by 1 / (1 - rate) otherwise.

    Draws from torch's global generator, one number a picture. Source: arXiv:1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand((x.shape[0], 1, 1, 1), device=x.device) >= self.rate
        # The scale is a Python number: as a bfloat16 tensor it would be rounded, and the expectation with it.
        return x * kept.to(x.dtype) * (1.0 / (1.0 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the new channels, half of them on either side; no parameters.

    The paper does not say where the zeros go; existing CIFAR weights need them on both sides.
    [N, C, H, W] -> [N, D, h, w].
    Source: arXiv:1512.03385, section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        new = out_channels - in_channels
        self.stride = stride
        self.zeros = (new // 2, new - new // 2)

    def forward(self, x: Tensor) -> Tensor:
        # Pooling one pixel at a time is x[:, :, ::stride, ::stride], except that it keeps channels_last for odd H too.
        return F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, *self.zeros))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, zeros={self.zeros}"


def make_shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int, *, norm: bool) -> nn.Module:
    """Returns a shortcut: A pads with zeros where the shape changes, B projects there, C projects everywhere.

    `norm` puts a batch norm after the projection; the pre-activation order has none there.
    """
    if kind not in ("A", "B", "C"):
        raise UsageError(
            f"No shortcut is called {kind!r}.",
            expected="Expected A, B or C.",
            hint="See arXiv:1512.03385, section 3.3.",
        )
    if kind != "C" and stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "A":
        return PadShortcut(in_channels, out_channels, stride)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv(in_channels, out_channels, 1, stride))
    if norm:
        parts["norm"] = nn.BatchNorm2d(out_channels)
    return nn.Sequential(parts)


class Block(nn.Module):
    """y = f(branch(x) + shortcut(x)), or y = f(branch(x)) in a plain net, which has no shortcut; f is relu, or `by`.

    The branch is its convolutions, each with a batch norm after it, and f between them. [N, C, H, W] -> [N, D, h, w].
    """

    def __init__(
        self, convs: list[nn.Conv2d], shortcut: Shortcut | None, drop_path: float, by: Activation = "relu"
    ) -> None:
        super().__init__()
        self.activation: Activation = by
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, each in enumerate(convs, start=1):
            parts[f"conv{number}"] = each
            parts[f"norm{number}"] = nn.BatchNorm2d(each.out_channels)
            if number < len(convs):
                parts[f"{by}{number}"] = activation_by(by)
        if drop_path > 0:
            parts["drop_path"] = DropPath(drop_path)
        self.branch = nn.Sequential(parts)
        self.shortcut = make_shortcut(shortcut, *_ends(convs), norm=True) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)  # which nothing else reads
        return activate_(y if self.shortcut is None else y.add_(self.shortcut(x)), self.activation)

    def zero_last(self) -> None:
        """Sets the scale of the branch's last norm to zero, so that the block starts as f(shortcut(x))."""
        last = [layer for layer in self.branch if isinstance(layer, nn.BatchNorm2d)][-1]
        nn.init.zeros_(last.weight)


class PreActivationBlock(nn.Module):
    """y = branch(a) + shortcut(x) with a = relu(norm(x)); a shortcut that changes the shape starts from a too.

    The branch is its convolutions, each after the first with a batch norm and a relu before it.
    [N, C, H, W] -> [N, D, h, w].
    Source: arXiv:1603.05027, Figure 4 (e); where the shape changes, as in the authors' code and in arXiv:1605.07146.
    """

    def __init__(self, convs: list[nn.Conv2d], shortcut: Shortcut, drop_path: float) -> None:
        super().__init__()
        self.activate = activation(convs[0].in_channels)
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv1=convs[0])
        for number, each in enumerate(convs[1:], start=2):
            parts[f"norm{number}"] = nn.BatchNorm2d(each.in_channels)
            parts[f"relu{number}"] = nn.ReLU(inplace=True)
            parts[f"conv{number}"] = each
        if drop_path > 0:
            parts["drop_path"] = DropPath(drop_path)
        self.branch = nn.Sequential(parts)
        self.shortcut = make_shortcut(shortcut, *_ends(convs), norm=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        y: Tensor = self.branch(activated) + self.shortcut(x if isinstance(self.shortcut, nn.Identity) else activated)
        return y

    def zero_last(self) -> None:
        """Sets the branch's last convolution to zero, so that the block starts as its shortcut."""
        last = [layer for layer in self.branch if isinstance(layer, nn.Conv2d)][-1]
        nn.init.zeros_(last.weight)


def _ends(convs: list[nn.Conv2d]) -> tuple[int, int, int]:
    """Returns the input channels, output channels and total stride of a branch."""
    stride = 1
    for each in convs:
        stride *= each.stride[0]
    return convs[0].in_channels, convs[-1].out_channels, stride


class Halving(nn.MaxPool2d):
    """2x2 max pooling without a last odd row or column; a side of one pixel stays: [N, C, H, W] -> [N, C, h, w]."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])))

    @staticmethod
    def read_of(x: Tensor) -> tuple[int, int]:
        """Returns how many rows and columns of maps like x [N, C, H, W] it reads."""
        return max(1, x.shape[2] // 2 * 2), max(1, x.shape[3] // 2 * 2)


def activation_by(by: Activation) -> nn.Module:
    """Returns the layer that applies it."""
    return nn.ReLU(inplace=True) if by == "relu" else nn.GELU()


def activation_of(layer: nn.Module) -> Activation | None:
    """Returns which activation the layer is, if it is one."""
    is_gelu = type(layer) is nn.GELU and layer.approximate == "none"
    return "relu" if type(layer) is nn.ReLU else "gelu" if is_gelu else None


def activate_(x: Tensor, by: Activation) -> Tensor:
    """Returns what the activation makes of x, which is used up."""
    return F.relu(x, inplace=True) if by == "relu" else F.gelu(x)


def activation(channels: int) -> nn.Sequential:
    """Returns a batch norm and a relu."""
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)))


class Stage(nn.Sequential):
    """Blocks in a row, which with `checkpoint_activations` keep only their inputs for the backward pass.

    That pass then computes the rest again. Gradients and running statistics are the same, for about a third more time.
    """

    def __init__(self, *blocks: nn.Module, checkpoint_activations: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> Tensor:
        recompute = self.checkpoint_activations and torch.is_grad_enabled()
        for block in self:
            x = _recomputed(block, x) if recompute else block(x)
        return x

    def extra_repr(self) -> str:
        return "checkpoint_activations=True" if self.checkpoint_activations else ""


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """Returns block(x), keeping nothing but `x` for the backward pass."""

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _frozen_statistics(block)

    if torch.compiler.is_compiling():  # the compiler knows what changes a buffer, and does not run it again
        compiled: Tensor = checkpoint(block, x, use_reentrant=False)
        return compiled
    random = any(isinstance(layer, DropPath) for layer in block.modules())
    y: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts, preserve_rng_state=random)
    return y


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms do not count the batch's statistics again: the block's first run has."""
    norms = [layer for layer in block.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    counts = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def make_stem(kind: StemKind, in_channels: int, channels: int, *, activate: bool) -> nn.Sequential:
    """Returns the first layers: "imagenet" a 7x7 convolution and a 3x3 max pool of stride 2, "cifar" a 3x3 convolution.

    `activate` puts a batch norm and a relu after the convolution; in the pre-activation order the first block has them.
    """
    if kind not in ("imagenet", "cifar"):
        raise UsageError(f"No stem is called {kind!r}.", expected="Expected imagenet or cifar.")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = conv(in_channels, channels, 7, 2) if kind == "imagenet" else conv(in_channels, channels, 3)
    if activate:
        parts.update(activation(channels).named_children())
    if kind == "imagenet":
        parts["pool"] = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(parts)


def make_head(channels: int, num_classes: int, *, activate: bool) -> nn.Sequential:
    """Returns global average pooling and the classifier `fc`; `activate` puts a batch norm and a relu before them."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(activation(channels).named_children() if activate else ())
    parts["pool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["fc"] = nn.Linear(channels, num_classes)
    return nn.Sequential(parts)


def he_initialise(model: nn.Module) -> None:
    """Draws convolutions from a normal distribution of variance 2 / fan_out; fan_out = kernel area * output channels.

    Source: arXiv:1502.01852, equation 14, which keeps the variance of gradients; equation 10 (fan_in) keeps that of
        activations.
    The residual nets' authors, and torchvision, use fan_out.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
