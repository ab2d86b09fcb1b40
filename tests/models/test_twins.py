"""The networks against torchvision's of the same name: the same function of the same weights, and the published counts.

Weights and running statistics are random: an error in the order of layers or in a renaming does not cancel.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from residuum.models import MODELS, Network, create_model, foreign, layouts
from residuum.models.layouts import TORCHVISION

TWINS = [entry.name for entry in MODELS.entries() if entry.card.twin]


def torchvision_twin(name: str) -> nn.Module:
    """torchvision's network with random convolutions, norms and running statistics."""
    library, _, twin = (MODELS[name].card.twin or "").partition(":")
    assert library == "torchvision"
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(twin, weights=None)
    model.to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = (6 / layer.weight[0].numel()) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=random)
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.bias, -1, 1, generator=random)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.2, 1, generator=random)
            nn.init.uniform_(layer.bias, -0.5, 0.5, generator=random)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            assert layer.num_batches_tracked is not None
            layer.running_mean.uniform_(-0.5, 0.5, generator=random)
            layer.running_var.uniform_(0.5, 2, generator=random)
            layer.num_batches_tracked.fill_(7)
    return model


def twins(name: str) -> tuple[Network, nn.Module]:
    theirs = torchvision_twin(name)
    with torch.device("meta"):
        ours = create_model(name)
    ours.to_empty(device="cpu")
    layouts.load(ours, theirs.state_dict())
    return ours, theirs


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_all_of_torchvisions_residual_nets_are_here() -> None:
    published = [name for name in torchvision.models.list_models(torchvision.models) if "resne" in name]
    assert sorted(TWINS) == sorted(published)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(images)
    return found


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one with room: files of 500 MB are written and read once."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30:
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            yield Path(folder)
    else:
        yield tmp_path


@pytest.mark.parametrize("name", TWINS)
def test_the_same_function_as_the_twin_through_the_files_of_either_library(name: str, roomy: Path) -> None:
    theirs, images = torchvision_twin(name), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = logits(theirs, images)
    assert expected.std() > 0.1
    torch.save(theirs.state_dict(), roomy / "torchvision.pth")
    assert difference(logits(from_file(name, roomy / "torchvision.pth"), images), expected) <= 1e-5
    (roomy / "torchvision.pth").unlink()
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with torch.device("meta"):
        timms = timm.create_model(name)
    timms.load_state_dict(theirs.state_dict(), assign=True)
    assert difference(logits(timms, images), expected) <= 1e-5
    safetensors.torch.save_file(timms.state_dict(), roomy / "timm.safetensors")
    assert difference(logits(from_file(name, roomy / "timm.safetensors"), images), expected) <= 1e-5
    (roomy / "timm.safetensors").unlink()


def from_file(name: str, path: Path) -> Network:
    with torch.device("meta"):
        ours = create_model(name)
    ours.to_empty(device="cpu")
    assert layouts.load(ours, foreign.read(path))
    return ours


def test_the_same_gradients_and_running_statistics_as_the_twin() -> None:
    ours, theirs = twins("resnet50")
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 20, 300, 999])
    for model in (ours, theirs):
        F.cross_entropy(model.train()(images), labels).backward()
    weights = dict(ours.named_parameters())
    for key, expected in theirs.named_parameters():
        gradient = weights[TORCHVISION.rename(key)].grad
        assert gradient is not None
        assert expected.grad is not None
        assert difference(gradient, expected.grad) <= 1e-5, key
    buffers = dict(ours.named_buffers())
    for key, statistic in theirs.named_buffers():
        assert difference(buffers[TORCHVISION.rename(key)].double(), statistic.double()) <= 1e-5, key


@pytest.mark.parametrize("name", TWINS)
def test_the_counts_are_those_that_torchvision_publishes(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    card = MODELS[name].card
    assert card.params == published["num_params"]
    assert round(card.multiply_adds / 1e9, 3) == published["_ops"]
