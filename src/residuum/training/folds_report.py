"""What people read of a cross-validation: report.html of all folds together, and suspicious_labels.csv."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from residuum import html
from residuum.evaluation import metrics
from residuum.evaluation.evaluate import Predictions, Scores, score
from residuum.evaluation.label_issues import SUSPICIOUS, LabelIssue, label_issues, write_csv
from residuum.evaluation.plots import draw_confusion
from residuum.evaluation.report import duration
from residuum.evaluation.report_sections import class_table, confusions, suspicious_labels
from residuum.html import Html, Section
from residuum.training.run import Result, Run

REPORT = "report.html"


def write_folds_report(folder: Path, runs: Sequence[Run]) -> list[LabelIssue]:
    """Writes both into `folder`; returns the suspicious labels among the pictures of all folds, the surest first."""
    results = [run.result for run in runs if run.result is not None]
    classes = runs[0].classes
    issues = label_issues(((result.predictions, result.images) for result in results), classes)
    write_csv(folder / SUSPICIOUS, issues)
    html.write(folder / REPORT, compose(runs, results, issues))
    return issues


def compose(runs: Sequence[Run], results: Sequence[Result], issues: Sequence[LabelIssue]) -> str:
    """Returns the report as a document."""
    first = runs[0].recipe
    scores = score(_pooled([result.predictions for result in results]), runs[0].classes)
    return html.page(
        f"{len(runs)} folds: {first.model.name} on {Path(first.data.source).name}",
        list(_sections(runs, results, scores, issues)),
        lead=(
            f"{len(runs)} networks learnt to tell {len(runs[0].classes):,} classes apart, each from all pictures but "
            f"one part of them; every picture was then judged by the one that was not trained on it."
        ),
        top=_tiles(runs, results, scores, issues),
        foot="Written by residuum. This file needs no network and no other file.",
    )


def _pooled(parts: Sequence[Predictions]) -> Predictions:
    """Returns the predictions of all folds in a row; their indices count through."""
    fields = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_PICTURE}
    return Predictions(indices=np.arange(len(fields["labels"])), **fields)


_BY_PICTURE = ("labels", "top", "probs", "losses")


def _tiles(runs: Sequence[Run], results: Sequence[Result], scores: Scores, issues: Sequence[LabelIssue]) -> Html:
    each = [result.scores.top1 for result in results]
    right = int(np.trace(scores.confusion))
    low, high = metrics.wilson_interval(right, scores.images)
    spread = f"± {statistics.stdev(each):.2f} over {len(each)} folds: {', '.join(f'{top1:.1f}' for top1 in each)}"
    all_of_them = f"{right:,} of {scores.images:,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    return html.tiles(
        [
            ("Accuracy, mean of the folds", f"{statistics.fmean(each):.2f} %", spread),
            ("All pictures together", f"{scores.top1:.2f} %", all_of_them),
            ("Suspicious labels", f"{len(issues):,}", f"of {scores.images:,}; {SUSPICIOUS} has them all"),
            ("Training time", duration(sum(run.seconds for run in runs)), "of all folds"),
        ]
    )


def _sections(
    runs: Sequence[Run], results: Sequence[Result], scores: Scores, issues: Sequence[LabelIssue]
) -> Iterator[Section]:
    names = [each.name for each in scores.classes]
    yield Section("Fold by fold", _folds(runs, results))
    yield Section("What they mistake for what", confusions(scores, draw_confusion(scores.confusion, names)))
    yield Section("Class by class", class_table(scores))
    judged = (
        f"all {scores.images:,} pictures of the folds, each by the network that was not trained on it; "
        f"{scores.top1:.1f} % are recognised"
    )
    yield Section("Suspicious labels", suspicious_labels(issues, judged))
    source = shlex.quote(runs[0].recipe.data.source)
    what = html.element("h3", "Correct the labels that are wrong, then train on all pictures")
    yield Section("What next", html.join([what, html.code(f"residuum train --data {source}")]))


def _folds(runs: Sequence[Run], results: Sequence[Result]) -> Html:
    rows = [
        [
            number,
            html.number(len(run.parts.train)),
            html.number(result.scores.images),
            html.bar(result.scores.top1),
            run.best_epoch,
            f"{run.folder.name}/report.html",
        ]
        for number, (run, result) in enumerate(zip(runs, results, strict=True), start=1)
    ]
    said = (
        "Each on pictures that it was not trained on. These also chose the epoch that was kept: expect a little less "
        "on new pictures."
    )
    head = ["Fold", "Trained on", "Judged", "Accuracy, %", "Epoch kept", "Its report"]
    return html.table(head, rows, caption=said)
