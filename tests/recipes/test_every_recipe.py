"""The battery: what every registered recipe must be, and the published numbers of those that are as published."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residuum.cli.main import main
from residuum.recipe import Plateau, Recipe, ScaleCrop, Sgd, Steps, from_dict, from_toml, override, to_dict
from residuum.recipes import RECIPES
from residuum.training.build import build
from residuum.training.loop import train_step

NAMES = RECIPES.names()
CIFAR_2015 = [name for name in NAMES if name.endswith("_cifar10_2015")]
IMAGENET_2015 = [name for name in NAMES if name.endswith("_imagenet_2015")]


def recipe_of(name: str) -> Recipe:
    return RECIPES[name].build()


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_on_synthetic_pictures(name: str, tmp_path: Path) -> None:
    """The recipe's own step; of its network a quarter of the width, of its batches a few small pictures."""
    wanted = recipe_of(name)
    small = {"data": "synthetic:10x2x32", "weights": "none", "data.batch_size": 4, "data.val_fraction": 0.2}
    px = 8 if wanted.model.name.endswith("_cifar") else 32
    small |= {"img_size": px, "data.resize_px": px, "model.width": 0.25}
    run = build(override(wanted, small), tmp_path, torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    losses = []
    run.thawing.begin(run.thawing.all_learn_from)
    learns = [parameter.requires_grad for parameter in run.model.parameters()]
    for batch in run.train_loader.epoch(0):
        for group in run.optimizer.param_groups:
            group["lr"] = run.schedule((run.step + 0.5) / len(run.train_loader), run.val_errors)
        loss, grad_norm = train_step(run, batch, [len(batch.labels)])
        losses.append(loss)
        assert math.isfinite(grad_norm)
        run.step += 1
    assert len(losses) == 2
    assert torch.tensor(losses).isfinite().all()
    assert losses[0] > 0
    moved = [not torch.equal(old, new) for old, new in zip(before, run.model.parameters(), strict=True)]
    assert moved == learns
    assert all(learns) == (wanted.transfer.freeze == "none")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_called_by_its_name_and_valid(name: str) -> None:
    wanted = recipe_of(name)
    assert wanted.name == name
    assert recipe_of(name) == wanted
    assert from_dict(to_dict(wanted)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_the_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", name]) == 0
    assert from_toml(capsys.readouterr().out) == recipe_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_its_source_is_named(name: str) -> None:
    expect = RECIPES[name].card
    assert expect.source
    assert expect.seeds >= 1
    assert expect.top1_error is None or 0 < expect.top1_error < 100


def test_the_issues_recipes_are_there() -> None:
    layers = (20, 32, 44, 56, 110)
    assert set(CIFAR_2015) == {f"{kind}{n}_cifar10_2015" for kind in ("resnet", "plain") for n in layers} | {
        "resnet1202_cifar10_2015"
    }
    assert {*IMAGENET_2015} == {
        *(f"resnet{n}_imagenet_2015" for n in (18, 34, 50, 101, 152)),
        *(f"plain{n}_imagenet_2015" for n in (18, 34)),
    }
    assert {
        "digits",
        "photos",
        "photos_probe",
        "photos_scratch",
        "resnet20_cifar10_fast",
        "resnet50_imagenet_strong",
    } <= set(NAMES)


@pytest.mark.parametrize("name", CIFAR_2015)
def test_cifar_as_published(name: str) -> None:
    """Section 4.2: 64,000 updates of 128 pictures, rate 0.1 divided by 10 at 32,000 and 48,000."""
    wanted = recipe_of(name)
    steps_per_epoch = -(-50_000 // wanted.data.batch_size)
    assert wanted.data.batch_size == 128
    assert isinstance(wanted.schedule, Steps)
    assert wanted.epochs * steps_per_epoch == pytest.approx(64_000, rel=0.003)
    dropped = [at * steps_per_epoch for at in wanted.schedule.at_epochs]
    assert dropped == pytest.approx([32_000, 48_000], rel=0.003)
    assert wanted.schedule.factor == 0.1
    assert wanted.optim == Sgd(lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4, decay_all=True)
    augment = wanted.augment
    assert (augment.crop.name, getattr(augment.crop, "px", None), augment.flip) == ("pad", 4, "random")
    assert replace(augment, crop=Recipe().augment.crop, flip="none") == Recipe().augment  # and nothing else
    assert (wanted.data.img_size, wanted.data.val_fraction, wanted.data.source) == (32, 0.0, "cifar10")
    assert (wanted.label_smoothing, wanted.average_decay, wanted.loss, wanted.precision) == (
        0.0,
        0.0,
        "auto",  # cross-entropy, of pictures that have one class
        "fp32",
    )
    assert wanted.model.name == name.replace("_cifar10_2015", "_cifar")
    assert not {"drop_path", "shortcut"} & wanted.model.options().keys()  # option A is the net's own


@pytest.mark.parametrize("name", CIFAR_2015)
def test_only_the_deepest_are_warmed_up(name: str) -> None:
    """Section 4.2, n = 18: a rate of 0.01 for about 400 updates, then 0.1."""
    wanted = recipe_of(name)
    assert isinstance(wanted.schedule, Steps)
    if name.startswith(("resnet110", "resnet1202")):
        assert wanted.schedule.warmup == "constant"
        assert wanted.schedule.warmup_factor * wanted.optim.lr == pytest.approx(0.01)
        assert wanted.schedule.warmup_epochs * 391 == pytest.approx(400, rel=0.03)
    else:
        assert wanted.schedule.warmup_epochs == 0


@pytest.mark.parametrize(
    ("layers", "error"), [(20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (110, 6.61), (1202, 7.93)]
)
def test_errors_of_table_6(layers: int, error: float) -> None:
    expect = RECIPES[f"resnet{layers}_cifar10_2015"].card
    assert expect.top1_error == error
    assert "Table 6" in expect.source


@pytest.mark.parametrize(
    ("name", "error", "table"),
    [
        ("plain18", 27.94, 2),
        ("plain34", 28.54, 2),
        ("resnet18", 27.88, 2),
        ("resnet34", 25.03, 2),
        ("resnet50", 22.85, 3),
        ("resnet101", 21.75, 3),
        ("resnet152", 21.43, 3),
    ],
)
def test_imagenet_as_published(name: str, error: float, table: int) -> None:
    """Section 3.4, and Tables 2 and 3 (ten crops)."""
    wanted, expect = recipe_of(f"{name}_imagenet_2015"), RECIPES[f"{name}_imagenet_2015"].card
    assert (expect.top1_error, f"Table {table}" in expect.source) == (error, True)
    assert wanted.data.batch_size == 256
    assert wanted.optim == Sgd(lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4, decay_all=True)
    assert isinstance(wanted.schedule, Plateau)
    assert wanted.schedule.factor == 0.1
    assert wanted.augment.crop == ScaleCrop(min_px=256, max_px=480)
    assert (wanted.augment.flip, wanted.data.img_size) == ("random", 224)
    assert wanted.augment.lighting == 0.1
    assert wanted.epochs * 1_281_167 * (1 - wanted.data.val_fraction) / 256 <= 600_000  # "up to 60 x 10^4" updates
    options = wanted.model.options()
    if name in ("resnet18", "resnet34"):
        assert options == {"shortcut": "A"}  # Table 2
    elif name.startswith("resnet"):
        assert options == {"shortcut": "B", "stride_in": "1x1"}  # Table 3, and Table 1's strides
    else:
        assert options == {}


def test_the_fast_recipe_trains_on_all_pictures_and_keeps_its_last_weights() -> None:
    wanted = recipe_of("resnet20_cifar10_fast")
    assert wanted.data.val_fraction == 0
    assert wanted.early_stop_epochs == 0
    assert RECIPES["resnet20_cifar10_fast"].card.top1_error == 8.75
