"""What is chosen for a set of photos by looking at it: the values, the reasons, and what is never touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from residuum.errors import NetworkError
from residuum.models.weights import WEIGHTS, Weights
from residuum.recipe import PadCrop, Recipe, ResizedCrop
from residuum.recipes import RECIPES
from residuum.training import suit
from residuum.training.choose import choose
from residuum.training.suit import Look, fit_to_pictures


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The weights that were looked for, which are then there."""
    names: list[str] = []

    def obtain(card: Weights) -> Path:
        names.append(card.name)
        return Path("there")

    monkeypatch.setattr(suit, "obtain", obtain)
    return names


def folder_of(root: Path, counts: dict[str, int], size: tuple[int, int]) -> str:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            PIL.Image.new("RGB", size, (number, 0, 0)).save(root / name / f"{number}.png")
    return str(root)


def test_photos_start_from_imagenet_and_every_value_is_said_with_its_reason(tmp_path: Path, asked: list[str]) -> None:
    data = folder_of(tmp_path, {"ant": 30, "bee": 6}, (140, 100))
    chosen, reasons = choose(None, data, {})
    assert asked == ["resnet18.imagenet1k_v1"]
    assert (chosen.name, chosen.model.name, chosen.model.weights) == ("photos", "resnet18", "imagenet")
    assert chosen.transfer == RECIPES["photos"].build().transfer
    assert (chosen.data.img_size, chosen.data.resize_px) == (96, round(182 * 96 / 160))
    assert chosen.data.batch_size == 8
    assert chosen.epochs == 30
    assert chosen.data.balanced_sampling == 0.5
    said = "\n".join(reasons)
    for words in (
        "resnet18.imagenet1k_v1 to start from",
        "data.img_size = 96: the pictures have some 100 pixels on their shorter side.",
        "data.batch_size = 8: there are 29 training pictures.",
        "epochs = 30",
        "data.balanced_sampling = 0.5: the largest class has 5 times as many pictures as bee.",
        "bee has 6 pictures only: --folds 5",
    ):
        assert words in said


def test_without_network_and_cache_it_starts_from_scratch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def obtain(card: Weights) -> Path:
        raise NetworkError(f"{card.file} is not in the cache.", hint="Put it there.")

    monkeypatch.setattr(suit, "obtain", obtain)
    data = folder_of(tmp_path, {"ant": 20, "bee": 20}, (140, 100))
    chosen, reasons = choose(None, data, {})
    scratch = RECIPES["photos_scratch"].build()
    assert (chosen.name, chosen.model, chosen.optim) == ("photos", scratch.model, scratch.optim)
    (said,) = [reason for reason in reasons if "random weights" in reason]
    for words in (
        "resnet18-f37072fd.pth is not in the cache.",
        "learns less that way",
        str(WEIGHTS["resnet18.imagenet1k_v1"].cached),
    ):
        assert words in said


@pytest.mark.parametrize("key", ["weights", "model.weights"])
def test_what_is_given_is_never_touched(key: str, tmp_path: Path, asked: list[str]) -> None:
    data = folder_of(tmp_path, {"ant": 30, "bee": 6}, (140, 100))
    given = {"epochs": 3, "img_size": 64, "batch_size": 4, "data.balanced_sampling": 0.0, key: "none"}
    chosen, reasons = choose(None, data, given)
    assert asked == []
    assert (chosen.epochs, chosen.data.img_size, chosen.data.batch_size) == (3, 64, 4)
    assert (chosen.data.balanced_sampling, chosen.model.weights) == (0.0, "none")
    assert [reason.split()[0] for reason in reasons] == ["bee"]


def test_a_recipe_that_is_named_is_what_it_says(tmp_path: Path, asked: list[str]) -> None:
    data = folder_of(tmp_path, {"ant": 3, "bee": 3}, (140, 100))
    chosen, reasons = choose("photos_scratch", data, {})
    expected = RECIPES["photos_scratch"].build()
    assert (replace(chosen, data=replace(chosen.data, source="")), reasons, asked) == (expected, [], [])


def test_another_network_gets_its_own_weights_and_a_changed_one_gets_none(tmp_path: Path, asked: list[str]) -> None:
    data = folder_of(tmp_path, {"ant": 3, "bee": 3}, (140, 100))
    assert choose(None, data, {"model": "resnet50"})[0].model.weights == "imagenet"
    assert asked == ["resnet50.imagenet1k_v2"]
    for changes, word in (({"model.width": 0.5}, "model.width"), ({"model": "wrn16_8_cifar"}, "there are none")):
        chosen, reasons = choose(None, data, changes)
        assert chosen.model.weights == "none"
        assert word in reasons[0]
    assert len(asked) == 1


def test_small_pictures_get_a_network_for_small_pictures(tmp_path: Path) -> None:
    data = folder_of(tmp_path, {"ant": 20, "bee": 20}, (40, 30))
    chosen, reasons = choose(None, data, {})
    assert (chosen.model.name, chosen.data.img_size, chosen.data.resize_px) == ("resnet20_cifar", 32, 32)
    assert chosen.augment.crop == PadCrop(px=4)
    assert "resnet20_cifar at 32 pixels: the pictures have some 30" in reasons[0]
    given, _ = choose(None, data, {"augment.crop.area_min": 0.5})
    assert isinstance(given.augment.crop, ResizedCrop)


def look(images: int, counts: tuple[int, int] = (500, 500), side_px: int = 400, **more: bool) -> Look:
    facts = {"own_val": False, "streamed": False} | more
    return Look(images, {"a": counts[0], "b": counts[1]}, side_px, **facts)


@pytest.mark.parametrize(
    ("seen", "keys"),
    [
        (look(1000), {"epochs"}),
        (look(200), {"epochs", "data.batch_size"}),
        (look(100_000), {"epochs", "data.batch_size", "optim.lr", "data.val_fraction"}),
        (look(100_000, own_val=True), {"epochs", "data.batch_size", "optim.lr"}),
        (look(1000, (900, 100)), {"epochs", "data.balanced_sampling"}),
        (look(1000, (900, 100), streamed=True), {"epochs", "class_weights"}),
    ],
)
def test_which_values_depend_on_what(seen: Look, keys: set[str]) -> None:
    for name in ("photos", "photos_scratch"):
        values, reasons = fit_to_pictures(RECIPES[name].build(), seen)
        assert values.keys() == {reason.split()[0] for reason in reasons} == keys


def test_the_larger_the_set_the_fewer_the_epochs() -> None:
    for name in ("photos", "photos_scratch"):
        recipe: Recipe = RECIPES[name].build()
        epochs = [int(str(fit_to_pictures(recipe, look(int(n)))[0]["epochs"])) for n in np.geomspace(50, 2e6, 30)]
        assert epochs == sorted(epochs, reverse=True)
        assert epochs[0] > epochs[-1] >= 5
