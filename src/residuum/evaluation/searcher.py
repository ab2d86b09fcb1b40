"""Exact search for one query at a time among many vectors: a first pass in half precision, and the rest in full.

A product with a million vectors of 512 numbers reads 2 GB, and takes as long as that takes. The first pass reads a copy
in float16, half of that. What it finds is wrong by no more than is known: half precision's rounding of each vector and
of the query, of the sum, and of the result. So every vector that may be among the nearest is known, and these few are
compared again in float64. Whether a processor's float16 products round as assumed is tried on a sample; where they do
not, there is no first pass.

Shapes: N vectors of D numbers, Q queries, T the nearest asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from residuum.evaluation.neighbours import Floats, Neighbours, nearest

FEWEST = 1 << 24
"""Numbers, N * D, from which on a first pass is worth its memory."""

_QUERIES = 3  # from more of them on, one product of all in full precision takes less time for each
_AGAIN = 1 / 64  # of the vectors that may be the nearest; where more may be, all are compared in full
_ROUNDING = 2.0**-11  # of a number in float16, relative
_SAMPLED = 4096


class Searcher:
    """Vectors, float32 [N, D] of length 1, to be searched again and again; they are used and not copied.

    From the second search on, large ones have a copy in float16 beside them.
    """

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors
        self._halved: Tensor | None = None
        dim = vectors.shape[1]
        # Of a product in half precision, beside the rounding of the query and of the result: that of a vector of
        # length 1, with the smallest numbers of float16, and that of the sum in float32.
        self._error = _ROUNDING + dim**0.5 * 2.0**-25 + dim * 2.0**-23
        self._searches = 0

    def search(self, queries: Floats, top: int) -> Neighbours:
        """Returns the `top` nearest to each query of length 1, exactly as `nearest` does."""
        self._searches += 1
        if self._searches == 2 and self._vectors.size >= FEWEST:
            self._halve()
        if self._halved is None or len(queries) > _QUERIES or top > len(self._vectors) * _AGAIN:
            return nearest(queries, self._vectors, top)
        found = [self._search_one(query, top) for query in queries]
        return Neighbours(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _search_one(self, query: Floats, top: int) -> Neighbours:
        rows = self._candidates(query, top)
        if len(rows) > len(self._vectors) * _AGAIN:
            return nearest(query[None], self._vectors, top)
        exact = self._vectors[rows].astype(np.float64) @ query.astype(np.float64)
        order = np.lexsort((rows, -exact))[:top]
        return Neighbours(exact[order][None].astype(np.float32).clip(-1, 1), rows[order][None])

    def _candidates(self, query: Floats, top: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Returns the rows of all vectors that may be among the `top` nearest, and of no more than it must, rising."""
        assert self._halved is not None
        halved = torch.from_numpy(query).half()
        error = self._error + float(np.linalg.norm(halved.float().numpy() - query)) * 1.001
        said = torch.mv(self._halved, halved)
        last = float(said.topk(top).values[-1])  # at least `top` vectors are this near, but for errors
        least = last - abs(last) * _ROUNDING - 2 * error
        least /= (1 + _ROUNDING) if least > 0 else (1 - _ROUNDING)
        below = np.nextafter(np.float16(least), np.float16(-np.inf))  # `least` was rounded, perhaps up
        return (said >= float(below)).nonzero()[:, 0].numpy()

    def _halve(self) -> None:
        """Makes the copy in float16, unless this processor's products of it are not what they must be."""
        halved = torch.from_numpy(self._vectors).half()
        if self._rounds_as_assumed(halved):
            self._halved = halved

    def _rounds_as_assumed(self, halved: Tensor) -> bool:
        """Whether products of the copy are as near to the true ones as `_candidates` assumes, on a sample."""
        rows = np.linspace(0, len(halved) - 1, min(_SAMPLED, len(halved))).astype(np.int64)
        sample, true = halved[torch.from_numpy(rows)], self._vectors[rows].astype(np.float64)
        for query in self._vectors[rows[:: max(1, len(rows) // 8)]]:
            rounded = torch.from_numpy(query).half()
            said = torch.mv(sample, rounded).double().numpy()
            error = self._error + float(np.linalg.norm(rounded.float().numpy() - query)) * 1.001
            if (np.abs(said - true @ query) > error + _ROUNDING * np.abs(said)).any():
                return False
        return True
