"""Batches made on the device alone: those of the training loader, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from residuum.data.loading import TrainLoader
from residuum.data.on_device import DeviceBatches, unsupported
from residuum.data.sets import ResidentSet
from residuum.data.sources import open_parts
from residuum.imaging import Preprocessing
from residuum.recipe import Augment, CenterCrop, Data, PadCrop, RandAugment, ResizedCrop

CPU = torch.device("cpu")
LOOK = Preprocessing("RGB", 8, 8, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
DATA = Data("synthetic:50x5x8", img_size=8, resize_px=8, batch_size=16, val_fraction=0.0)

AUGMENTS = {
    "nothing": Augment(),
    "crops": Augment(crop=PadCrop(px=2)),
    "crops and flips": Augment(crop=PadCrop(px=4), flip="random"),
    "mirrored margins": Augment(crop=PadCrop(px=3, fill="reflect")),
    "alternating flips": Augment(crop=PadCrop(px=1), flip="alternate"),
    "everything": Augment(crop=PadCrop(px=3), flip="random", erasing=0.7),
    "erasing alone": Augment(erasing=1.0),
}


def both(data: Data, augment: Augment, seed: int = 3) -> tuple[TrainLoader, DeviceBatches]:
    images = open_parts(data).train
    assert isinstance(images, ResidentSet)
    loader = TrainLoader(images, data, augment, LOOK, seed=seed, device=CPU, channels_last=True)
    made = DeviceBatches(images, data, augment, LOOK, seed=seed, device=CPU, channels_last=True, batches=len(loader))
    return loader, made


@pytest.mark.parametrize("name", AUGMENTS)
def test_batches_are_those_of_the_loader(name: str) -> None:
    loader, made = both(DATA, AUGMENTS[name])
    assert [made.count(number) for number in range(len(loader))] == [16, 16, 16, 2]
    for epoch in (0, 1, 5):
        made.load(made.table(epoch))
        for batch in loader.epoch(epoch):
            images, labels = made.batch(torch.tensor([batch.number]), len(batch.labels))
            assert torch.equal(images, batch.images)
            assert torch.equal(labels, batch.labels)
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_pictures_come_as_often_as_the_balance_says() -> None:
    data = replace(DATA, balanced_sampling=1.0)
    loader, made = both(data, AUGMENTS["everything"])
    made.load(made.table(2))
    for batch in loader.epoch(2):
        images, labels = made.batch(torch.tensor([batch.number]), len(batch.labels))
        assert torch.equal(images, batch.images)
        assert torch.equal(labels, batch.labels)


def test_another_seed_draws_anew() -> None:
    _, made = both(DATA, AUGMENTS["everything"])
    before = made.table(0)
    made.seed = 4
    assert not np.array_equal(made.table(0), before)
    assert np.array_equal(made.table(0), both(DATA, AUGMENTS["everything"], seed=4)[1].table(0))


def test_places_of_crops_are_even() -> None:
    """Every one of the 9 x 9 places as likely as the others: a chi-squared test on 20,000 draws."""
    stats = pytest.importorskip("scipy.stats")
    data = replace(DATA, source="synthetic:20000x2x4", batch_size=20_000, img_size=4, resize_px=4)
    images = open_parts(data).train
    assert isinstance(images, ResidentSet)
    look = replace(LOOK, img_size=4, resize_px=4)
    augment = Augment(crop=PadCrop(px=4), flip="random")
    made = DeviceBatches(images, data, augment, look, seed=0, device=CPU, channels_last=True, batches=1)
    _, y, x, flip, *_ = made.table(0)[0]
    places = np.bincount(9 * y + x, minlength=81)
    assert len(places) == 81
    assert stats.chisquare(places).pvalue > 1e-3
    assert stats.binomtest(int(flip.sum()), 20_000).pvalue > 1e-3


@pytest.mark.parametrize(
    ("augment", "key"),
    [
        (Augment(crop=ResizedCrop()), "augment.crop"),
        (Augment(policy=RandAugment()), "augment.policy"),
        (Augment(rotate=5.0), "augment.rotate"),
        (Augment(lighting=0.1), "augment.lighting"),
        (Augment(mixup=0.2), "augment.mixup"),
        (Augment(crop=CenterCrop(), start_px=8, grow_until=0.5), ""),
        *((augment, "") for augment in AUGMENTS.values()),
    ],
)
def test_what_it_does_not_know_is_named(augment: Augment, key: str) -> None:
    assert unsupported(augment) == key
