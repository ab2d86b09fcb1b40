"""Which set a source is: where it lies, and what its pictures are called there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from residuum.data import patterns
from residuum.data.parts import PartName
from residuum.data.places import is_named
from residuum.data.sets import ImageSet
from residuum.errors import DataError
from residuum.userpath import expanded


def place_of(source: str) -> str | None:
    """Returns the path of a source from the root on, which means the same in every folder; None where it is no path."""
    return None if not source or is_named(source) else str(expanded(source).absolute())


def is_there(source: str) -> bool:
    """Whether something lies where a path, or a pattern of shards, says."""
    there = os.path.exists(source)  # noqa: PTH110 (which refuses nothing)
    if there or not patterns.is_pattern(source):
        return there
    try:
        return bool(patterns.files_of(source))
    except DataError:  # some of the files that its braces name are missing
        return False


def from_here(source: str, place: str | None) -> str:
    """Returns what to open for a set that was called `source` in some folder and lay at `place`, if that is known: the
    place where the name means another one here, or nothing."""
    return place if place is not None and place != place_of(source) and is_there(place) else source


def digests(parts: Mapping[PartName, ImageSet], root: str) -> dict[str, str]:
    """Returns what tells which pictures each part holds, in which order, without the root of their names."""
    return {name: _digest(part, root) for name, part in parts.items()}


def _digest(images: ImageSet, root: str) -> str:
    digest = hashlib.sha256()
    for index in range(len(images)):
        digest.update(images.name(index).removeprefix(root).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
