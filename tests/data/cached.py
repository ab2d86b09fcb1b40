"""What the tests of caches share: a folder of pictures, batches of a set, and whether two lists are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import torch

from residuum import recipe
from residuum.data.loading import Batch, EvalLoader, TrainLoader
from residuum.data.sets import ImageSet
from residuum.imaging import Preprocessing

CPU = torch.device("cpu")
RGB = Preprocessing("RGB", 32, 36, "bilinear", (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
AUGMENTS = {
    "resized": recipe.Augment(crop=recipe.ResizedCrop(), flip="random", rotate=10.0, brightness=0.3, erasing=0.3),
    "scale": recipe.Augment(crop=recipe.ScaleCrop(36, 48), flip="alternate", lighting=0.1),
    "pad": recipe.Augment(crop=recipe.PadCrop(2)),
}


def drawn(number: int, side: tuple[int, int] = (70, 120)) -> PIL.Image.Image:
    random = np.random.default_rng(number)
    coarse = PIL.Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    return coarse.resize(tuple(random.integers(*side, 2).tolist()), PIL.Image.Resampling.BICUBIC)


def folder_of(root: Path) -> Path:
    """Writes 40 PNG in two parts and two classes."""
    for number in range(40):
        place = root / ("val" if number % 5 == 0 else "train") / ("cat", "dog 2")[number // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        drawn(number).save(place / f"{number}.png")
    return root


def batches(images: ImageSet, augment: recipe.Augment | None, seen: Preprocessing = RGB) -> list[Batch]:
    data = recipe.Data(batch_size=8, workers=2)
    if augment is None:
        return list(EvalLoader(images, seen, 8, device=CPU, channels_last=True, workers=2))
    loader = TrainLoader(images, data, augment, seen, seed=4, device=CPU, channels_last=True)
    return [batch for epoch in (0, 1) for batch in loader.epoch(epoch)]


def same(ours: list[Batch], others: list[Batch]) -> bool:
    return len(ours) == len(others) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and np.array_equal(a.indices, b.indices)
        for a, b in zip(ours, others, strict=True)
    )
