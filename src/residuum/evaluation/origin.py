"""Which set a network was trained on, by what its bundle's card says, and whether another name means the same one.

A set is known by where it is or, where it was copied, renamed or is reached by another path, by the names of its
pictures: divided as in training they make the same parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from residuum import recipe
from residuum.data.cache import made_of
from residuum.data.identity import from_here, place_of
from residuum.data.labels import SEPARATOR, Reading
from residuum.data.parts import ORDER, same_pictures
from residuum.data.sources import names_of
from residuum.errors import DataError, UsageError
from residuum.models import saved

Card = Mapping[str, Any]

AS_IN_TRAINING = "as in training"
"""How words on a part of a set end, where it is divided as it was in training."""


def source_of(network: saved.Saved) -> str:
    """Returns what to open for the set that the network was trained on, wherever its recipe's name for it led to then;
    an empty string where it does not say."""
    record = network.card.get("data", {})
    return from_here(str(record.get("source", "")), record.get("place"))


def same_source(data: str, own: str) -> bool:
    """Whether two sources are at the same place, so that what was held out in training is held out here. A cache is
    at the place of the set that it was made of."""
    data, own = made_of(data), made_of(own)
    ours, theirs = place_of(data), place_of(own)
    if ours is None or theirs is None:
        return data == own
    there = os.path.exists(ours) and os.path.exists(theirs)  # noqa: PTH110 (which refuses nothing)
    return ours == theirs or (there and Path(ours).samefile(theirs))


def trained_on(card: Card, data: str) -> bool:
    """Whether a bundle with this card was trained on `data`, or on a cache or a copy of it, be that there or not; no
    picture is opened."""
    record: Any = card.get("data", {})
    source, place = str(record.get("source", "")), record.get("place")
    known = (from_here(source, place), place, record.get("made_of", {}).get("source"))
    return any(same_source(data, str(own)) for own in known if own) or _divides_alike(card, data)


def _divides_alike(card: Card, data: str) -> bool:
    """Whether `data`, divided as the card's recipe says, has the very parts that the network was trained with."""
    record = card.get("data", {})
    if "recipe" not in card or not record.get("names") or place_of(data) is None:
        return False
    try:
        wanted = recipe.override(recipe.from_dict(card["recipe"]), {"data.source": data})
        return same_pictures({"names": names_of(wanted.data)}, record, ORDER)
    except (DataError, UsageError):  # whoever opens it says what is wrong with it
        return False


def reading_of(network: saved.Saved) -> Reading:
    """Returns how a table's labels are read for a network: as it answers, and | in a name of its classes is a
    letter."""
    if network.thresholds is not None:
        return "several"
    return "one" if any(SEPARATOR in name for name in network.classes) else "auto"


def chosen_on(network: saved.Saved, what: str) -> tuple[str, ...]:
    """Returns what was chosen on the pictures that `what` says in words: "temperature", "threshold", both or neither.

    Scores there say a little too much of what comes of these.
    """
    found, own = network.calibration.found, f", part val {AS_IN_TRAINING}"
    pictures = str(found.get("pictures", ""))
    if pictures != what and not (what.endswith(own) and (pictures == "validation" or pictures.endswith(own))):
        return ()
    chosen = {"temperature": network.calibration.temperature != 1, "threshold": bool(found.get("chosen"))}
    return tuple(name for name, is_it in chosen.items() if is_it)
