"""Uneven classes: weights against scikit-learn's, and orders of which every property is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from residuum import recipe
from residuum.data.balance import balanced_order, class_weights, quotas
from residuum.data.loading import Batch, TrainLoader
from residuum.data.sets import ResidentSet
from residuum.distributed import World
from residuum.imaging import Preprocessing

COUNTS = st.lists(st.integers(1, 60), min_size=2, max_size=6)


def labels_of(counts: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


@given(COUNTS)
@settings(deadline=None)
def test_full_weights_are_scikit_learns(counts: list[int]) -> None:
    labels = labels_of(counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    np.testing.assert_allclose(class_weights(np.array(counts), 1.0), expected)
    assert class_weights(np.array(counts), 0.0).tolist() == pytest.approx([1.0] * len(counts))
    halfway = class_weights(np.array(counts), 0.5)
    assert (halfway[labels]).mean() == pytest.approx(1)
    np.testing.assert_allclose(halfway**2 / halfway[0] ** 2, expected / expected[0])


@given(COUNTS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(deadline=None)
def test_quotas_add_up_and_are_within_one_of_their_share(counts: list[int], balance: float) -> None:
    found = quotas(np.array(counts), balance)
    share = np.array(counts) ** (1 - balance)
    assert found.sum() == sum(counts)
    assert (np.abs(found - sum(counts) * share / share.sum()) < 1).all()
    assert balance or found.tolist() == counts


@given(COUNTS, st.sampled_from([0.5, 1.0]), st.integers(0, 20))
@settings(deadline=None)
def test_an_epoch_has_the_quotas_and_every_entry_once(counts: list[int], balance: float, epoch: int) -> None:
    labels = labels_of(counts)
    order = balanced_order(labels, balance, seed=3, epoch=epoch)
    assert len(order) == len(labels) == len(set(order.tolist()))
    pictures, times = order % len(labels), order // len(labels)
    assert np.bincount(labels[pictures], minlength=len(counts)).tolist() == quotas(np.array(counts), balance).tolist()
    for picture in set(pictures.tolist()):
        assert sorted(times[pictures == picture].tolist()) == list(range((pictures == picture).sum()))


def test_a_classs_pictures_go_round_over_the_epochs() -> None:
    labels = labels_of([40, 7])
    seen = np.zeros(47, dtype=int)
    for epoch in range(30):
        np.add.at(seen, balanced_order(labels, 1.0, seed=0, epoch=epoch) % 47, 1)
        for label in (0, 1):
            assert np.ptp(seen[labels == label]) <= 1
    assert seen.sum() == 30 * 47


def test_seeds_and_epochs_differ_and_repeat() -> None:
    labels = labels_of([30, 5])
    orders = [balanced_order(labels, 1.0, *key).tolist() for key in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def loader(world: World | None = None) -> TrainLoader:
    labels = labels_of([33, 3])
    pixels = np.repeat(np.arange(36, dtype=np.uint8), 16 * 16 * 3).reshape(36, 16, 16, 3)
    pixels[:, :8] += 100  # so that a mirrored or shifted picture is another one
    seen = Preprocessing("RGB", 16, 16, "bilinear", (0.5,) * 3, (0.25,) * 3)
    data = recipe.Data(batch_size=8, balanced_sampling=1.0)
    return TrainLoader(
        ResidentSet(pixels, labels, ("a", "b"), "RGB", "x"),
        data,
        recipe.Augment(crop=recipe.PadCrop(px=4), erasing=1.0),
        seen,
        seed=0,
        device=torch.device("cpu"),
        channels_last=False,
        **({} if world is None else {"world": world}),
    )


def test_a_picture_that_comes_twice_is_augmented_twice() -> None:
    batches = list(loader().epoch(0))
    indices = np.concatenate([batch.indices for batch in batches])
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert indices.max() < 36
    assert labels.bincount().tolist() == [18, 18]
    again = [images[indices == index] for index in set(indices.tolist()) if (indices == index).sum() > 1]
    assert len(again) == 3
    for copies in again:
        assert len({copy.numpy().tobytes() for copy in copies}) == len(copies)


def test_neither_a_restart_nor_processes_change_what_comes() -> None:
    def content(batches: list[Batch]) -> list[bytes]:
        return [image.numpy().tobytes() for batch in batches for image in batch.images]

    whole = list(loader().epoch(2))
    assert content(list(loader().epoch(2, start=2))) == content(whole[2:])
    worlds = [loader(replace(World(), rank=rank, size=2)).epoch(2) for rank in range(2)]
    shared = [part for parts in zip(*worlds, strict=True) for part in parts]
    assert content(shared) == content(whole)
