"""Weights to start from, as `--weights` and `create_model(weights=...)` name them, into a network.

They are named as `imagenet` (torchvision's newest for the network), by a name of `residuum weights`, as a file, as a
bundle, or not at all (`none`). A name goes before a path; a file that is called like one is named as `./imagenet`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residuum import bundle
from residuum.errors import WeightsError
from residuum.imaging import Preprocessing
from residuum.models import foreign, layouts
from residuum.models.layers import Network
from residuum.models.weights import (
    WEIGHTS,
    Weights,
    check_licence,
    named,
    obtain,
    recognised,
    refuse_another_network,
)
from residuum.userpath import expanded

NONE = "none"
UNSPECIFIED = "unspecified"
"""The licence of weights that say nothing of it."""


@dataclass(frozen=True)
class Pretrained:
    """Weights that were found: what messages call them, their tensors by their own names, and what else is known.

    `known` is the card of weights known by name, be it that a file was recognised as one, `card` that of a bundle.
    """

    name: str
    state_dict: Mapping[str, Tensor]
    known: Weights | None = None
    card: Mapping[str, object] | None = None

    @property
    def in_words(self) -> str:
        """What sentences call them: their name, and what a file was recognised as."""
        known = self.known
        return self.name if known is None or known.name == self.name else f"{self.name} ({known.name})"

    @property
    def num_classes(self) -> int | None:
        """The classes of its classifier; None where there is none in it."""
        return layouts.classes_in(self.state_dict)

    @property
    def in_channels(self) -> int | None:
        """The channels of the pictures that its first layer takes; None where there is no such layer in it."""
        return layouts.channels_in(self.state_dict)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What it was trained to see of a picture; None where nothing says so."""
        if self.known is not None:
            return self.known.preprocessing
        stored: Any = (self.card or {}).get("preprocessing")
        return Preprocessing.from_dict(stored) if stored else None

    @property
    def licence(self) -> str:
        """The licence that they are under, as far as anything says so."""
        if self.known is not None:
            return self.known.licence
        return str((self.card or {}).get("licence") or UNSPECIFIED)

    def load_into(self, model: Network) -> str:
        """Loads the weights and returns what was done, in a sentence; the head stays as it is for other classes.

        Raises:
            WeightsError: they do not fit, by key. Nothing is loaded then.
        """
        with_head = layouts.load(model, self.state_dict, f"The weights {self.in_words}")
        if with_head:
            return f"The network starts from the weights {self.in_words}."
        theirs = "none" if self.num_classes is None else f"one for {self.num_classes:,}"
        return (
            f"The network starts from the weights {self.in_words}, with a new head for {model.num_classes:,} classes: "
            f"the weights have {theirs}."
        )


def find(weights: str | Path | None, model: str, options: Mapping[str, object]) -> Pretrained | None:
    """Returns the weights that were named for the network `model` with `options`, downloaded where they must be.

    Raises:
        UsageError: nothing is called that.
        WeightsError: they cannot be used, or not for this network, or their licence was not accepted.
        NetworkError: they are in no cache and cannot be downloaded.
    """
    if weights is None or weights == NONE:
        return None
    path = _path_of(weights)
    if path is not None:
        return _bundle(path, model, options) if path.is_dir() else _file(path, str(weights), model, options)
    card = named(str(weights), model)
    _refuse_another_stride(card.name, "3x3", options)
    return Pretrained(card.name, foreign.read(obtain(card)), known=card)


def network_of(weights: str | Path) -> dict[str, object]:
    """Returns the name and the options of the network that weights are of, as `model.json` has them; nothing where they
    do not say so: `imagenet` is there for several, and a file may be anybody's.

    Raises:
        WeightsError: the bundle cannot be used.
    """
    path = _path_of(weights)
    if path is not None and path.is_dir():
        return dict(bundle.read(path)[1]["model"])
    known = WEIGHTS.get(str(weights)) if path is None else recognised(path)
    return {} if known is None else {"name": known.model}


def _path_of(weights: str | Path) -> Path | None:
    """Returns the file or folder that weights are named by; None where there is none, or a name goes before it."""
    path = expanded(weights)
    return path if str(weights) not in ("imagenet", NONE, *WEIGHTS) and path.exists() else None


def _file(path: Path, name: str, model: str, options: Mapping[str, object]) -> Pretrained:
    """Returns the weights in a file; what is known by name is held to the same conditions when it comes as a file."""
    found = Pretrained(name, foreign.read(path), known=recognised(path))
    if found.known is not None:
        refuse_another_network(found.in_words, found.known.model, model)
        check_licence(found.in_words, found.known.licence)
        _refuse_another_stride(found.in_words, "3x3", options)
    return found


def _bundle(folder: Path, model: str, options: Mapping[str, object]) -> Pretrained:
    tensors, card = bundle.read(folder)
    own = card["model"]
    if own["name"] != model:
        raise WeightsError(
            f"The bundle {folder} holds the network {own['name']}, not {model}.",
            expected=f"Expected weights of {model}.",
            hint=f"Use --model {own['name']} with it.",
        )
    check_licence(str(folder), str(card.get("licence", "")))
    _refuse_another_stride(str(folder), own.get("stride_in"), options)
    return Pretrained(str(folder), {name: torch.from_numpy(array) for name, array in tensors.items()}, card=card)


def _refuse_another_stride(name: str, theirs: object, options: Mapping[str, object]) -> None:
    """Refuses what no tensor shows: the same weights in a network that strides elsewhere are another function."""
    ours = options.get("stride_in") or "3x3"
    if ours != (theirs or "3x3"):
        raise WeightsError(
            f"The weights {name} were not trained with stride_in={ours!r}.",
            expected=f"Expected stride_in={theirs or '3x3'!r}.",
            hint="Leave the option out, or start with --weights none.",
        )
