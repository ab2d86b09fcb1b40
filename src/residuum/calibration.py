"""How far a bundle's probabilities are to be relied on: its temperature, and from which probability on it answers.

Logits are divided by the temperature before they become probabilities: that changes how sure a network says it is, and
never which class is its best. Where the probability of the best class is below the threshold, the answer is "unknown".
A bundle that says nothing of either has the temperature 1 and always answers. What is here needs no torch, so that
whatever serves a bundle reads it alike.

Source: Guo et al., arXiv:1706.04599, section 4.2 (temperature scaling); Chow, IEEE Transactions on Information Theory
    16 (1970), pages 41-46 (an answer that may be refused).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from residuum.errors import UsageError, WeightsError

KEY = "calibration"
"""Where a bundle's card keeps it."""

UNKNOWN = "unknown"
"""What an answer is called that names no class."""

Threshold = float | Literal["auto", "none"]
"""A probability below which the answer is "unknown": given, chosen on pictures, or none."""


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the probability (0..1) of the best class below which the answer is "unknown", if any.

    `found` says on what they were chosen and what they are worth there, in JSON's types and in percent; it is empty
    where nothing was chosen.
    """

    temperature: float = 1.0
    unknown_below: float | None = None
    found: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What a card keeps; `of_card` is the inverse."""
        return {"temperature": self.temperature, "unknown_below": self.unknown_below, "found": dict(self.found)}


def of_card(card: Mapping[str, Any], folder: Path) -> Calibration:
    """Returns what the card of the bundle in `folder` says; one that says nothing has the temperature 1.

    Raises:
        WeightsError: what it says cannot be.
    """
    said = card.get(KEY)
    if said is None:
        return Calibration()
    table = said if isinstance(said, Mapping) else {}
    temperature, below, found = table.get("temperature"), table.get("unknown_below"), table.get("found", {})
    if not (_is_number(temperature) and 0 < temperature < math.inf):
        raise _malformed(folder, "temperature", temperature, "a number above 0")
    if not (below is None or (_is_number(below) and 0 <= below <= 1)):
        raise _malformed(folder, "unknown_below", below, "a probability, or null")
    if not isinstance(found, Mapping):
        raise _malformed(folder, "found", found, "a table")
    return Calibration(float(temperature), None if below is None else float(below), found)


def unknown_for(classes: Sequence[str]) -> str:
    """Returns the word for an answer that names no class: "unknown", in as many brackets as it needs to be no class."""
    word = UNKNOWN
    while word in classes:
        word = f"({word})"
    return word


def threshold_of(own: Calibration, wanted: Threshold | None) -> float | None:
    """Returns the threshold that `wanted` asks for where a bundle has its own: that one for None and "auto".

    Raises:
        UsageError: it is no probability, or "auto" and the bundle has none.
    """
    if wanted == "none":
        return None
    if wanted is None or wanted == "auto":
        if wanted == "auto" and own.unknown_below is None:
            raise UsageError(
                "The bundle has no threshold of its own: none was chosen for it.",
                expected="Expected a bundle that was trained or calibrated with --unknown-below auto.",
                hint="Choose one: residuum calibrate BUNDLE --data DATA --unknown-below auto --out NEW",
            )
        return own.unknown_below
    return checked(wanted)


def checked(threshold: object) -> float:
    """Returns a threshold that is a probability.

    Raises:
        UsageError: it is not.
    """
    if not (_is_number(threshold) and 0 <= threshold <= 1):
        raise UsageError(
            f"unknown_below cannot be {threshold!r}.",
            expected="Expected auto, none, or a probability from 0 to 1.",
            hint="Leave it out for the bundle's own.",
        )
    return float(threshold)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _malformed(folder: Path, key: str, value: object, expected: str) -> WeightsError:
    return WeightsError(
        f"The bundle {folder} says {value!r} of its {KEY}.{key}.",
        expected=f"Expected {expected}.",
        hint="Calibrate it again: residuum calibrate BUNDLE --data DATA --out NEW",
    )
