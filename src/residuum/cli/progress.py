"""The progress displays: live on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from residuum.cli import console
from residuum.training.records import Listener, Record

if TYPE_CHECKING:
    from rich.progress import Progress

    from residuum.evaluation.evaluate import Batch
    from residuum.evaluation.trained import Watch

SECONDS_BETWEEN_LINES = 10.0
"""How often a plain line says how far a long step is."""


@contextlib.contextmanager
def training(*, quiet: bool, verbose: bool) -> Iterator[Listener | None]:
    """Yields a listener for the records of a run; `verbose` shows every one of them."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _live(verbose) as listener:
            yield listener
    else:
        yield _Lines(verbose)


@contextlib.contextmanager
def counting(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many more of `total` pictures are done."""
    if quiet:
        yield lambda count: None  # noqa: ARG005 (tells nobody)
    elif sys.stderr.isatty():
        with _bar(what, "pictures") as bar:
            task = bar.add_task(what, total=total, status="")
            yield lambda count: bar.update(task, advance=count)
    else:
        done, told = 0, time.monotonic()

        def tell(count: int) -> None:
            nonlocal done, told
            done += count
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                console.note(f"{what}: {done:,} of {total:,} pictures")
                told = time.monotonic()

        yield tell


def watching(what: str, *, quiet: bool) -> Watch:
    """Returns what lets batches through and shows how many of their pictures are done."""

    def watched(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        with counting(what, count, quiet=quiet) as tell:
            for batch in batches:
                yield batch
                tell(len(batch.labels))

    return watched


class _Lines:
    """A line at the start, for each epoch, and every ten seconds in long ones."""

    def __init__(self, verbose: bool) -> None:
        self.epochs = self.steps = 0
        self.told = time.monotonic()
        self.pause_s = -1.0 if verbose else SECONDS_BETWEEN_LINES

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
        elif time.monotonic() - self.told > self.pause_s:
            console.note(f"  {step_line(record, self.steps)}")
            self.told = time.monotonic()


@contextlib.contextmanager
def _live(verbose: bool) -> Iterator[Listener]:
    with _bar("training", "steps") as bar:
        total: dict[str, Any] = {}
        say = bar.console.print

        def listener(record: Record) -> None:
            if record["kind"] == "note":
                say(str(record["text"]), markup=False, soft_wrap=True)
            elif record["kind"] == "start":
                say(opening(record), markup=False, soft_wrap=True)
                total.update(record)
                steps = int(total["steps_per_epoch"])
                done = int(total["epoch"]) * steps
                total["task"] = bar.add_task("train", total=int(total["epochs"]) * steps, completed=done, status="")
            else:
                status = f"loss {record['loss']:.3f}  {record['images_per_s']:,.0f} images/s"
                bar.update(total["task"], completed=int(str(record["step"])), status=status)
                if record["kind"] == "epoch":
                    say(epoch_line(record, int(total["epochs"])), markup=False, soft_wrap=True)
                elif verbose:
                    say(f"  {step_line(record, int(total['steps_per_epoch']))}", markup=False, soft_wrap=True)

        yield listener


@contextlib.contextmanager
def _bar(what: str, unit: str) -> Iterator[Progress]:
    """Yields a live bar on stderr that disappears at the end. rich honours NO_COLOR and TERM."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(f"[bold]{what}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + "  {task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        yield bar


def opening(start: Mapping[str, Any]) -> str:
    """Returns what is about to be trained on what, in two lines."""
    parts = ", ".join(f"{count:,} {name}" for name, count in start["images"].items())
    epochs = "1 epoch" if start["epochs"] == 1 else f"{start['epochs']:,} epochs"
    return (
        f"Training {start['model']} ({start['parameters']:,} parameters) on {start['source']}: "
        f"{start['classes']} classes, {parts} pictures\n"
        f"at {start['img_size']} x {start['img_size']} pixels, recipe {start['recipe']}, {epochs} of "
        f"{start['steps_per_epoch']:,} steps, {start['device']} in {start['precision']}, into {start['folder']}"
    )


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Returns an epoch's record as a line."""
    line = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['loss']:.4f}"
    if "val_top1" in record:
        line += f"  val loss {record['val_loss']:.4f}  val accuracy {record['val_top1']:.2f} %"
    elif "val_map" in record:  # a picture may have several classes
        line += f"  val loss {record['val_loss']:.4f}  val mAP {record['val_map']:.2f} %"
    return f"{line}  {record['images_per_s']:,.0f} images/s  {console.duration(record['seconds'])}"


def step_line(record: Mapping[str, Any], steps: int) -> str:
    """Returns a step's record as a line."""
    done = record["step"] - (record["epoch"] - 1) * steps
    return (
        f"step {done:,}/{steps:,}  loss {record['loss']:.4f}  lr {record['lr']:.4g}  "
        f"{record['images_per_s']:,.0f} images/s"
    )
