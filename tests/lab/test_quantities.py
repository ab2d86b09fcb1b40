"""What is measured of nets, against closed forms and definitions: responses, similarity, slices, costs, orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from residuum.lab.costs import SIZES, TABLE_1, activation_bytes, anatomy
from residuum.lab.experiments.paths import kendall_tau
from residuum.lab.responses import response_stds
from residuum.lab.similarity import MinibatchCka, linear_cka, unbiased_hsic
from residuum.lab.slices import MOST_LOSS, losses_along, random_direction, share_not_convex
from residuum.models import create_model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_responses_are_the_standard_deviations_of_all_values() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", width=0.25, shortcut="B").train()
    model(noise(16, 3, 8, 8))
    model.eval()
    seen: dict[str, list[np.ndarray]] = {}
    handles = [
        layer.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out.numpy().copy()))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d) and "shortcut" not in name
    ]
    batches = noise(20, 3, 8, 8, seed=1).split(8)
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for handle in handles:
        handle.remove()
    expected = [np.concatenate(parts).astype(np.float64).std() for parts in seen.values()]
    assert len(expected) == 19  # the stem's and two a block
    assert response_stds(model, batches) == pytest.approx(expected, rel=1e-9)


def test_linear_cka_is_the_formula_and_sees_neither_rotation_nor_scale() -> None:
    x, y = noise(30, 5), noise(30, 7, seed=1)
    a, b = x.double().numpy() - x.double().numpy().mean(0), y.double().numpy() - y.double().numpy().mean(0)
    formula = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(formula, rel=1e-12)
    rotation, _ = torch.linalg.qr(noise(5, 5, seed=2))
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    one = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert linear_cka(one, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])) == pytest.approx(0, abs=1e-12)


def test_the_unbiased_hsic_is_the_mean_over_all_quadruples() -> None:
    x, y = noise(6, 3).double(), noise(6, 4, seed=1).double()
    k, l = x @ x.T, y @ y.T  # noqa: E741 (the papers' letters)
    quadruples = list(itertools.permutations(range(6), 4))
    expected = sum(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in quadruples) / len(quadruples)
    assert float(unbiased_hsic(torch.stack([k, l]))[0, 1]) == pytest.approx(float(expected), rel=1e-9)
    with pytest.raises(ValueError, match="needs 4 pictures"):
        unbiased_hsic(torch.ones(1, 3, 3))


def test_cka_of_batches_nears_cka_of_all() -> None:
    x = noise(4000, 6)
    y = x @ noise(6, 6, seed=1) + noise(4000, 6, seed=2)
    cka = MinibatchCka()
    for a, b in zip(x.split(250), y.split(250), strict=True):
        cka.add([a, b])
    matrix = cka.matrix()
    assert matrix.diagonal().tolist() == pytest.approx([1, 1])
    assert float(matrix[0, 1]) == pytest.approx(linear_cka(x, y), abs=0.01)
    independent = MinibatchCka()
    for a, b in zip(x.split(50), noise(4000, 6, seed=3).split(50), strict=True):
        independent.add([a, b])
    assert abs(float(independent.matrix()[0, 1])) < 0.01  # a biased estimate would be far above
    with pytest.raises(ValueError, match="no batch"):
        MinibatchCka().matrix()


def test_each_filter_of_a_direction_has_the_norm_of_the_weights_own() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", width=0.25)
    direction = random_direction(model, 3)
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            assert not direction[name].any()
            continue
        over = tuple(range(1, weight.ndim))
        squares = (each.square().sum(over) for each in (direction[name], weight.detach()))
        torch.testing.assert_close(*squares, rtol=1e-4, atol=1e-6)
    again, other = random_direction(model, 3), random_direction(model, 4)
    assert all(torch.equal(again[name], direction[name]) for name in direction)
    assert any(not torch.equal(other[name], direction[name]) for name in direction)


def test_losses_along_a_direction_are_those_of_the_moved_network() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", width=0.25, num_classes=3).eval()
    images, labels = noise(10, 3, 8, 8), torch.arange(10) % 3
    x, y = random_direction(model, 0), random_direction(model, 1)
    batches = [(images[:7], labels[:7]), (images[7:], labels[7:])]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    centre, moved = losses_along(model, x, y, [0.0, 0.5], 0.0, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert centre == pytest.approx(float(F.cross_entropy(model(images), labels)), rel=1e-5)
        for name, weight in model.named_parameters():
            weight += 0.5 * x[name]
        assert moved == pytest.approx(float(F.cross_entropy(model(images), labels)), rel=1e-5)
        model.get_submodule("head.fc").weight.fill_(math.nan)
    assert losses_along(model, x, y, [0.0], 0.0, batches) == [MOST_LOSS]


def test_a_bowl_is_convex_everywhere_and_waves_are_not() -> None:
    axis = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(axis, axis)
    assert share_not_convex((1 + x**2 + 2 * y**2).tolist()) == 0
    assert share_not_convex((3 + np.cos(6 * x)).tolist()) > 30
    assert share_not_convex((3 - x**2 - y**2)[::5, ::5].tolist()) == 100


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_anatomy_of_a_net_is_table_1s_and_torchvisions(name: str) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    found = anatomy(name)
    assert found["params"] == TABLE_1[name].params == weights.meta["num_params"]
    assert found["sizes"] == SIZES
    assert sum(layer[3] for layer in found["layers"]) == found["params"]
    assert sum(layer[4] for layer in found["layers"]) == found["multiply_adds"]


def test_what_a_backward_pass_needs_is_counted_once() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    picture, hidden = 3 * 16 * 16, 8 * 16 * 16  # the first input; relu's output, which the second convolution reads too
    assert activation_bytes(net, (2, 3, 16, 16)) == 4 * 2 * (picture + hidden)


def test_kendalls_tau_is_scipys() -> None:
    random = np.random.default_rng(0)
    for size in (2, 5, 27):
        order = random.permutation(size).tolist()
        assert kendall_tau(order) == pytest.approx(scipy.stats.kendalltau(range(size), order).statistic)
