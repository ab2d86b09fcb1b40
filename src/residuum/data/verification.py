"""Looks for bad pictures before the first update, as far as a set is small enough for that."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from residuum.data.mapped import MappedSet
from residuum.data.sets import FileSet, ImageSet, ResidentSet, opened, refuse_if_many_bad
from residuum.errors import PictureError

OnBadImage = Literal["error", "skip"]

DECODED_LIMIT = 10_000
"""The most pictures of a set that `verify` decodes before the first update."""

LOOKED_AT_LIMIT = 100_000
"""The most files of a set whose first bytes `verify` looks at."""

_READERS = 8  # threads that wait for a disk or a network, not for a core
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM", b"II", b"MM")  # of imaging.FORMATS


def verify(images: ImageSet, on_bad_image: OnBadImage, of: int | None = None) -> dict[str, str]:
    """Returns the reason for each picture of the set, by name, that is known not to be usable, in the set's order.

    Every picture of a set of up to 10,000 is decoded, so that a bad one is known before the first update. Of up to
    100,000 files only the first bytes are read, and what does not begin like a picture is decoded. In a larger set a
    bad picture is met when its turn comes. A resident set has none. JPEG is decoded at an eighth of its size, which
    reads all of its data.

    Raises:
        PictureError: the first picture that cannot be used, where `on_bad_image` is "error".
        DataError: more than 5 % of `of` pictures (by default, of the set's) cannot be used.
    """
    skipped: dict[str, str] = {}
    if isinstance(images, ResidentSet):
        return skipped
    if isinstance(images, MappedSet):
        suspects = images.bad
    else:
        suspects = np.arange(len(images) if len(images) <= DECODED_LIMIT else 0)
    if isinstance(images, FileSet) and DECODED_LIMIT < len(images) <= LOOKED_AT_LIMIT:
        suspects = _suspects(images)
    for _, found in opened(images, suspects, at_least_px=1):
        if isinstance(found, PictureError):
            take_note([found], on_bad_image, skipped, of or len(images))
    return skipped


def _suspects(images: FileSet) -> NDArray[np.int64]:
    """Returns the indices of the files that cannot be read or do not begin like a picture."""

    rows = np.arange(len(images)) if images.rows is None else images.rows

    def looked_at(part: NDArray[np.int64]) -> list[int]:
        suspects = []
        for index in part.tolist():
            try:
                with Path(images.paths[int(rows[index])]).open("rb") as file:
                    begins_well = file.read(8).startswith(_SIGNATURES)
            except (OSError, ValueError):
                begins_well = False
            if not begins_well:
                suspects.append(index)
        return suspects

    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(looked_at, np.array_split(np.arange(len(images)), 1 + len(images) // 1000))
        return np.array([index for part in found for index in part], dtype=np.int64)


def take_note(bad: Sequence[PictureError], on_bad_image: OnBadImage, skipped: dict[str, str], count: int) -> None:
    """Adds bad pictures of `count` to `skipped`, or raises."""
    if on_bad_image == "error":
        raise bad[0]
    skipped.update((error.name, error.reason) for error in bad)
    refuse_if_many_bad(skipped, count)
