"""A net of an experiment: trained in a run folder that `residuum train --resume` knows too, its curve beside it.

The points of the curve are measured on checkpoints, from outside: each epoch's `last/` is scored while the next one is
recorded. The loop knows nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from residuum import bundle
from residuum.data.loading import EvalLoader
from residuum.errors import DivergedError
from residuum.evaluation.evaluate import evaluate
from residuum.imaging import Preprocessing
from residuum.lab.findings import Row
from residuum.models import saved
from residuum.models.layers import Network
from residuum.recipe import Recipe
from residuum.training import checkpoint
from residuum.training.records import Listener, Record
from residuum.training.start import write_json
from residuum.training.train import train


@dataclass(frozen=True)
class Net:
    """A trained net in evaluation mode: what reports call it, its network, and what it was trained on."""

    label: str
    seed: int
    model: Network
    preprocessing: Preprocessing
    classes: tuple[str, ...]


Loaders = Callable[[Preprocessing, str, int], EvalLoader]
"""(preprocessing, "train" or "test", most pictures) -> their batches."""


def train_net(
    wanted: Recipe, folder: Path, loaders: Loaders, pictures: tuple[int, int], device: str, listener: Listener | None
) -> Row:
    """Returns the row of a net: it is trained in `folder`, from where that was stopped, unless it is trained already.

    `pictures` are how many a point of the curve, and the training error at the end, are measured on.
    """
    done = folder / "net.json"
    if done.is_file():
        row: Row = json.loads(done.read_text(encoding="utf-8"))
        return row
    watch = _Curve(folder, loaders, pictures[0], listener)
    if not (folder / "scores.json").is_file():
        if checkpoint.is_run(folder):
            train(resume=folder, device=device, listener=watch)
        else:
            train(wanted, out=folder, device=device, listener=watch)
    watch.score()
    last = saved.load(folder / "best")
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
        "curve": watch.points(),
    }
    write_json(done, row)
    return row


class _Curve:
    """Listens to a run's records, and scores the checkpoint that lies in `last/` at each epoch's."""

    def __init__(self, folder: Path, loaders: Loaders, pictures: int, listener: Listener | None) -> None:
        self.folder, self.loaders, self.pictures, self.listener = folder, loaders, pictures, listener

    def __call__(self, record: Record) -> None:
        if self.listener is not None:
            self.listener(record)
        if record["kind"] == "epoch":
            self.score()

    @property
    def file(self) -> Path:
        """Where the points are kept."""
        return self.folder / "curve.jsonl"

    def points(self) -> list[Row]:
        """The points so far, by rising step; a line that a killed writer left half-written is none."""
        points = {row["step"]: row for row in read_rows(self.file)}
        return [points[step] for step in sorted(points)]

    def score(self) -> None:
        """Adds the point of the checkpoint in `last/`, unless it is there."""
        last = self.folder / "last"
        if not bundle.is_there(last):
            return
        found = saved.load(last)
        step, epoch = found.card["step"], found.card["epoch"]
        if any(point["step"] == step for point in self.points()):
            return
        point: Row = {"epoch": epoch, "step": step}
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
