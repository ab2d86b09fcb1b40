"""A network as it answers: the function of the modules, folded and fused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from residuum.models import create_model, inference, layers
from residuum.models.layers import Network

NETWORKS: dict[str, dict[str, object]] = {
    "resnet18": {"width": 0.25},
    "resnet50": {"width": 0.25},
    "plain18": {"width": 0.25},
    "resnext50_32x4d": {"width": 0.5},
    "resnet20_cifar": {},
    "resnet20_cifar ": {"shortcut": "C", "drop_path": 0.3},
    "wrn16_8_cifar": {"width": 1.0},
    "swift_resnet7_cifar": {"width": 0.25},
    "swift_resnet10_cifar": {"width": 0.25},
}


def network(name: str, **options: object) -> Network:
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = create_model(name.strip(), num_classes=7, **options)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model.to(memory_format=torch.channels_last).eval()


def images(count: int = 3, px: int = 64) -> Tensor:
    drawn = torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(1))
    return drawn.contiguous(memory_format=torch.channels_last)


def distance(exact: Tensor, found: Tensor) -> float:
    return float((exact - found).norm() / exact.norm())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "folded alone"])
def test_it_is_the_same_function_in_float32(name: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(inference, "_onednn_has", lambda dtype: False)  # noqa: ARG005
    model = network(name, **NETWORKS[name])
    answering = inference.answering(model, "fp32")
    with torch.inference_mode():
        for shown in (images(), images(1, 32), images(5, 40)):  # the weights are packed for the first of them
            given = shown.clone()
            exact = copy.deepcopy(model).double()(shown.double())
            found = answering(shown)
            assert found.dtype == torch.float32
            assert distance(exact, found.double()) < 1e-5
            assert torch.equal(shown, given)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_convolution_is_left_to_its_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would compute it in float32."""
    answering = inference.answering(network(name, **NETWORKS[name]), "bf16")

    def refuse(layer: nn.Conv2d, x: Tensor) -> Tensor:
        raise AssertionError(f"{layer} was called with {x.dtype}")

    for kind in (nn.Conv2d, layers.Conv2d):
        monkeypatch.setattr(kind, "forward", refuse)
    with torch.inference_mode():
        assert answering(images()).isfinite().all()


@pytest.mark.parametrize("name", ["resnet50", "resnet20_cifar", "wrn16_8_cifar", "swift_resnet7_cifar"])
def test_bfloat16_is_nearer_to_float32_than_autocast(name: str) -> None:
    model = network(name, **NETWORKS[name])
    shown = images(16)
    with torch.inference_mode():
        exact = model(shown)
        with torch.autocast("cpu", torch.bfloat16):
            usual = model(shown).float()
        found = inference.answering(model, "bf16")(shown)
    assert found.dtype == torch.float32
    assert 0 < distance(exact, found) < 1.1 * distance(exact, usual)


def test_folding_is_torchs() -> None:
    model = network("resnet18", width=0.25)
    conv, norm = model.stem.get_submodule("conv"), model.stem.get_submodule("norm")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    weight, bias = inference.folded(conv, norm)
    twin = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
    assert twin.bias is not None
    torch.testing.assert_close(weight, twin.weight.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(bias, twin.bias.detach(), rtol=1e-5, atol=1e-6)


def test_the_network_stays_what_it_is() -> None:
    model = network("resnet20_cifar")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        inference.answering(model, "bf16")(images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_watched_is_called() -> None:
    """Hooks on a block, inside of one and on a stage are all served, with what the module itself would have given."""
    model = network("resnet20_cifar")
    seen: list[Tensor] = []
    places = ("stages.0.1", "stages.1.0.branch.norm1", "stages.2")
    for place in places:
        model.get_submodule(place).register_forward_hook(lambda module, given, y: seen.append(y.clone()))  # noqa: ARG005
    with torch.inference_mode():
        exact = model(images())
        wanted, seen[:] = list(seen), []
        found = inference.answering(model, "fp32")(images())
    assert len(seen) == len(places)
    assert distance(exact, found) < 1e-5
    for one, other in zip(seen, wanted, strict=True):
        assert distance(other, one) < 1e-5
