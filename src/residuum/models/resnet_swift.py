"""Residual networks that learn 32-pixel pictures in few passes: a whitening stem and three stages, each of a widening
convolution and one residual block.

Source: Jordan, arXiv:2404.00498, sections 3.1 (whitening, from Page's "How to train your ResNet"), 3.2 (convolutions
    that start as the identity), 4 (widths; the identity shortcut over the last two convolutions of every stage is that
    of the network for 96 %); his code of 2024 for the small head.
Departures: the blocks are those of arXiv:1512.03385, with GELU for ReLU; norms have a learned scale; the networks for
    94 % have the shortcuts too (swift_resnet7_cifar is the source's with a shortcut over the second of its two
    convolutions in every stage).
Shapes: N pictures, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, TypedDict, Unpack

import torch
from torch import Tensor, nn

from residuum.models import layers
from residuum.models._catalog import MODELS, Card, Range
from residuum.models.layers import Network

_PATCH_PX = 2
_MOMENTUM = 0.4
"""By how much norms' running statistics follow a batch's: the source's; torch's is 0.1."""
_EPSILON = 5e-4
"""Added to the variances that are divided by, in units of normalised pictures: arXiv:2404.00498's code."""


class SwiftOptions(TypedDict, total=False):
    """Options of the family.

    `width` multiplies the channels of all stages. `zero_init_last` starts every block as its shortcut and the gelu.
    `checkpoint_activations` recomputes a block's activations in the backward pass.
    """

    num_classes: Annotated[int, Range(1)]
    in_channels: Annotated[int, Range(1)]
    width: Annotated[float, Range(0.01, 100)]
    zero_init_last: bool
    checkpoint_activations: bool


class Whitening(nn.Conv2d):
    """A convolution over patches of 2x2 pixels, each filter with its negative, that is not trained but for its biases.

    Its filters are a buffer: random ones, until `look_at` makes them those that whiten the patches of real pictures.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 2 * in_channels * _PATCH_PX**2, _PATCH_PX)
        filters = self.weight.detach().clone()
        del self.weight
        self.register_buffer("weight", filters)

    @torch.no_grad()
    def look_at(self, images: Tensor) -> None:
        """Takes the principal components of the patches of normalised pictures [N, C, H, W], each divided by its
        standard deviation."""
        covariance = torch.zeros((self.in_channels * _PATCH_PX**2,) * 2, dtype=torch.float64)
        for part in torch.split(images, 500):
            patches = part.unfold(2, _PATCH_PX, 1).unfold(3, _PATCH_PX, 1)  # [n, C, h, w, 2, 2]
            rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, len(covariance)).double()
            covariance += (rows.T @ rows).cpu() / len(rows) * len(part) / len(images)
        variances, components = torch.linalg.eigh(covariance)
        filters = (components / torch.sqrt(variances.clamp(min=0) + _EPSILON)).T.flip(0)
        filters = filters.reshape(-1, self.in_channels, _PATCH_PX, _PATCH_PX)
        self.weight.copy_(torch.cat((filters, -filters)))


class GlobalMaxPool(nn.Module):
    """The largest value of every channel: [N, C, H, W] -> [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


class SwiftResNet(Network):
    """Stages of a widening convolution, 2x2 max pooling, norm and gelu, then y = gelu(branch(x) + x).

    `channels` are the stages' widths and `convs` the convolutions of each branch; the other arguments are the options
    above.
    """

    pictures_wanted = 5000

    def __init__(
        self,
        channels: Sequence[int],
        convs: int = 2,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        zero_init_last: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        whitening = Whitening(in_channels)
        self.stem = nn.Sequential(OrderedDict(conv=whitening, gelu=nn.GELU()))
        wide = [layers.widened(each, width) for each in channels]
        before = [whitening.out_channels, *wide[:-1]]
        self.stages = nn.Sequential(
            *(
                layers.Stage(_widening(old, new), _block(new, convs), checkpoint_activations=checkpoint_activations)
                for old, new in zip(before, wide, strict=True)
            )
        )
        self.head = nn.Sequential(OrderedDict(pool=GlobalMaxPool(), fc=nn.Linear(wide[-1], num_classes)))
        self.num_classes, self.in_channels = num_classes, in_channels
        self.feature_channels = tuple(wide)
        self.feature_strides = tuple(2 ** (number + 1) for number in range(len(wide)))
        self._initialise()
        if zero_init_last:
            for block in self.stages.modules():
                if isinstance(block, layers.Block):
                    block.zero_last()

    def _initialise(self) -> None:
        layers.he_initialise(self)
        for layer in self.stages.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = _MOMENTUM
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight.detach()[: layer.in_channels])  # the first filters pass the channels on
        fc = self.head.get_submodule("fc")
        assert isinstance(fc, nn.Linear)
        nn.init.normal_(fc.weight, std=1 / fc.in_features)
        nn.init.zeros_(fc.bias)

    def look_at(self, images: Tensor) -> None:
        """Whitens the stem for pictures like these, normalised: [N, C, H, W]."""
        stem = self.stem.get_submodule("conv")
        assert isinstance(stem, Whitening)
        stem.look_at(images)


def _widening(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=layers.conv(in_channels, out_channels, 3),
            pool=layers.Halving(),
            norm=nn.BatchNorm2d(out_channels),
            gelu=nn.GELU(),
        )
    )


def _block(channels: int, convs: int) -> layers.Block:
    return layers.Block([layers.conv(channels, channels, 3) for _ in range(convs)], "A", 0.0, "gelu")


@MODELS.register(
    Card(
        source="arXiv:2404.00498, section 3, with identity shortcuts in all stages",
        params=1_972_514,
        multiply_adds=118_147_360,
        input_px=32,
        num_classes=10,
    )
)
def swift_resnet7_cifar(**options: Unpack[SwiftOptions]) -> SwiftResNet:
    """Swift ResNet-7: whitened patches, then seven learned layers with up to 256 channels in three stages."""
    return SwiftResNet((64, 256, 256), 1, **options)


@MODELS.register(
    Card(
        source="arXiv:2404.00498, section 3, with identity shortcuts in all stages",
        params=3_190_178,
        multiply_adds=160_651_552,
        input_px=32,
        num_classes=10,
    )
)
def swift_resnet10_cifar(**options: Unpack[SwiftOptions]) -> SwiftResNet:
    """Swift ResNet-10: whitened patches, then ten learned layers with up to 256 channels in three stages."""
    return SwiftResNet((64, 256, 256), **options)


@MODELS.register(
    Card(
        source="arXiv:2404.00498, section 4, the network for 96 %: its code of 2024 with widths 128, 384, 512",
        params=9_918_498,
        multiply_adds=451_967_264,
        input_px=32,
        num_classes=10,
    )
)
def swift_wide_resnet10_cifar(**options: Unpack[SwiftOptions]) -> SwiftResNet:
    """Swift wide ResNet-10: the same with 128, 384 and 512 channels."""
    return SwiftResNet((128, 384, 512), **options)
