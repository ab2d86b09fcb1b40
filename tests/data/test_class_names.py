"""The classes of sets that are known by name: those of the sets themselves, in their order."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from residuum.data.class_names import CLASS_NAMES
from residuum.data.sources import find


def test_the_digits_are_scikit_learns() -> None:
    assert CLASS_NAMES["digits"] == tuple(str(name) for name in load_digits().target_names)


def test_cifar100s_are_a_hundred_in_alphabetical_order() -> None:
    assert len(CLASS_NAMES["cifar100"]) == 100
    assert list(CLASS_NAMES["cifar100"]) == sorted(set(CLASS_NAMES["cifar100"]))


@pytest.mark.data
def test_cifar10s_are_those_of_its_shards(data_folder: Path) -> None:
    assert find(str(data_folder / "cifar10")).parts["train"].classes == CLASS_NAMES["cifar10"]
