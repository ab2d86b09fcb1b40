"""A run: all that the loop works on, with what it does between steps. `training/build.py` makes one."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from residuum import hardware, imaging, recipe
from residuum.data.loading import Batch, EvalLoader, TrainLoader
from residuum.data.mixing import Mixing
from residuum.data.sets import ImageSet, refuse_if_many_bad
from residuum.data.sources import Parts
from residuum.distributed import ALONE, World
from residuum.errors import DivergedError, ResourceError
from residuum.evaluation.evaluate import Predictions, Scores, evaluate
from residuum.evaluation.multilabel import LabelPredictions, LabelScores
from residuum.evaluation.reliance import Reliance
from residuum.models.layers import Network
from residuum.training import averaging, checkpoint, resolution, schedule, transfer
from residuum.training.guard import IN_A_ROW, Norms
from residuum.training.records import Records
from residuum.training.stop import Stop

_NAMED = 3  # pictures of a step that was not applied, on a terminal; metrics.jsonl has them all


@dataclass(frozen=True)
class Result:
    """How a finished run fared: `part` is "test" where the set has such a part, else "val", else "train".

    The scores are with the network's temperature; `reliance` has those without.
    """

    part: str
    scores: Scores
    predictions: Predictions
    images: ImageSet
    reliance: Reliance


@dataclass(frozen=True)
class LabelResult:
    """As `Result`, of pictures that may have several classes, at the thresholds that the bundle carries."""

    part: str
    scores: LabelScores
    predictions: LabelPredictions
    images: ImageSet


Judge = Callable[
    [nn.Module, Iterator[Batch], Sequence[str], hardware.Autocast, World],
    tuple[Scores, Predictions] | tuple[LabelScores, LabelPredictions],
]
"""What scores a network on validation pictures: `evaluate.evaluate`, or `multilabel.evaluate`."""


def _all_of_it(model: nn.Module) -> nn.Module:
    return model


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
    forward: Callable[[Tensor], Tensor]
    shared: DistributedDataParallel | None
    thawing: transfer.Thawing
    stop: Stop
    world: World = ALONE
    scored_part: Callable[[nn.Module], nn.Module] = _all_of_it
    judge: Judge = evaluate

    model: Network = field(kw_only=True)
    norms: Norms = field(kw_only=True)
    averaged: averaging.Averaged = field(kw_only=True)
    optimizer: torch.optim.Optimizer = field(kw_only=True)
    scaler: torch.amp.GradScaler = field(kw_only=True)
    skipped: dict[str, str] = field(kw_only=True)
    licence: str = field(kw_only=True)
    parts_of_a_batch: int = field(kw_only=True)
    batch_was_split: bool = False
    epoch: int = 0
    step: int = 0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    not_applied: int = 0
    images_per_s: float = 0.0
    seconds: float = 0.0
    val_errors: list[float] = field(default_factory=list)
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    scores: Scores | LabelScores | None = None
    thresholds: tuple[float, ...] | None = None
    result: Result | LabelResult | None = None
    sample: Path | None = None

    _since: float = field(default_factory=time.perf_counter)
    _saved_step: int = 0
    _saved_at: float = field(default_factory=time.monotonic)

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
        self._since, self._saved_at = time.perf_counter(), time.monotonic()

    def goes_on(self) -> bool:
        """Whether an epoch is to come: the last one is not done, nor `early_stop_epochs` without better scores."""
        patience = self.recipe.early_stop_epochs
        waits_in_vain = 0 < patience <= self.epoch - self.best_epoch
        return self.epoch < self.recipe.epochs and not waits_in_vain

    def evaluates_now(self) -> bool:
        """Whether the epoch that ends here is one of those whose validation scores are wanted."""
        done = self.epoch + 1
        return done % self.recipe.eval_every_epochs == 0 or done == self.recipe.epochs

    def counts(self, batch: Batch) -> list[int]:
        """Returns how many pictures of the batch each process has; none where one has too few for batch norm."""
        counts = [int(row[0]) for row in self.world.table([len(batch.labels)])]
        return counts if min(counts) >= min(2, self.recipe.data.batch_size) else []

    def seed_step(self) -> None:
        """Makes what is random within a step (drop-path) a function of the seed, the step's number and the process."""
        seed = (self.recipe.seed * 1_000_003 + self.step + self.world.rank * 2**40) % 2**63
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which looks for devices of every kind
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def sharing_gradients(self, now: bool) -> AbstractContextManager[object]:
        """A context whose backward passes leave the processes' mean gradient, or keep theirs until it is time."""
        return contextlib.nullcontext() if now or self.shared is None else self.shared.no_sync()

    def apply(self, loss: float, grad_norm: float, batch: Batch) -> float:
        """Takes the step, unless the loss or the gradient is not finite; returns the loss over all processes.

        Raises:
            DivergedError: the third step in a row that cannot be taken.
        """
        rows = self.world.table([loss, self.stop.signal])
        loss = math.fsum(row[0] for row in rows) if all(math.isfinite(row[0]) for row in rows) else math.nan
        self.stop.agreed = int(max(row[1] for row in rows))  # so that all processes stop after the same step
        # An overflow in float16 is the scaler's to mend: it leaves the step out by itself, and lowers its scale.
        mended = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if math.isfinite(loss) and (math.isfinite(grad_norm) or mended):
            self.scaler.step(self.optimizer)
            if math.isfinite(grad_norm):
                self.averaged.update(self.model)
            self.not_applied = 0
            self.epoch_loss += loss
            self.epoch_steps += 1
        else:
            self._leave_out(loss, grad_norm, batch)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _leave_out(self, loss: float, grad_norm: float, batch: Batch) -> None:
        """Undoes what a step that is not applied has changed already, and names its pictures."""
        self.norms.put_back()
        self.not_applied += 1
        what = f"loss of {loss}" if not math.isfinite(loss) else f"gradient's norm of {grad_norm}"
        own = [self.parts.train.name(int(index)) for index in batch.indices]
        files = [name for names in self.world.gather(own) for name in names]
        more = f" and {len(files) - _NAMED} more, which metrics.jsonl lists" if len(files) > _NAMED else ""
        self.records.note(
            f"Step {self.step} had a {what} and was not applied. Its pictures: {', '.join(files[:_NAMED])}{more}."
        )
        self.records.write(
            kind="not_applied", epoch=self.epoch + 1, step=self.step, loss=loss, grad_norm=grad_norm, files=files
        )
        if self.not_applied == IN_A_ROW:
            last = self.folder / "last"
            kept = f"; the last checkpoint before that is in {last}." if last.exists() else "."
            raise DivergedError(
                f"The training loss or its gradient was not finite {IN_A_ROW} times in a row, up to step {self.step} "
                f"(epoch {self.epoch + 1}).",
                expected="Expected a finite loss; none of these steps was applied.",
                hint=f"Lower the learning rate (--lr), or look at the pictures named above{kept}",
            )

    def split_batches(self) -> None:
        """Lets batches go through the network in twice as many parts, once in a run.

        Raises:
            ResourceError: that was done before, or other processes cannot do the same at the same moment.
        """
        images = self.recipe.data.batch_size // self.parts_of_a_batch
        if self.batch_was_split or self.world.size > 1 or images < 4:
            raise ResourceError(
                f"Out of memory on {self.device} at step {self.step}, with {images} pictures at once.",
                expected="Expected the network and a batch to fit.",
                hint="Use --batch-size auto, a smaller --batch-size, or more parts of it: --set accumulate="
                f"{2 * self.parts_of_a_batch}",
            )
        self.batch_was_split, self.parts_of_a_batch = True, 2 * self.parts_of_a_batch
        self.optimizer.zero_grad(set_to_none=True)
        self.norms.put_back()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.records.note(
            f"Out of memory at step {self.step}: batches go through in {self.parts_of_a_batch} parts from here on."
        )

    def report(self, loss: float, grad_norm: float, lr: float, images_per_s: float) -> None:
        """Writes a step's record; epochs count from 1, as people do, in records of any kind."""
        self.records.write(
            kind="step",
            epoch=self.epoch + 1,
            step=self.step,
            loss=loss,
            lr=lr,
            grad_norm=grad_norm,
            images_per_s=images_per_s,
        )

    def between_steps(self) -> None:
        """Saves where it is time to; saves and raises Stopped or Interrupted where a signal has asked for it."""
        if self.world.size == 1:  # whom nobody else needs to hear
            self.stop.agreed = self.stop.signal
        if self.stop.agreed:
            self._save_and_stop()
        steps, minutes = self.recipe.save_every_steps, self.recipe.save_every_minutes
        due = steps and self.step - self._saved_step >= steps
        if due or (minutes and time.monotonic() - self._saved_at >= 60 * minutes):
            self.save({}, best=False)

    def until_stopped(self, batches: EvalLoader) -> Iterator[Batch]:
        """Yields `batches`, and asks before each whether to stop: as often in every process, whatever its share."""
        own = iter(batches)
        for _ in range(batches.rounds):
            self.stop.agreed = int(max(row[0] for row in self.world.table([self.stop.signal])))
            if self.stop.agreed:
                self._save_and_stop()
            yield from itertools.islice(own, 1)

    def _save_and_stop(self) -> None:
        self.note_skipped(self.train_loader.skipped)
        self.save({}, best=False)
        self.world.table([])  # nobody leaves before it is saved: whoever started the processes then ends them all
        raise self.stop.error()

    def save(self, scores: dict[str, Any], *, best: bool) -> None:
        """Leaves a checkpoint, from which the run goes on exactly where it is now."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        if self.world.is_main:
            checkpoint.save(self, scores, best=best)
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def scored(self, scores: Scores | LabelScores) -> None:
        """Takes in the validation scores of the epoch that ends here, and the thresholds that they come with."""
        self.scores = scores
        self.val_errors.append(100 - scores.monitored)
        if isinstance(scores, LabelScores):
            self.thresholds = scores.thresholds

    def epoch_done(self) -> None:
        """Ends the epoch: writes its record and its checkpoints."""
        self.epoch += 1
        scores, self.scores = self.scores, None
        if scores is None and self.val_errors:  # so that patience is counted in epochs, however often it is measured
            self.val_errors.append(self.val_errors[-1])
        now = time.perf_counter()
        record: dict[str, object] = {
            "kind": "epoch",
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.epoch_loss / max(self.epoch_steps, 1),
            "lr": self.schedule(self.step / len(self.train_loader), self.val_errors),
            "images_per_s": self.images_per_s,
            "seconds": self.seconds + now - self._since,
        }
        if scores:
            record |= {f"val_{key}": value for key, value in scores.summary().items() if key != "images"}
        self.epoch_loss, self.epoch_steps = 0.0, 0
        reached = (scores.monitored, -scores.loss) if scores else (-math.inf, -math.inf)
        better = reached > self.best or (self.val_loader is None and self.epoch == self.recipe.epochs)
        if better:
            self.best, self.best_epoch = reached, self.epoch
        self.note_skipped(self.train_loader.skipped)
        self.records.write(**record)
        if better or not self.goes_on() or self.epoch % self.recipe.save_every_epochs == 0:
            self.save({"val": scores.summary()} if scores else {}, best=better)

    def note_skipped(self, found: dict[str, str]) -> None:
        """Adds the bad pictures that any process has found to those of the run.

        Raises:
            DataError: more than 5 % of the set's pictures cannot be used.
        """
        for skipped in self.world.gather(found):
            self.skipped |= skipped
        refuse_if_many_bad(self.skipped, self.parts.total)

    def numbers(self) -> dict[str, Any]:
        """Everything that changes and is not a tensor, in JSON's types."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "steps_per_epoch": len(self.train_loader),
            "batch_size": self.recipe.data.batch_size,
            "dealt_to": self.train_loader.dealt_to(self.epoch),
            "parts_of_a_batch": self.parts_of_a_batch,
            "batch_was_split": self.batch_was_split,
            "epoch_loss": self.epoch_loss,
            "epoch_steps": self.epoch_steps,
            "not_applied": self.not_applied,
            "seconds": self.seconds,
            "val_errors": self.val_errors,
            "best": [None if math.isinf(value) else value for value in self.best],
            "best_epoch": self.best_epoch,
            "average_updates": getattr(self.averaged, "updates", 0),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped | self.train_loader.skipped,
            **({} if self.thresholds is None else {"thresholds": list(self.thresholds)}),
        }

    def restore_numbers(self, numbers: dict[str, Any]) -> None:
        """The inverse of `numbers`. Where an epoch has other steps now, it goes on after as many pictures."""
        self.epoch, self.step = numbers["epoch"], numbers["step"]
        self.train_loader.deal_to(self.epoch, numbers["dealt_to"])
        steps, then = len(self.train_loader), numbers["steps_per_epoch"]
        if (steps, self.recipe.data.batch_size) != (then, numbers["batch_size"]):
            images = (self.step - self.epoch * then) * numbers["batch_size"]
            self.step = self.epoch * steps + min(steps, images // self.recipe.data.batch_size)
        self.batch_was_split = numbers["batch_was_split"]
        if self.batch_was_split:
            self.parts_of_a_batch = max(self.parts_of_a_batch, numbers["parts_of_a_batch"])
        self.epoch_loss, self.epoch_steps = numbers["epoch_loss"], numbers["epoch_steps"]
        self.not_applied, self.seconds = numbers["not_applied"], numbers["seconds"]
        self.val_errors, self.best_epoch = numbers["val_errors"], numbers["best_epoch"]
        first, second = (-math.inf if value is None else value for value in numbers["best"])
        self.best = (first, second)
        if isinstance(self.averaged, averaging.MovingAverage):
            self.averaged.updates = numbers["average_updates"]
        if numbers["scaler"] and self.scaler.is_enabled():  # it has none where another precision was used before
            self.scaler.load_state_dict(numbers["scaler"])
        self.skipped |= numbers["skipped"]
        thresholds = numbers.get("thresholds", ())  # of pictures that may have several classes
        if self.thresholds is not None and len(thresholds) == len(self.classes):
            self.thresholds = tuple(thresholds)
        self._saved_step = self.step
