"""Uneven classes: what each picture's loss counts, and orders in which rare classes come more often.

Both are pure functions of their arguments, so that neither a resumed run nor another number of processes changes them.

Source: Cui et al., arXiv:1901.05555, section 2 (weights in inverse proportion to the pictures of a class); Mahajan et
    al., arXiv:1805.00932, section 2.2 (sampling by the square root of a class's pictures, which is 0.5 here).
Shapes: N pictures, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from residuum.data.randomness import uniform

Indices = NDArray[np.int64]


def class_weights(counts: NDArray[np.int64], strength: float) -> NDArray[np.float64]:
    """Returns what a picture of each class counts, proportional to count ** -strength; over all pictures 1 on average.

    With a strength of 1 every class counts the same: N / (K * count), which scikit-learn calls "balanced". Shapes: [K].
    """
    weights = np.where(counts > 0, counts, 1).astype(np.float64) ** -strength
    return np.asarray(weights * (counts.sum() / (weights * counts).sum()))


def quotas(counts: NDArray[np.int64], balance: float) -> Indices:
    """Returns how many pictures of each class an epoch has, N in all: proportional to count ** (1 - balance).

    What rounding leaves over goes to the largest remainders. Shapes: [K] -> [K].
    """
    share = np.where(counts > 0, counts.astype(np.float64) ** (1 - balance), 0)
    exact = counts.sum() * share / share.sum()
    whole = np.floor(exact).astype(np.int64)
    most_left = np.argsort(whole - exact, kind="stable")[: int(counts.sum() - whole.sum())]
    whole[most_left] += 1
    return np.asarray(whole)


def balanced_order(labels: Indices, balance: float, seed: int, epoch: int) -> Indices:
    """Returns the order of an epoch in which classes come by their quotas, int64 [N].

    A class's pictures go round: from epoch to epoch each comes once, in a random order, before any comes again. The
    entry `index + k * N` is picture `index`, the k-th time after its first in this epoch; so the random numbers of its
    augmentation differ each time.
    """
    count = len(labels)
    each = quotas(np.bincount(labels), balance)
    drawn = [_turns(np.flatnonzero(labels == label), int(quota), seed, epoch) for label, quota in enumerate(each)]
    pictures = np.concatenate(drawn)
    entries = pictures + count * _times_before(pictures)
    return np.asarray(entries[np.argsort(uniform(seed, epoch, entries, "order"), kind="stable")])


def _turns(members: Indices, quota: int, seed: int, epoch: int) -> Indices:
    """Returns the pictures whose turn it is in `epoch`: `quota` of an endless row of random orders of `members`."""
    if not quota:
        return members[:0]
    size, begin = len(members), epoch * quota
    rounds = range(begin // size, -(-(begin + quota) // size))
    row = [members[np.argsort(uniform(seed, number, members, "round"), kind="stable")] for number in rounds]
    return np.concatenate(row)[begin - rounds.start * size :][:quota]


def _times_before(values: Indices) -> Indices:
    """Returns how often each value has come before in the row. Shapes: [n] -> [n]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    times = np.empty_like(values)
    times[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return times


def yes_weights(counts: NDArray[np.int64], images: int, strength: float) -> NDArray[np.float64]:
    """Returns what the yes of each class counts beside its no, where a picture may have several: (no / yes) ** strength
    of the `images` pictures, which with a strength of 1 makes both count the same in all. Shapes: [K].

    Source: torch.nn.BCEWithLogitsLoss, `pos_weight`.
    """
    yes, no = np.maximum(counts, 1), np.maximum(images - counts, 1)
    return np.asarray((no / yes) ** strength)
