"""Weights that others have trained, as bundles: the same function, and the accuracy that they are known for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from residuum.data.class_names import CLASS_NAMES
from residuum.errors import UsageError, WeightsError
from residuum.models import create_model, saved
from residuum.models.convert import Seen, convert
from residuum.models.weights import WEIGHTS


def test_a_file_of_a_cifar_net_becomes_a_bundle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", num_classes=3)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 9.0}, tmp_path / "a.th")
    done = convert(tmp_path / "a.th", "resnet20_cifar", tmp_path / "b", ["x", "y", "z"])
    loaded = saved.load(tmp_path / "b")
    assert (loaded.classes, loaded.card["licence"], done.tensors) == (("x", "y", "z"), "unspecified", len(state))
    assert (loaded.preprocessing.img_size, loaded.preprocessing.resize_px) == (32, 32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded.model(images), model.eval()(images), atol=1e-6)
    assert saved.load(convert(tmp_path / "a.th", "resnet20_cifar", tmp_path / "c").folder).classes == ("0", "1", "2")
    with pytest.raises(UsageError, match="Expected 3 different names"):
        convert(tmp_path / "a.th", "resnet20_cifar", tmp_path / "d", ["x", "x", "z"])
    with pytest.raises(WeightsError, match=r"stages\.0\.3\.branch.*not in the weights"):
        convert(tmp_path / "a.th", "resnet32_cifar", tmp_path / "d")
    assert not (tmp_path / "d").exists()
    for nothing in ("none", str(tmp_path / "b")):
        with pytest.raises(UsageError, match="nothing to convert"):
            convert(nothing, "resnet20_cifar", tmp_path / "d")


@pytest.mark.parametrize("digits", [64, 8])
def test_a_file_that_is_known_is_recognised_whatever_its_name(
    digits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of most of torchvision's files no more is published than the eight digits in their names."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "download (1).bin")
    digest = hashlib.sha256((tmp_path / "download (1).bin").read_bytes()).hexdigest()
    name = "resnet18.imagenet1k_v1"
    monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], sha256=digest[:digits]))  # type: ignore[arg-type]
    done = convert(tmp_path / "download (1).bin", "resnet18", tmp_path / "b")
    assert done.layout == "torchvision and timm"
    loaded = saved.load(tmp_path / "b")
    assert loaded.card["licence"] == "BSD-3-Clause"
    assert loaded.card["weights"]["name"] == name
    assert (loaded.preprocessing.img_size, loaded.preprocessing.resize_px) == (224, 256)
    assert loaded.classes[:2] == ("tench", "goldfish")
    assert len(set(loaded.classes)) == 1000
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.model(images), theirs.eval()(images), atol=1e-5)


def test_a_body_without_a_classifier_is_no_bundle(tmp_path: Path) -> None:
    state = create_model("resnet20_cifar").state_dict()
    torch.save({k: v for k, v in state.items() if "fc" not in k}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no classifier"):
        convert(tmp_path / "a.pth", "resnet20_cifar", tmp_path / "b")


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "model", "top1"),
    [
        ("resnet20-12fca82f.th", "resnet20_cifar", 91.73),
        pytest.param("resnet56-4bfd9763.th", "resnet56_cifar", 93.39, marks=pytest.mark.slow),
    ],
)
def test_the_published_accuracy_on_cifar10(
    data_folder: Path, tmp_path: Path, file: str, model: str, top1: float
) -> None:
    """The accuracies are those of the files' author, github.com/akamaster/pytorch_resnet_cifar10."""
    from residuum.evaluation.trained import evaluate

    done = convert(data_folder / "weights" / file, model, tmp_path / "b", CLASS_NAMES["cifar10"])
    assert done.layout == "CIFAR nets"
    scores = evaluate(tmp_path / "b", str(data_folder / "cifar10"), "test", device="cpu")
    assert scores.images == 10_000
    assert scores.top1 == pytest.approx(top1, abs=0.015)


def test_what_is_known_of_a_file_gives_way_to_what_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create_model("resnet20_cifar").state_dict(), tmp_path / "a.pth")
    usual = convert(tmp_path / "a.pth", "resnet20_cifar", tmp_path / "b")
    said = convert(tmp_path / "a.pth", "resnet20_cifar", tmp_path / "c", seen=Seen(mean=(0.4, 0.5, 0.6), img_size=24))
    assert usual.card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert said.card["preprocessing"] == usual.card["preprocessing"] | {
        "mean": [0.4, 0.5, 0.6], "img_size": 24, "resize_px": 24,
    }  # fmt: skip
