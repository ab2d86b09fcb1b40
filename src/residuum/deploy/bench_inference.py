"""What the measurement of inference runs: a network, its pictures, and every mode that this machine computes in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from residuum import bundle, hardware, imaging
from residuum.data.loading import EvalLoader
from residuum.data.sources import open_single
from residuum.errors import UsageError, did_you_mean
from residuum.imaging import Preprocessing
from residuum.models import MODELS, Network, create_model, inference, saved
from residuum.models.weights import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Mode:
    """A way to compute a network's answers [N, K] from pictures [N, C, H, W], and what it is in words."""

    forward: Callable[[Tensor], Tensor]
    meaning: str


def opened(model: str, device: torch.device, img_size: int | None) -> tuple[Network, Preprocessing, str]:
    """Returns the network of a bundle, or one of that name with random weights, its preprocessing and its name.

    Raises:
        UsageError: there is neither, or a bundle is to have another size than it was trained for.
        WeightsError: the bundle cannot be used.
    """
    if bundle.is_there(Path(model)):
        trained = saved.load(Path(model), device)
        if img_size not in (None, trained.preprocessing.img_size):
            raise UsageError(
                f"The bundle {model} is for pictures of {trained.preprocessing.img_size} pixels, not {img_size}.",
                expected="Expected --img-size with a network's name only.",
                hint="Leave out --img-size.",
            )
        return trained.model, trained.preprocessing, str(trained.card["model"]["name"])
    if model not in MODELS:
        raise UsageError(
            f"No network and no bundle is called {model!r}.",
            expected=did_you_mean(model, MODELS.names()) or "Expected a name, or the folder best/ of a run.",
            hint="List the networks with: residuum models",
        )
    side = img_size or MODELS[model].card.input_px
    network = create_model(model).to(device).to(memory_format=torch.channels_last).eval()
    look = Preprocessing("RGB", side, side, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    return network, look, model


def batches_for(
    preprocessing: Preprocessing, data: str | None, batch_size: int, steps: int, device: torch.device
) -> list[Tensor]:
    """Returns at most `steps` batches, float32 [N, C, S, S] on the device: of the first pictures of `data`, or two of
    random pictures.

    Raises:
        DataError: the pictures cannot be used.
    """
    if data is not None:
        images = open_single(data, None, None, mode=preprocessing.mode)
        loader = EvalLoader(images, preprocessing, batch_size, device=device, channels_last=True)
        return [batch.images for batch in islice(loader, steps)]
    side, random = preprocessing.img_size, np.random.default_rng(0)
    shape = (batch_size, preprocessing.channels, side, side)
    noise = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(2)]
    made = [torch.from_numpy(imaging.normalise(pixels, preprocessing)) for pixels in noise]
    return [images.to(device, memory_format=torch.channels_last) for images in made]


def modes_of(network: Network, device: torch.device) -> dict[str, Mode]:
    """Returns every mode that this machine has instructions for, float32 first, as `predict` computes in it."""
    hardware.autocast("fp32", device)  # which makes float32 what it says on GPUs
    formats: dict[Literal["fp32", "bf16", "fp16"], str] = {
        "fp32": "float32, as predict and evaluate compute by default"
    }
    if hardware.choose_precision("auto", device) == "bf16":
        formats["bf16"] = "bfloat16: --precision bf16"
    if device.type == "cuda":
        formats["fp16"] = "float16: --precision fp16"
    return {name: Mode(inference.answering(network, name), meaning) for name, meaning in formats.items()}
