"""Says what is on pictures: files, folders (searched for pictures), or - for a picture on standard input.

Where the best class is less probable than --unknown-below, or than the bundle's own threshold, the answer is "unknown".
Of a network that was trained on pictures of several classes, it says which of them each picture has, by the threshold
of each class. A picture that cannot be used is a row with its error; the others are predicted, and the exit code is 3.

examples:
  residuum predict runs/photos-1/best a.jpg b.png
  residuum predict runs/photos-1/best holiday/ --top 3 --csv holiday.csv
  cat a.jpg | residuum predict runs/photos-1/best - --json
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.cli.pictures import files_of, standard_input
from residuum.errors import DataError

if TYPE_CHECKING:
    from residuum.deploy.predict import Guess, Prediction, Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    flags.add_bundle(parser)
    add("paths", metavar="PATH", nargs="+", help="pictures, folders, or - for a picture on standard input")
    add("--top", type=flags.whole_number(1), default=5, metavar="N", help="classes to name for each picture (5)")
    text = "the probability below which the answer is unknown (default and auto: the bundle's own; none: never)"
    flags.add_unknown_below(parser, text)
    flags.add_precision(parser)
    flags.add_batch_size(parser, 32)
    flags.add_workers(parser)
    flags.add_device(parser)
    add("--csv", metavar="FILE", help="also write the predictions as a table")
    flags.add_json(parser, "the predictions")
    flags.add_loudness(parser, "what is predicted with")


def run(arguments: argparse.Namespace) -> int:
    """Predicts."""
    from residuum.cli import progress
    from residuum.cli.csvfile import csv_writer
    from residuum.deploy.predict import load

    files = files_of(arguments.paths)
    predictor = load(
        arguments.bundle,
        device=arguments.device,
        precision=arguments.precision,
        unknown_below=arguments.unknown_below,
    )
    if arguments.verbose:
        name, count = predictor.card["model"]["name"], len(predictor.classes)
        where = f"on {predictor.device} in {arguments.precision}"
        console.note(f"Predicting with {name} in {arguments.bundle}: {count} classes, {where}.{_sureness(predictor)}")
    may_be_unknown, several = predictor.unknown_below is not None, predictor.thresholds is not None
    columns = _columns(min(arguments.top, len(predictor.classes)), may_be_unknown, several=several)
    done: list[Prediction] = []  # those that are still needed: all for JSON, else the bad ones
    with (
        csv_writer(arguments.csv, columns) as write,
        progress.counting("predicting", len(files), quiet=arguments.quiet or not arguments.json) as tell,
    ):
        for prediction in _predictions(predictor, files, arguments):
            write(_row(prediction, may_be_unknown))
            tell(1)
            if arguments.json or prediction.error is not None:
                done.append(prediction)
            if not arguments.json:
                _say(prediction, needed=arguments.csv is None)
    if arguments.json:
        console.answer_json({"predictions": [prediction.as_dict() for prediction in done]})
    return _complain([prediction for prediction in done if prediction.error is not None], len(files))


def _predictions(predictor: Predictor, files: Sequence[str], arguments: argparse.Namespace) -> Iterator[Prediction]:
    sources: Iterable[str | bytes] = (standard_input() if file == "-" else file for file in files)
    found = predictor.stream(sources, top=arguments.top, batch_size=arguments.batch_size, workers=arguments.workers)
    for file, prediction in zip(files, found, strict=True):
        yield dataclasses.replace(prediction, file=file)


def _say(prediction: Prediction, *, needed: bool) -> None:
    """Prints a prediction; where it is not `needed`, because a table is written too, a closed pipe ends nothing."""
    try:
        console.answer(_in_words(prediction))
    except BrokenPipeError:
        if needed:
            raise


def _in_words(prediction: Prediction) -> str:
    if prediction.error is not None:
        return f"{prediction.file}: cannot be used: {prediction.error}"
    if prediction.labels is not None:
        return f"{prediction.file}: {_labels_in_words(prediction)}"
    guesses = _guesses(prediction.top)
    said = f"{prediction.unknown_as} ({guesses})" if prediction.unknown else guesses
    return f"{prediction.file}: {said}"


def _sureness(predictor: Predictor) -> str:
    """What is done to the probabilities, in words; nothing where nothing is."""
    said = "" if predictor.temperature == 1 else f" Temperature {predictor.temperature:.3f}."
    return said if predictor.unknown_below is None else f"{said} Unknown below {predictor.unknown_below:.4g}."


def _labels_in_words(prediction: Prediction) -> str:
    """Returns the classes that the picture has, and after them the most probable ones that it has not."""
    labels = prediction.labels or ()
    has = [guess for guess in prediction.top if guess.label in labels]
    has_not = [guess for guess in prediction.top if guess.label not in labels]
    beyond = [label for label in labels if label not in {guess.label for guess in prediction.top}]  # --top names fewer
    said = ", ".join([*([_guesses(has)] if has else []), *beyond]) or "none"
    return said + (f"; not {_guesses(has_not)}" if has_not else "")


def _guesses(guesses: Sequence[Guess]) -> str:
    return ", ".join(f"{guess.label} {100 * guess.prob:.1f} %" for guess in guesses)


def _complain(bad: Sequence[Prediction], total: int) -> int:
    """Says that pictures could not be used, if so, and returns the exit code."""
    if not bad:
        return 0
    error = DataError(
        f"{len(bad):,} of {total:,} pictures cannot be used; the first is {bad[0].file}: {bad[0].error}.",
        expected="Expected JPEG, PNG, WebP, GIF, BMP or TIFF files that decode completely.",
        hint="The answer says why for each of them; all the others are predicted.",
    )
    return console.complain(error)


def _columns(top: int, may_be_unknown: bool, *, several: bool) -> list[str]:
    """The columns of the table; where an answer may be "unknown", `best` is the most probable class all the same."""
    more = [f"{column}_{place}" for place in range(2, top + 1) for column in ("label", "prob")]
    beside = ["unknown", "best"] if may_be_unknown else []
    return ["file", *(["labels"] if several else []), "label", "prob", *more, *beside, "error"]


def _row(prediction: Prediction, may_be_unknown: bool) -> dict[str, object]:
    row: dict[str, object] = {"file": prediction.file, "error": prediction.error}
    if prediction.labels is not None:
        row["labels"] = "|".join(prediction.labels)
    for place, guess in enumerate(prediction.top, start=1):
        suffix = "" if place == 1 else f"_{place}"
        row |= {f"label{suffix}": guess.label, f"prob{suffix}": guess.prob}
    if prediction.top and may_be_unknown:
        row |= {"label": prediction.label, "unknown": prediction.unknown, "best": prediction.top[0].label}
    return row
