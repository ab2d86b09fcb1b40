"""Muon: orthogonal updates against the singular value decomposition and torch's own Muon; SGD for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from residuum import recipe
from residuum.models import create_model
from residuum.training import optim
from residuum.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(16, 144), (64, 576), (64, 16), (1, 9)])
def test_an_update_keeps_singular_vectors_and_evens_out_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonalised(matrix) @ right.T
    assert torch.diagonal(inner).min() > 0.6  # what the iteration's source states: about 0.7 to 1.2
    assert torch.diagonal(inner).max() < 1.25
    assert (inner - torch.diag(torch.diagonal(inner))).abs().max() < 1e-3
    assert values.max() / values.min() > 1.3 or min(shape) == 1  # the matrix itself was not even


def test_a_matrix_moves_as_with_torchs_muon() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(40, 24, bias=False), nn.Linear(40, 24, bias=False)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    mine = Muon([{"params": ours.parameters(), "weight_decay": 0.1, "orthogonal": True}], lr=0.02, momentum=0.9)
    peer = torch.optim.Muon(
        theirs.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        images = torch.randn(200, 40)  # of full rank: what has no direction would be rounding alone
        for model, optimizer in ((ours, mine), (theirs, peer)):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
    moved = (theirs.weight - before).norm()
    assert (ours.weight - theirs.weight).norm() < 0.02 * moved  # torch's iterates in bfloat16, with 8 bits


def test_a_kernel_moves_as_the_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = nn.Parameter(kernel.detach().reshape(6, 36).clone())
    gradient = torch.randn(6, 4, 3, 3)
    kernel.grad, matrix.grad = gradient, gradient.reshape(6, 36).clone()
    Muon([{"params": [kernel, matrix], "orthogonal": True}], lr=0.1, momentum=0.9).step()
    assert torch.equal(kernel.detach().reshape(6, 36), matrix.detach())


def test_each_iteration_is_the_sources_quintic_of_every_singular_value() -> None:
    values = torch.tensor([3.0, 1.0, 0.2, 0.01])
    wanted = values / values.norm()
    for ns_steps in (1, 2, 3):
        wanted = 3.4445 * wanted - 4.7750 * wanted**3 + 2.0315 * wanted**5
        found = orthogonalised(torch.diag(values)[None], ns_steps)[0]
        torch.testing.assert_close(found, torch.diag(wanted), rtol=1e-4, atol=1e-6)
    weight = nn.Parameter(torch.zeros(4, 4))
    weight.grad = torch.diag(values)
    Muon([{"params": [weight], "orthogonal": True, "ns_steps": 3}], lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(weight.detach(), -0.4 * torch.diag(wanted), rtol=1e-4, atol=1e-6)


def test_weights_of_fixed_length_turn_by_the_rate_whatever_their_scale() -> None:
    """One step at a rate of `lr` adds `lr` of the length, in the direction of the update: the source's step, scaled."""
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    weights = [nn.Parameter(start.clone()), nn.Parameter(100 * start)]
    for weight in weights:
        weight.grad = gradient.clone()
    Muon([{"params": weights, "orthogonal": True, "fixed_length": True}], lr=0.3, momentum=0.9).step()
    torch.testing.assert_close(weights[0], weights[1])
    source = start * len(start) ** 0.5 / start.norm()  # airbench94_muon: to the length of an orthogonal matrix
    source -= 0.3 * orthogonalised(1.9 * gradient.reshape(1, 6, 36)).reshape(start.shape)
    torch.testing.assert_close(weights[0] / weights[0].norm(), source / source.norm())


def test_a_weight_of_fixed_length_that_is_zero_is_moved_by_an_update() -> None:
    weight = nn.Parameter(torch.zeros(3, 3))
    weight.grad = torch.eye(3)
    Muon([{"params": [weight], "orthogonal": True, "fixed_length": True}], lr=0.3, momentum=0.9).step()
    turned = orthogonalised(torch.eye(3)[None])[0]
    torch.testing.assert_close(weight.detach(), -0.3 * 0.2 * 3**0.5 * turned)


def test_the_rest_moves_as_with_sgd() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    mine = Muon([{"params": ours.parameters(), "weight_decay": 0.01}], lr=0.1, momentum=0.9)
    peer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(4):
        images = torch.randn(7, 5)
        for model, optimizer in ((ours, mine), (theirs, peer)):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_stages_weights_are_orthogonalised_and_nothing_else() -> None:
    model = create_model("resnet20_cifar")
    wanted = recipe.Muon(lr=0.1, plain_factor=0.25)
    optimizer = optim.build(wanted, model)
    hidden, *rest = optimizer.param_groups
    assert hidden["orthogonal"]
    assert {id(p) for p in hidden["params"]} == {id(p) for p in model.stages.parameters() if p.ndim == 4}
    assert not any(group["orthogonal"] for group in rest)
    together = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(together) == sorted(id(p) for p in model.parameters())
    optim.set_lr(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.05, 0.05]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 5e-4, 0.0]


@pytest.mark.parametrize(("wanted", "found"), [(None, 0.6), (0.85, 0.85)])
def test_what_is_not_orthogonalised_may_have_a_momentum_of_its_own(wanted: float | None, found: float) -> None:
    optimizer = optim.build(recipe.Muon(momentum=0.6, plain_momentum=wanted), create_model("resnet20_cifar"))
    hidden, *rest = optimizer.param_groups
    assert hidden["momentum"] == 0.6
    assert [group["momentum"] for group in rest] == [found, found]


def test_biases_may_have_a_factor_of_their_own() -> None:
    """Those of norms and convolutions; the classifier's moves with the rest."""
    model = create_model("swift_resnet10_cifar", width=0.125)
    optimizer = optim.build(recipe.Muon(lr=0.1, plain_factor=0.5, bias_factor=30.0), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optim.set_lr(optimizer, 0.1)
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    fast = {name for name, rate in rates.items() if rate == pytest.approx(3.0)}
    assert fast == {name for name in rates if name.endswith("bias")} - {"head.fc.bias"}
    assert rates["head.fc.bias"] == rates["head.fc.weight"] == rates["stages.0.1.branch.norm1.weight"] == 0.05
    assert rates["stages.0.1.branch.conv1.weight"] == 0.1
    decayed = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {name for name, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("factor", [None, 30.0])
def test_biases_may_decay(factor: float | None) -> None:
    model = create_model("swift_resnet10_cifar", width=0.125)
    wanted = recipe.Muon(lr=0.1, plain_factor=0.5, bias_factor=factor, bias_weight_decay=1e-3)
    optimizer = optim.build(wanted, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(p)]: (g["weight_decay"], g["lr_factor"]) for g in optimizer.param_groups[1:] for p in g["params"]
    }
    shifts = {name for name in names.values() if name.endswith("bias")} - {"head.fc.bias"}
    assert {name for name, found in decays.items() if found == (1e-3, factor or 0.5)} == shifts
    assert decays["head.fc.bias"] == decays["stages.0.1.branch.norm1.weight"] == (0.0, 0.5)
