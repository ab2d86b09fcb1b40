"""`create_model` builds what its options say, and refuses what a network does not have."""

from __future__ import annotations

import pytest
import torch

from residuum.errors import UsageError
from residuum.models import MODELS, create_model
from residuum.models._catalog import options_of

CHANGED: dict[str, object] = {
    "num_classes": 7,
    "in_channels": 1,
    "shortcut": "C",
    "stride_in": "1x1",
    "zero_init_last": True,
    "drop_path": 0.3,
    "width": 3,
    "groups": 2,
    "checkpoint_activations": True,
}
"""A value of every option that is no network's default; the stem's is the other kind."""

FAMILY = [
    "plain18", "resnet18", "resnet50", "resnext50_32x4d", "plain20_cifar", "resnet20_cifar", "wrn16_8_cifar",
    "swift_resnet10_cifar",
]  # fmt: skip
"""One network for every set of options and defaults."""


@pytest.mark.parametrize("name", FAMILY)
def test_every_option_is_honoured_or_refused(name: str) -> None:
    with torch.device("meta"):
        usual = repr(create_model(name))
    changes = CHANGED | {"stem": "imagenet" if name.endswith("_cifar") else "cifar"}
    assert set(options_of(MODELS[name].build)) <= set(changes)
    for option, value in changes.items():
        if option not in options_of(MODELS[name].build):
            with pytest.raises(UsageError, match=f"has no option '{option}'"):
                create_model(name, **{option: value})
        elif option != "zero_init_last":  # which changes no layer: tests/models/test_layers.py looks at the weights
            with torch.device("meta"):
                assert repr(create_model(name, **{option: value})) != usual, option


def test_a_plain_net_has_no_shortcuts_to_choose() -> None:
    for name in ("plain18", "plain34", "plain20_cifar", "plain110_cifar"):
        for option in ("shortcut", "drop_path", "zero_init_last", "stride_in"):
            assert option not in options_of(MODELS[name].build)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet5O", {}, ["No model is called 'resnet5O'", "Did you mean", "resnet50", "residuum models"]),
        ("plain18", {"shortcut": "A"}, ["plain18 has no option 'shortcut'", "Its options are num_classes"]),
        ("resnet18", {"num_clases": 3}, ["has no option 'num_clases'", "Did you mean num_classes"]),
        ("resnet18", {"num_classes": 0}, ["'num_classes'", "cannot be 0", "a whole number from 1"]),
        ("resnet18", {"num_classes": 2.5}, ["cannot be 2.5", "a whole number from 1"]),
        ("resnet18", {"num_classes": True}, ["cannot be True"]),
        ("resnet18", {"in_channels": -1}, ["'in_channels'", "cannot be -1"]),
        ("resnet18", {"shortcut": "D"}, ["'shortcut'", "cannot be 'D'", "one of A, B, C"]),
        ("resnet18", {"shortcut": None}, ["cannot be None"]),
        ("resnet18", {"stem": "cifr"}, ["cannot be 'cifr'", "one of imagenet, cifar", "Did you mean cifar?"]),
        ("resnet18", {"stem": ["cifar"]}, ["cannot be ['cifar']", "one of imagenet, cifar"]),
        ("resnet50", {"stride_in": "2x2"}, ["cannot be '2x2'", "one of 1x1, 3x3"]),
        ("resnet50", {"drop_path": 1.0}, ["cannot be 1.0", "a number from 0 to 0.99"]),
        ("resnet50", {"drop_path": float("nan")}, ["cannot be nan"]),
        ("resnet50", {"zero_init_last": 1}, ["cannot be 1", "True or False"]),
        ("resnet50", {"groups": 3}, ["groups=3 does not divide", "64 channels", "width"]),
        ("resnet20_cifar", {"width": 0.02}, ["width=0.02 leaves none of 16 channels", "0.0625"]),
        ("resnet18", {"stride_in": "1x1"}, ["has no option 'stride_in'"]),
    ],
)
def test_an_error_says_what_was_expected(name: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        create_model(name, **options)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


def test_all_networks_of_the_family_are_there() -> None:
    expected = "resnet18 resnet34 resnet50 resnet101 resnet152 plain18 plain34 wide_resnet50_2 wide_resnet101_2 "
    expected += "resnext50_32x4d resnext101_32x8d resnext101_64x4d wrn28_10_cifar wrn16_8_cifar resnet1202_cifar "
    expected += " ".join(f"{kind}{layers}_cifar" for kind in ("resnet", "plain") for layers in (20, 32, 44, 56, 110))
    assert set(expected.split()) <= set(MODELS.names())
    assert all(entry.summary.endswith(".") for entry in MODELS.entries())
