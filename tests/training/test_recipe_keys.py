"""No key of a recipe is read and then ignored: a run of its variant asks for every one of them."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from residuum import recipe as recipes
from residuum.recipe import (
    AdamW,
    Cosine,
    Model,
    Muon,
    NoPolicy,
    OneCycle,
    PadCrop,
    Plateau,
    RandAugment,
    Recipe,
    ResizedCrop,
    ScaleCrop,
    Sgd,
    Steps,
    Transfer,
    TrivialAugment,
)
from residuum.training import train

VARIANTS = [
    (PadCrop(px=1), NoPolicy(), Sgd(), Steps(at_epochs=(1,), warmup_epochs=1)),
    (ResizedCrop(), RandAugment(ops=1), AdamW(), Cosine(warmup_epochs=1)),
    (ScaleCrop(min_px=8, max_px=9), TrivialAugment(), Sgd(), OneCycle(peak=0.9)),
    (PadCrop(px=1), NoPolicy(), Muon(), Plateau(patience_epochs=1, warmup_epochs=1)),
]


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The (table, key) pairs that code outside of recipe.py reads, added as they are read."""
    seen: set[tuple[str, str]] = set()

    def spying(kind: type) -> Any:
        def get(self: object, name: str) -> Any:
            file = Path(sys._getframe(1).f_code.co_filename)
            if "residuum" in file.parts and file.name != "recipe.py":
                seen.add((kind.__name__, name))
            return object.__getattribute__(self, name)

        return get

    for kind in vars(recipes).values():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            monkeypatch.setattr(kind, "__getattribute__", spying(kind), raising=False)
    return seen


def test_every_key_is_read_by_the_run_it_belongs_to(
    readings: set[tuple[str, str]], tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "finish", lambda _: None)
    monkeypatch.chdir(tmp_path)
    colours = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "lighting": 0.1}
    for crop, policy, optim, schedule in VARIANTS:
        augment = dataclasses.replace(tiny.augment, crop=crop, policy=policy, start_px=4, **colours)
        epochs = 4 if isinstance(schedule, Plateau) else 1  # scored after epoch 2, a plateau in epoch 3
        wanted = dataclasses.replace(tiny, epochs=epochs, augment=augment, optim=optim, schedule=schedule)
        wanted = dataclasses.replace(wanted, transfer=Transfer(layer_decay=0.9))
        train.train(wanted, data="synthetic:16x2x8", device="cpu", eval_every_epochs=2)
    keys = {(kind.__name__, f.name) for kind in every_table(Recipe) for f in fields(kind)}
    by_type = {(type(variant).__name__, "name") for variants in VARIANTS for variant in variants}
    by_type |= {("CenterCrop", "name"), ("NoPolicy", "name")}  # a variant's name is its type
    by_type |= {("Transfer", "head")}  # read where there are weights to start from: see test_transfer
    options = {("Model", f.name) for f in fields(Model) if f.name not in ("name", "weights")}  # read by Model.options
    assert keys - by_type - options - readings == set()
    assert ("Recipe", "epochs") in readings
    assert ("Sgd", "no_such_key") not in readings


def every_table(kind: Any) -> Iterator[Any]:
    yield kind
    for hint in typing.get_type_hints(kind).values():
        for table in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(table):
                yield from every_table(table)
