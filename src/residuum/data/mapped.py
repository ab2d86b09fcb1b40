"""Pictures as pixels in a file that is mapped into memory: decoded once, as large as they are, opened in no time.

What is read of the file stays in the system's memory as long as nothing else needs it; the set itself takes none.

Shapes: M pictures in the file, N in the set, H rows, W columns, C channels (1 for grey, 3 for RGB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residuum import pixels
from residuum.data.labels import Labels
from residuum.data.paths import Paths, displayed
from residuum.errors import PictureError
from residuum.imaging import Mode


@dataclass(frozen=True)
class Blob:
    """The file: uint8, the pictures end to end with `pixels.SPARE_BYTES` behind them, each [H, W, C] in `mode`.

    `starts` int64 [M] and `sizes` int32 [M, 2] (W, H) say where they are. A picture without pixels could not be
    used when the file was written; `bad` has the reason by its place.
    """

    bytes: NDArray[np.uint8] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    sizes: NDArray[np.int32] = field(repr=False)
    mode: Mode
    paths: Paths = field(repr=False)
    bad: Mapping[int, str]

    def stored(self, place: int) -> pixels.Pixels:
        """Returns picture `place` as it lies in the file."""
        width, height = self.sizes[place].tolist()
        start, channels = int(self.starts[place]), 3 if self.mode == "RGB" else 1
        whole = self.bytes[start : start + width * height * channels]
        return pixels.Pixels(whole.reshape(height, width, channels))


@dataclass(frozen=True)
class MappedSet:
    """Pictures in a `blob`. `rows` maps an index to its place there, int64 [N]; labels as in `data.labels`."""

    blob: Blob
    labels: Labels
    classes: tuple[str, ...]
    mode: Mode
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Returns what picture `index` was called where it came from."""
        return displayed(self.blob.paths[int(self.rows[index])])

    def open(self, index: int, at_least_px: int | None = None) -> Image.Image:  # noqa: ARG002 (nothing to decode)
        """Returns picture `index`; raises PictureError where it could not be used when the file was written."""
        picture = self.stored(index).image()
        return picture if self.blob.mode == self.mode else picture.convert(self.mode)

    def stored(self, index: int) -> pixels.Pixels:
        """Returns picture `index` as it lies in the file, which may be in another mode; raises what `open` raises."""
        place = int(self.rows[index])
        if place in self.blob.bad:
            raise PictureError(self.name(index), self.blob.bad[place])
        return self.blob.stored(place)

    def seen(self, index: int, at_least_px: int | None = None) -> pixels.Picture:
        """Returns picture `index` in the set's mode without a copy, where it lies in that mode; raises what `open`
        raises."""
        return self.stored(index) if self.blob.mode == self.mode else self.open(index, at_least_px)

    @property
    def bad(self) -> NDArray[np.int64]:
        """The indices of the pictures that cannot be used."""
        return np.flatnonzero(np.isin(self.rows, np.fromiter(self.blob.bad, dtype=np.int64)))
