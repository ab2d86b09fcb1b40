"""Vectors of pictures: timm's for the same weights, and what the classifier sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import residuum
from residuum.errors import UsageError
from residuum.models import create_model
from residuum.models.embedding import embedder


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def randomised(model: nn.Module) -> None:
    """Gives norms statistics that a mistake in their order would show."""
    random = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.uniform_(-0.2, 0.2, generator=random)
            layer.running_var.uniform_(0.5, 2, generator=random)


def test_vectors_are_timms_for_the_same_weights(images: Tensor, tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18", num_classes=7)
    randomised(theirs)
    theirs.eval()
    file = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), file)
    model = residuum.create_model("resnet18", weights=file, num_classes=7)
    with torch.no_grad():
        seen = theirs.forward_features(images)
        expected = theirs.forward_head(seen, pre_logits=True)
        found = residuum.embedder(model)(images)
        maps = residuum.embedder(model, pooled=False)(images)
        first = residuum.embedder(model, stage=1)(images)
    assert found.shape == (3, 512)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps, seen.flatten(1), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        theirs_first = theirs.layer1(theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(images)))))
    torch.testing.assert_close(first, theirs_first.mean((2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("resnet20_cifar", 0.5), ("wrn16_8_cifar", 1), ("plain20_cifar", 1)])
def test_the_classifier_of_the_vectors_is_the_network(name: str, width: float, images: Tensor) -> None:
    """Of the pre-activation order too, whose last norm belongs to the head."""
    model = create_model(name, width=width)
    randomised(model)
    embed = embedder(model)
    classifier = [layer for layer in model.head.children() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(classifier(embed(images)), model.eval()(images))


def test_it_is_put_into_evaluation_mode_and_lets_gradients_through(images: Tensor) -> None:
    model = create_model("resnet20_cifar", width=0.25).train()
    embed = embedder(model)
    assert not model.training
    embed(images).sum().backward()
    assert model.stem[0].weight.grad is not None


def test_there_is_a_stage_for_every_feature_and_no_other(images: Tensor) -> None:
    model = create_model("resnet20_cifar", width=0.25).eval()
    features = model.features(images)
    for stage, feature in enumerate(features, start=1):
        whole = embedder(model, stage, pooled=False)(images)
        torch.testing.assert_close(whole, feature.flatten(1))
        torch.testing.assert_close(embedder(model, stage)(images), feature.mean((2, 3)))
    for stage in (0, 4):
        with pytest.raises(UsageError, match="from 1, the finest, to 3"):
            embedder(model, stage)


def test_a_fingerprint_is_of_the_weights_and_not_of_the_classifier() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", width=0.25)
    before = embedder(model).fingerprint
    model.reset_head(3)
    assert embedder(model).fingerprint == before
    assert embedder(model.to(memory_format=torch.channels_last)).fingerprint == before
    with torch.no_grad():
        next(iter(model.stages.parameters())).mul_(1.001)
    assert embedder(model).fingerprint != before
