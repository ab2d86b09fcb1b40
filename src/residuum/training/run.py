"""A run: all that the loop works on, and `build`, the only factory of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residuum import hardware, imaging, recipe
from residuum.data.loading import EvalLoader, TrainLoader, verify
from residuum.data.mixing import Mixing, mixing_of
from residuum.data.sets import ImageSet
from residuum.data.sources import Parts, open_parts, statistics
from residuum.errors import DivergedError, RecipeError
from residuum.evaluation.evaluate import Predictions, Scores
from residuum.models import create_model
from residuum.models.layers import Network
from residuum.training import averaging, checkpoint, losses, optim, resolution, schedule
from residuum.training.records import Listener, Records
from residuum.training.stop import Stop

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
"""The usual mean and standard deviation of ImageNet's pictures, on the 0..1 scale (torchvision's weights' metadata)."""


@dataclass(frozen=True)
class Result:
    """How a finished run fared: `part` is "test" where the set has such a part, else "val", else "train"."""

    part: str
    scores: Scores
    predictions: Predictions
    images: ImageSet


@dataclass
class Run:
    """One training run, in two halves: what does not change, and what does, all of which a checkpoint holds."""

    recipe: recipe.Recipe
    folder: Path
    parts: Parts
    preprocessing: imaging.Preprocessing
    device: torch.device
    precision: str
    autocast: hardware.Autocast
    eval_autocast: hardware.Autocast
    train_loader: TrainLoader
    val_loader: EvalLoader | None
    schedule: schedule.Schedule
    criterion: Callable[[Tensor, Tensor], Tensor]
    resize: resolution.Resize
    mix: Mixing
    records: Records
    model_card: dict[str, Any]
    compiled: Callable[[Tensor], Tensor]
    skipped: dict[str, str]
    stop: Stop = field(default_factory=Stop)

    model: Network = field(kw_only=True)
    averaged: averaging.Averaged = field(kw_only=True)
    optimizer: torch.optim.Optimizer = field(kw_only=True)
    scaler: torch.amp.GradScaler = field(kw_only=True)
    epoch: int = 0
    step: int = 0
    epoch_loss: Tensor = field(kw_only=True)
    epoch_steps: int = 0
    images_per_s: float = 0.0
    seconds: float = 0.0
    val_errors: list[float] = field(default_factory=list)
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    scores: Scores | None = None
    result: Result | None = None
    sample: Path | None = None

    _since: float = field(default_factory=time.perf_counter)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.parts.train.classes

    @property
    def total_steps(self) -> int:
        """The steps of the whole run."""
        return self.recipe.epochs * len(self.train_loader)

    def start_clock(self) -> None:
        """Begins to count training time."""
        self._since = time.perf_counter()

    def seed_step(self) -> None:
        """Makes what is random within a step (drop-path) a function of the seed and the step's number."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + self.step) % 2**63)

    def scored(self, scores: Scores) -> None:
        """Takes in the validation scores of the epoch that has just ended."""
        self.scores = scores
        self.val_errors.append(100 - scores.top1)

    def epoch_done(self) -> None:
        """Writes the epoch's record and its checkpoints."""
        scores, self.scores = self.scores, None
        if scores is None and self.val_errors:  # so that patience is counted in epochs, however often it is measured
            self.val_errors.append(self.val_errors[-1])
        now = time.perf_counter()
        self.seconds += now - self._since
        record: dict[str, object] = {
            "kind": "epoch",
            "epoch": self.epoch,
            "step": self.step,
            "loss": float(self.epoch_loss) / max(self.epoch_steps, 1),
            "lr": self.schedule(self.step / len(self.train_loader), self.val_errors),
            "images_per_s": self.images_per_s,
            "seconds": self.seconds,
        }
        if scores:
            record |= {f"val_{key}": value for key, value in scores.summary().items() if key != "images"}
        self._since = now
        self.epoch_loss = torch.zeros_like(self.epoch_loss)
        self.epoch_steps = 0
        reached = (scores.top1, -scores.loss) if scores else (-math.inf, -math.inf)
        better = reached > self.best or (self.val_loader is None and self.epoch == self.recipe.epochs)
        if better:
            self.best, self.best_epoch = reached, self.epoch
        self.records.write(**record)
        checkpoint.save(self, {"val": scores.summary()} if scores else {}, best=better)

    def stop_if_asked(self) -> None:
        """Saves and raises Stopped or Interrupted where a signal has asked for it."""
        if self.stop.signal is not None:
            require_finite(self, float(self.epoch_loss))  # what has diverged must not take the good checkpoint's place
            now = time.perf_counter()
            self.seconds, self._since = self.seconds + now - self._since, now
            checkpoint.save(self, {}, best=False)
            raise self.stop.error(self.folder)

    def numbers(self) -> dict[str, Any]:
        """Everything that changes and is not a tensor, in JSON's types."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "epoch_loss": float(self.epoch_loss),
            "epoch_steps": self.epoch_steps,
            "seconds": self.seconds,
            "val_errors": self.val_errors,
            "best": [None if math.isinf(value) else value for value in self.best],
            "best_epoch": self.best_epoch,
            "average_updates": getattr(self.averaged, "updates", 0),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped | self.train_loader.skipped,
        }

    def restore_numbers(self, numbers: dict[str, Any]) -> None:
        """The inverse of `numbers`."""
        self.epoch, self.step = numbers["epoch"], numbers["step"]
        self.epoch_loss = torch.tensor(
            numbers["epoch_loss"], dtype=self.epoch_loss.dtype, device=self.epoch_loss.device
        )
        self.epoch_steps, self.seconds = numbers["epoch_steps"], numbers["seconds"]
        self.val_errors, self.best_epoch = numbers["val_errors"], numbers["best_epoch"]
        first, second = (-math.inf if value is None else value for value in numbers["best"])
        self.best = (first, second)
        if isinstance(self.averaged, averaging.MovingAverage):
            self.averaged.updates = numbers["average_updates"]
        self.scaler.load_state_dict(numbers["scaler"])
        self.skipped |= numbers["skipped"]


def require_finite(run: Run, loss: float) -> None:
    """Raises DivergedError where the loss is not finite any more."""
    if not math.isfinite(loss):
        last = run.folder / "last"
        raise DivergedError(
            f"The training loss became {loss} by step {run.step} (epoch {run.epoch}).",
            expected="Expected a finite loss.",
            hint="Lower the learning rate (--lr)"
            + (f"; the checkpoint before it is in {last}." if last.exists() else "."),
        )


def build(wanted: recipe.Recipe, folder: Path, device: torch.device, listener: Listener | None = None) -> Run:
    """Builds the run of a recipe in `folder`, which is created where it is missing, ready for its first step."""
    hardware.keep_freed_memory()
    precision = hardware.choose_precision(wanted.precision, device)
    autocast = hardware.autocast(precision, device)
    parts = open_parts(wanted.data)
    skipped = _verify(parts, wanted)
    if parts.val is None and isinstance(wanted.schedule, recipe.Plateau):
        raise RecipeError(
            "The schedule 'plateau' needs validation pictures, and there are none.",
            expected="Expected data.val_fraction above 0, or a set with a validation part.",
            hint="For example: --set data.val_fraction=0.1",
        )
    preprocessing = _preprocessing(parts, wanted.data)
    model_card: dict[str, Any] = {
        "name": wanted.model.name,
        "num_classes": len(parts.train.classes),
        "in_channels": len(preprocessing.mean),
        **wanted.model.options(),
    }
    torch.manual_seed(wanted.seed)
    memory_format = torch.channels_last if wanted.channels_last else torch.contiguous_format
    model = create_model(**model_card).to(device).to(memory_format=memory_format)
    train_loader = TrainLoader(
        parts.train,
        wanted.data,
        wanted.augment,
        preprocessing,
        seed=wanted.seed,
        device=device,
        channels_last=wanted.channels_last,
        of=parts.total,
    )
    records = Records(folder, listener)
    return Run(
        recipe=wanted,
        folder=folder,
        parts=parts,
        preprocessing=preprocessing,
        device=device,
        precision=precision,
        autocast=autocast,
        eval_autocast=hardware.autocast("fp32", device),
        train_loader=train_loader,
        val_loader=eval_loader(parts.val, wanted, preprocessing, device, parts.total) if parts.val else None,
        schedule=schedule.build(wanted.schedule, wanted.optim.lr, wanted.epochs),
        criterion=losses.build(wanted.loss, wanted.label_smoothing),
        resize=resolution.build(wanted.augment, wanted.data.img_size),
        mix=mixing_of(wanted.augment, len(parts.train.classes), wanted.seed),
        records=records,
        model_card=model_card,
        compiled=_compile(model) if wanted.compile else model,
        skipped=skipped,
        model=model,
        averaged=averaging.build(model, wanted.average_decay),
        optimizer=optim.build(wanted.optim, model),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        epoch_loss=torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device),
    )


def eval_loader(
    images: ImageSet, wanted: recipe.Recipe, preprocessing: imaging.Preprocessing, device: torch.device, of: int
) -> EvalLoader:
    """Returns the batches of a part of a set of `of` pictures for evaluation, as the recipe wants them."""
    return EvalLoader(
        images,
        preprocessing,
        wanted.data.eval_batch_size,
        device=device,
        channels_last=wanted.channels_last,
        workers=wanted.data.workers,
        on_bad_image=wanted.data.on_bad_image,
        of=of,
    )


def _verify(parts: Parts, wanted: recipe.Recipe) -> dict[str, str]:
    known = parts.record.get("skipped")
    skipped: dict[str, str] = dict(known) if isinstance(known, dict) else {}
    for part in (parts.train, parts.val, parts.test):
        if part is not None:
            skipped |= verify(part, wanted.data.on_bad_image, parts.total)
    return skipped


def _preprocessing(parts: Parts, data: recipe.Data) -> imaging.Preprocessing:
    mode = parts.train.mode
    if data.normalise == "imagenet" and mode == "RGB":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    elif data.normalise == "imagenet":
        raise RecipeError(
            "data.normalise = 'imagenet' is for colour pictures, and these are grey.",
            expected="Expected data.normalise = 'set'.",
            hint="Use: --set data.normalise=set",
        )
    else:
        mean, std = statistics(parts.train)
    return imaging.Preprocessing(
        mode=mode,
        img_size=data.img_size,
        resize_px=max(data.resize_px, data.img_size),
        interpolation=data.interpolation,
        mean=mean,
        std=std,
    )


def _compile(model: nn.Module) -> Callable[[Tensor], Tensor]:
    compiled: Callable[[Tensor], Tensor] = torch.compile(model)
    return compiled
