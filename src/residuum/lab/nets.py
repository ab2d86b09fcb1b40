"""A net of an experiment: trained in a run folder that `residuum train --resume` knows too, its curve beside it.

The points of the curve are measured on checkpoints, from outside: each epoch's `last/` is scored while the next one is
recorded. The loop knows nothing of it. A checkpoint within an epoch, such as a signal leaves, is no point; the one of
the epoch before lies beside it then, and is scored before the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from residuum import aside, hardware
from residuum.data.loading import EvalLoader
from residuum.errors import DivergedError, WeightsError
from residuum.evaluation.evaluate import evaluate
from residuum.imaging import Preprocessing
from residuum.lab.findings import Row
from residuum.models import saved
from residuum.models.layers import Network
from residuum.recipe import Recipe
from residuum.training import checkpoint
from residuum.training.records import Listener, Record
from residuum.training.start import write_json, write_text
from residuum.training.train import train


@dataclass(frozen=True)
class Net:
    """A net in evaluation mode: what reports call it, the digest of the recipe that it is trained by (or of the bundle
    that it is of), its network, and what it was trained on."""

    label: str
    seed: int
    recipe: str
    model: Network
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    @property
    def key(self) -> dict[str, Any]:
        """What its rows are found by."""
        return {"net": self.label, "seed": self.seed, "recipe": self.recipe}


Loaders = Callable[[Preprocessing, str, int], EvalLoader]
"""(preprocessing, "train" or "test", most pictures) -> their batches."""


DONE = "net.json"
"""The row of a net, in its folder: the last thing that is written there."""


def train_net(
    wanted: Recipe,
    folder: Path,
    loaders: Loaders,
    pictures: tuple[int, int],
    device: str,
    listener: Listener | None,
    at_once: int = 1,
) -> Row:
    """Returns the row of a net: it is trained in `folder`, from where that was stopped, unless it is trained already.

    `pictures` are how many a point of the curve, and the training error at the end, are measured on; `at_once` is how
    many nets share the machine meanwhile.
    """
    done = folder / DONE
    if done.is_file():
        row: Row = json.loads(done.read_text(encoding="utf-8"))
        return row
    place = hardware.choose_device(device)
    watch = _Curve(folder, loaders, pictures[0], place, listener)
    if not (folder / "scores.json").is_file():
        if checkpoint.is_run(folder):
            watch.score_kept()  # the run is about to write over it
            train(resume=folder, device=device, listener=watch)
        else:
            train(wanted, out=folder, device=device, listener=watch)
    watch.score_kept()
    last = saved.load(folder / "best", place)
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    training, _ = evaluate(last.model, loaders(last.preprocessing, "train", pictures[1]), last.classes)
    row = {
        "params": sum(parameter.numel() for parameter in last.model.parameters()),
        "epochs": wanted.epochs,
        "img_size": wanted.data.img_size,
        "batch_size": wanted.data.batch_size,
        "test_pictures": scores["images"],
        "test_error": round(100 - scores["top1"], 4),
        "test_loss": round(scores["calibration"]["uncalibrated"]["loss"], 6),  # the papers know no temperature
        "train_error": round(100 - training.top1, 4),
        "train_loss": round(training.loss, 6),
        "train_pictures": training.images,
        "seconds": round(scores["seconds"], 2),
        "at_once": at_once,
        "curve": watch.points(),
    }
    write_json(done, row)
    return row


class _Curve:
    """Listens to a run's records, and scores the checkpoint of the epoch before at each epoch's."""

    def __init__(
        self, folder: Path, loaders: Loaders, pictures: int, device: torch.device, listener: Listener | None
    ) -> None:
        self.folder, self.loaders, self.pictures = folder, loaders, pictures
        self.device, self.listener = device, listener

    def __call__(self, record: Record) -> None:
        if self.listener is not None:
            self.listener(record)
        if record["kind"] == "epoch":
            self.score_kept()

    @property
    def file(self) -> Path:
        """Where the points are kept."""
        return self.folder / "curve.jsonl"

    def points(self) -> list[Row]:
        """The points so far, by rising step; a line that a killed writer left half-written is none."""
        points = {row["step"]: row for row in read_rows(self.file)}
        return [points[step] for step in sorted(points)]

    def score_kept(self) -> None:
        """Adds the points of `last/` and of the checkpoint before it, as far as each is of an epoch's end, whole, and
        not scored yet."""
        last = self.folder / "last"
        for place in (aside.older(last), last):
            if self._wanted(place):
                with suppress(WeightsError):  # damaged: what goes on is the other one
                    self._score(place)

    def _wanted(self, place: Path) -> bool:
        """Whether a checkpoint is of an epoch's end, and without a point."""
        try:
            numbers = json.loads((place / checkpoint.NUMBERS).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # there is none, or it is damaged
            return False
        at_the_end = numbers["step"] == numbers["epoch"] * numbers["steps_per_epoch"]
        return at_the_end and all(point["step"] != numbers["step"] for point in self.points())

    def _score(self, place: Path) -> None:
        found = saved.load(place, self.device)
        point: Row = {"epoch": found.card["epoch"], "step": found.card["step"]}
        for part in ("train", "test"):
            try:
                scores, _ = evaluate(found.model, self.loaders(found.preprocessing, part, self.pictures), found.classes)
            except DivergedError:  # early on, running statistics may lag behind: there is no such point then
                return
            point |= {f"{part}_error": round(100 - scores.top1, 4), f"{part}_loss": round(scores.loss, 6)}
        append_row(self.file, point)


def read_rows(file: Path) -> list[Row]:
    """Returns the rows of a file, one JSON object a line; a torn line is left out, and no file has none."""
    if not file.is_file():
        return []
    rows: list[Row] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def append_row(file: Path, row: Row) -> None:
    """Adds a row at the end of a file; after a torn line it begins a new one."""
    torn = file.is_file() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a", encoding="utf-8") as out:
        out.write(("\n" if torn else "") + json.dumps(row, allow_nan=False) + "\n")


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Writes a file of rows anew; where that fails, the older one stays."""
    write_text(file, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
