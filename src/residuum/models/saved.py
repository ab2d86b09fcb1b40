"""A network in a bundle: into numpy's arrays and back, so that the bundle knows nothing of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residuum import bundle
from residuum.calibration import Calibration, of_card
from residuum.errors import UsageError, WeightsError
from residuum.imaging import Preprocessing
from residuum.models._catalog import untrained_model
from residuum.models.layers import Network


@dataclass(frozen=True)
class Saved:
    """A bundle's network with its weights, in evaluation mode, and what goes with it."""

    model: Network
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    card: Mapping[str, Any]
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The probability from which on a picture has each class, in their order; None where it has one of them."""
        found: Sequence[float] | None = self.card.get("thresholds")
        return None if found is None else tuple(float(threshold) for threshold in found)


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Returns a state dict as arrays of the same shapes, contiguous in memory."""
    return {name: np.asarray(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()}


def load(folder: Path, device: torch.device | None = None) -> Saved:
    """Returns the network of a bundle, every file checked against its hash.

    Raises:
        WeightsError: there is no usable bundle in `folder`, or its tensors are not those of the network that its card
        names.
    """
    tensors, card = bundle.read(folder)
    try:
        model = untrained_model(**card["model"])
        model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    except (UsageError, RuntimeError, TypeError) as error:
        raise WeightsError(
            f"The weights in {folder} do not fit the network that its model.json names: {error}",
            expected=f"Expected the tensors of {card['model']['name']}.",
            hint="Train it anew, or use the version of residuum that wrote it.",
        ) from error
    if model.num_classes != len(card["classes"]):
        raise WeightsError(
            f"The bundle {folder} names {len(card['classes'])} classes for {model.num_classes} outputs.",
            expected="Expected as many of one as of the other.",
            hint="Train it anew, or use the version of residuum that wrote it.",
        )
    _refuse_other_thresholds(folder, card)
    return Saved(
        model=model.to(device or torch.device("cpu")).to(memory_format=torch.channels_last).eval(),
        classes=tuple(card["classes"]),
        preprocessing=Preprocessing.from_dict(card["preprocessing"]),
        card=card,
        calibration=of_card(card, folder),
    )


def _refuse_other_thresholds(folder: Path, card: Mapping[str, Any]) -> None:
    """Raises WeightsError where there are thresholds, and not a probability for each class."""
    found = card.get("thresholds")
    if found is None:
        return
    usable = isinstance(found, list) and len(found) == len(card["classes"])
    if not usable or not all(type(value) in (int, float) and 0 <= value <= 1 for value in found):
        raise WeightsError(
            f"The bundle {folder} has thresholds that are not one probability for each of its classes.",
            expected=f"Expected {len(card['classes'])} numbers from 0 to 1 under 'thresholds' in model.json.",
            hint="Train it anew, or use the version of residuum that wrote it.",
        )
    own = of_card(card, folder)
    if own.temperature != 1 or own.unknown_below is not None:
        raise WeightsError(
            f"The bundle {folder} has both 'thresholds' and a temperature, or a probability of 'unknown'.",
            expected="Expected one or the other: a temperature is for networks that give a picture one class.",
            hint="Train it anew, or use the version of residuum that wrote it.",
        )
