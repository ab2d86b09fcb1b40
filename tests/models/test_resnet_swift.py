"""The swift family: patches that are white, convolutions that start as the identity, a shortcut in every stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import nn

from residuum.models import create_model
from residuum.models.layers import Block
from residuum.models.resnet_swift import SwiftResNet, Whitening
from residuum.recipe import Data, Model, Recipe
from residuum.training.build import build

CPU = torch.device("cpu")


def smooth(count: int = 600, seed: int = 0) -> torch.Tensor:
    """Pictures whose pixels resemble their neighbours and whose colours resemble each other."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    mixed = torch.einsum("ncij,dc->ndij", noise, torch.tensor([[1.0, 0.2, 0.1], [0.9, 0.5, 0.0], [0.8, 0.1, 0.4]]))
    return F.avg_pool2d(mixed, 3, 1)


def test_what_comes_out_of_the_whitening_is_white() -> None:
    images = smooth()
    layer = Whitening(3)
    layer.look_at(images)
    nn.init.zeros_(layer.bias)
    rows = layer(images).permute(0, 2, 3, 1).reshape(-1, 24)[:, :12].double()
    second_moments = rows.T @ rows / len(rows)
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)
    assert torch.allclose(second_moments, torch.diag(variances / (variances + 5e-4)), atol=1e-3)
    assert torch.equal(layer.weight[:12], -layer.weight[12:])


def test_its_filters_are_scikit_learns_principal_components() -> None:
    """Of patches and their negatives together, so that the mean is zero there too."""
    images = smooth()
    layer = Whitening(3)
    layer.look_at(images)
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double().numpy()
    found = PCA(whiten=True).fit(torch.cat([torch.from_numpy(patches), -torch.from_numpy(patches)]).numpy())
    filters = layer.weight[:12].reshape(12, 12).double()
    expected = torch.from_numpy(found.components_ / (found.explained_variance_[:, None] + 5e-4) ** 0.5)
    signs = torch.sign((filters * expected).sum(1, keepdim=True))
    assert torch.allclose(filters * signs, expected, rtol=5e-3, atol=5e-3)


def test_the_filters_are_kept_and_not_trained() -> None:
    model = create_model("swift_resnet10_cifar", width=0.0625)
    assert isinstance(model, SwiftResNet)
    model.look_at(smooth())
    assert "stem.conv.weight" in model.state_dict()
    assert "stem.conv.weight" not in dict(model.named_parameters())
    assert "stem.conv.bias" in dict(model.named_parameters())
    again = create_model("swift_resnet10_cifar", width=0.0625)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.get_buffer("stem.conv.weight"), model.get_buffer("stem.conv.weight"))


@pytest.mark.parametrize("name", ["swift_resnet7_cifar", "swift_resnet10_cifar", "swift_wide_resnet10_cifar"])
def test_every_stage_adds_an_identity_shortcut(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    for stage in model.stages:
        blocks = [layer for layer in stage.modules() if isinstance(layer, Block)]
        assert [type(block.shortcut) for block in blocks] == [nn.Identity]


def test_a_block_is_its_shortcut_and_gelu_where_the_branch_is_off() -> None:
    model = create_model("swift_resnet10_cifar", width=0.125, zero_init_last=True).eval()
    for stage, channels in zip(model.stages, model.feature_channels, strict=True):
        x = torch.rand(2, channels, 4, 4)
        block = stage.get_submodule("1")
        assert torch.equal(block(x), torch.nn.functional.gelu(x))


def test_widening_passes_the_old_channels_on() -> None:
    model = create_model("swift_resnet10_cifar")
    x = torch.randn(1, 64, 6, 6)
    widening = model.stages[1].get_submodule("0.conv")
    assert torch.equal(widening(x)[:, :64], x)


def test_a_new_run_whitens_for_its_own_pictures(tmp_path: Path) -> None:
    wanted = Recipe(
        epochs=1,
        precision="fp32",
        model=Model("swift_resnet10_cifar", width=0.0625),
        data=Data("synthetic:64x4x8", img_size=8, resize_px=8, batch_size=16, val_fraction=0.0),
    )
    run = build(wanted, tmp_path, CPU)
    images = torch.cat([batch.images for batch in run.train_loader.epoch(0)])  # all of them: the order is no matter
    expected = Whitening(3)
    expected.look_at(images)
    assert torch.allclose(run.model.get_buffer("stem.conv.weight").abs(), expected.weight.abs(), rtol=1e-3, atol=1e-4)
    resumed = build(wanted, tmp_path / "again", CPU, fresh=False)  # whose filters come from the checkpoint
    assert not torch.allclose(resumed.model.get_buffer("stem.conv.weight").abs(), expected.weight.abs(), rtol=1e-3)
