"""What the command line says of a finished run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from residuum.cli import console
from residuum.evaluation.label_issues import SUSPICIOUS
from residuum.evaluation.metrics import wilson_interval
from residuum.training.folds import PREDICTIONS, Folds
from residuum.training.folds_report import REPORT
from residuum.training.run import Run

_PARTS = {"test": "Test", "val": "Validation", "train": "Training"}
_WARNINGS = {
    "val": "These pictures also chose the epoch that was kept: there is no test part.",
    "train": "These pictures were trained on, and say little of new ones: nothing was held out.",
}


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
        "temperature": run.result.reliance.temperatures[0],
        "unknown_below": run.result.reliance.chosen.threshold if run.result.reliance.chosen else None,
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
    lines = [
        "",
        _line(
            f"{_PARTS[part]} accuracy",
            f"{scores.top1:.2f} %  ({right:,} of {scores.images:,} pictures; "
            f"with 95 % confidence between {100 * low:.1f} and {100 * high:.1f} %)",
        ),
        _line("Trained in", console.duration(run.seconds)),
        _line("Run folder", f"{run.folder}"),
        _line("Report", f"{run.folder / 'report.html'}"),
        _line("Next", f"residuum predict {_shell(run.folder / 'best')} {_shell(run.sample or Path('PICTURE'))}"),
    ]
    if part in _WARNINGS:
        lines.insert(2, _line("", _WARNINGS[part]))
    if run.skipped:
        lines.insert(-1, _line("Skipped", f"{len(run.skipped):,} pictures that cannot be used; the report lists them"))
    return "\n".join(lines)


def of_folds_in_words(done: Folds) -> str:
    """Returns the result of a cross-validation as a few lines."""
    found = done.as_dict()
    each = ", ".join(f"{top1:.1f}" for top1 in done.top1)
    lines = [
        "",
        _line(
            "Accuracy", f"{found['top1_mean']:.2f} % +- {found['top1_std']:.2f} over {found['folds']} folds ({each})"
        ),
        _line("", "Each on pictures that it was not trained on; these also chose the epoch that was kept."),
        _line("Suspicious labels", _suspicious(done)),
        _line("Folder", f"{done.folder}"),
        _line("Report", f"{done.folder / REPORT}"),
        _line("Predictions", f"{done.folder / PREDICTIONS}"),
    ]
    return "\n".join(lines)


def _suspicious(done: Folds) -> str:
    if not done.label_issues:
        return "none"
    surest = done.label_issues[0]
    return (
        f"{len(done.label_issues):,}, the surest first in {done.folder / SUSPICIOUS}: "
        f"{surest.file} is labelled {surest.label} and looks like {surest.suggested}"
    )


def _line(label: str, text: str) -> str:
    return f"{label:<21}{text}"


def _shell(path: Path) -> str:
    """Returns a path as one word of a shell command, which no command takes for a flag."""
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
