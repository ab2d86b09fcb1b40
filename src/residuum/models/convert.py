"""Weights that others have trained, made into a bundle: with it `residuum predict`, `evaluate` and `train --weights`
work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from residuum import __version__, bundle, imaging
from residuum.errors import UsageError, WeightsError
from residuum.imaging import Preprocessing
from residuum.models import layouts, pretrained
from residuum.models._catalog import MODELS, untrained_model
from residuum.models.saved import arrays
from residuum.models.weights import IMAGENET_MEAN, IMAGENET_STD, Weights


@dataclass(frozen=True)
class Seen:
    """What a network was trained to see of a picture, as far as somebody says so; None is what is known or usual.

    `mean` and `std` of each channel are on the 0..1 scale, `img_size` is the side in pixels of what the network sees,
    `resize_px` the shorter side that a picture is brought to before its centre is cropped.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    img_size: int | None = None
    resize_px: int | None = None


@dataclass(frozen=True)
class Converted:
    """What was converted: the `layout` that its names were recognised as, and the bundle's card."""

    folder: Path
    layout: str
    tensors: int
    card: Mapping[str, Any]


def convert(
    weights: str | Path, model: str, out: Path, classes: Sequence[str] | None = None, seen: Seen | None = None
) -> Converted:
    """Writes the bundle `out` of foreign `weights`, named as `--weights` names them, for the network `model`.

    A file that is one of those known by name is recognised by its hash; licence, preprocessing and classes follow from
    that. For any other the licence stays unspecified, the preprocessing is what networks of that input size usually
    have, with ImageNet's mean and standard deviation, and classes without names are called by their numbers. What is
    said in `classes` and `seen` holds in any case.

    Raises:
        UsageError: there is no such file, name or network; there are as many `classes` as not in the weights, or `seen`
            does not suit the network's pictures.
        WeightsError: the weights cannot be used, or not for this network, by key.
        NetworkError: they are known by name, in no cache, and cannot be downloaded.
        ResourceError: the bundle cannot be written.
    """
    entry = MODELS[model]
    found = pretrained.find(weights, model, {})
    if found is None or found.card is not None:
        raise UsageError(
            f"There is nothing to convert in {str(weights)!r}.",
            expected="Expected a file of weights, or a name of: residuum weights",
            hint="A bundle is what this makes, and is used as it is.",
        )
    if found.num_classes is None:
        raise WeightsError(
            f"The weights {found.name} have no classifier.",
            expected="Expected one: a bundle predicts.",
            hint=f"Train one with them: residuum train --data DATA --model {model} --weights {found.name}",
        )
    known = found.known
    names = _classes(classes, found.num_classes, known)
    channels = found.in_channels or entry.card.in_channels
    preprocessing = _as_seen(known.preprocessing if known else usual_preprocessing(entry.card.input_px), seen, channels)
    network = untrained_model(model, num_classes=found.num_classes, in_channels=channels)
    found.load_into(network)
    card = {
        "model": {"name": model, "num_classes": found.num_classes, "in_channels": channels},
        "classes": list(names),
        "preprocessing": preprocessing.as_dict(),
        "licence": known.licence if known else pretrained.UNSPECIFIED,
        "scores": {},
        "weights": {"source": known.url if known else Path(weights).name, "name": known.name if known else None},
        "residuum": __version__,
    }
    bundle.write(out, arrays(network.state_dict()), card)
    return Converted(out, layouts.recognise(found.state_dict).name, len(found.state_dict), card)


def imagenet_classes() -> list[str]:
    """Returns the names of ImageNet's 1,000 classes as torchvision has them; two that share one have their numbers."""
    from torchvision.models import ResNet18_Weights  # slow to import, and only needed here

    names: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return [f"{name} {number}" if names.count(name) > 1 else name for number, name in enumerate(names)]


def _classes(given: Sequence[str] | None, count: int, known: Weights | None) -> Sequence[str]:
    if given is None:
        if known is None:
            return [str(number) for number in range(count)]
        given = imagenet_classes()
    if len(given) != count or len(set(given)) != count:
        raise UsageError(
            f"{len(given):,} names of classes, {len(set(given)):,} of them different, do not fit the weights.",
            expected=f"Expected {count:,} different names, in the order of the network's outputs.",
            hint="Give them one a line, or leave them out.",
        )
    return given


def _as_seen(usual: Preprocessing, seen: Seen | None, channels: int) -> Preprocessing:
    """Returns the preprocessing with what was said of it; a side that is not said keeps its ratio to the other one."""
    seen = seen or Seen()
    modes: dict[int, imaging.Mode] = {1: "L", 3: "RGB"}
    mean, std = seen.mean or usual.mean, seen.std or usual.std
    if channels not in modes or {len(mean), len(std)} != {channels}:
        raise UsageError(
            f"The weights take pictures of {channels} channel{'s' * (channels != 1)}, and there are {len(mean)} means "
            f"and {len(std)} standard deviations.",
            expected="Expected one of each for a channel, and 1 channel (grey) or 3 (colour).",
            hint="Give those that the network was trained with, such as: --mean 0.1307 --std 0.3081",
        )
    if min(std) <= 0 or not all(math.isfinite(value) for value in (*mean, *std)):
        raise UsageError(
            f"Pictures cannot be normalised with mean {mean} and standard deviation {std}.",
            expected="Expected numbers, and standard deviations above 0.",
            hint="Both are on the 0..1 scale, such as: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        )
    img_size = seen.img_size or usual.img_size
    return replace(
        usual,
        mode=modes[channels],
        img_size=img_size,
        resize_px=seen.resize_px or max(img_size, round(usual.resize_px * img_size / usual.img_size)),
        mean=mean,
        std=std,
    )


def usual_preprocessing(input_px: int) -> Preprocessing:
    """Returns what networks of that input size usually have, with ImageNet's mean and standard deviation."""
    resize_px = 256 if input_px == 224 else input_px
    return Preprocessing("RGB", input_px, resize_px, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
