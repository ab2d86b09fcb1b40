"""The family's figures in its papers, and its options, against hand formulas."""

from __future__ import annotations

import pytest
import torch

from residuum.models import MODELS, create_model
from residuum.models.complexity import measure
from residuum.models.resnet import ResNet


def params(name: str, **options: object) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in create_model(name, **options).parameters())


@pytest.mark.parametrize(
    ("layers", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]
)
def test_table_6(layers: int, millions: float) -> None:
    decimals = 1 if layers >= 110 else 2
    assert round(MODELS[f"resnet{layers}_cifar"].card.params / 1e6, decimals) == millions


@pytest.mark.parametrize(("layers", "giga"), [(50, 3.8), (101, 7.6), (152, 11.3)])
def test_table_1_with_the_papers_stride(layers: int, giga: float) -> None:
    name = f"resnet{layers}"
    with torch.device("meta"):
        model = create_model(name, stride_in="1x1")
    counted = measure(model, 224)
    # The paper cuts 3.86 off after the first decimal, and rounds 7.57 and 11.28 there.
    exact = counted.multiply_adds / 1e9
    assert giga in (round(exact, 1), int(10 * exact) / 10)
    assert counted.params == MODELS[name].card.params


@pytest.mark.parametrize(("name", "millions"), [("wrn28_10_cifar", 36.5), ("wrn16_8_cifar", 11.0)])
def test_wide_table_4(name: str, millions: float) -> None:
    assert round(MODELS[name].card.params / 1e6, 1) == millions


def test_shortcuts_differ_by_their_projections() -> None:
    def projection(channels: int, out_channels: int) -> int:
        return channels * out_channels + 2 * out_channels  # and the scale and shift of a batch norm

    changes = projection(64, 128) + projection(128, 256) + projection(256, 512)
    same = 3 * projection(64, 64) + 3 * projection(128, 128) + 5 * projection(256, 256) + 2 * projection(512, 512)
    plain, a, b, c = params("plain34"), *(params("resnet34", shortcut=kind) for kind in "ABC")
    assert a == plain
    assert b == a + changes
    assert c == b + same


def test_width_multiplies_the_3x3_convolutions() -> None:
    assert params("resnet50", width=2) == MODELS["wide_resnet50_2"].card.params
    assert params("resnet50", width=4, groups=64) == params("resnext50_32x4d", width=4, groups=64)
    with torch.device("meta"):
        assert create_model("resnet20_cifar", width=0.5).feature_channels == (8, 16, 32)
        assert create_model("wrn16_8_cifar").feature_channels == (128, 256, 512)
        assert create_model("wide_resnet50_2").feature_channels == (256, 512, 1024, 2048)


@pytest.mark.parametrize(("stem", "strides"), [("imagenet", (4, 8, 16)), ("cifar", (1, 2, 4))])
@pytest.mark.parametrize("order", ["post", "pre"])
def test_the_stem_decides_the_strides(stem: str, strides: tuple[int, ...], order: str) -> None:
    model = ResNet("basic", (1, 1, 1), channels=8, num_classes=3, stem=stem, order=order)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64)
    features = model.features(images)
    assert model.feature_strides == strides
    assert [each.shape[-1] for each in features] == [64 // stride for stride in strides]
    assert torch.equal(model.head(features[-1]), model(images))


def test_odd_sizes_fit_every_shortcut() -> None:
    for shortcut in ("A", "B", "C"):
        model = ResNet("bottleneck", (1, 1), channels=8, num_classes=3, stem="cifar", shortcut=shortcut)  # type: ignore[arg-type]
        assert [each.shape[-1] for each in model.features(torch.randn(2, 3, 29, 29))] == [29, 15]


def test_a_new_head_leaves_the_rest_alone() -> None:
    model = create_model("resnet20_cifar").double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_head(4)
    after = model.state_dict()
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 4)
    assert after["head.fc.weight"].shape == (4, 64)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items() if "stages" in key and "norm" not in key)
