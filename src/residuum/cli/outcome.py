"""What the command line says of a finished run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from residuum.cli import console
from residuum.evaluation.label_issues import SUSPICIOUS, LabelIssue
from residuum.evaluation.metrics import wilson_interval
from residuum.evaluation.reliance import Reliance
from residuum.training.folds import PREDICTIONS, Folds
from residuum.training.folds_report import REPORT
from residuum.training.run import LabelResult, Run

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
        **({} if isinstance(run.result, LabelResult) else _reliance(run.result.reliance)),
        "best_epoch": run.best_epoch,
        "seconds": round(run.seconds, 3),
        "skipped": run.skipped,
    }


def _reliance(told: Reliance) -> dict[str, object]:
    return {
        "temperature": told.temperatures[0],
        "unknown_below": told.chosen.threshold if told.chosen else None,
    }


def in_words(run: Run) -> str:
    """Returns the result of a run as a few lines: accuracy, folder, and the next command to type."""
    assert run.result is not None
    part = run.result.part
    if isinstance(run.result, LabelResult):
        return _about_the_run(run, part, *_labels_in_words(run.result))
    scores = run.result.scores
    right = round(scores.top1 * scores.images / 100)
    low, high = wilson_interval(right, scores.images)
    accuracy = _line(
        f"{_PARTS[part]} accuracy",
        f"{scores.top1:.2f} %  ({right:,} of {scores.images:,} pictures; "
        f"with 95 % confidence between {100 * low:.1f} and {100 * high:.1f} %)",
    )
    return _about_the_run(run, part, accuracy)


def _labels_in_words(result: LabelResult) -> list[str]:
    """Returns how the network fares where a picture may have several classes, in lines."""
    scores = result.scores
    return [
        _line(
            f"{_PARTS[result.part]} mAP", f"{scores.map:.2f} %  (mean average precision on {scores.images:,} pictures)"
        ),
        _line("", f"F1 at the thresholds {scores.macro_f1:.2f} %, all answers right {scores.subset_accuracy:.2f} %"),
    ]


def _about_the_run(run: Run, part: str, *scores: str) -> str:
    """Returns the lines of the scores, and what comes after them of any run."""
    lines = [
        "",
        *scores,
        _line("Trained in", console.duration(run.seconds)),
        _line("Run folder", f"{run.folder}"),
        _line("Report", f"{run.folder / 'report.html'}"),
        _line("Next", f"residuum predict {_shell(run.folder / 'best')} {_shell(run.sample or Path('PICTURE'))}"),
    ]
    if part in _WARNINGS:
        lines.insert(1 + len(scores), _line("", _WARNINGS[part]))
    if run.skipped:
        lines.insert(-1, _line("Skipped", f"{len(run.skipped):,} pictures that cannot be used; the report lists them"))
    return "\n".join(lines)


def of_folds_in_words(done: Folds) -> str:
    """Returns the result of a cross-validation as a few lines."""
    found, name = done.as_dict(), done.score
    each = ", ".join(f"{score:.1f}" for score in done.scores)
    lines = [
        "",
        _line(
            {"top1": "Accuracy", "map": "mAP"}[name],
            f"{found[f'{name}_mean']:.2f} % +- {found[f'{name}_std']:.2f} over {found['folds']} folds ({each})",
        ),
        _line("", "Each on pictures that it was not trained on; these also chose the epoch that was kept."),
        *_answered(found),
        *([] if done.label_issues is None else [_line("Suspicious labels", _suspicious(done, done.label_issues))]),
        _line("Folder", f"{done.folder}"),
        _line("Report", f"{done.folder / REPORT}"),
        _line("Predictions", f"{done.folder / PREDICTIONS}"),
    ]
    return "\n".join(lines)


def _answered(found: Mapping[str, object]) -> list[str]:
    """Returns how many pictures are answered, in a line, where answers may be "unknown"."""
    if "answered_pooled" not in found:
        return []
    share, right = (f"{found[key]:.2f} %" for key in ("answered_pooled", "answered_top1_pooled"))
    return [_line("Answered", f"{share} of all pictures, each by its network's threshold; {right} of these are right")]


def _suspicious(done: Folds, issues: Sequence[LabelIssue]) -> str:
    if not issues:
        return "none"
    surest = issues[0]
    return (
        f"{len(issues):,}, the surest first in {done.folder / SUSPICIOUS}: "
        f"{surest.file} is labelled {surest.label} and looks like {surest.suggested}"
    )


def _line(label: str, text: str) -> str:
    return f"{label:<21}{text}"


def _shell(path: Path) -> str:
    """Returns a path as one word of a shell command, which no command takes for a flag."""
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
