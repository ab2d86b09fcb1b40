"""What is chosen for a set of photos by looking at it: the values, the reasons, and what is never touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from residuum import bundle
from residuum.errors import NetworkError
from residuum.imaging import Preprocessing
from residuum.models import create_model
from residuum.models.saved import arrays
from residuum.models.weights import WEIGHTS, Weights
from residuum.recipe import Model, PadCrop, Recipe, ResizedCrop
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


def bundle_of(folder: Path, **options: object) -> str:
    """A bundle of a random narrow CIFAR net for three classes."""
    options = {"name": "resnet20_cifar", "num_classes": 3, "in_channels": 3, "width": 0.25, **options}
    known = {key: value for key, value in options.items() if key != "weights"}
    look = Preprocessing("RGB", 32, 32, "bilinear", (0.5,) * 3, (0.2,) * 3)
    card = {"model": options, "classes": ["x", "y", "z"], "preprocessing": look.as_dict(), "licence": "MIT"}
    bundle.write(folder, arrays(create_model(**known).state_dict()), card)  # type: ignore[arg-type]
    return str(folder)


def test_weights_decide_on_the_network_where_nobody_else_does(tmp_path: Path, asked: list[str]) -> None:
    data = folder_of(tmp_path / "set", {"ant": 3, "bee": 3}, (140, 100))
    chosen, reasons = choose(None, data, {"weights": "resnet50.a1_in1k"})
    assert (chosen.model, chosen.optim) == (
        Model("resnet50", weights="resnet50.a1_in1k"),
        RECIPES["photos"].build().optim,
    )
    assert reasons[0] == "resnet50: the network that the weights resnet50.a1_in1k are of."
    best = bundle_of(tmp_path / "best", weights="imagenet")  # a bundle names no weights to fetch
    expected = Model("resnet20_cifar", weights=best, width=0.25)
    for wanted in (None, "photos_probe"):
        chosen, reasons = choose(wanted, data, {"model.weights": best})
        assert chosen.model == expected
        assert "resnet20_cifar: the network that the weights" in reasons[0]
    assert asked == []


def test_a_network_that_somebody_names_stays(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "set", {"ant": 3, "bee": 3}, (140, 100))
    given = {"weights": "resnet50.a1_in1k"}
    assert choose(None, data, {**given, "model": "resnet34"})[0].model.name == "resnet34"
    mine = tmp_path / "mine.toml"
    for text, name in (('[model]\nname = "resnet34"\n', "resnet34"), ("[model]\ndrop_path = 0.1\n", "resnet50")):
        mine.write_text(text, encoding="utf-8")
        assert choose(str(mine), data, given)[0].model.name == name
    assert choose(replace(RECIPES["photos"].build(), name="own"), data, given)[0].model.name == "resnet18"


@pytest.mark.parametrize("weights", ["imagenet", "resnet18.imagenet1k_v1"])
def test_small_pictures_do_not_change_the_network_that_weights_are_of(weights: str, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "set", {"ant": 20, "bee": 20}, (40, 30))
    chosen, reasons = choose(None, data, {"weights": weights})
    usual = RECIPES["photos"].build()
    assert (chosen.model, chosen.optim) == (replace(usual.model, weights=weights), usual.optim)
    assert (chosen.data.img_size, chosen.augment.crop) == (usual.data.img_size, usual.augment.crop)
    assert not any("resnet20_cifar" in reason for reason in reasons)


@pytest.mark.parametrize(("size", "px"), [((40, 30), 32), ((60, 50), 48), ((140, 100), 32)])
def test_a_net_for_small_pictures_sees_small_ones_and_is_fine_tuned_gently(
    size: tuple[int, int], px: int, tmp_path: Path
) -> None:
    data = folder_of(tmp_path / "set", {"ant": 20, "bee": 20}, size)
    chosen, reasons = choose(None, data, {"weights": bundle_of(tmp_path / "best")})
    assert (chosen.model.name, chosen.model.width) == ("resnet20_cifar", 0.25)
    assert (chosen.data.img_size, chosen.data.resize_px, chosen.augment.crop) == (px, px, PadCrop(px=px // 8))
    assert chosen.optim.lr == RECIPES["photos"].build().optim.lr
    assert any(reason.startswith(f"resnet20_cifar at {px} pixels: ") for reason in reasons)


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
