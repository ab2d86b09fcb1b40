"""Tests of this machine, in seconds: whether what residuum rests on computes what it must, on one device.

Each test takes the device and a new folder, goes through the same functions as training and prediction do, and returns
what it saw in a few words. It raises VerificationError where that is not what it must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from residuum import bundle, hardware, imaging
from residuum.deploy.predict import Predictor, load
from residuum.errors import VerificationError, WeightsError
from residuum.models import create_model, saved
from residuum.models.layers import Network
from residuum.recipe import Augment, Data, Model, OneCycle, PadCrop, Recipe, Sgd
from residuum.training.build import build
from residuum.training.loop import train_epoch
from residuum.training.run import Run

Test = Callable[[torch.device, Path], str]

LOSS_BOUND = 0.8
"""What the mean loss of the second pass over the digits stays under; guessing gives ln 10 = 2.30, and 0.1 to 0.4 is
reached, whatever the seed."""

_JPEG_LEVELS = 2.0
"""The mean error, of 255 levels, that JPEG at quality 95 may make in a drawing."""
_BF16_ERROR = 0.05
"""bf16 keeps 8 bits, 0.4 %; through twenty layers this grows to about one per cent."""
_SAME = 1e-3
"""The relative difference up to which two float32 results in another order of summation are the same."""

_SAVED_AS: Mapping[str, Mapping[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_lzw"},
}

_DIGITS = Recipe(
    name="selftest",
    epochs=2,
    model=Model("resnet20_cifar", width=0.5),
    data=Data("digits", img_size=8, resize_px=8, batch_size=64, val_fraction=0.0),
    optim=Sgd(lr=0.1, nesterov=True),
    schedule=OneCycle(),
)
_TWO_STEPS = Recipe(
    name="selftest",
    epochs=1,
    model=Model("resnet20_cifar", drop_path=0.1),
    data=Data("synthetic:64x4x16", img_size=16, resize_px=16, batch_size=32, val_fraction=0.0),
    augment=Augment(crop=PadCrop(px=2), rotate=10.0, mixup=0.2),
    optim=Sgd(lr=0.1, nesterov=True),
)


def tests(device: torch.device) -> dict[str, Test]:
    """Returns the tests that say something on `device`, by name."""
    found: dict[str, Test] = {
        "pictures": pictures,
        "repeatable": repeatable,
        "learning": learning,
        "bundle": bundles,
        "prediction": prediction,
    }
    if hardware.choose_precision("auto", device) == "bf16":
        found["bf16"] = bf16
    if device.type != "cpu":
        found["agreement"] = agreement
    return found


def pictures(_: torch.device, __: Path) -> str:
    """A drawing saved in each format that is opened comes back with the same pixels; from JPEG, nearly."""
    pixels = _drawing()
    failures = []
    for name in imaging.FORMATS:
        file = BytesIO()
        picture = PIL.Image.fromarray(pixels)
        if name == "GIF":
            picture = picture.convert("P", palette=PIL.Image.Palette.ADAPTIVE)
        picture.save(file, format=name, **_SAVED_AS.get(name, {}))
        seen = np.asarray(imaging.open_picture(file.getvalue(), name=f"drawing.{name.lower()}"), dtype=np.float64)
        if seen.shape != pixels.shape:
            failures.append(f"{name} comes back in {seen.shape}, not {pixels.shape}")
            continue
        error = float(np.abs(seen - pixels).mean())
        if error > (_JPEG_LEVELS if name == "JPEG" else 0):
            failures.append(f"{name} comes back {error:.2f} levels off")
    if failures:
        raise VerificationError(", ".join(failures))
    return f"{', '.join(imaging.FORMATS)} come back as they were saved"


def repeatable(device: torch.device, folder: Path) -> str:
    """Two steps, twice from one seed, give the same weights: on a CPU to the last bit."""
    first, second = (_trained_weights(_TWO_STEPS, folder / name, device) for name in ("first", "second"))
    if all(torch.equal(first[name], second[name]) for name in first):
        return "two training steps, twice from one seed: the same bits"
    difference = _difference(_joined(second), _joined(first))
    if device.type == "cpu" or not difference < _SAME:
        raise VerificationError(f"two training steps, twice from one seed, differ by {difference:.1g}")
    return f"two training steps, twice from one seed, differ by {difference:.1g}, as the order of sums on a GPU may"


def learning(device: torch.device, folder: Path) -> str:
    """Two passes over the 1,797 handwritten digits bring the loss down."""
    run = build(_DIGITS, _made(folder / "digits"), device)
    losses = _epoch_losses(run)
    if not losses[-1] < LOSS_BOUND:  # which is true of NaN, too
        raise VerificationError(
            f"the loss on digits went from {losses[0]:.2f} to {losses[-1]:.2f} in {run.step} steps, "
            f"not under {LOSS_BOUND}"
        )
    return f"the loss on digits fell from {math.log(10):.2f} to {losses[-1]:.2f} in {run.step} steps, {run.precision}"


def bundles(_: torch.device, folder: Path) -> str:
    """A bundle comes back as it was written, and a single flipped bit in any of its files is found out."""
    place = folder / "bundle"
    written = saved.arrays(_write(place).state_dict())
    tensors, card = bundle.read(place)
    if card["classes"] != ["a", "b", "c"] or tensors.keys() != written.keys():
        raise VerificationError("a bundle comes back with another content")
    if changed := [name for name, array in written.items() if not np.array_equal(tensors[name], array)]:
        raise VerificationError(f"a bundle comes back with other numbers in {changed[0]}")
    for name in (bundle.WEIGHTS, bundle.CARD, bundle.SUMS):
        _flip_a_bit(place / name)
        try:
            bundle.read(place)
        except WeightsError:
            pass
        else:
            raise VerificationError(f"a flipped bit in {name} goes unnoticed")
        _flip_a_bit(place / name)
    bundle.read(place)
    return "written, read back equal, and a flipped bit in each file noticed"


def prediction(device: torch.device, folder: Path) -> str:
    """Predictions in float32 are the same after a second load, to the last bit."""
    _write(folder / "model")
    first, second = (load(folder / "model", device=str(device)) for _ in range(2))
    alone = _probabilities(first)
    if not np.array_equal(alone, _probabilities(second)):
        raise VerificationError("the same picture gets other probabilities after a second load")
    if not np.isfinite(alone).all() or abs(alone.sum() - 1) > _SAME:
        raise VerificationError(f"the probabilities of a picture add up to {alone.sum():.4f}")
    return "the same probabilities after a second load"


def bf16(device: torch.device, folder: Path) -> str:
    """The network computes in bf16 what it does in float32, to a few per cent."""
    difference = _difference(_logits(folder / "bf16", device, "bf16"), _logits(folder / "fp32", device, "fp32"))
    if not difference < _BF16_ERROR:
        raise VerificationError(f"bf16 differs from float32 by {difference:.1%}, more than {_BF16_ERROR:.0%}")
    return f"differs from float32 by {difference:.1%}"


def agreement(device: torch.device, folder: Path) -> str:
    """The network computes in float32 on the device what it does on the processor."""
    difference = _difference(
        _logits(folder / "device", device, "fp32"), _logits(folder / "cpu", torch.device("cpu"), "fp32")
    )
    if not difference < _SAME:
        raise VerificationError(f"float32 on {device} differs from the processor's by {difference:.1g}")
    return f"float32 on {device} differs from the processor's by {difference:.1g}"


def _drawing() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns 96 colours in blocks of 8 x 8 pixels, [48, 128, 3]: few enough for GIF, and JPEG keeps them well."""
    rows, columns = np.mgrid[0:48, 0:128] // 8
    channels = (columns * 17, rows * 51, (rows + columns) % 2 * 200 + 20)
    return np.stack(channels, axis=-1).astype(np.uint8)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _trained_weights(recipe: Recipe, folder: Path, device: torch.device) -> dict[str, Tensor]:
    run = build(recipe, _made(folder), device)
    _epoch_losses(run)
    return {name: tensor.detach().cpu() for name, tensor in run.model.state_dict().items()}


def _epoch_losses(run: Run) -> list[float]:
    """Trains to the end, without checkpoints; returns the mean loss of each epoch."""
    losses = []
    while run.epoch < run.recipe.epochs:
        train_epoch(run)
        run.epoch += 1
        losses.append(run.epoch_loss / run.epoch_steps)
        run.epoch_loss, run.epoch_steps = 0.0, 0
    return losses


def _write(place: Path) -> Network:
    """Writes a bundle with a network as it is before training; returns the network."""
    options: dict[str, Any] = {"name": "resnet20_cifar", "num_classes": 3, "in_channels": 3}
    torch.manual_seed(0)
    model = create_model(**options)
    preprocessing = imaging.Preprocessing("RGB", 32, 32, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    card = {"model": options, "classes": ["a", "b", "c"], "preprocessing": preprocessing.as_dict()}
    bundle.write(place, saved.arrays(model.state_dict()), card)
    return model


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _probabilities(predictor: Predictor) -> np.ndarray[Any, np.dtype[np.float64]]:
    answer = predictor.predict(_drawing())
    return np.array([guess.prob for guess in sorted(answer.top, key=lambda guess: guess.label)])


def _logits(place: Path, device: torch.device, precision: hardware.Precision) -> Tensor:
    """Returns what one and the same network says of four pictures."""
    _write(place)
    predictor = load(place, device=str(device), precision=precision)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(), predictor.autocast():
        logits: Tensor = predictor.model(images)
    return logits.cpu().double()


def _joined(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def _difference(found: Tensor, expected: Tensor) -> float:
    """Returns the length of the difference, as a part of the length of what was expected."""
    return float((found - expected).norm() / expected.norm())
