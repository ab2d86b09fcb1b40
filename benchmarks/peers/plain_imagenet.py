"""A training step of timm's or torchvision's network as everybody's script has it, on random pictures that are ready.

Without flags it is float32, eager, the memory as it comes. --bf16 --channels-last --compile is what is advised for
speed. --memory takes one step and tells the most memory that the process had.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from arms import answer, rate_of, serve
from torch import nn


def network(library: str, name: str) -> nn.Module:
    if library == "timm":
        import timm

        model: nn.Module = timm.create_model(name, num_classes=10)
    else:
        import torchvision

        model = torchvision.models.get_model(name, num_classes=10)
    return model


def training(model: nn.Module, wanted: argparse.Namespace) -> Iterator[int]:
    """Trains for ever, and tells after each update of how many pictures it was."""
    images = torch.randn(wanted.batch_size, 3, wanted.img_size, wanted.img_size)
    labels = torch.arange(wanted.batch_size) % 10
    if wanted.channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    if wanted.compile:
        model = torch.compile(model, backend=wanted.compile)  # type: ignore[assignment]
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    model.train()
    while True:
        with torch.autocast("cpu", torch.bfloat16) if wanted.bf16 else contextlib.nullcontext():
            loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(labels)


def peak_mb() -> float:
    """Returns the most memory that this process has had; the one of `resource` would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("timm", "torchvision"))
    parser.add_argument("model")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND")
    parser.add_argument("--memory", action="store_true")
    asked = parser.parse_args()
    updates = training(network(asked.library, asked.model), asked)
    if asked.memory:
        next(updates)
        answer(value=peak_mb())
    else:
        serve(rate_of(updates, asked.steps))
