"""Residual and plain networks for 224-pixel images, and the one class that every network of the family is.

Source: He et al., arXiv:1512.03385, Table 1; Zagoruyko and Komodakis, arXiv:1605.07146 (width); Xie et al.,
    arXiv:1611.05431 (groups); Huang et al., arXiv:1603.09382 (drop path).
Departures: bottlenecks stride in their 3x3 convolution, as torchvision's do; `stride_in="1x1"` is the paper's. The
    classifier is initialised as torch does it, uniformly.
Shapes: N pictures, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict, Unpack

from torch import nn

from residuum.models import layers
from residuum.models._catalog import MODELS, Card, Range
from residuum.models.layers import Network, Shortcut, StemKind, StrideIn


class PlainOptions(TypedDict, total=False):
    """Options of every network of the family.

    `width` multiplies the channels of the stages' 3x3 convolutions, which are split into `groups`.
    `checkpoint_activations` keeps one activation a block for the backward pass and recomputes the others: less
    memory, about a third more time.
    """

    num_classes: Annotated[int, Range(1)]
    in_channels: Annotated[int, Range(1)]
    stem: StemKind
    width: Annotated[float, Range(0.01, 100)]
    groups: Annotated[int, Range(1, 4096)]
    checkpoint_activations: bool


class BasicOptions(PlainOptions, total=False):
    """Options of networks with shortcuts.

    `zero_init_last` starts every block as its shortcut. `drop_path` is the rate at which the last block's branch is
    dropped, picture by picture; that of block l of L is l / L times as much.
    """

    shortcut: Shortcut
    zero_init_last: bool
    drop_path: Annotated[float, Range(0, 0.99)]


class BottleneckOptions(BasicOptions, total=False):
    """Options of networks with bottlenecks; `stride_in` says which of their convolutions strides."""

    stride_in: StrideIn


class ResNet(Network):
    """Stages of blocks between a stem and a head; without `shortcut`, a plain net.

    `depths` are the blocks of each stage, `channels` the first stage's width, which doubles from stage to stage while
    the map halves. `branch` and `order` say what a block is: two or three convolutions, with norm and relu after or
    before them. The other arguments are the options above. The stem has `channels` channels, or fewer where `width`
    makes basic blocks narrower.
    """

    def __init__(
        self,
        branch: Literal["basic", "bottleneck"],
        depths: Sequence[int],
        *,
        channels: int = 64,
        order: Literal["post", "pre"] = "post",
        num_classes: int = 1000,
        in_channels: int = 3,
        shortcut: Shortcut | None = "B",
        stride_in: StrideIn = "3x3",
        stem: StemKind = "imagenet",
        zero_init_last: bool = False,
        drop_path: float = 0.0,
        width: float = 1.0,
        groups: int = 1,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        pre = order == "pre"
        make_branch = layers.basic_branch if branch == "basic" else layers.bottleneck_branch
        now = min(channels, layers.widened(channels, width)) if branch == "basic" else channels
        self.stem = layers.make_stem(stem, in_channels, now, activate=not pre)
        first_stride = 4 if stem == "imagenet" else 1
        rates = (drop_path * block / sum(depths) for block in itertools.count(1))
        stages, features = [], []
        for number, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for place in range(depth):
                stride = 2 if number > 0 and place == 0 else 1
                convs = make_branch(now, channels * 2**number, stride, width=width, groups=groups, stride_in=stride_in)
                now = convs[-1].out_channels
                blocks.append(_block(convs, shortcut, next(rates), pre=pre))
            stages.append(layers.Stage(*blocks, checkpoint_activations=checkpoint_activations))
            features.append((now, first_stride * 2**number))
        self.stages = nn.Sequential(*stages)
        self.head = layers.make_head(now, num_classes, activate=pre)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.feature_channels = tuple(out_channels for out_channels, _ in features)
        self.feature_strides = tuple(stride for _, stride in features)
        layers.he_initialise(self)
        if zero_init_last:
            for layer in self.modules():
                if isinstance(layer, layers.Block | layers.PreActivationBlock):
                    layer.zero_last()


def _block(convs: list[nn.Conv2d], shortcut: Shortcut | None, drop_path: float, *, pre: bool) -> nn.Module:
    if not pre:
        return layers.Block(convs, shortcut, drop_path)
    if shortcut is None:
        raise ValueError("A pre-activation block needs a shortcut.")
    return layers.PreActivationBlock(convs, shortcut, drop_path)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 18-layer, without shortcuts",
        params=11_515_688,
        multiply_adds=1_794_805_760,
        input_px=224,
    )
)
def plain18(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-18: ResNet-18 without its shortcuts."""
    return ResNet("basic", (2, 2, 2, 2), shortcut=None, **options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 34-layer, without shortcuts",
        params=21_623_848,
        multiply_adds=3_644_493_824,
        input_px=224,
    )
)
def plain34(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-34: ResNet-34 without its shortcuts."""
    return ResNet("basic", (3, 4, 6, 3), shortcut=None, **options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 18-layer",
        params=11_689_512,
        multiply_adds=1_814_073_344,
        input_px=224,
        twin="torchvision:resnet18",
    )
)
def resnet18(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-18: basic blocks 2, 2, 2, 2."""
    return ResNet("basic", (2, 2, 2, 2), **options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 34-layer",
        params=21_797_672,
        multiply_adds=3_663_761_408,
        input_px=224,
        twin="torchvision:resnet34",
    )
)
def resnet34(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-34: basic blocks 3, 4, 6, 3."""
    return ResNet("basic", (3, 4, 6, 3), **options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 50-layer",
        params=25_557_032,
        multiply_adds=4_089_184_256,
        input_px=224,
        twin="torchvision:resnet50",
    )
)
def resnet50(**options: Unpack[BottleneckOptions]) -> ResNet:
    """ResNet-50: bottlenecks 3, 4, 6, 3."""
    return ResNet("bottleneck", (3, 4, 6, 3), **options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 101-layer",
        params=44_549_160,
        multiply_adds=7_801_405_440,
        input_px=224,
        twin="torchvision:resnet101",
    )
)
def resnet101(**options: Unpack[BottleneckOptions]) -> ResNet:
    """ResNet-101: bottlenecks 3, 4, 23, 3."""
    return ResNet("bottleneck", (3, 4, 23, 3), **options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 1, 152-layer",
        params=60_192_808,
        multiply_adds=11_513_626_624,
        input_px=224,
        twin="torchvision:resnet152",
    )
)
def resnet152(**options: Unpack[BottleneckOptions]) -> ResNet:
    """ResNet-152: bottlenecks 3, 8, 36, 3."""
    return ResNet("bottleneck", (3, 8, 36, 3), **options)


@MODELS.register(
    Card(
        source="arXiv:1605.07146, Table 8, WRN-50-2-bottleneck",
        params=68_883_240,
        multiply_adds=11_398_021_120,
        input_px=224,
        twin="torchvision:wide_resnet50_2",
    )
)
def wide_resnet50_2(**options: Unpack[BottleneckOptions]) -> ResNet:
    """Wide ResNet-50-2: ResNet-50 with 3x3 convolutions twice as wide."""
    return ResNet("bottleneck", (3, 4, 6, 3), **(BottleneckOptions(width=2) | options))


@MODELS.register(
    Card(
        source="arXiv:1605.07146, section 3.3, at 101 layers",
        params=126_886_696,
        multiply_adds=22_753_050_624,
        input_px=224,
        twin="torchvision:wide_resnet101_2",
    )
)
def wide_resnet101_2(**options: Unpack[BottleneckOptions]) -> ResNet:
    """Wide ResNet-101-2: ResNet-101 with 3x3 convolutions twice as wide."""
    return ResNet("bottleneck", (3, 4, 23, 3), **(BottleneckOptions(width=2) | options))


@MODELS.register(
    Card(
        source="arXiv:1611.05431, Table 1, 32x4d",
        params=25_028_904,
        multiply_adds=4_230_479_872,
        input_px=224,
        twin="torchvision:resnext50_32x4d",
    )
)
def resnext50_32x4d(**options: Unpack[BottleneckOptions]) -> ResNet:
    """ResNeXt-50 32x4d: ResNet-50 with 3x3 convolutions of 32 groups, 4 channels each in the first stage."""
    return ResNet("bottleneck", (3, 4, 6, 3), **(BottleneckOptions(width=2, groups=32) | options))


@MODELS.register(
    Card(
        source="arXiv:1611.05431, section 5.1, at 32x8d",
        params=88_791_336,
        multiply_adds=16_414_015_488,
        input_px=224,
        twin="torchvision:resnext101_32x8d",
    )
)
def resnext101_32x8d(**options: Unpack[BottleneckOptions]) -> ResNet:
    """ResNeXt-101 32x8d: ResNet-101 with 3x3 convolutions of 32 groups, 8 channels each in the first stage."""
    return ResNet("bottleneck", (3, 4, 23, 3), **(BottleneckOptions(width=4, groups=32) | options))


@MODELS.register(
    Card(
        source="arXiv:1611.05431, Table 4, 64x4d",
        params=83_455_272,
        multiply_adds=15_460_270_080,
        input_px=224,
        twin="torchvision:resnext101_64x4d",
    )
)
def resnext101_64x4d(**options: Unpack[BottleneckOptions]) -> ResNet:
    """ResNeXt-101 64x4d: ResNet-101 with 3x3 convolutions of 64 groups, 4 channels each in the first stage."""
    return ResNet("bottleneck", (3, 4, 23, 3), **(BottleneckOptions(width=4, groups=64) | options))
