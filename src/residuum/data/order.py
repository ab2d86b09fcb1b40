"""The order of an epoch over a set that is read in a stream: its groups (shards, row groups) one after the other, each
from front to back, mixed in a shuffle buffer.

A picture that comes p-th in the stream leaves the buffer at a random time between p and p + `buffer`: the buffer never
holds more than `buffer` pictures, and no picture stays longer. That bound is why the usual buffer, which replaces a
random slot, is not used: there a picture may stay for any time, and what is read as it leaves (a window of the disk, or
row groups that are kept in memory) has no end. The order is computed at once, as a pure function of seed and epoch, so
that a run resumed at any step replays nothing.

Shapes: N pictures, G groups.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum.data.randomness import uniform


def streaming_order(
    lengths: ArrayLike, buffer: int, *, seed: int, epoch: int, batch_size: int, rank_count: int = 1
) -> NDArray[np.int64]:
    """Returns the order in which the pictures of groups of `lengths` [G], lying end to end, are seen: int64 [N].

    Every picture comes once. Of the batch order[b * batch_size : (b + 1) * batch_size], process r of `rank_count` takes
    its share (`shares`). The groups, in their random order, are cut into a run for each process,
    of exactly the pictures it takes: at most two neighbours share a group, of which one reads the front and the other
    the rest. Each process has its own buffer; one as long as its run mixes it completely.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    stream = _end_to_end(sizes, np.argsort(uniform(seed, epoch, np.arange(len(sizes)), "groups"), kind="stable"))
    draws = uniform(seed, epoch, stream, "buffer")
    order = np.empty_like(stream)
    whole, rest = divmod(len(stream), batch_size)
    batches, last = order[: whole * batch_size].reshape(whole, batch_size), order[whole * batch_size :]
    wide, narrow = shares(batch_size, rank_count), shares(rest, rank_count)
    begin = 0
    for columns, tail in zip(wide, narrow, strict=True):
        width = columns.stop - columns.start
        end = begin + whole * width + tail.stop - tail.start
        own = stream[begin:end][_mixed(draws[begin:end], buffer)]
        batches[:, columns] = own[: whole * width].reshape(whole, width)
        last[tail] = own[whole * width :]
        begin = end
    return order


def shares(count: int, size: int) -> list[slice]:
    """Returns the contiguous parts that `size` processes take of `count` pictures: whole pairs, as equal as may be.

    Pairs stay together because mixing takes place within them. The odd one out goes to the last process, which has its
    own pair too where there are two pictures for each.
    """
    whole, rest = divmod((count + 1) // 2, size)
    ends = [2 * (rank * whole + max(0, rank + rest - size)) for rank in range(size + 1)]
    return [slice(min(begin, count), min(end, count)) for begin, end in pairwise(ends)]


def in_groups(
    rows: NDArray[np.int64] | None, starts: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the `count` indices in the order of their rows (None: an index is its row), and how many are in each
    group, which begin at `starts`. Shapes: [N], [G]."""
    rows = np.arange(count) if rows is None else rows
    groups = np.searchsorted(starts, rows, side="right") - 1
    return np.argsort(rows, kind="stable"), np.bincount(groups, minlength=len(starts))


def spread(total: int, count: int) -> NDArray[np.int64]:
    """Returns at most `count` numbers below `total`, rising, spread evenly."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def spread_over_groups(lengths: NDArray[np.int64], count: int, most_groups: int) -> NDArray[np.int64]:
    """Returns at most `count` numbers below the sum of `lengths` [G], rising: spread evenly over at most `most_groups`
    of the groups, which are spread evenly themselves."""
    filled = np.flatnonzero(lengths)
    groups = filled[spread(len(filled), min(count, most_groups))]
    each = -(-count // max(len(groups), 1))
    ends = np.cumsum(lengths)
    chosen = [ends[group] - lengths[group] + spread(int(lengths[group]), each) for group in groups]
    found = np.concatenate([np.empty(0, np.int64), *chosen])
    return np.asarray(found[spread(len(found), count)])


def _end_to_end(lengths: NDArray[np.int64], turn: NDArray[np.intp]) -> NDArray[np.int64]:
    """Returns the pictures of the groups in the order `turn` of the groups, each from front to back."""
    starts = np.cumsum(lengths) - lengths
    turned = lengths[turn]
    before = np.cumsum(turned) - turned
    return np.asarray(np.arange(lengths.sum()) + np.repeat(starts[turn] - before, turned))


def _mixed(draws: NDArray[np.float64], buffer: int) -> NDArray[np.intp]:
    """Returns the places of a stream in the order in which a buffer lets them go. Shapes: [n] -> [n]."""
    waits = draws if buffer >= len(draws) else np.arange(len(draws)) + buffer * draws
    return np.argsort(waits, kind="stable")
