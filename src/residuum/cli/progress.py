"""The progress display of training: live on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from residuum.cli import console
from residuum.training.records import Listener, Record

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Listener | None]:
    """Yields a listener for the records of a run."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _live() as listener:
            yield listener
    else:
        yield _Lines()


class _Lines:
    """A line at the start, for each epoch, and every ten seconds in long ones."""

    def __init__(self) -> None:
        self.epochs = self.steps = 0
        self.told = time.monotonic()

    def __call__(self, record: Record) -> None:
        kind = record["kind"]
        if kind == "start":
            self.epochs, self.steps = int(str(record["epochs"])), int(str(record["steps_per_epoch"]))
            console.note(opening(record))
        elif kind == "note":
            console.note(str(record["text"]))
        elif kind == "epoch":
            console.note(epoch_line(record, self.epochs))
            self.told = time.monotonic()
        elif time.monotonic() - self.told > _SECONDS_BETWEEN_LINES:
            console.note(f"  {step_line(record, self.steps)}")
            self.told = time.monotonic()


@contextlib.contextmanager
def _live() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps  {task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    with bar:
        total: dict[str, Any] = {}

        def listener(record: Record) -> None:
            if record["kind"] == "note":
                screen.print(str(record["text"]), markup=False)
            elif record["kind"] == "start":
                screen.print(opening(record), markup=False)
                total.update(record)
                steps = int(total["epochs"]) * int(total["steps_per_epoch"])
                total["task"] = bar.add_task("train", total=steps, status="")
            else:
                status = f"loss {record['loss']:.3f}  {record['images_per_s']:,.0f} images/s"
                bar.update(total["task"], completed=int(str(record["step"])), status=status)
                if record["kind"] == "epoch":
                    screen.print(epoch_line(record, int(total["epochs"])), markup=False)

        yield listener


def opening(start: Mapping[str, Any]) -> str:
    """Returns what is about to be trained on what, in two lines."""
    parts = ", ".join(f"{count:,} {name}" for name, count in start["images"].items())
    return (
        f"Training {start['model']} ({start['parameters']:,} parameters) on {start['source']}: "
        f"{start['classes']} classes, {parts} pictures\n"
        f"at {start['img_size']} x {start['img_size']} pixels, recipe {start['recipe']}, {start['epochs']} epochs of "
        f"{start['steps_per_epoch']:,} steps, {start['device']} in {start['precision']}, into {start['folder']}"
    )


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Returns an epoch's record as a line."""
    line = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['loss']:.4f}"
    if "val_top1" in record:
        line += f"  val loss {record['val_loss']:.4f}  val accuracy {record['val_top1']:.2f} %"
    return f"{line}  {record['images_per_s']:,.0f} images/s  {record['seconds']:.0f} s"


def step_line(record: Mapping[str, Any], steps: int) -> str:
    """Returns a step's record as a line."""
    done = record["step"] - record["epoch"] * steps
    return (
        f"step {done:,}/{steps:,}  loss {record['loss']:.4f}  lr {record['lr']:.4g}  "
        f"{record['images_per_s']:,.0f} images/s"
    )
