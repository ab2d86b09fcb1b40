"""`accumulate = 0`: a batch goes through the network in as few parts as the memory of the device needs.

On a GPU the batch is tried, whole, then in two parts, in four, and so on. On a CPU, where whoever takes too much is
killed, what the network keeps for its backward pass is counted on a few pictures, and the rest is arithmetic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residuum.errors import ResourceError
from residuum.memory import available_bytes

if TYPE_CHECKING:
    from residuum.training.run import Run

GPU_SHARE = 0.9
"""How much of a GPU's memory a step may take: what is freed and taken anew does not always fit together again."""

CPU_SHARE = 0.5
"""How much of the memory that is to be had on a CPU: it is shared with whatever else runs."""

_BACKWARD = 2.0  # a step's memory as a multiple of what it keeps for the backward pass: gradients of the same sizes


def fit_batch(run: Run) -> None:
    """Sets the recipe's `accumulate`, which is 0, to the smallest number of parts that fits, and says so.

    Raises:
        ResourceError: not even two pictures at a time fit.
    """
    share = run.recipe.data.batch_size // run.world.size
    parts = 1
    while not all(row[0] for row in run.world.table([_fits(run, max(2, -(-share // parts)))])):
        if share // parts <= 2:
            raise ResourceError(
                f"Out of memory: two pictures of {run.recipe.data.img_size} pixels do not go through "
                f"{run.recipe.model.name} on {run.device}.",
                expected="Expected the network and two pictures to fit.",
                hint="Use a smaller --img-size, a smaller network, or --set model.checkpoint_activations=true",
            )
        parts *= 2
    run.recipe, run.parts_of_a_batch = replace(run.recipe, accumulate=parts), parts
    whole = "at once" if parts == 1 else f"in {parts} parts of {-(-share // parts)}"
    run.records.note(f"Batches of {run.recipe.data.batch_size} pictures go through the network {whole}: that fits.")


def _fits(run: Run, images: int) -> bool:
    if run.device.type == "cuda":
        return _tried(run, images)
    few = min(images, 4)
    return _BACKWARD * _kept_bytes(run, few) / few * images <= CPU_SHARE * available_bytes() / run.world.local_size


def _tried(run: Run, images: int) -> bool:
    """Whether a backward pass of so many pictures, and the optimizer's state, leave a tenth of the GPU's memory."""
    total = torch.cuda.get_device_properties(run.device).total_memory
    state = 2 * sum(parameter.numel() * parameter.element_size() for parameter in run.model.parameters())
    torch.cuda.reset_peak_memory_stats(run.device)
    try:
        _loss(run, images).backward()  # type: ignore[no-untyped-call]
        fits = torch.cuda.max_memory_reserved(run.device) + state <= GPU_SHARE * total
    except torch.OutOfMemoryError:
        fits = False
    run.optimizer.zero_grad(set_to_none=True)
    run.norms.put_back()
    torch.cuda.empty_cache()
    return fits


def _kept_bytes(run: Run, images: int) -> int:
    """Counts what the forward pass of so many pictures keeps for its backward pass, each piece of memory once."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _loss(run, images)
    run.norms.put_back()
    weights = {parameter.untyped_storage().data_ptr() for parameter in run.model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def _loss(run: Run, images: int) -> Tensor:
    side, channels = run.recipe.data.img_size, len(run.preprocessing.mean)
    run.norms.keep()
    run.model.train()
    inputs = torch.zeros((images, channels, side, side), device=run.device)
    if run.recipe.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with run.autocast():
        logits = run.model(inputs)
    labels = run.parts.train.labels[:1]  # one class each, or a number for every class
    shape, kind = (images, *labels.shape[1:]), torch.int64 if labels.ndim == 1 else torch.float32
    return run.criterion(logits.float(), torch.zeros(shape, dtype=kind, device=run.device))
