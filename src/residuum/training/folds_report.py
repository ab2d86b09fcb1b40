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
from residuum.training.run import LabelResult, Result, Run

REPORT = "report.html"


def write_folds_report(folder: Path, runs: Sequence[Run]) -> list[LabelIssue] | None:
    """Writes both into `folder`; returns the suspicious labels among the pictures of all folds, the surest first.

    Where a picture may have several classes, labels are not judged: there is no table of them, and None.
    """
    several = [run.result for run in runs if isinstance(run.result, LabelResult)]
    if several:
        html.write(folder / REPORT, compose_of_labels(runs, several))
        return None
    results = [run.result for run in runs if isinstance(run.result, Result)]
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
        top=html.join([_tiles(runs, results, scores, issues), _warnings(runs)]),
        foot="Written by residuum. This file needs no network and no other file.",
    )


def compose_of_labels(runs: Sequence[Run], results: Sequence[LabelResult]) -> str:
    """Returns the report as a document, where a picture may have several classes.

    What the folds said is not put together: each network ranks pictures on a scale of its own, and has its own
    thresholds.
    """
    first, each = runs[0].recipe, [result.scores.map for result in results]
    judged = sum(result.scores.images for result in results)
    spread = f"± {statistics.stdev(each):.2f} over {len(each)} folds: {', '.join(f'{score:.1f}' for score in each)}"
    tiles = [
        ("Mean average precision, mean of the folds", f"{statistics.fmean(each):.2f} %", spread),
        ("Pictures judged", f"{judged:,}", f"of {len(runs[0].classes):,} classes"),
        ("Training time", duration(sum(run.seconds for run in runs)), "of all folds"),
    ]
    return html.page(
        f"{len(runs)} folds: {first.model.name} on {Path(first.data.source).name}",
        [Section("Fold by fold", _folds(runs, results)), _next(runs, "Train on all pictures")],
        lead=(
            f"{len(runs)} networks learnt to say which of {len(runs[0].classes):,} classes a picture has, each from "
            "all pictures but one part of them; every picture was then judged by the one that was not trained on it."
        ),
        top=html.join([html.tiles(tiles), _warnings(runs)]),
        foot="Written by residuum. This file needs no network and no other file.",
    )


def _next(runs: Sequence[Run], what: str) -> Section:
    """The command that trains on all pictures as the folds were trained: recipe, network and weights."""
    recipe = shlex.quote(str(runs[0].folder / "recipe.toml"))
    command = f"residuum train --recipe {recipe} --set data.folds=0"
    return Section("What next", html.join([html.element("h3", what), html.code(command)]))


def _warnings(runs: Sequence[Run]) -> Html:
    """What is to be known of the sets of all folds, each remark once."""
    told = (warning for run in runs for warning in run.parts.warnings)
    return html.join(html.note(warning) for warning in dict.fromkeys(told))


def answered(results: Sequence[Result]) -> tuple[float, float] | None:
    """Returns how many of all pictures the networks of the folds answer, each by its own threshold, and how many of
    these answers are right (0..1); None where no network has one."""
    if not any(result.reliance.chosen for result in results):
        return None
    take = [
        result.predictions.probs[:, 0] >= (result.reliance.chosen.threshold if result.reliance.chosen else 0.0)
        for result in results
    ]
    right = sum(int(result.predictions.correct[taken].sum()) for result, taken in zip(results, take, strict=True))
    count = sum(int(taken.sum()) for taken in take)
    return count / sum(map(len, take)), right / count if count else 1.0


def _unknown(runs: Sequence[Run], share: float, accuracy: float) -> Html:
    said = (
        f"Below its own threshold the answer of a network is \u201cunknown\u201d: they answer {100 * share:.1f} % of "
        f"all pictures, and {100 * accuracy:.1f} % of the answers are right."
    )
    if runs[0].recipe.unknown_below == "auto":
        said += " The pictures of a fold also chose its threshold: expect a little less on new pictures."
    return html.paragraph(said)


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
    told = answered(results)
    if told is not None:
        yield Section("How many they answer", _unknown(runs, *told))
    yield Section("Suspicious labels", suspicious_labels(issues, judged))
    yield _next(runs, "Correct the labels that are wrong, then train on all pictures")


def _folds(runs: Sequence[Run], results: Sequence[Result | LabelResult]) -> Html:
    rows = [
        [
            number,
            html.number(len(run.parts.train)),
            html.number(result.scores.images),
            html.bar(result.scores.monitored),
            run.best_epoch,
            f"{run.folder.name}/report.html",
        ]
        for number, (run, result) in enumerate(zip(runs, results, strict=True), start=1)
    ]
    said = (
        "Each on pictures that it was not trained on. These also chose the epoch that was kept: expect a little less "
        "on new pictures."
    )
    score = "Mean average precision, %" if isinstance(results[0], LabelResult) else "Accuracy, %"
    head = ["Fold", "Trained on", "Judged", score, "Epoch kept", "Its report"]
    return html.table(head, rows, caption=said)
