"""Residual and plain networks for 32-pixel images: a 3x3 stem and three stages, on maps of 32, 16 and 8 pixels.

Source: He et al., arXiv:1512.03385, section 4.2 and Table 6; Zagoruyko and Komodakis, arXiv:1605.07146, Table 1 (wide).
Departures: the paper does not say where option A's zeros go; here on both sides of the old channels
    (`layers.PadShortcut`).
"""

from __future__ import annotations

from typing import Unpack

from residuum.models._catalog import MODELS, Card
from residuum.models.resnet import BasicOptions, PlainOptions, ResNet

_PLAIN: PlainOptions = {"num_classes": 10, "stem": "cifar"}
_RESIDUAL: BasicOptions = {"num_classes": 10, "stem": "cifar", "shortcut": "A"}
_WIDE: BasicOptions = {"num_classes": 10, "stem": "cifar", "shortcut": "B"}


def _plain(layers: int, options: PlainOptions) -> ResNet:
    """Returns a plain net of 6n + 2 layers."""
    return ResNet("basic", _depths(layers - 2), channels=16, shortcut=None, **(_PLAIN | options))


def _residual(layers: int, options: BasicOptions) -> ResNet:
    """Returns a residual net of 6n + 2 layers."""
    return ResNet("basic", _depths(layers - 2), channels=16, **(_RESIDUAL | options))


def _wide(layers: int, width: float, options: BasicOptions) -> ResNet:
    """Returns a wide residual net of 6n + 4 layers, which counts the projections of its three stages."""
    return ResNet("basic", _depths(layers - 4), channels=16, order="pre", **(_WIDE | {"width": width} | options))


def _depths(layers: int) -> tuple[int, int, int]:
    return (layers // 6, layers // 6, layers // 6)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, section 4.2, n = 3, without shortcuts",
        params=269_722,
        multiply_adds=40_551_040,
        input_px=32,
        num_classes=10,
    )
)
def plain20_cifar(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-20: ResNet-20 without its shortcuts."""
    return _plain(20, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, section 4.2, n = 5, without shortcuts",
        params=464_154,
        multiply_adds=68_862_592,
        input_px=32,
        num_classes=10,
    )
)
def plain32_cifar(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-32: ResNet-32 without its shortcuts."""
    return _plain(32, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, section 4.2, n = 7, without shortcuts",
        params=658_586,
        multiply_adds=97_174_144,
        input_px=32,
        num_classes=10,
    )
)
def plain44_cifar(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-44: ResNet-44 without its shortcuts."""
    return _plain(44, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, section 4.2, n = 9, without shortcuts",
        params=853_018,
        multiply_adds=125_485_696,
        input_px=32,
        num_classes=10,
    )
)
def plain56_cifar(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-56: ResNet-56 without its shortcuts."""
    return _plain(56, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, section 4.2, n = 18, without shortcuts",
        params=1_727_962,
        multiply_adds=252_887_680,
        input_px=32,
        num_classes=10,
    )
)
def plain110_cifar(**options: Unpack[PlainOptions]) -> ResNet:
    """Plain-110: ResNet-110 without its shortcuts."""
    return _plain(110, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 6, 20 layers",
        params=269_722,
        multiply_adds=40_551_040,
        input_px=32,
        num_classes=10,
    )
)
def resnet20_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-20: 3 basic blocks in each of three stages, with option A."""
    return _residual(20, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 6, 32 layers",
        params=464_154,
        multiply_adds=68_862_592,
        input_px=32,
        num_classes=10,
    )
)
def resnet32_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-32: 5 basic blocks in each of three stages, with option A."""
    return _residual(32, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 6, 44 layers",
        params=658_586,
        multiply_adds=97_174_144,
        input_px=32,
        num_classes=10,
    )
)
def resnet44_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-44: 7 basic blocks in each of three stages, with option A."""
    return _residual(44, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 6, 56 layers",
        params=853_018,
        multiply_adds=125_485_696,
        input_px=32,
        num_classes=10,
    )
)
def resnet56_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-56: 9 basic blocks in each of three stages, with option A."""
    return _residual(56, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 6, 110 layers",
        params=1_727_962,
        multiply_adds=252_887_680,
        input_px=32,
        num_classes=10,
    )
)
def resnet110_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-110: 18 basic blocks in each of three stages, with option A."""
    return _residual(110, options)


@MODELS.register(
    Card(
        source="arXiv:1512.03385, Table 6, 1202 layers",
        params=19_421_274,
        multiply_adds=2_829_238_912,
        input_px=32,
        num_classes=10,
    )
)
def resnet1202_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """ResNet-1202: 200 basic blocks in each of three stages, with option A."""
    return _residual(1202, options)


@MODELS.register(
    Card(
        source="arXiv:1605.07146, Table 4, WRN-28-10",
        params=36_479_194,
        multiply_adds=5_243_328_768,
        input_px=32,
        num_classes=10,
    )
)
def wrn28_10_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """Wide ResNet-28-10: 4 pre-activation blocks in each of three stages, 10 times as wide."""
    return _wide(28, 10, options)


@MODELS.register(
    Card(
        source="arXiv:1605.07146, Table 4, WRN-16-8",
        params=10_961_370,
        multiply_adds=1_548_145_664,
        input_px=32,
        num_classes=10,
    )
)
def wrn16_8_cifar(**options: Unpack[BasicOptions]) -> ResNet:
    """Wide ResNet-16-8: 2 pre-activation blocks in each of three stages, 8 times as wide."""
    return _wide(16, 8, options)
