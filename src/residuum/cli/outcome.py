"""What the command line says of a finished run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from residuum.evaluation.metrics import wilson_interval
from residuum.training.run import Run

_PARTS = {"test": "Test", "val": "Validation", "train": "Training"}


def as_json(run: Run) -> dict[str, object]:
    """Returns the result of a run in JSON's types; accuracies in percent."""
    assert run.result is not None
    return {
        "run": str(run.folder),
        "bundle": str(run.folder / "best"),
        "report": str(run.folder / "report.html"),
        "recipe": run.recipe.name,
        "part": run.result.part,
        **run.result.scores.summary(),
        "best_epoch": run.best_epoch,
        "seconds": round(run.seconds, 3),
        "skipped": run.skipped,
    }


def in_words(run: Run) -> str:
    """Returns the result of a run as a few lines: accuracy, folder, and the next command to type."""
    assert run.result is not None
    scores, part = run.result.scores, run.result.part
    right = round(scores.top1 * scores.images / 100)
    low, high = wilson_interval(right, scores.images)
    label = f"{_PARTS[part]} accuracy"
    lines = [
        "",
        f"{label:<20}{scores.top1:.2f} %  ({right:,} of {scores.images:,} pictures; "
        f"with 95 % confidence between {100 * low:.1f} and {100 * high:.1f} %)",
        f"{'Trained in':<20}{run.seconds:.0f} s",
        f"{'Run folder':<20}{run.folder}",
        f"{'Report':<20}{run.folder / 'report.html'}",
        f"{'Next':<20}residuum predict {_shell(run.folder / 'best')} {_shell(run.sample or Path('PICTURE'))}",
    ]
    if part != "test":
        lines.insert(2, f"{'':<20}There is no test part: this is measured on the {_PARTS[part].lower()} pictures.")
    if run.skipped:
        lines.append(f"{'Skipped':<20}{len(run.skipped)} pictures that cannot be used; the report lists them")
    return "\n".join(lines)


def _shell(path: Path) -> str:
    return shlex.quote(os.fspath(path))
