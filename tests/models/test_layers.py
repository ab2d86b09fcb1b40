"""Blocks, shortcuts, drop path, initialisation: identities that hold by their definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from residuum.models import create_model
from residuum.models.layers import Block, DropPath, PadShortcut, PreActivationBlock, basic_branch
from residuum.models.resnet import ResNet


def branch(channels: int = 16, stride: int = 1) -> list[nn.Conv2d]:
    return basic_branch(16, channels, stride, width=1, groups=1, stride_in="3x3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_option_a_pads_both_sides(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 16, 9, 8, dtype=dtype).to(memory_format=memory_format)
    shortcut = PadShortcut(16, 32, 2)
    y = shortcut(x)
    assert not list(shortcut.parameters())
    assert y.shape == (2, 32, 5, 4)
    assert y.is_contiguous(memory_format=memory_format)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_a_block_is_its_formula() -> None:
    x = torch.randn(4, 16, 8, 8).relu()
    for shortcut in ("A", "B", "C"):
        block = Block(branch(32, 2), shortcut, 0.0).eval()  # type: ignore[arg-type]
        assert block.shortcut is not None
        assert torch.equal(block(x), F.relu(block.branch(x) + block.shortcut(x)))
    plain = Block(branch(32, 2), None, 0.0).eval()
    assert torch.equal(plain(x), F.relu(plain.branch(x)))


@pytest.mark.parametrize("order", ["post", "pre"])
def test_zero_init_last_starts_every_block_as_its_shortcut(order: str) -> None:
    model = ResNet("basic", (2, 2), channels=16, stem="cifar", order=order, zero_init_last=True)  # type: ignore[arg-type]
    blocks = [each for each in model.modules() if isinstance(each, Block | PreActivationBlock)]
    assert len(blocks) == 4
    for block in blocks:
        x = torch.randn(4, next(iter(block.branch)).in_channels, 8, 8).relu()
        if isinstance(block.shortcut, nn.Identity):
            assert torch.equal(block(x), x)
        elif isinstance(block, PreActivationBlock):
            assert torch.equal(block(x), block.shortcut(block.activate(x)))
        else:
            assert block.shortcut is not None
            assert torch.equal(block(x), F.relu(block.shortcut(x)))


def test_a_preactivation_identity_is_never_touched() -> None:
    block = PreActivationBlock(branch(), "B", 0.0).eval()
    x = torch.randn(2, 16, 8, 8)
    kept = x.clone()
    assert torch.equal(block(x) - x, (block.branch(block.activate(x)) + x) - x)
    assert torch.equal(x, kept)


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    for model in (create_model("resnet20_cifar"), create_model("resnext50_32x4d")):
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is None
                count = layer.weight.numel()
                expected = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
                # The standard deviation of a sample of normal numbers varies by 1 / sqrt(2 count) of itself.
                assert abs(layer.weight.std().item() / expected - 1) < 5 / math.sqrt(2 * count), name
                assert abs(layer.weight.mean().item() / expected) < 5 / math.sqrt(count), name
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.weight.eq(1).all()
                assert layer.bias.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drop_path_keeps_the_expectation(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rate, draws = 0.3, 20_000
    drop = DropPath(rate)
    x = torch.ones(draws, 2, 3, 3, dtype=dtype)
    y = drop(x)
    scale = torch.tensor(1 / (1 - rate), dtype=dtype)
    whole = y.flatten(1)
    assert torch.equal(whole, whole[:, :1].expand_as(whole))
    assert torch.equal(y.unique(), torch.stack((torch.zeros((), dtype=dtype), scale)))
    kept = (whole[:, 0] > 0).double().mean().item()
    assert abs(kept - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / draws)
    assert torch.equal(drop.eval()(x), x)


def test_a_blocks_mean_over_draws_is_the_block_without_drops() -> None:
    torch.manual_seed(0)
    rate, draws = 0.5, 4000
    block = PreActivationBlock(branch(), "B", rate).eval()
    x = torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        expected = block(x)
        part = (expected - x).abs()
        block.branch.get_submodule("drop_path").train()
        mean = block(x.expand(draws, -1, -1, -1)).double().mean(0, keepdim=True)
    # A kept branch counts 1 / (1 - rate) times, so that one draw varies by sqrt(rate / (1 - rate)) of the branch.
    bound = 5 * math.sqrt(rate / (1 - rate) / draws) * part + 1e-5
    assert ((mean - expected).abs() < bound).all()


def test_drop_path_grows_linearly_with_depth() -> None:
    model = create_model("resnet20_cifar", drop_path=0.45)
    rates = [layer.rate for layer in model.modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0.45 * block / 9 for block in range(1, 10)])
    assert not any(isinstance(layer, DropPath) for layer in create_model("resnet20_cifar").modules())
    assert create_model("resnet20_cifar", drop_path=0.45).state_dict().keys() == model.state_dict().keys()
