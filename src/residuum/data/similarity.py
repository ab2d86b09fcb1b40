"""Finds pictures that are the same: pixel for pixel, or to the eye.

Two pictures look the same here where one is the other saved again, resized, or made a little brighter. Crops, mirrored
and turned copies, and the next picture of a burst are not searched for.

A picture is remembered by a digest of its pixels and by a thumbnail, brightness at 16 x 16 and colour at 8 x 8: some
400 bytes in all. The search has two steps. A hash of 64 bits (the signs of the lowest frequencies in the cosine
transform of the thumbnail) proposes all pairs whose hashes differ in at most 7 bits; then the thumbnails are compared,
so that what only happens to share a hash is not reported. The first step looks into tables of the hashes' four pieces
of 16 bits, of which at least one differs in at most 1 bit; it costs N * N / 65,536 steps, a few for each of many
thousands of pictures.

Source: M. Norouzi, A. Punjani, D. J. Fleet, Fast Search in Hamming Space with Multi-Index Hashing (CVPR 2012); the hash
is in the manner of E. Klinger and D. Starkweather's pHash.
Shapes: N pictures, P pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LUMA_PX = 16
CHROMA_PX = 8

MOST_BITS = 7
"""Hashes that differ in more bits are not looked at further."""

# Measured on 397 photos of some 500 x 375 pixels: saved as JPEG at quality 20 to 90 or in 256 colours, scaled to 0.25,
# 0.5, 0.9 and 2 times their size, or brightened by 10 %, every copy's hash is within 7 bits and 99 % of the copies are
# within each limit below; of two different photos the closest hashes differ in 15 bits, and no correlation is above
# 0.84. Of CIFAR-10's 60,000 pictures 108 in 53 groups are within them: looked at, each group is of one photo.
LEAST_CONTRAST = 4.0
"""Pictures with a smaller standard deviation of brightness have nothing to compare: only their pixels count."""
LEAST_CORRELATION = 0.98
MOST_SHIFT = 25.0
"""Difference in mean brightness, of 255."""
MOST_LOCAL = 40.0
"""Largest difference at one place, beside the shift, of 255: something added to a picture makes another picture."""
MOST_CHROMA = 6.0
"""Mean difference in colour, of 255: a car in another colour is another car."""
MOST_STRETCH = 0.05
"""Difference between the ratios of width to height."""

_BAND_BITS = 16
_BANDS = 64 // _BAND_BITS
_CHUNK = 1 << 20
"""Pairs looked at together: some tens of megabytes."""
_MOST_NEIGHBOURS = 128
"""With so many entries of a table's cell a picture is compared at most. Cells are fuller only in sets where thousands
of pictures look alike; they find one another there through those between them."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The two ends of each pair. Shapes: [P], [P]."""


class Features:
    """What is remembered of N pictures.

    Shapes: `digest` uint64 [N, 2]; `luma` uint8 [N, 16, 16]; `chroma` uint8 [N, 8, 8, 2]; `size` int32 [N, 2], width
    and height as they are looked at; `usable` bool [N], whether the row was written.
    """

    def __init__(self, count: int) -> None:
        self.digest = np.zeros((count, 2), dtype=np.uint64)
        self.luma = np.zeros((count, LUMA_PX, LUMA_PX), dtype=np.uint8)
        self.chroma = np.zeros((count, CHROMA_PX, CHROMA_PX, 2), dtype=np.uint8)
        self.size = np.zeros((count, 2), dtype=np.int32)
        self.usable = np.zeros(count, dtype=bool)

    def __len__(self) -> int:
        return len(self.usable)

    def remember(self, row: int, picture: Image.Image) -> None:
        """Writes one row from an upright picture in RGB or L; threads may write different rows at once."""
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        content = hashlib.blake2b(f"{rgb.width} x {rgb.height}".encode(), digest_size=16)
        content.update(rgb.tobytes())
        small = rgb.resize((LUMA_PX, LUMA_PX), Image.Resampling.BOX).convert("YCbCr")
        self.digest[row] = np.frombuffer(content.digest(), dtype=np.uint64)
        self.luma[row] = np.asarray(small)[:, :, 0]
        self.chroma[row] = np.asarray(small.reduce(LUMA_PX // CHROMA_PX))[:, :, 1:]
        self.size[row] = rgb.size
        self.usable[row] = True


def exact_groups(features: Features) -> list[NDArray[np.int64]]:
    """Returns the groups of usable pictures with the same pixels, each rising, in the order of their first pictures."""
    rows = np.flatnonzero(features.usable)
    _, group = np.unique(features.digest[rows], axis=0, return_inverse=True)
    return _groups(rows, group.ravel())


def near_groups(features: Features) -> list[NDArray[np.int64]]:
    """Returns the groups of usable pictures that look the same though not all their pixels are, with the exact copies
    of each; each group rising, in the order of their first pictures.

    Looking the same is handed on: a group holds all that are linked by pairs.
    """
    rows = np.flatnonzero(features.usable)
    _, first, group = np.unique(features.digest[rows], axis=0, return_index=True, return_inverse=True)
    chosen = rows[first]  # one picture for all with its pixels
    textured = np.flatnonzero(_contrast(features.luma, chosen) >= LEAST_CONTRAST)
    parent = np.arange(len(chosen))
    codes = hashes(features.luma[chosen[textured]])
    for left, right in _candidates(codes):
        left, right = textured[left], textured[right]
        apart = parent[left] != parent[right]
        left, right = left[apart], right[apart]
        same = _look_same(features, chosen[left], chosen[right])
        parent = _joined(parent, left[same], right[same])
    sizes = np.bincount(parent, minlength=len(chosen))
    found = sizes[parent] > 1
    members = found[group.ravel()]
    return _groups(rows[members], parent[group.ravel()[members]])


def hashes(luma: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Returns the hash of each thumbnail: uint8 [N, 16, 16] -> uint64 [N]; pieces mix low and high frequencies."""
    place = np.arange(LUMA_PX)
    basis = np.cos(np.pi * (2 * place[None, :] + 1) * place[:, None] / (2 * LUMA_PX)).astype(np.float32)
    order = sorted(((u, v) for u in place for v in place if u + v), key=lambda uv: (uv[0] + uv[1], uv[0]))[:64]
    rows, columns = np.array(order).reshape(-1, _BANDS, 2).transpose(2, 1, 0).reshape(2, 64)
    codes = np.empty(len(luma), dtype=np.uint64)
    for start in range(0, len(luma), 4096):
        spectrum = basis @ luma[start : start + 4096].astype(np.float32) @ basis.T
        bits = np.packbits(spectrum[:, rows, columns] > 0, axis=1)
        codes[start : start + 4096] = np.ascontiguousarray(bits).view(np.uint64).ravel()
    return codes


def _contrast(luma: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the standard deviation of the thumbnails at `rows`: float64 [len(rows)]."""
    contrast = np.empty(len(rows))
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        contrast[part] = luma[rows[part]].std(axis=(1, 2))
    return contrast


def _candidates(codes: NDArray[np.uint64]) -> Iterator[Pairs]:
    """Yields all pairs of hashes that differ in at most 7 bits, in chunks; a pair may come more than once."""
    for band in range(_BANDS):
        keys = ((codes >> np.uint64(band * _BAND_BITS)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << _BAND_BITS) + 1))
        places = np.arange(len(order))
        yield from _within(codes, order, order, places + 1, starts[keys[order] + 1])
        for bit in range(_BAND_BITS):
            asking = np.flatnonzero(keys & (1 << bit) == 0)  # each pair is asked for from one end
            wanted = keys[asking] | (1 << bit)
            yield from _within(codes, order, asking, starts[wanted], starts[wanted + 1])


def _within(
    codes: NDArray[np.uint64],
    order: NDArray[np.int64],
    asking: NDArray[np.int64],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
) -> Iterator[Pairs]:
    """Yields the pairs of asking[k] and each of order[begin[k]:end[k]] whose hashes are close enough."""
    counts = np.minimum(end - begin, _MOST_NEIGHBOURS)
    some = np.flatnonzero(counts > 0)
    totals = np.cumsum(counts[some])
    cuts = np.searchsorted(totals, np.arange(_CHUNK, totals[-1] if len(totals) else 0, _CHUNK), side="left")
    for part in np.split(some, cuts):
        size = counts[part]
        offset = np.repeat(begin[part] - (np.cumsum(size) - size), size)
        left = np.repeat(asking[part], size)
        right = order[np.arange(len(offset)) + offset]
        close = np.bitwise_count(codes[left] ^ codes[right]) <= MOST_BITS
        if close.any():
            yield left[close], right[close]


def _look_same(features: Features, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Compares the thumbnails of pairs: bool [P]."""
    same = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), 1 << 14):
        part = slice(start, start + (1 << 14))
        one, other = left[part], right[part]
        size = features.size[one].astype(np.float64), features.size[other].astype(np.float64)
        stretch = np.abs(np.log(size[0][:, 0] * size[1][:, 1]) - np.log(size[0][:, 1] * size[1][:, 0]))
        a = features.luma[one].reshape(len(one), -1).astype(np.float32)
        b = features.luma[other].reshape(len(one), -1).astype(np.float32)
        mean_a, mean_b = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
        a, b = a - mean_a, b - mean_b
        correlation = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        colour = np.abs(features.chroma[one].astype(np.int16) - features.chroma[other]).mean(axis=(1, 2, 3))
        same[part] = (
            (correlation >= LEAST_CORRELATION)
            & (np.abs(mean_a - mean_b)[:, 0] <= MOST_SHIFT)
            & (np.abs(a - b).max(axis=1) <= MOST_LOCAL)
            & (colour <= MOST_CHROMA)
            & (stretch <= MOST_STRETCH)
        )
    return same


def _joined(parent: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns for each picture the first of its group, after the groups of each pair have become one."""
    if not len(left):
        return parent
    root = parent.tolist()

    def first(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        one, other = first(a), first(b)
        root[max(one, other)] = min(one, other)
    return np.array([first(item) for item in range(len(root))], dtype=np.int64)


def _groups(rows: NDArray[np.int64], group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Returns the rows of each group of two or more."""
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    groups = [np.sort(members) for members in np.split(rows[order], cuts) if len(members) > 1]
    return sorted(groups, key=lambda members: int(members[0]))
