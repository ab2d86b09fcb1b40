"""What is to be reached against which peer: the goals of docs/speed.md, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A comparison: `ours` against `peer`, of which the ratio is to be at least, or with `at_most` at most, `ratio`.

    Without a `ratio` it is there for comparison only. With a `top1`, in percent, that test accuracy is to be reached
    too. `note` is what a reader must know to judge it.
    """

    name: str
    what: str
    peer: str
    ratio: float | None = None
    stretch: float | None = None
    at_most: bool = False
    top1: float = 0.0
    note: str = ""

    def met(self, measured: float) -> bool:
        """Whether a measured ratio reaches the goal."""
        assert self.ratio is not None
        return measured <= self.ratio if self.at_most else measured >= self.ratio

    def met_by(self, row: Mapping[str, object]) -> bool:
        """Whether a row of docs/results/speed.csv reaches the goal."""
        return self.met(float(str(row["ratio"]))) and float(str(row.get("top1") or self.top1)) >= self.top1

    def in_words(self) -> str:
        """Returns the goal as a table says it."""
        if self.ratio is None:
            return "-"
        limit = "at most" if self.at_most else "at least"
        stretch = "" if self.stretch is None else f" (stretch {self.stretch:g} x)"
        return f"{limit} {self.ratio:g} x{stretch}"


_CIFAR = "ResNet-20 on CIFAR, training with augmentation"
_STEPS = "random pictures that are ready, batch 32, 10 classes"

TOP1_FAST, TOP1_HIGH, MINUTES_HIGH, STRETCH_MINUTES_HIGH = 91.25, 94.0, 20, 10
AGREEMENT = 99.5
"""Percent of the answers on real photos that are those of float32."""

GOALS = (
    Goal("cifar-plain", _CIFAR, "the plain script: float32, DataLoader, PIL transforms, two workers", 3.0, 4.0),
    Goal("cifar-compiled", _CIFAR, "the same script with channels_last and torch.compile", 2.0),
    Goal(
        "cifar-product",
        _CIFAR,
        "the same number of multiply-adds as one bf16 matrix product",
        0.6,
        note="a step's multiply-adds are those of forward, of all weights' gradients and of all but the first data's",
    ),
    Goal("resnet18-eager", "ResNet-18 at 224 px, training", "timm, float32, eager", 2.5, note=_STEPS),
    Goal("resnet18-compiled", "ResNet-18 at 224 px, training", "timm, bf16, channels_last, torch.compile", 1.1),
    Goal("resnet50-eager", "ResNet-50 at 224 px, training", "timm, float32, eager", 2.5, note=_STEPS),
    Goal("resnet50-compiled", "ResNet-50 at 224 px, training", "timm, bf16, channels_last, torch.compile", 1.1),
    Goal(
        "inference",
        "ResNet-50 at 224 px, inference, the fastest mode that is exact enough",
        "timm, float32, eager",
        5.0,
        note="exact enough: the answer of float32 on at least 99.5 % of real photos",
    ),
    Goal("inference-onnxruntime", "the same", "onnxruntime, float32, timm's network exported"),
    Goal("inference-openvino", "the same", "OpenVINO as it comes, timm's network converted"),
    Goal(
        "photos",
        "JPEG photos to augmented batches of 224 px, a core",
        "torchvision: ImageFolder, PIL transforms, DataLoader",
        1.8,
        2.5,
    ),
    Goal("photos-cache", "the same from a cache made by `residuum cache`", "the same", 5.0),
    Goal("first-step", "time to the first step of a warm run", "`import timm`", 0.5, at_most=True),
    Goal("help", "`residuum --help`", "`import timm`", 0.05, at_most=True),
    Goal(
        "memory",
        "peak memory of a process that takes one training step of ResNet-50, batch 32",
        "torchvision, float32",
        0.6,
        at_most=True,
    ),
    Goal(
        "cifar-time",
        "time to 91.25 % on CIFAR-10 with ResNet-20, `resnet20_cifar10_fast`",
        "our own `resnet20_cifar10_2015`: 64,000 of its steps",
        0.1,
        at_most=True,
        top1=TOP1_FAST,
        note="the median run of docs/results/training.csv; missed, however fast, where its test accuracy is less",
    ),
)
"""In the order of the table. That of 94 % on CIFAR-10 has no peer, and is read from docs/results/training.csv."""


def goal(name: str) -> Goal:
    """Returns the goal of that name."""
    return next(each for each in GOALS if each.name == name)
