"""Splits of pictures that may have several classes, in which every part has its share of every class.

Source: iterative stratification: Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD
    2011, Algorithm 1.
Departures: parts have exactly their sizes, as long as every class stays in the part that is learnt from; of equal
    wishes the part with more room comes first, then the first.
Shapes: N pictures, K classes, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from residuum.data.labels import Labels


def dealt(
    labels: Labels, sizes: Sequence[int], seed: int, stream: int, *, learnt: int | None = None
) -> NDArray[np.int64]:
    """Returns for each picture the number of its part, int64 [N]: parts of `sizes` [P], which add up to N.

    The class with the fewest pictures left is dealt out first, each picture to the part that lacks it most. The part
    `learnt`, if it is named, gets a picture of every class, whatever its size. A pure function of its arguments, as
    `parts.stratified_split` is. Shapes: `labels` [N, K].
    """
    drawn = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(len(labels))
    order = np.argsort(drawn, kind="stable")
    dealer = _Dealer(labels[order], sizes, learnt)
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = dealer.deal()
    return place


class _Dealer:
    """The state of a deal, in the order of the draw."""

    def __init__(self, labels: Labels, sizes: Sequence[int], learnt: int | None) -> None:
        self.labels, self.learnt = labels, learnt
        self.room = list(sizes)
        left = labels.sum(axis=0, dtype=np.int64)
        self.left: list[int] = left.tolist()  # pictures of each class that are not dealt yet
        self.wanted: list[list[float]] = [(left * (size / max(len(labels), 1))).tolist() for size in sizes]
        self.place = np.full(len(labels), -1, dtype=np.int64)
        self.taught = [False] * labels.shape[1]  # whether `learnt` has a picture of the class

    def deal(self) -> NDArray[np.int64]:
        """Deals out all pictures, those without a class last."""
        while any(self.left):
            scarce = min((count, kind) for kind, count in enumerate(self.left) if count)[1]
            for at in np.flatnonzero((self.place < 0) & (self.labels[:, scarce] == 1)).tolist():
                self._give(at, scarce)
        for at in np.flatnonzero(self.place < 0).tolist():
            part = max(range(len(self.room)), key=self.room.__getitem__)
            self.place[at] = part
            self.room[part] -= 1
        return self.place

    def _give(self, at: int, scarce: int) -> None:
        own = np.flatnonzero(self.labels[at]).tolist()
        last = self.learnt is not None and any(self.left[kind] == 1 and not self.taught[kind] for kind in own)
        if last and self.learnt is not None:
            part = self.learnt
        else:
            free = [part for part, room in enumerate(self.room) if room > 0]
            part = max(free, key=lambda part: (self.wanted[part][scarce], self.room[part], -part))
        self.place[at] = part
        self.room[part] -= 1
        for kind in own:
            self.left[kind] -= 1
            self.wanted[part][kind] -= 1
            self.taught[kind] |= part == self.learnt
