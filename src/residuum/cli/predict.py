"""Says what is on pictures: files, folders (searched for pictures), or - for a picture on standard input.

A picture that cannot be used is a row with its error; the others are predicted, and the exit code is 3.

examples:
  residuum predict runs/photos-1/best a.jpg b.png
  residuum predict runs/photos-1/best holiday/ --top 3 --csv holiday.csv
  cat a.jpg | residuum predict runs/photos-1/best - --json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console
from residuum.cli.flags import whole_number
from residuum.errors import DataError

if TYPE_CHECKING:
    from residuum.deploy.predict import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="the folder best/ of a run")
    add("paths", metavar="PATH", nargs="+", help="pictures, folders, or - for standard input")
    add("--top", type=whole_number(1), default=5, metavar="N", help="classes to name for each picture (5)")
    add("-b", "--batch-size", type=whole_number(1), default=32, metavar="N", help="pictures at a time (32)")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="fp32", help="what to compute in (fp32)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--csv", metavar="FILE", help="write the predictions as a table")
    add("--json", action="store_true", help="print the predictions as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Predicts."""
    from residuum.cli.csvfile import write_csv
    from residuum.deploy.predict import load

    files = _files(arguments.paths)
    predictor = load(arguments.bundle, device=arguments.device, precision=arguments.precision)
    sources = [sys.stdin.buffer.read() if file == "-" else file for file in files]
    predictions = []
    for file, prediction in zip(
        files, predictor.stream(sources, top=arguments.top, batch_size=arguments.batch_size), strict=True
    ):
        named = type(prediction)(file, prediction.top, prediction.error)
        predictions.append(named)
        if not arguments.json:
            console.answer(_in_words(named))
    if arguments.json:
        console.answer_json({"predictions": [prediction.as_dict() for prediction in predictions]})
    if arguments.csv:
        write_csv(arguments.csv, _rows(predictions, min(arguments.top, len(predictor.classes))))
    bad = sum(prediction.error is not None for prediction in predictions)
    if bad:
        console.note(f"{bad} of {len(predictions)} pictures cannot be used.")
    return DataError.exit_code if bad else 0


def _files(paths: Sequence[str]) -> list[str]:
    """Returns the pictures that the paths name: a folder's pictures in natural order, everything else as it is."""
    from residuum.data.paths import natural_key

    files: list[str] = []
    for path in paths:
        if path == "-" or not Path(path).is_dir():
            files.append(path)
            continue
        found = sorted(_pictures_in(path), key=natural_key)
        if not found:
            raise DataError(
                f"There are no pictures in the folder {path}.",
                expected="Expected files such as a.jpg, a.png, a.webp, a.gif, a.bmp or a.tiff.",
                hint="Give the files by name if they end in something else.",
            )
        files += found
    return files


def _pictures_in(folder: str) -> Iterator[str]:
    """Yields the files in `folder` and below that end like pictures; hidden files and folders are passed over."""
    from residuum.imaging import EXTENSIONS

    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield str(Path(place) / name)


def _in_words(prediction: Prediction) -> str:
    if prediction.error is not None:
        return f"{prediction.file}: cannot be used: {prediction.error}"
    return f"{prediction.file}: " + ", ".join(f"{guess.label} {100 * guess.prob:.1f} %" for guess in prediction.top)


def _rows(predictions: Sequence[Prediction], top: int) -> list[dict[str, object]]:
    rows = []
    for prediction in predictions:
        row: dict[str, object] = {"file": prediction.file, "label": prediction.label, "prob": prediction.prob}
        for place in range(1, top):
            guess = prediction.top[place] if prediction.top else None
            row |= {f"label_{place + 1}": guess and guess.label, f"prob_{place + 1}": guess and guess.prob}
        rows.append({**row, "error": prediction.error})
    return rows
