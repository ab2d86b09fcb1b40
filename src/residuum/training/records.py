"""What a run writes down while it goes: metrics.jsonl (one object a line), metrics.csv, log.txt; and who listens.

Epochs count from 1 in all of them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

Record = dict[str, object]
Listener = Callable[[Record], None]

KINDS = ("step", "epoch", "not_applied")
"""The records that metrics.jsonl keeps."""

COLUMNS = (
    "kind", "epoch", "step", "loss", "lr", "grad_norm", "images_per_s", "seconds",
    "val_loss", "val_top1", "val_top5", "val_ece", "text",
)  # fmt: skip
LABEL_COLUMNS = ("val_map", "val_macro_f1", "val_micro_f1", "val_subset_accuracy")
"""What metrics.csv has besides, of pictures that may have several classes."""


class Records:
    """The records of the run in `folder`; `listener` is told each one (the command line's progress).

    Of several processes only one `writes`, and is listened to.
    """

    def __init__(self, folder: Path, listener: Listener | None = None, *, writes: bool = True) -> None:
        self.folder = folder
        self.listener = listener
        self.writes = writes
        self.history: list[Record] = []
        if writes:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def jsonl(self) -> Path:
        """The file of records, one JSON object a line."""
        return self.folder / "metrics.jsonl"

    def write(self, **record: object) -> None:
        """Appends a record of `kind` "step", "epoch" or "not_applied" (a step that was not taken, with its pictures); a
        "start" or "note" (for people) goes to log.txt alone."""
        if not self.writes:
            return
        if self.listener and record["kind"] != "not_applied":  # a note has told people already
            self.listener(record)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line(record)}\n")
        if record["kind"] not in KINDS:
            return
        record = {key: None if _is_infinite(value) else value for key, value in record.items()}  # JSON has none
        self.history.append(record)
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def note(self, text: str) -> None:
        """Appends a text for people."""
        self.write(kind="note", text=text)

    def rewind(self, step: int, epoch: int) -> None:
        """Drops the records that a run resumed after `step` steps and `epoch` whole epochs is about to write again."""
        if not self.writes or not self.jsonl.exists():
            return
        lines = self.jsonl.read_text(encoding="utf-8").splitlines()
        self.history = [record for text in lines if (record := _parse(text)) and _is_done(record, step, epoch)]
        aside = self.jsonl.with_suffix(".rewound")
        aside.write_text("".join(json.dumps(record) + "\n" for record in self.history), encoding="utf-8")
        aside.replace(self.jsonl)

    def epochs(self) -> list[Record]:
        """The records of whole epochs."""
        return [record for record in self.history if record["kind"] == "epoch"]

    def write_csv(self) -> None:
        """Writes all records as metrics.csv."""
        with (self.folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
            columns = [name for name in COLUMNS if name != "text"]
            columns += [name for name in LABEL_COLUMNS if any(name in record for record in self.history)]
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.history)


def line(record: Mapping[str, object]) -> str:
    """Returns a record as a line for people."""
    if record["kind"] == "note":
        return str(record["text"])
    parts = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in record.items()]
    return "  ".join(part for part in parts if not part.startswith("kind "))


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _parse(text: str) -> Record | None:
    """Returns a record, or None for a line that a killed writer left half-written."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "step" in record and record.get("kind") in KINDS else None


def _is_done(record: Record, step: int, epoch: int) -> bool:
    """Whether a record is of what lies behind `step` steps and `epoch` whole epochs."""
    if record["kind"] == "epoch":
        return int(str(record["epoch"])) <= epoch
    number = int(str(record["step"]))
    return number < step if record["kind"] == "not_applied" else number <= step  # the former is named before it counts
