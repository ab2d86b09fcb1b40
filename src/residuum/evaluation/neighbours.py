"""Nearest neighbours among vectors, exactly: by blocks of one matrix product, in memory that does not grow with them.

Vectors are compared by the cosine of their angle, which is the product of vectors of length 1 (`unit`); one of zeros is
as far from everything as a right angle. Of equally near vectors the first come first, except that which of several are
the last of a list is open.

Source: Wu et al., arXiv:1805.01978, section 3.4 (`votes`).
Shapes: N vectors, Q queries, D numbers each; T the nearest asked for, K classes, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TEMPERATURE = 0.07
"""How much more a nearer neighbour's vote counts (arXiv:1805.01978, section 3.4)."""

_QUERIES = 256
_BLOCK = 1 << 24  # products that are in memory at once, in float32: 64 MiB
_PAIR_ROWS = 2048
_ROUNDING = 1e-6  # of a product of two vectors of length 1 in float32


class Neighbours(NamedTuple):
    """The nearest vectors of each query, nearest first: their cosine similarity and their rows; [Q, T] each."""

    similarities: Floats
    rows: Ints


class Pairs(NamedTuple):
    """Pairs of rows, `first` before `second`, the most similar first; [P] each. `found` is how many there are in all,
    of which these are the most similar."""

    first: Ints
    second: Ints
    similarities: Floats
    found: int


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Returns the vectors, float32, at length 1; zeros stay zeros. Shapes: [N, D] -> [N, D]."""
    made = np.array(vectors, dtype=np.float32, order="C")
    shorten(made)
    return made


def shorten(vectors: Floats) -> None:
    """Brings vectors to length 1 in place; zeros stay zeros. Shapes: [N, D]."""
    step = max(1, _BLOCK // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        block /= np.maximum(np.abs(block).max(axis=1, keepdims=True, initial=0), np.finfo(np.float32).tiny)
        block /= np.maximum(np.sqrt(np.einsum("nd,nd->n", block, block))[:, None], np.finfo(np.float32).tiny)


def nearest(queries: Floats, vectors: Floats, top: int, *, apart_from_itself: bool = False) -> Neighbours:
    """Returns the `top` nearest of `vectors`, or all of fewer, to each query; both of length 1.

    With `apart_from_itself` the queries are the vectors, and none is its own neighbour.
    """
    top = min(top, len(vectors) - apart_from_itself)
    parts = [
        _nearest_of_block(queries[start : start + _QUERIES], vectors, top, start, apart_from_itself)
        for start in range(0, len(queries), _QUERIES)
    ]
    if not parts or top < 1:
        return Neighbours(np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64))
    return _ordered(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


def _nearest_of_block(
    queries: Floats, vectors: Floats, top: int, first: int, apart_from_itself: bool
) -> tuple[Tensor, Tensor]:
    """Returns the similarities and rows of the `top` nearest to some queries, the first of which is number `first`."""
    step = max(top, _BLOCK // len(queries))
    best, rows = torch.empty((len(queries), 0)), torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(vectors), step):
        products = torch.from_numpy(queries @ vectors[start : start + step].T)
        if apart_from_itself and -len(queries) < first - start < products.shape[1]:
            products.diagonal(first - start).fill_(-torch.inf)
        found = products.topk(min(top, products.shape[1]), dim=1)
        best, rows = torch.cat((best, found.values), 1), torch.cat((rows, found.indices + start), 1)
        if best.shape[1] > top:
            best, kept = best.topk(top, dim=1)
            rows = rows.gather(1, kept)
    return best, rows


def _ordered(similarities: Floats, rows: Ints) -> Neighbours:
    """Sorts each query's neighbours: nearest first, of equally near ones the first row first."""
    order = np.lexsort((rows, -similarities), axis=-1)
    return Neighbours(
        np.take_along_axis(similarities, order, axis=1).clip(-1, 1), np.take_along_axis(rows, order, axis=1)
    )


def pairs(vectors: Floats, least: float, most: int, tell: Callable[[int], None] | None = None) -> Pairs:
    """Returns the pairs of `vectors`, of length 1, whose similarity is at least `least`; of more than `most` the best.

    `tell` hears of every row that has been compared with those after it. A similarity is exact to float32's rounding,
    1e-6, and pairs within that of `least` are in.
    """
    limit, found = least - _ROUNDING, 0
    first, second, similarities = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    for top in range(0, len(vectors), _PAIR_ROWS):
        rows = vectors[top : top + _PAIR_ROWS]
        for left in range(top, len(vectors), _PAIR_ROWS):
            products = torch.from_numpy(rows @ vectors[left : left + _PAIR_ROWS].T)
            near = products >= least - _ROUNDING
            if top == left:
                near.triu_(1)
            found += int(near.sum())
            at = (near & (products >= limit)).nonzero()
            first = np.concatenate((first, at[:, 0].numpy() + top))
            second = np.concatenate((second, at[:, 1].numpy() + left))
            similarities = np.concatenate((similarities, products[at[:, 0], at[:, 1]].numpy()))
            if len(first) > most:
                kept = np.argpartition(-similarities, most - 1)[:most]
                first, second, similarities = first[kept], second[kept], similarities[kept]
                limit = float(similarities.min())
        if tell is not None:
            tell(len(rows))
    order = np.lexsort((second, first, -similarities))
    return Pairs(first[order], second[order], similarities[order].clip(-1, 1), found)


def votes(
    found: Neighbours, labels: NDArray[np.integer[Any]], num_classes: int, temperature: float = TEMPERATURE
) -> NDArray[np.float64]:
    """Returns each class's share of the neighbours' votes; a neighbour has exp(similarity / temperature) of them.

    Shapes: `labels` [N], or [N, K] of 0 and 1 where a neighbour may have several classes, -> [Q, K].
    """
    similar = found.similarities.astype(np.float64)
    weights = np.exp((similar - similar.max(axis=1, keepdims=True)) / temperature)
    if labels.ndim == 2:
        weights /= weights.sum(axis=1, keepdims=True)
        each = (labels[found.rows[:, at]] * weights[:, at, None] for at in range(weights.shape[1]))  # little at a time
        return np.asarray(sum(each, np.zeros((len(similar), num_classes))))
    shares = np.zeros((len(similar), num_classes))
    np.add.at(shares, (np.arange(len(similar))[:, None], labels[found.rows]), weights)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
