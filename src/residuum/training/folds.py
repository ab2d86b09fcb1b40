"""Cross-validation: a run for each fold, and what all of them say of every picture that they were not trained on."""

from __future__ import annotations

import csv
import json
import math
import shlex
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from residuum import recipe
from residuum.data.labels import SEPARATOR, in_words
from residuum.distributed import announced
from residuum.errors import Stopped, UsageError
from residuum.evaluation.label_issues import LabelIssue
from residuum.recipe import Recipe
from residuum.training.folds_report import REPORT, write_folds_report
from residuum.training.records import Listener
from residuum.training.run import LabelResult, Result, Run
from residuum.training.start import write_json
from residuum.training.train import new_folder, train

SUMMARY, PREDICTIONS = "folds.json", "out_of_fold.csv"
COLUMNS = ("fold", "file", "label", "predicted", "prob", "label_prob", "correct")


@dataclass(frozen=True)
class Folds:
    """The finished runs of all folds, in `folder`, and the labels that they doubt, the surest first: None where a
    picture may have several classes, for then they are not looked for. Scores are in percent."""

    folder: Path
    runs: tuple[Run, ...]
    label_issues: tuple[LabelIssue, ...] | None = None

    @property
    def score(self) -> str:
        """What the score of a fold is called: "top1", or "map" where a picture may have several classes."""
        return "map" if any(isinstance(run.result, LabelResult) for run in self.runs) else "top1"

    @property
    def scores(self) -> list[float]:
        """The validation score of each fold."""
        return [run.result.scores.monitored for run in self.runs if run.result]

    @property
    def top1(self) -> list[float]:
        """The validation accuracy of each fold."""
        return [run.result.scores.top1 for run in self.runs if isinstance(run.result, Result)]

    def as_dict(self) -> dict[str, object]:
        """The summary in JSON's types: mean, standard deviation over the folds, and each."""
        images = [run.result.scores.images for run in self.runs if run.result]
        right = [int(run.result.predictions.correct.sum()) for run in self.runs if isinstance(run.result, Result)]
        pooled = {"top1_pooled": 100 * sum(right) / sum(images)} if right else {}  # there is no pooled ranking
        return {
            "folds": len(self.runs),
            "images": sum(images),
            f"{self.score}_mean": statistics.fmean(self.scores),
            f"{self.score}_std": statistics.stdev(self.scores),
            **pooled,
            self.score: self.scores,
            "label_issues": None if self.label_issues is None else [issue.as_dict() for issue in self.label_issues],
            "report": str(self.folder / REPORT),
            "runs": [str(run.folder) for run in self.runs],
        }


def is_cross_validation(folder: Path) -> bool:
    """Whether `folder` holds the runs of folds."""
    return (folder / SUMMARY).is_file()


def cross_validate(
    wanted: str | Path | Recipe | None = None,
    *,
    folds: int = 5,
    data: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    listener: Listener | None = None,
    find_lr: bool = False,
    changes: Mapping[str, object] | None = None,
) -> Folds:
    """Trains on all folds but one, for each fold in turn, and scores each on the fold that it was not trained on.

    The folder `out` then holds the runs `fold-1`, `fold-2`, ..., folds.json with mean and spread of the accuracies, and
    out_of_fold.csv with what each run said of its own fold's pictures, report.html on all of them together, and
    suspicious_labels.csv with the labels that are likely to be wrong. The epoch that is kept of a run is the best one
    on its fold, so that the figures lean to the good side. `resume` is such a folder to go on with. Everything that was
    chosen for the first fold holds for the others.

    Raises: what `train` raises.
    """
    if announced().size > 1:
        raise UsageError(
            "Folds are trained one after the other, by one process each.",
            expected="Expected no torchrun and no srun.",
            hint="Train single folds there: --set data.folds=5 --set data.fold=0",
        )
    if resume is not None:
        folder = Path(resume)
        folds = int(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["folds"])
        _refuse_to_guess(folder)
    else:
        folder, _ = new_folder("folds", out)
        write_json(folder / SUMMARY, {"folds": folds})
    runs = []
    for fold in range(folds):
        own, first = folder / f"fold-{fold + 1}", folder / "fold-1" / "recipe.toml"
        try:
            if (own / "recipe.toml").is_file():
                run = train(resume=own, device=device, listener=listener)
            elif fold:
                other = {"data.fold": fold}
                run = train(recipe.read(first), out=own, device=device, listener=listener, changes=other)
            else:
                all_changes = {**(changes or {}), "data.folds": folds, "data.fold": 0}
                run = train(
                    wanted, data=data, out=own, device=device, listener=listener, find_lr=find_lr, changes=all_changes
                )
        except Stopped as stopped:
            stopped.hint = f"Go on with: residuum train --resume {shlex.quote(str(folder))}"
            raise
        runs.append(run)
    done = Folds(folder, tuple(runs))
    _write_predictions(done)
    issues = write_folds_report(folder, runs)
    done = replace(done, label_issues=None if issues is None else tuple(issues))
    write_json(folder / SUMMARY, done.as_dict())
    return done


def _refuse_to_guess(folder: Path) -> None:
    if not (folder / "fold-1" / "recipe.toml").is_file():
        raise UsageError(
            f"The cross-validation in {folder} was stopped before its first fold began.",
            expected="Expected fold-1/recipe.toml, which says what to go on with.",
            hint="Start it again, with a new --out.",
        )


def _write_predictions(done: Folds) -> None:
    """Writes out_of_fold.csv: `prob` is of the class that was predicted, `label_prob` of the one on the label.

    Where a picture may have several classes, they and their probabilities have | between them.
    """
    path = done.folder / PREDICTIONS
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, run in enumerate(done.runs, start=1):
            if isinstance(run.result, LabelResult):
                writer.writerows((number, *row) for row in _rows_of_labels(run.result))
                continue
            assert run.result is not None
            found = run.result.predictions
            for row in range(len(found)):
                label, guess = int(found.labels[row]), int(found.top[row, 0])
                writer.writerow(
                    (
                        number,
                        run.result.images.name(int(found.indices[row])),
                        run.classes[label],
                        run.classes[guess],
                        round(float(found.probs[row, 0]), 6),
                        round(math.exp(-float(found.losses[row])), 6),
                        label == guess,
                    )
                )


def _rows_of_labels(result: LabelResult) -> Iterator[tuple[object, ...]]:
    """Yields the cells of a row after the first, where a picture may have several classes."""
    found, classes = result.predictions, result.images.classes
    probs, said = found.probs, found.chosen(result.scores.thresholds)
    for row, index in enumerate(found.indices.tolist()):
        yield (
            result.images.name(index),
            in_words(found.labels[row], classes),
            in_words(said[row], classes),
            SEPARATOR.join(f"{prob:.6f}" for prob in probs[row, said[row]]),
            SEPARATOR.join(f"{prob:.6f}" for prob in probs[row, found.labels[row]]),
            bool((said[row] == found.labels[row]).all()),
        )
