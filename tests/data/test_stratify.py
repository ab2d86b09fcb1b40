"""Splits of pictures that may have several classes: sizes, shares, what is never lost, and what decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from residuum.data.parts import folds_of, stratified_split
from residuum.data.stratify import dealt


def some_labels(count: int, seed: int, shares: tuple[float, ...] = (0.5, 0.2, 0.04, 0.3)) -> NDArray[np.uint8]:
    """Labels of which the classes are independent, the third one rare; every class is there."""
    random = np.random.default_rng(seed)
    labels = (random.random((count, len(shares))) < shares).astype(np.uint8)
    labels[0] = 1
    return labels


@given(st.integers(2, 80), st.integers(0, 50), st.sampled_from([0.1, 0.25, 0.5, 0.9]))
@settings(deadline=None, max_examples=60)
def test_a_split_holds_out_its_share_and_loses_no_class(count: int, seed: int, fraction: float) -> None:
    labels = some_labels(count, seed)
    kept, held = stratified_split(labels, fraction, seed)
    assert sorted([*kept, *held]) == list(range(count))
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held) > 0)
    assert labels[kept].any(axis=0).tolist() == labels.any(axis=0).tolist()
    wanted = int(np.floor(count * fraction + 0.5))
    assert wanted - labels.shape[1] <= len(held) <= wanted  # a class's last picture stays


def test_shares_of_classes_are_close_and_closer_than_by_chance() -> None:
    off, by_chance = [], []
    for seed in range(10):
        labels = some_labels(300, seed)
        held = stratified_split(labels, 0.2, seed)[1]
        assert len(held) == 60
        off.append(np.abs(labels[held].sum(axis=0) - 0.2 * labels.sum(axis=0)))
        drawn = np.random.default_rng(seed).permutation(300)[:60]
        by_chance.append(np.abs(labels[drawn].sum(axis=0) - 0.2 * labels.sum(axis=0)))
    assert np.max(off) <= 2
    assert np.mean(off) < 0.3 * np.mean(by_chance)


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_are_even(folds: int) -> None:
    labels = some_labels(203, 1)
    place = folds_of(labels, folds, seed=0)
    assert np.ptp(np.bincount(place, minlength=folds)) <= 1
    for kind in range(labels.shape[1]):
        assert np.ptp(np.bincount(place[labels[:, kind] == 1], minlength=folds)) <= 3


def test_labels_of_one_class_each_are_split_as_evenly() -> None:
    """A row of one-hot labels is what the plain split sees: every class has its share to within one picture."""
    plain = np.repeat(np.arange(4), (40, 23, 9, 5))
    held = stratified_split(np.eye(4, dtype=np.uint8)[plain], 0.25, 0)[1]
    assert len(held) == 19
    assert (np.abs(np.bincount(plain[held], minlength=4) - 0.25 * np.bincount(plain)) <= 1).all()


def test_a_deal_is_a_function_of_its_arguments() -> None:
    labels = some_labels(60, 3)
    assert dealt(labels, (40, 20), 1, 0).tolist() == dealt(labels.copy(), (40, 20), 1, 0).tolist()
    different = {tuple(dealt(labels, (40, 20), seed, stream).tolist()) for seed, stream in ((1, 0), (2, 0), (1, 1))}
    assert len(different) == 3


def test_pictures_without_a_class_fill_up() -> None:
    labels = np.zeros((10, 2), np.uint8)
    labels[3] = 1
    place = dealt(labels, (6, 4), 0, 0, learnt=0)
    assert np.bincount(place).tolist() == [6, 4]
    assert place[3] == 0
