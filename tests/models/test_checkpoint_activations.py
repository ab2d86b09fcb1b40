"""Recomputing activations changes nothing but the memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from residuum.models.resnet import ResNet


def network(checkpoint_activations: bool, **options: Any) -> ResNet:
    torch.manual_seed(0)
    depths = options.pop("depths", (2, 2))
    return ResNet("basic", depths, channels=8, stem="cifar", checkpoint_activations=checkpoint_activations, **options)


def step(model: nn.Module) -> None:
    torch.manual_seed(1)
    F.cross_entropy(model(torch.randn(8, 3, 16, 16)), torch.arange(8)).backward()


@pytest.mark.parametrize("options", [{}, {"drop_path": 0.5}, {"order": "pre"}, {"shortcut": "A"}, {"shortcut": None}])
def test_the_same_gradients_and_statistics_bit_for_bit(options: dict[str, Any]) -> None:
    stored, recomputed = network(False, **options), network(True, **options)
    for _ in range(2):
        step(stored)
        step(recomputed)
    for (key, expected), weight in zip(stored.named_parameters(), recomputed.parameters(), strict=True):
        assert expected.grad is not None
        assert weight.grad is not None
        assert torch.equal(weight.grad, expected.grad), key
    for key, value in stored.state_dict().items():
        assert torch.equal(recomputed.state_dict()[key], value), key
    norms = [layer for layer in recomputed.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.momentum == 0.1 and layer.num_batches_tracked == 2 for layer in norms)


def test_compiled_too() -> None:
    stored, recomputed = network(False, depths=(1,)), network(True, depths=(1,))
    step(stored)
    step(torch.compile(recomputed, backend="aot_eager", fullgraph=True))
    for (key, expected), weight in zip(stored.named_parameters(), recomputed.named_parameters(), strict=True):
        torch.testing.assert_close(weight[1].grad, expected.grad, msg=key)
    torch.testing.assert_close(recomputed.state_dict(), stored.state_dict())


def kept_bytes(model: ResNet) -> int:
    """The bytes of the layers' outputs that are still there when the forward pass is over."""
    outputs: list[tuple[StorageWeakRef, int]] = []

    def note(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        storage = output.untyped_storage()
        outputs.append((StorageWeakRef(storage), storage.nbytes()))

    for layer in model.modules():
        layer.register_forward_hook(note)
    logits = model(torch.randn(8, 3, 16, 16))
    kept = {storage.cdata: size for storage, size in outputs if not storage.expired()}
    assert logits.requires_grad
    return sum(kept.values())


def test_only_the_blocks_inputs_are_kept() -> None:
    blocks, batch = 20, 8
    stored, recomputed = (kept_bytes(network(again, depths=(blocks,), num_classes=10)) for again in (False, True))
    one = batch * 8 * 16 * 16 * 4  # one layer's output: 8 channels of 16 by 16 numbers of 4 bytes
    pooled_and_logits = batch * (8 + 10) * 4
    # The stem's convolution and its relu; in each block both convolutions, the relu between them, and the output.
    assert stored - pooled_and_logits == one * (2 + 4 * blocks)
    # The last block's output is nobody's input that the backward pass would need.
    assert recomputed - pooled_and_logits == one * (2 + blocks - 1)


RESNET1202_STEP = """
import resource, sys, torch, torch.nn.functional as F
from residuum.models import create_model
images = int(sys.argv[1])
model = create_model("resnet1202_cifar", checkpoint_activations=True).to(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
pictures = torch.randn(images, 3, 32, 32).to(memory_format=torch.channels_last)
loss = F.cross_entropy(model(pictures), torch.arange(images) % 10)
loss.backward()
optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_resnet1202_takes_a_step_of_128_within_24_gb() -> None:
    part = 32
    done = subprocess.run(
        [sys.executable, "-c", RESNET1202_STEP, str(part)], capture_output=True, text=True, check=True, timeout=1800
    )
    # What a step keeps grows with its pictures, and the rest does not: four times all of it bounds the step of 128.
    assert int(done.stdout) * (128 // part) < 24e9
