"""The catalogue of networks: a card for each, and `create_model`, which builds one by name and checks its options.

A network's options are the fields of the TypedDict that its function takes as keyword arguments; `Annotated[...,
Range]` gives the limits of a number. So a network has exactly the options that its signature shows, and any other is
refused.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from residuum.errors import UsageError, did_you_mean
from residuum.models import pretrained
from residuum.models.layers import Network
from residuum.registry import Registry


@dataclass(frozen=True)
class Card:
    """What a network is, with its default options: figures that the tests hold the real network to.

    `source` is the paper and its table; `params` and `multiply_adds` are exact counts, the latter for one picture of
    `input_px` by `input_px` pixels; `twin` is the same function in another library ("torchvision:resnet50"), whose
    weights load.
    """

    source: str
    params: int
    multiply_adds: int
    input_px: int
    num_classes: int = 1000
    in_channels: int = 3
    twin: str | None = None


MODELS: Registry[Card, Network] = Registry("model", "residuum.models", "residuum models")


@dataclass(frozen=True)
class Range:
    """The limits of a numeric option: from `low` to `high`, both included."""

    low: float
    high: float = math.inf


def create_model(name: str, weights: str | Path | None = None, **options: Any) -> Network:
    """Builds the network called `name`; an option left out has the network's own default.

    `weights` are what it starts from: "imagenet", a name of `residuum weights`, a file, a bundle, or random ones
    (None or "none"). Without `num_classes` the network has theirs; with another number its head is new.

    Raises:
        UsageError: no network has that name, the network has no such option, or the value is of the wrong type or out
        of range; or there are no weights of that name.
        WeightsError: the weights cannot be used, or are not this network's.
        NetworkError: the weights are in no cache and cannot be downloaded.
    """
    _check(name, options)
    found = pretrained.find(weights, name, options)
    if found is None:
        return untrained_model(name, **options)
    if found.num_classes is not None:
        options.setdefault("num_classes", found.num_classes)
    model = untrained_model(name, **options)
    found.load_into(model)
    return model


def untrained_model(name: str, **options: Any) -> Network:
    """As `create_model`, with random weights: for weights that the caller has."""
    _check(name, options)
    return MODELS[name].build(**options)


def _check(name: str, options: Mapping[str, object]) -> None:
    known = options_of(MODELS[name].build)
    for option, value in options.items():
        if option not in known:
            raise UsageError(
                f"The model {name} has no option {option!r}.",
                expected=f"Its options are {', '.join(known)}.",
                hint=did_you_mean(option, known) or "Leave it out, or choose another model: residuum models",
            )
        if not _fits(known[option], value):
            raise UsageError(
                f"The option {option!r} of the model {name} cannot be {value!r}.",
                expected=f"Expected {_words(known[option])}.",
                hint=_closest(known[option], value) or f"Leave it out for the default of {name}.",
            )


def options_of(build: Callable[..., Network]) -> Mapping[str, Any]:
    """Returns the options that a network's function takes, name to annotated type, in the order of their definition."""
    unpacked = typing.get_type_hints(build)["options"]
    return typing.get_type_hints(typing.get_args(unpacked)[0], include_extras=True)


def _split(wanted: Any) -> tuple[Any, Range]:
    """Returns an option's type and its limits."""
    if typing.get_origin(wanted) is typing.Annotated:
        kind, limits = typing.get_args(wanted)
        return kind, limits
    return wanted, Range(-math.inf)


def _fits(wanted: Any, value: object) -> bool:
    kind, limits = _split(wanted)
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind is bool:
        return isinstance(value, bool)
    numbers = (int, float) if kind is float else (int,)
    return isinstance(value, numbers) and not isinstance(value, bool) and limits.low <= value <= limits.high


def _words(wanted: Any) -> str:
    kind, limits = _split(wanted)
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    if kind is bool:
        return "True or False"
    number = "a whole number" if kind is int else "a number"
    return f"{number} from {limits.low:g}" + (f" to {limits.high:g}" if limits.high < math.inf else "")


def _closest(wanted: Any, value: object) -> str:
    kind, _ = _split(wanted)
    return did_you_mean(str(value), typing.get_args(kind)) if typing.get_origin(kind) is Literal else ""
