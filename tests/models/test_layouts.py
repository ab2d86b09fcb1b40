"""Foreign weights load whole, or not at all with everything that does not fit named; whose they are is recognised."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from residuum.errors import WeightsError
from residuum.models import Network, create_model, layouts
from residuum.models.layouts import CIFAR, RESIDUUM, TORCHVISION


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = torchvision.models.resnet18(weights=None).state_dict()
    return state


def refused(model: Network, weights: dict[str, Tensor]) -> str:
    """The message, once it is sure that nothing was loaded."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        layouts.load(model, weights)
    assert caught.value.exit_code == 4
    assert caught.value.expected
    assert "--weights none" in caught.value.hint
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def test_other_channels(weights: dict[str, Tensor]) -> None:
    message = refused(create_model("resnet18", in_channels=1), weights)
    assert "conv1.weight (shape (64, 3, 7, 7), (64, 1, 7, 7) in the network)" in message
    assert "layer1" not in message


def test_another_number_of_classes_leaves_the_networks_own_head(weights: dict[str, Tensor]) -> None:
    model = create_model("resnet18", num_classes=7)
    before = model.state_dict()["head.fc.weight"].clone()
    assert not layouts.load(model, weights)
    after = model.state_dict()
    assert torch.equal(after["head.fc.weight"], before)
    assert torch.equal(after["stages.3.1.branch.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert layouts.load(create_model("resnet18"), weights)


def test_a_body_without_a_head(weights: dict[str, Tensor]) -> None:
    body = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    assert layouts.classes_in(body) is None
    assert not layouts.load(create_model("resnet18"), body)


def test_missing_and_additional_keys(weights: dict[str, Tensor]) -> None:
    changed = {key: value for key, value in weights.items() if key != "layer2.0.bn1.running_var"}
    message = refused(create_model("resnet18"), changed | {"extra.weight": torch.zeros(1)})
    assert "stages.1.0.branch.norm1.running_var (not in the weights)" in message
    assert "extra.weight (not in the network)" in message


def test_half_a_head(weights: dict[str, Tensor]) -> None:
    changed = {key: value for key, value in weights.items() if key != "fc.bias"}
    assert "head.fc.bias (not in the weights)" in refused(create_model("resnet18"), changed)


def test_a_key_under_two_names(weights: dict[str, Tensor]) -> None:
    doubled = weights | {"stem.conv.weight": torch.zeros(64, 3, 7, 7)}
    assert "stem.conv.weight (there twice" in refused(create_model("resnet18"), doubled)


def test_numbers_of_another_kind(weights: dict[str, Tensor]) -> None:
    quantised = weights | {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3, dtype=torch.int8)}
    assert "layer1.0.conv1.weight (of type torch.int8" in refused(create_model("resnet18"), quantised)


def test_half_precision_is_read_exactly(weights: dict[str, Tensor]) -> None:
    model = create_model("resnet18")
    halved = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    layouts.load(model, halved)
    assert torch.equal(model.state_dict()["stem.conv.weight"], weights["conv1.weight"].half().float())


def test_a_long_list_is_cut_and_counted(weights: dict[str, Tensor]) -> None:
    message = refused(create_model("resnet34"), weights)
    missing = (16 - 8) * 2 * 5  # blocks, convolutions in each, and a convolution's weights with its norm's four tensors
    assert message.count("(not in the weights)") == 12
    assert f"and {missing - 12} more" in message


def test_another_shortcut_does_not_fit(weights: dict[str, Tensor]) -> None:
    assert "layer2.0.downsample.0.weight (not in the network)" in refused(
        create_model("resnet18", shortcut="A"), weights
    )


def test_weights_without_batch_counts(weights: dict[str, Tensor]) -> None:
    model = create_model("resnet18")
    layouts.load(model, {key: value for key, value in weights.items() if "num_batches" not in key})
    assert torch.equal(model.state_dict()["stages.3.1.branch.conv2.weight"], weights["layer4.1.conv2.weight"])


def in_the_manner_of_cifar_nets(model: Network) -> dict[str, Tensor]:
    """A network's state dict under the names of the CIFAR nets' layout, which is undone here step by step."""
    names = {"stem.conv.": "conv1.", "stem.norm.": "bn1.", "head.fc.": "linear.", "stages.0.": "layer1."}
    names |= {"stages.1.": "layer2.", "stages.2.": "layer3.", "stages.3.": "layer4.", ".branch.conv": ".conv"}
    names |= {".branch.norm": ".bn", ".shortcut.conv.": ".shortcut.0.", ".shortcut.norm.": ".shortcut.1."}
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value
    return state


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet20_cifar", {}), ("resnet20_cifar", {"shortcut": "B"}), ("resnet18", {"stem": "cifar", "num_classes": 10})],
)
def test_cifar_nets_with_and_without_projections(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    theirs, ours = create_model(name, **options), create_model(name, **options)
    state = in_the_manner_of_cifar_nets(theirs)
    assert not any(key in ours.state_dict() for key in state)
    assert layouts.recognise(state) is CIFAR
    assert layouts.load(ours, state)
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_whose_names_they_are_is_recognised(weights: dict[str, Tensor]) -> None:
    assert layouts.recognise(weights) is TORCHVISION
    assert layouts.recognise(create_model("resnet18").state_dict()) is RESIDUUM
    assert layouts.recognise(create_model("wrn16_8_cifar", width=1.0).state_dict()) is RESIDUUM
    assert layouts.classes_in(weights) == 1000


def test_then_a_new_head(weights: dict[str, Tensor]) -> None:
    model = create_model("resnet18")
    layouts.load(model, weights)
    model.reset_head(2)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 2)
