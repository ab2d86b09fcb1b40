"""A network as its blocks: the same function whole, what is left without a block, gradients of paths that add up."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from residuum.lab.blocks import blocks_of, error_of, gradient_norms, keeps_shape, path_gradient, through, without
from residuum.models import create_model
from residuum.models.layers import Network
from residuum.models.resnet import ResNet


def pictures(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 3


def trained_like(model: Network) -> Network:
    """Gives batch norms statistics of their own, as training would."""
    torch.manual_seed(1)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def three() -> Network:
    """A residual net of three blocks, one a stage."""
    torch.manual_seed(0)
    return trained_like(ResNet("basic", (1, 1, 1), channels=8, num_classes=3, shortcut="A", stem="cifar"))


@pytest.mark.parametrize("name", ["resnet20_cifar", "plain20_cifar", "wrn16_8_cifar"])
def test_a_network_is_its_blocks(name: str) -> None:
    torch.manual_seed(0)
    model = trained_like(create_model(name, width=0.25, num_classes=3))
    images, _ = pictures()
    with torch.no_grad():
        assert torch.equal(through(model, blocks_of(model), images), model(images))
    assert len(blocks_of(model)) == {"resnet20_cifar": 9, "plain20_cifar": 9, "wrn16_8_cifar": 6}[name]


def test_without_its_branch_a_block_is_its_shortcut(three: Network) -> None:
    first, second, _ = blocks_of(three)
    x = torch.randn(2, 8, 8, 8)
    assert torch.equal(without(first)(x), x.relu())
    padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))  # option A: every second pixel, zeros on either side
    assert torch.equal(without(second)(x), padded.relu())
    assert [keeps_shape(block) for block in blocks_of(three)] == [True, False, False]


def test_without_a_block_a_plain_net_is_what_is_around_it() -> None:
    model = trained_like(create_model("plain20_cifar", width=0.25, num_classes=3))
    first, *_ = blocks_of(model)
    x = torch.randn(2, 4, 8, 8)
    assert without(first)(x) is x
    changing = next(block for block in blocks_of(model) if not keeps_shape(block))
    assert without(changing)(x).shape == changing(x).shape


def test_the_gradients_of_all_paths_add_up_to_the_gradient(three: Network) -> None:
    images, labels = pictures()
    subsets = itertools.chain.from_iterable(itertools.combinations(range(3), size) for size in range(4))
    added = sum(path_gradient(three, images, labels, set(branches)) for branches in subsets)
    x = three.stem(images).detach().requires_grad_()
    loss = F.cross_entropy(through(three, blocks_of(three), images), labels)  # the function itself, for its value
    y = x
    for block in blocks_of(three):
        y = block(y)
    (whole,) = torch.autograd.grad(F.cross_entropy(three.head(y), labels, reduction="sum"), x)
    assert isinstance(added, Tensor)
    assert torch.isfinite(loss)
    torch.testing.assert_close(added, whole, rtol=1e-4, atol=1e-6)


def test_gradient_norms_are_what_hooks_on_the_network_see() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", width=0.25, num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = pictures()
    norms = gradient_norms(model, images, labels)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    seen: list[Tensor] = []
    for block in blocks_of(model):
        block.register_full_backward_hook(lambda _, into, out: seen.append(out[0]))  # noqa: ARG005
    F.cross_entropy(model.train()(images), labels).backward()
    expected = [float(gradient.norm()) for gradient in reversed(seen)]
    assert norms[1:] == pytest.approx(expected, rel=1e-5)


def test_the_error_counts_what_is_wrong(three: Network) -> None:
    images, labels = pictures(7)
    with torch.no_grad():
        wrong = int((three(images).argmax(1) != labels).sum())
    assert error_of(three, blocks_of(three), images, labels, batch_size=3) == pytest.approx(100 * wrong / 7)
