"""A run's records as TensorBoard's event files, for whoever watches runs there. Needs residuum[tensorboard]."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.errors import UsageError
from residuum.training.records import Listener, Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""The folder within the run's."""

_NOT_DRAWN = ("kind", "epoch", "step", "seconds")


class TensorBoard:
    """A listener of runs, which writes every number of theirs to `<run>/tensorboard` and hands each record on.

    Losses, rates and speeds of steps are `train/...`, the means of an epoch `epoch/...`, validation scores `val/...`,
    all over the number of steps. A run that goes on from a checkpoint hides what was written after that.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, then: Listener | None = None) -> None:
        if find_spec("tensorboard") is None:
            raise UsageError(
                "TensorBoard is not installed.",
                expected="Expected the package tensorboard beside residuum.",
                hint="Install it with: pip install 'residuum[tensorboard]'",
            )
        self._then = then
        self._folder: Path | None = None
        self._writer: SummaryWriter | None = None

    def __call__(self, record: Record) -> None:
        """Takes in a record of a run."""
        if record["kind"] == "start":
            self._folder = Path(str(record["folder"])) / FOLDER
            self.close()
        elif record["kind"] in ("step", "epoch") and self._folder is not None:
            self._write(record, self._folder)
        if self._then is not None:
            self._then(record)

    def close(self) -> None:
        """Writes what is still to be written."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, record: Record, folder: Path) -> None:
        step = int(str(record["step"]))
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=step)
        group = "train" if record["kind"] == "step" else "epoch"
        for key, value in record.items():
            if key in _NOT_DRAWN or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            name = f"val/{key.removeprefix('val_')}" if key.startswith("val_") else f"{group}/{key}"
            self._writer.add_scalar(name, value, step)
        if record["kind"] == "epoch":
            self._writer.flush()
