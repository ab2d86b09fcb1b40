"""The streaming order: every picture once, through a buffer that is never too full, each process from its shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from residuum.data.order import shares, streaming_order


def order_of(
    lengths: list[int], buffer: int, *, seed: int = 1, epoch: int = 2, batch_size: int = 8, rank_count: int = 1
) -> NDArray[np.int64]:
    return streaming_order(lengths, buffer, seed=seed, epoch=epoch, batch_size=batch_size, rank_count=rank_count)


def slices_of(order: NDArray[np.int64], batch_size: int, rank_count: int) -> list[NDArray[np.int64]]:
    """What each process takes of an epoch, as the training loop cuts it."""
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    cut = [[batch[cut] for cut in shares(len(batch), rank_count)] for batch in batches]
    return [np.concatenate([order[:0], *(parts[rank] for parts in cut)]) for rank in range(rank_count)]


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    buffer=st.integers(1, 200),
    epoch=st.integers(0, 5),
    batch_size=st.integers(1, 40),
    rank_count=st.integers(1, 9),
)
def test_every_picture_comes_once(
    lengths: list[int], buffer: int, epoch: int, batch_size: int, rank_count: int
) -> None:
    order = order_of(lengths, buffer, epoch=epoch, batch_size=batch_size, rank_count=rank_count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(sum(lengths)))


def test_a_buffer_of_one_reads_whole_groups_from_front_to_back() -> None:
    lengths = [3, 0, 5, 1, 4]
    order = order_of(lengths, 1).tolist()
    groups = [list(range(3)), list(range(3, 8)), [8], list(range(9, 13))]
    begun = sorted(groups, key=lambda group: order.index(group[0]))
    assert order == [picture for group in begun for picture in group]
    turns = {tuple(order_of([10] * 6, 1, epoch=epoch)[::10].tolist()) for epoch in range(20)}
    assert len(turns) > 15  # of 720


@pytest.mark.parametrize("buffer", [2, 16, 100, 999])
def test_a_buffer_of_that_many_pictures_is_enough(buffer: int) -> None:
    """Replayed as a reader has it: pictures come in from the front of the stream, one goes out at a time."""
    lengths = [100] * 20
    stream = order_of(lengths, 1).tolist()
    held: set[int] = set()
    came = fullest = 0
    for picture in order_of(lengths, buffer).tolist():
        while picture not in held:
            held.add(stream[came])
            came += 1
        fullest = max(fullest, len(held))
        held.remove(picture)
    assert buffer / 4 < fullest <= buffer


@pytest.mark.parametrize("buffer", [10, 150])
def test_the_window_that_is_being_read_is_the_buffer(buffer: int) -> None:
    lengths = [50] * 40
    place = np.argsort(order_of(lengths, 1))[order_of(lengths, buffer)]  # of each picture in the stream
    assert (np.maximum.accumulate(place) - place).max() < buffer
    assert (place - np.minimum.accumulate(place[::-1])[::-1]).max() < buffer
    groups = place // 50
    open_groups = np.maximum.accumulate(groups) - np.minimum.accumulate(groups[::-1])[::-1] + 1
    assert open_groups.max() <= -(-buffer // 50) + 1
    moved = np.abs(place - np.arange(len(place)))
    assert buffer / 5 < moved.mean() < buffer / 2  # two independent waits differ by a third of the buffer on average


def test_a_buffer_as_long_as_the_set_mixes_completely() -> None:
    orders = np.stack([order_of([10, 10, 20], 40, epoch=epoch) for epoch in range(400)])
    assert np.abs(orders.mean(axis=0) - 19.5).max() < 3  # of a standard deviation of 0.58
    assert np.abs(np.argsort(orders, axis=1).mean(axis=0) - 19.5).max() < 3


def test_an_order_is_of_its_seed_and_epoch() -> None:
    lengths = [30, 40, 50]
    order = order_of(lengths, 20)
    assert np.array_equal(order, order_of(lengths, 20))
    assert not np.array_equal(order, order_of(lengths, 20, epoch=3))
    assert not np.array_equal(order, order_of(lengths, 20, seed=3))
    assert np.array_equal(order, order_of(lengths, 20, batch_size=5))  # of one process


@pytest.mark.parametrize("rank_count", [2, 3, 4])
def test_each_process_reads_its_own_shards(rank_count: int) -> None:
    lengths, batch_size = [48] * 24, 4 * rank_count
    order = order_of(lengths, 30, batch_size=batch_size, rank_count=rank_count)
    shards = [set((own // 48).tolist()) for own in slices_of(order, batch_size, rank_count)]
    assert [len(own) for own in shards] == [24 // rank_count] * rank_count
    assert set.union(*shards) == set(range(24))


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    batch_size=st.integers(1, 20),
    rank_count=st.integers(1, 8),
)
def test_of_shards_of_any_size_only_those_at_a_border_are_shared(
    lengths: list[int], batch_size: int, rank_count: int
) -> None:
    order = order_of(lengths, 10, batch_size=batch_size, rank_count=rank_count)
    group = np.repeat(np.arange(len(lengths)), lengths)
    readings = [set(group[own].tolist()) for own in slices_of(order, batch_size, rank_count)]
    assert sum(map(len, readings)) <= np.count_nonzero(lengths) + rank_count - 1
    stream = order_of(lengths, 1)
    runs = [np.sort(np.argsort(stream)[own]) for own in slices_of(order, batch_size, rank_count)]
    assert all(np.array_equal(run, np.arange(len(run)) + run[:1]) for run in runs)  # a part of the stream each


@given(count=st.integers(0, 200), size=st.integers(1, 9))
def test_processes_share_a_batch_in_whole_pairs(count: int, size: int) -> None:
    parts = [np.arange(count)[part] for part in shares(count, size)]
    assert np.concatenate([*parts, np.empty(0, np.int64)]).tolist() == list(range(count))
    assert all(len(part) % 2 == 0 and (len(part) == 0 or part[0] % 2 == 0) for part in parts[:-1])
    assert max(map(len, parts)) - min(map(len, parts)) <= 3
    if count >= 2 * size:
        assert min(map(len, parts)) >= 2
