"""Shows what on a picture speaks for a class: heat maps over files, folders, or - for a picture on standard input.

Without --class it is the class that the network predicts. --stage names the stage whose map is read: 1 is the finest,
the last (the default) the surest. A new folder takes a PNG for each picture and explain.html, one file to read or to
send, with all of them. A picture that cannot be used is a row with its error; the others are explained, and the exit
code is 3.

examples:
  residuum explain runs/photos-1/best a.jpg
  residuum explain runs/photos-1/best holiday/ --method layer-cam --stage 2 --out holiday-explained
  residuum explain runs/photos-1/best a.jpg --class bees --method occlusion --json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    from residuum.deploy.explain import Explanation

_FOLDER = "explained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    flags.add_bundle(parser)
    add("paths", metavar="IMAGE", nargs="+", help="pictures, folders, or - for a picture on standard input")
    methods = ("grad-cam", "layer-cam", "occlusion")
    text = "how: grad-cam (default), layer-cam (sharp at early stages) or occlusion (slow, needs no gradients)"
    add("--method", choices=methods, default="grad-cam", metavar="METHOD", help=text)
    text = "stage whose map is read, from 1, the finest (default: the last)"
    add("--stage", type=flags.whole_number(1), metavar="N", help=text)
    add("--class", dest="label", metavar="NAME", help="class to explain (default: the one that is predicted)")
    add("-o", "--out", metavar="DIR", help="new folder for the pictures and the page (./explained, ./explained-2, ...)")
    flags.add_device(parser)
    flags.add_json(parser, "what was found, and where it was drawn,")
    flags.add_loudness(parser, "what is explained with")


def run(arguments: argparse.Namespace) -> int:
    """Explains."""
    from residuum.cli import progress
    from residuum.cli.pictures import files_of, standard_input
    from residuum.deploy.explain import Explainer
    from residuum.deploy.explain_page import Page
    from residuum.deploy.predict import load

    files = files_of(arguments.paths)
    predictor = load(arguments.bundle, device=arguments.device)
    name = predictor.card["model"]["name"]
    explainer = Explainer(predictor, arguments.method, arguments.stage, arguments.label)
    if arguments.verbose:
        console.note(f"Explaining with {name} in {arguments.bundle}: {explainer.how}, on {predictor.device}.")
    page, names = Page(name, arguments.bundle, explainer.method, explainer.stage), _Names()
    rows: list[dict[str, object]] = []
    with (
        _new_folder(arguments.out) as folder,
        progress.counting("explaining", len(files), quiet=arguments.quiet or not arguments.json) as tell,
    ):
        for file in files:
            explanation = explainer.attempt(standard_input() if file == "-" else file, file)
            drawn = None if explanation.error is not None else folder / names.new(file)
            if drawn is not None:
                with _refusals_named(drawn):
                    explanation.save(drawn)
            page.add(explanation)
            rows.append({**explanation.as_dict(), "png": None if drawn is None else str(drawn)})
            tell(1)
            if not arguments.json:
                console.answer(_in_words(explanation, drawn))
        written = folder / "explain.html" if any(row["png"] for row in rows) else None
        if written is not None:
            with _refusals_named(written):
                page.write(written)
    if arguments.json:
        console.answer_json({"explanations": rows, "page": None if written is None else str(written)})
    elif written is not None:
        console.answer(f"Page: {written}")
    return _complain([row for row in rows if row["error"] is not None], len(files))


class _Names:
    """Names of drawings, each after its picture, and no two alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, file: str) -> str:
        """Returns a name for the drawing of `file`, of letters, digits, dots and hyphens."""
        readable = "standard-input" if file == "-" else os.fsencode(Path(file).stem).decode("utf-8", "replace")
        stem = re.sub(r"[^\w.-]+", "_", readable)[:60].lstrip(".-_") or "picture"
        names = (f"{stem}{f'-{number}' if number > 1 else ''}.png" for number in count(1))
        name = next(name for name in names if name.lower() not in self._taken)
        self._taken.add(name.lower())
        return name


@contextlib.contextmanager
def _new_folder(out: str | None) -> Iterator[Path]:
    """Creates the folder for what is drawn, which must not hold anything yet, and takes it back if nothing was.

    Raises:
        UsageError: it holds something.
        ResourceError: it cannot be created.
    """
    if out is None:
        folder = next(
            folder
            for folder in (Path(f"{_FOLDER}{f'-{number}' if number > 1 else ''}") for number in count(1))
            if not os.path.lexists(folder)
        )
    else:
        folder = Path(out)
    with _refusals_named(folder):
        created = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(
                f"The folder {folder} is not empty.",
                expected="Expected a new folder: nothing is overwritten.",
                hint="Give another one to --out, or leave it out for a new one here.",
            )
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # something is in it
            for place in created:
                place.rmdir()


@contextlib.contextmanager
def _refusals_named(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"Cannot write {place}: {error.strerror}.",
            expected="Expected a folder that can be created and written, with space left.",
            hint="Free some space, or give another folder to --out.",
        ) from error


def _in_words(explanation: Explanation, drawn: Path | None) -> str:
    if explanation.error is not None:
        return f"{explanation.file}: cannot be used: {explanation.error}"
    asked = "" if explanation.asked == explanation.label else f"; what speaks for {explanation.asked_in_words}"
    return f"{explanation.file}: {explanation.said_in_words}{asked}: {drawn}"


def _complain(bad: Sequence[dict[str, object]], total: int) -> int:
    """Says that pictures could not be used, if so, and returns the exit code."""
    if not bad:
        return 0
    error = DataError(
        f"{len(bad):,} of {total:,} pictures cannot be used; the first is {bad[0]['file']}: {bad[0]['error']}.",
        expected="Expected JPEG, PNG, WebP, GIF, BMP or TIFF files that decode completely.",
        hint="The answer says why for each of them; all the others are explained.",
    )
    return console.complain(error)
