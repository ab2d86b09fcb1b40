"""A network seen as its blocks: run through them in any order, without some, and with gradients of some paths only.

Nothing of the network changes: `through` calls stem, steps and head as the network does.
Source: Veit et al., arXiv:1605.06431 (deleting and swapping blocks; gradients of paths of one length).
Shapes: N pictures, C channels, H and W pixels, K classes, B blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residuum.models.layers import Block, Network, PadShortcut, PreActivationBlock

Step = Callable[[Tensor], Tensor]


def blocks_of(model: Network) -> list[Block | PreActivationBlock]:
    """Returns the blocks of all stages, in order."""
    return [block for block in model.stages.modules() if isinstance(block, Block | PreActivationBlock)]


def through(model: Network, steps: Sequence[Step], images: Tensor) -> Tensor:
    """Returns the logits [N, K] of stem, `steps` in the place of the blocks, and head."""
    x: Tensor = model.stem(images)
    for step in steps:
        x = step(x)
    logits: Tensor = model.head(x)
    return logits


def keeps_shape(block: Block | PreActivationBlock) -> bool:
    """Whether a block's output has the shape of its input, so that it can be left out of a plain net."""
    convs = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
    return all(conv.stride == (1, 1) for conv in convs) and convs[0].in_channels == convs[-1].out_channels


def without(block: Block | PreActivationBlock) -> Step:
    """Returns what is left of a block without its branch: its shortcut, or nothing in a plain net.

    Where a plain block changes the shape, an option-A shortcut takes its place, as it has none of its own.
    """
    if isinstance(block, PreActivationBlock):
        return lambda x: _shortcut(block, x)
    if block.shortcut is not None:
        return lambda x: F.relu(_shortcut(block, x))
    if keeps_shape(block):
        return lambda x: x
    convs = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
    return PadShortcut(convs[0].in_channels, convs[-1].out_channels, convs[0].stride[0])


def one_way(block: Block | PreActivationBlock, *, branch: bool) -> Step:
    """Returns the block as it is, whose gradient goes down the branch alone, or down the shortcut alone."""

    def step(x: Tensor) -> Tensor:
        activated = block.activate(x) if isinstance(block, PreActivationBlock) else x
        down_branch, down_shortcut = block.branch(activated), _shortcut(block, x)
        y: Tensor = down_branch + down_shortcut.detach() if branch else down_branch.detach() + down_shortcut
        return F.relu(y) if isinstance(block, Block) else y

    return step


def path_gradient(model: Network, images: Tensor, labels: Tensor, branches: Collection[int]) -> Tensor:
    """Returns the gradient of each picture's own loss at the stem's output, [N, C, H, W], down one path alone: through
    the `branches` of the blocks with these numbers, and the shortcuts of all others.

    The forward pass is the whole network's, in evaluation mode; over all paths, the gradients add up to the whole one.
    """
    x = model.stem(images).detach().requires_grad_()
    y = x
    for number, block in enumerate(blocks_of(model)):
        y = one_way(block, branch=number in branches)(y)
    loss = F.cross_entropy(model.head(y), labels, reduction="sum")
    gradient: Tensor = torch.autograd.grad(loss, x)[0]
    return gradient


def gradient_norms(model: Network, images: Tensor, labels: Tensor) -> list[float]:
    """Returns the norm of dL/dx at the input of every block and at the last one's output, [B + 1].

    L is the mean cross-entropy over the pictures; batch norm uses their statistics, as in training. The model stays as
    it is.
    """
    model = copy.deepcopy(model).train()
    x: Tensor = model.stem(images)
    inputs = [x]
    for block in blocks_of(model):
        x = block(x)
        inputs.append(x)
    gradients = torch.autograd.grad(F.cross_entropy(model.head(x), labels), inputs)
    return [float(gradient.norm()) for gradient in gradients]


@torch.no_grad()
def error_of(model: Network, steps: Sequence[Step], images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Returns the error, in percent, with `steps` in the place of the blocks; the model is in evaluation mode."""
    wrong = 0
    for start in range(0, len(images), batch_size):
        logits = through(model, steps, images[start : start + batch_size])
        wrong += int((logits.argmax(1) != labels[start : start + batch_size]).sum())
    return 100 * wrong / len(images)


def _shortcut(block: Block | PreActivationBlock, x: Tensor) -> Tensor:
    """Returns what a block adds to its branch; ValueError for a plain block, which adds nothing."""
    if block.shortcut is None:
        raise ValueError("a plain block has no shortcut")
    if isinstance(block, PreActivationBlock) and not isinstance(block.shortcut, nn.Identity):
        x = block.activate(x)
    y: Tensor = block.shortcut(x)
    return y
