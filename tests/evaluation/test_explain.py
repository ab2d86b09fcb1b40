"""Heat maps against closed forms: the class activation map, gradients by hand, and occlusion done by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from residuum.errors import DivergedError, UsageError
from residuum.evaluation.explain import COVERED, explain, stage_of
from residuum.models import create_model
from residuum.models.layers import Network


@pytest.fixture(scope="module")
def model() -> Network:
    """A residual net that ends in pooling and one linear layer, whose norms have seen pictures."""
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", num_classes=4, width=0.5)
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(torch.randn(16, 3, 24, 24))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def enlarged(coarse: Tensor) -> Any:
    return functional.interpolate(coarse[:, None], size=(24, 24), mode="bilinear", align_corners=False)[:, 0].numpy()


def test_grad_cam_of_the_last_stage_is_the_class_activation_map(model: Network, images: Tensor) -> None:
    """Zhou et al., equation 2: the last map's channels, weighed by the class's row of the classifier."""
    with torch.no_grad():
        features, fc = model.features(images)[-1], model.head.get_submodule("fc")
        cam = torch.einsum("kd,ndhw->nkhw", fc.weight, features)  # type: ignore[arg-type]
        logits = model(images)
    torch.testing.assert_close(cam.mean((2, 3)) + fc.bias, logits, rtol=1e-4, atol=1e-5)  # type: ignore[operator]
    places = features.shape[2] * features.shape[3]
    for classes in ([0, 1, 2], [3, 3, 0]):
        found = explain(model, images, classes)
        expected = enlarged(cam[range(3), classes].relu() / places)
        assert expected.max() > 0
        np.testing.assert_allclose(found.maps, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.logits, logits.numpy(), rtol=1e-4, atol=1e-5)
        assert found.classes.tolist() == classes


def test_without_classes_it_is_the_predicted_ones(model: Network, images: Tensor) -> None:
    found = explain(model, images)
    assert found.classes.tolist() == found.logits.argmax(1).tolist()
    np.testing.assert_array_equal(found.maps, explain(model, images, found.classes.tolist()).maps)
    assert found.maps.shape == (3, 24, 24)
    assert found.maps.dtype == np.float32
    assert (found.maps >= 0).all()


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("method", ["grad-cam", "layer-cam"])
def test_any_stages_map_is_that_of_its_formula(model: Network, images: Tensor, stage: int, method: Any) -> None:
    """The gradient is taken here through the rest of the network, from a leaf, one picture at a time."""
    for row, image in enumerate(images):
        with torch.no_grad():
            features = model.features(image[None])[stage - 1]
        leaf = features.clone().requires_grad_()
        x = leaf
        for later in model.stages[stage:]:
            x = later(x)
        (gradient,) = torch.autograd.grad(model.head(x)[0, 2], leaf)
        weights = gradient.mean((2, 3), keepdim=True) if method == "grad-cam" else gradient.clamp(min=0)
        expected = enlarged((weights * features).sum(1).clamp(min=0))
        found = explain(model, images, [2, 2, 2], method=method, stage=stage).maps[row]
        np.testing.assert_allclose(found, expected[0], rtol=1e-3, atol=1e-6)


def test_a_pre_activation_net_is_explained_too(images: Tensor) -> None:
    model = create_model("wrn16_8_cifar", num_classes=3, width=0.5)
    for method in ("grad-cam", "layer-cam"):
        assert explain(model, images, [0, 1, 2], method=method).maps.max() > 0  # type: ignore[arg-type]


class Corner(nn.Module):
    """A network whose first class lives off one square of the picture alone, and whose second never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, :, 4:8, 14:18].mean((1, 2, 3))
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def test_occlusion_is_how_much_is_lost_by_covering() -> None:
    images = torch.rand(2, 3, 21, 28, generator=torch.Generator().manual_seed(2)) + 1
    network: Any = Corner()
    found = explain(network, images, [0, 0], method="occlusion").maps
    assert found.shape == (2, 21, 28)
    probs = torch.softmax(network(images), 1)[:, 0]
    for row, image in enumerate(images):
        total, covers = np.zeros((21, 28)), np.zeros((21, 28))
        for top in (*range(18), 18):  # squares of 21 / 7 = 3 rows, one row apart
            for left in (*range(0, 24, 2), 24):  # and of 28 / 7 = 4 columns, two apart
                covered = image.clone()
                covered[:, top : top + 3, left : left + 4] = 0
                lost = probs[row] - torch.softmax(network(covered[None]), 1)[0, 0]
                total[top : top + 3, left : left + 4] += float(lost)
                covers[top : top + 3, left : left + 4] += 1
        assert COVERED == 7
        assert covers.min() > 0
        np.testing.assert_allclose(found[row], total / covers, atol=1e-6)
        assert found[row][:, :8].max() < 1e-6, "what is never looked at costs nothing"
    other = explain(network, images, [1, 1], method="occlusion").maps
    assert other.max() < 1e-6, "where covering helps, nothing speaks for it"


@pytest.mark.parametrize("side_px", [1, 3, 8, 32])
def test_occlusion_leaves_nothing_out(side_px: int) -> None:
    class Sum(Corner):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.sum((1, 2, 3)), torch.zeros(len(images))], dim=1)

    network: Any = Sum()
    found = explain(network, torch.full((1, 1, side_px, side_px), 0.01), [0], method="occlusion").maps
    assert found.min() > 0


def test_the_network_is_left_as_it_was(model: Network, images: Tensor) -> None:
    model.train()
    frozen = model.stem.get_submodule("conv").weight
    frozen.requires_grad_(False)  # type: ignore[operator]
    before = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        explain(model, images)
        assert model.training
        assert [parameter.requires_grad for parameter in model.parameters()] == before
        assert all(parameter.grad is None for parameter in model.parameters() if parameter.requires_grad)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert not model.stages[-1]._forward_hooks
    finally:
        frozen.requires_grad_(True)  # type: ignore[operator]
        model.eval()


def test_it_works_where_gradients_are_off_and_under_autocast(model: Network, images: Tensor) -> None:
    plain = explain(model, images, [0, 0, 0])
    with torch.no_grad():
        np.testing.assert_array_equal(explain(model, images, [0, 0, 0]).maps, plain.maps)
    rough = explain(model, images, [0, 0, 0], autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert not np.array_equal(rough.maps, plain.maps)
    np.testing.assert_allclose(rough.maps, plain.maps, atol=0.3 * plain.maps.max())


@pytest.mark.parametrize(
    ("method", "stage", "said"),
    [
        ("gradcam", None, "'gradcam'"),
        ("grad-cam", 4, "stage 4"),
        ("layer-cam", 0, "stage 0"),
        ("occlusion", 1, "stage 1"),
    ],
)
def test_what_does_not_exist_is_refused(model: Network, images: Tensor, method: Any, stage: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        explain(model, images, method=method, stage=stage)
    assert caught.value.expected
    assert caught.value.hint
    assert stage_of(model, "grad-cam", None) == 3


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_answers_that_are_not_finite_are_refused(model: Network, images: Tensor, method: Any) -> None:
    with pytest.raises(DivergedError):
        explain(model, images * torch.nan, [0, 0, 0], method=method)
