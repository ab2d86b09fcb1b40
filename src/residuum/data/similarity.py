"""Finds pictures that are the same: pixel for pixel, or to the eye.

Two pictures look the same here where one is the other saved again, or resized, or a touch brighter. A crop, a mirrored
or turned copy, or the next picture of a burst is not searched for.

A picture is remembered by a digest of its pixels and by a thumbnail: brightness at 16 x 16, colour at 8 x 8, and no
more, 400 bytes in all. The search has two steps. A hash of 64 bits (the signs of the lowest frequencies of the
thumbnail's cosine transform) proposes every pair whose hashes differ in at most 7 bits; then the thumbnails are
compared, so that what only happens to share a hash is not reported. The first step looks into tables of 16-bit
pieces of the hash: of 4 pieces at least one differs in at most 1 bit. Its cost grows with N * N / 65,536, which is
about N up to many thousands of pictures.

Source: M. Norouzi, A. Punjani, D. J. Fleet, Fast Search in Hamming Space with Multi-Index Hashing (CVPR 2012); the hash
follows E. Klinger, D. Starkweather, pHash.
Shapes: N pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LUMA_PX = 16
CHROMA_PX = 8

_BANDS = 4
_BAND_BITS = 16
_CHUNK = 1 << 20
"""Pairs looked at at a time: some tens of megabytes."""
_MOST_NEIGHBOURS = 256
"""So many entries of one table's cell are compared with each picture. Only sets of thousands of pictures that all look
alike have fuller cells, and there the groups grow together anyway."""

_MOST_BITS = 2 * _BANDS - 1
_LEAST_CONTRAST = 4.0
"""Pictures with a smaller standard deviation of brightness (of 255) have nothing to compare: only equal pixels count."""
_LEAST_CORRELATION = 0.995
_MOST_SHIFT = 12.0
_MOST_LOCAL = 24.0
_MOST_CHROMA = 6.0
_MOST_STRETCH = 0.04

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class Features:
    """What is remembered of N pictures: `digest` uint64 [N, 2], `luma` uint8 [N, 16, 16], `chroma` uint8
    [N, 8, 8, 2], `size` int32 [N, 2] (width, height as they are looked at), `usable` bool [N]. Rows are written by
    `remember`, which threads may call."""

    def __init__(self, count: int) -> None:
        self.digest = np.zeros((count, 2), dtype=np.uint64)
        self.luma = np.zeros((count, LUMA_PX, LUMA_PX), dtype=np.uint8)
        self.chroma = np.zeros((count, CHROMA_PX, CHROMA_PX, 2), dtype=np.uint8)
        self.size = np.zeros((count, 2), dtype=np.int32)
        self.usable = np.zeros(count, dtype=bool)

    def __len__(self) -> int:
        return len(self.usable)

    def remember(self, row: int, picture: Image.Image) -> None:
        """Writes one row from an upright picture in RGB or L."""
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        content = hashlib.blake2b(f"{rgb.width} x {rgb.height}".encode(), digest_size=16)
        content.update(rgb.tobytes())
        small = rgb.resize((LUMA_PX, LUMA_PX), Image.Resampling.BOX).convert("YCbCr")
        self.digest[row] = np.frombuffer(content.digest(), dtype=np.uint64)
        self.luma[row] = np.asarray(small)[:, :, 0]
        self.chroma[row] = np.asarray(small.reduce(LUMA_PX // CHROMA_PX))[:, :, 1:]
        self.size[row] = rgb.size
        self.usable[row] = True
