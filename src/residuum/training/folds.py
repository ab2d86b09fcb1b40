"""Cross-validation: a run for each fold, and what all of them say of every picture that they were not trained on."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from residuum.data.labels import SEPARATOR, in_words
from residuum.distributed import announced
from residuum.errors import Stopped, UsageError
from residuum.evaluation.label_issues import LabelIssue
from residuum.recipe import Recipe
from residuum.training.folds_report import REPORT, answered, write_folds_report
from residuum.training.records import Listener
from residuum.training.run import LabelResult, Result, Run
from residuum.training.start import recipe_in, write_json
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
        told = answered([run.result for run in self.runs if isinstance(run.result, Result)])
        if told is not None:
            pooled |= {"answered_pooled": 100 * told[0], "answered_top1_pooled": 100 * told[1]}
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
    created: Sequence[Path] | None = None
    if resume is not None:
        folder = Path(resume)
        folds = int(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["folds"])
        _refuse_to_guess(folder)
    else:
        folder, created = new_folder("folds", out)
        write_json(folder / SUMMARY, {"folds": folds})
    of_the_first = {**(changes or {}), "data.folds": folds, "data.fold": 0}
    begin = partial(train, wanted, data=data, device=device, listener=listener, find_lr=find_lr, changes=of_the_first)
    with _taken_back_unless_begun(folder, created):
        runs = [_trained(folder, fold, begin, device, listener) for fold in range(folds)]
    done = Folds(folder, tuple(runs))
    _write_predictions(done)
    issues = write_folds_report(folder, runs)
    done = replace(done, label_issues=None if issues is None else tuple(issues))
    write_json(folder / SUMMARY, done.as_dict())
    return done


def _trained(folder: Path, fold: int, begin: Callable[..., Run], device: str, listener: Listener | None) -> Run:
    """Returns the finished run of a fold: resumed where it was begun, `begin` where it is the first, and else as that
    one was."""
    own, first = folder / f"fold-{fold + 1}", folder / "fold-1" / "recipe.toml"
    try:
        if (own / "recipe.toml").is_file():
            return train(resume=own, device=device, listener=listener)
        if fold:
            other = {"data.fold": fold}
            return train(recipe_in(first.parent), out=own, device=device, listener=listener, changes=other)
        return begin(out=own)
    except Stopped as stopped:
        if first.is_file():
            stopped.hint = f"Go on with: residuum train --resume {shlex.quote(str(folder))}"
        raise


@contextlib.contextmanager
def _taken_back_unless_begun(folder: Path, created: Sequence[Path] | None) -> Iterator[None]:
    """Takes back the folder, as far as it was `created` now, where no first run comes about that could be resumed."""
    try:
        yield
    except BaseException:
        if created is not None and not (folder / "fold-1" / "recipe.toml").is_file():
            (folder / SUMMARY).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's files are in it
                for place in created:
                    place.rmdir()
        raise


def _refuse_to_guess(folder: Path) -> None:
    if not (folder / "fold-1" / "recipe.toml").is_file():
        raise UsageError(
            f"The cross-validation in {folder} was stopped before its first fold began.",
            expected="Expected fold-1/recipe.toml, which says what to go on with.",
            hint="Start it again, with a new --out.",
        )


def _write_predictions(done: Folds) -> None:
    """Writes out_of_fold.csv: `prob` is of the class that was predicted, `label_prob` of the one on the label. Where
    answers may be "unknown", each by the threshold of its own network, it says whether they are.

    Where a picture may have several classes, they and their probabilities have | between them.
    """
    path = done.folder / PREDICTIONS
    results = [run.result for run in done.runs]
    may_be_unknown = any(isinstance(result, Result) and result.reliance.chosen for result in results)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, "unknown") if may_be_unknown else COLUMNS)
        for number, result in enumerate(results, start=1):
            assert result is not None
            rows = _rows_of_labels(result) if isinstance(result, LabelResult) else _rows(result)
            writer.writerows((number, *row) for row in rows)


def _rows(result: Result) -> Iterator[tuple[object, ...]]:
    """Yields the cells of a row after the first."""
    found, classes, chosen = result.predictions, result.images.classes, result.reliance.chosen
    for row in range(len(found)):
        label, guess, prob = int(found.labels[row]), int(found.top[row, 0]), float(found.probs[row, 0])
        yield (
            result.images.name(int(found.indices[row])),
            classes[label],
            classes[guess],
            round(prob, 6),
            round(math.exp(-float(found.losses[row])), 6),
            label == guess,
            *(() if chosen is None else (prob < chosen.threshold,)),
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
