"""Foreign weights load whole, or not at all with everything that does not fit named."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from residuum.errors import WeightsError
from residuum.models import Network, create_model
from residuum.models.pretrained import load_torchvision


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = torchvision.models.resnet18(weights=None).state_dict()
    return state


def refused(model: Network, weights: dict[str, Tensor]) -> str:
    """The message, once it is sure that nothing was loaded."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_torchvision(model, weights)
    assert caught.value.exit_code == 4
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def test_another_number_of_classes_or_channels(weights: dict[str, Tensor]) -> None:
    message = refused(create_model("resnet18", num_classes=7, in_channels=1), weights)
    assert "fc.weight (shape (1000, 512), (7, 512) in the network)" in message
    assert "fc.bias (shape (1000,), (7,) in the network)" in message
    assert "conv1.weight (shape (64, 3, 7, 7), (64, 1, 7, 7) in the network)" in message
    assert "layer1" not in message
    assert "reset_head" in message


def test_missing_and_additional_keys(weights: dict[str, Tensor]) -> None:
    changed = {key: value for key, value in weights.items() if key != "layer2.0.bn1.running_var"}
    message = refused(create_model("resnet18"), changed | {"extra.weight": torch.zeros(1)})
    assert "stages.1.0.branch.norm1.running_var (not in the weights)" in message
    assert "extra.weight (not in the network)" in message


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
    load_torchvision(model, {key: value for key, value in weights.items() if "num_batches" not in key})
    assert torch.equal(model.state_dict()["stages.3.1.branch.conv2.weight"], weights["layer4.1.conv2.weight"])


def test_then_a_new_head(weights: dict[str, Tensor]) -> None:
    model = create_model("resnet18")
    load_torchvision(model, weights)
    model.reset_head(2)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 2)
