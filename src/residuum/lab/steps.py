"""Steps of training a network on noise, in a process of their own, whose peak memory is that of the steps alone.

Run: python -m residuum.lab.steps NETWORK PICTURES STEPS
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import torch
import torch.nn.functional as F

from residuum import memory, recipe
from residuum.errors import ResourceError
from residuum.models import create_model
from residuum.training import optim


def measured(network: str, batch_size: int, steps: int, limit_gb: float) -> dict[str, Any]:
    """Returns what `take` returns, from a process of its own.

    Raises:
        ResourceError: it was killed, or memory did not suffice.
    """
    command = [sys.executable, "-m", "residuum.lab.steps", network, str(batch_size), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["its process was killed"])[-1]
        raise ResourceError(
            f"{network.removesuffix('_cifar')} did not take its steps: {reason}",
            expected=f"Expected {limit_gb:.0f} GB of free memory.",
            hint="Run it on a machine with more memory; what was measured before is kept.",
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def take(network: str, batch_size: int, steps: int) -> dict[str, Any]:
    """Returns the `losses` of so many steps on as many pictures of noise, with activation checkpointing, and the
    `peak_bytes` of this process (None where the system does not say). A loss that is not finite is None.
    """
    torch.manual_seed(0)
    model = create_model(network, checkpoint_activations=True).to(memory_format=torch.channels_last)
    optimizer = optim.build(recipe.Sgd(), model)
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    losses: list[float | None] = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images), torch.arange(batch_size) % model.num_classes)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        value = float(loss.detach())
        losses.append(value if math.isfinite(value) else None)
    return {"losses": losses, "peak_bytes": memory.peak_bytes()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(take(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
