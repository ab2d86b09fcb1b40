"""A loader under observation yields what the loader yields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from residuum import recipe
from residuum.data.loading import TrainLoader
from residuum.data.observed import Excerpt, observed
from residuum.data.sources import open_parts
from residuum.imaging import Preprocessing


def loader_of(source: str, px: int) -> TrainLoader:
    data = recipe.Data(source, img_size=px, resize_px=px, batch_size=8, val_fraction=0.0)
    look = Preprocessing("RGB", px, px, "bilinear", (0.5,) * 3, (0.25,) * 3)
    augment = recipe.Augment(crop=recipe.PadCrop(px=1), flip="random")
    parts = open_parts(data)
    return TrainLoader(parts.train, data, augment, look, seed=1, device=torch.device("cpu"), channels_last=True)


@pytest.fixture(scope="module", params=["memory", "files"])
def loader(request: pytest.FixtureRequest, class_folders: Path) -> TrainLoader:
    return loader_of("synthetic:60x3x8", 8) if request.param == "memory" else loader_of(str(class_folders), 10)


def test_an_excerpt_is_the_beginning_of_each_epoch(loader: TrainLoader) -> None:
    excerpt = Excerpt(loader, 3)
    assert (len(excerpt), len(Excerpt(loader, 99))) == (3, len(loader))
    for epoch in (0, 1):
        whole = list(loader.epoch(epoch))
        few = list(excerpt.epoch(epoch))
        assert [batch.number for batch in few] == [0, 1, 2]
        for one, other in zip(few, whole, strict=False):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    assert [batch.number for batch in excerpt.epoch(0, start=2)] == [2]


def test_an_observed_loader_yields_the_same_and_names_what_it_does(loader: TrainLoader) -> None:
    entered: Counter[str] = Counter()
    inside: list[str] = []

    @contextmanager
    def within(name: str) -> Iterator[None]:
        assert not inside, "one thing is done at a time"
        entered[name] += 1
        inside.append(name)
        yield
        inside.pop()

    seen = list(Excerpt(observed(loader, within), 4).epoch(2))
    plain = list(loader.epoch(2))[:4]
    assert all(torch.equal(one.images, other.images) for one, other in zip(seen, plain, strict=True))
    assert entered == {"loading": 4 + 1, "augmentation": 3 * 4}  # crop, flip and normalisation; and the end of it
