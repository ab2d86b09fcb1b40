"""Searches a file of vectors that 'residuum embed' wrote: for pictures like a picture, and for near-duplicates.

A query goes through the network that made the vectors, which is refused if it was changed since. Similarity is the
cosine, from -1 to 1. The search is exact; --approximate, for more than a million vectors, needs faiss and is not.

examples:
  residuum search holiday.parquet beach.jpg --top 5
  residuum search holiday.parquet beach.jpg --html beach.html
  residuum search holiday.parquet --duplicates --similarity 0.98
  residuum search test.parquet --map test.png
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.cli.pictures import files_of, standard_input
from residuum.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    from residuum.deploy.search import Answer, Index

_SIMILARITY = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("index", metavar="INDEX", help="a file of vectors: what 'residuum embed' wrote")
    add("paths", metavar="IMAGE", nargs="*", help="pictures to search for, folders, or - for standard input")
    add("--top", type=flags.whole_number(1), default=10, metavar="N", help="pictures to name for each (10)")
    add("--duplicates", action="store_true", help="name the pairs of pictures that are nearly the same instead")
    text = f"how similar the two of a pair are at least, up to 1 (default: {_SIMILARITY:g})"
    add("--similarity", type=_similarity, metavar="COSINE", help=text)
    add("--html", metavar="FILE", type=Path, help="also write a page of what was found, with thumbnails")
    add("--map", metavar="FILE", type=Path, help="draw the set in two dimensions, by PCA and t-SNE, as a PNG")
    text = "search by a faiss index, which is kept beside INDEX: fast for millions, and may miss some"
    add("--approximate", action="store_true", help=text)
    add("--bundle", metavar="BUNDLE", help="where the bundle that made the vectors is now, if it was moved")
    flags.add_device(parser)
    flags.add_accept_license(parser)
    add("--offline", action="store_true", help="use no network: fail instead of downloading weights or a set")
    flags.add_json(parser, "what was found")
    flags.add_loudness(parser, "what is searched")


def run(arguments: argparse.Namespace) -> int:
    """Searches."""
    from residuum.cli.changes import accept_licence, go_offline
    from residuum.deploy.search import Index

    _check(arguments)
    go_offline(arguments.offline)
    accept_licence(arguments.accept_license)
    index = Index(arguments.index, bundle=arguments.bundle, device=arguments.device, approximate=arguments.approximate)
    if arguments.verbose:
        made, how = index.made, "exactly" if index.is_exact else "approximately, by faiss"
        console.note(f"Searching {len(index):,} vectors of {made.dim:,} numbers, of {made.model['name']}, {how}.")
    if arguments.map is not None:
        _draw(index, arguments)
    if arguments.duplicates:
        return _duplicates(index, arguments)
    return _pictures(index, arguments) if arguments.paths else 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what does not go together, and files that cannot be written, before the long work."""
    if arguments.duplicates and (arguments.paths or arguments.approximate):
        raise UsageError(
            "--duplicates compares all pictures of the index, exactly.",
            expected="Expected no IMAGE and no --approximate with it.",
            hint="Search in two commands.",
        )
    if not (arguments.paths or arguments.duplicates or arguments.map):
        raise UsageError(
            "There is nothing to search for.",
            expected="Expected IMAGE, --duplicates or --map FILE.",
            hint="See: residuum search --help",
        )
    if arguments.map is not None and arguments.approximate:
        raise UsageError(
            "--map needs the vectors themselves, which --approximate does not read.",
            expected="Expected one of the two.",
            hint="Draw the map in a command of its own.",
        )
    if arguments.similarity is not None and not arguments.duplicates:
        raise UsageError(
            "--similarity is about --duplicates, which is not asked for.",
            expected="Expected --duplicates with it.",
            hint="How many pictures like IMAGE are named is --top.",
        )
    if arguments.html is not None and not (arguments.paths or arguments.duplicates):
        raise UsageError(
            "--html is a page of what was found, and nothing is searched for.",
            expected="Expected IMAGE or --duplicates with it.",
            hint="For a picture of the whole set: --map FILE.png",
        )
    for file in (arguments.html, arguments.map):
        if file is not None and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise _not_written(file, "there is no such folder, or it cannot be written")


def _pictures(index: Index, arguments: argparse.Namespace) -> int:
    """Searches for pictures; returns the exit code."""
    files = files_of(arguments.paths)
    pictures = [standard_input() if file == "-" else file for file in files]
    answers = index.search_all(pictures, arguments.top)
    if arguments.html is not None:
        from residuum.deploy.search_page import write_answers

        _written(arguments.html, lambda: write_answers(arguments.html, index, arguments.index, pictures, answers))
    if arguments.json:
        console.answer_json({"exact": index.is_exact, "answers": [answer.as_dict() for answer in answers]})
    else:
        for number, answer in enumerate(answers):
            console.answer(("\n" if number else "") + _in_words(answer, named=len(answers) > 1))
        if not index.is_exact and not arguments.quiet:
            console.note("The search was approximate: some of the most similar may be missing.")
    return _complain([answer for answer in answers if answer.error is not None], len(answers))


def _duplicates(index: Index, arguments: argparse.Namespace) -> int:
    from residuum.cli import progress
    from residuum.deploy.search import MOST_PAIRS

    with progress.counting("comparing", len(index), quiet=arguments.quiet) as tell:
        found = index.duplicates(_SIMILARITY if arguments.similarity is None else arguments.similarity, tell)
    if arguments.html is not None:
        from residuum.deploy.search_page import write_duplicates

        _written(arguments.html, lambda: write_duplicates(arguments.html, index, arguments.index, found))
    if found.pairs_found > len(found.pairs):
        console.note(f"Of {found.pairs_found:,} pairs the {MOST_PAIRS:,} most similar are named.")
    if arguments.json:
        pairs = [{"files": [a.file, b.file], "similarity": a.similarity} for a, b in found.pairs]
        console.answer_json({"similarity": found.least, "pairs_found": found.pairs_found, "pairs": pairs})
        return 0
    for first, second in found.pairs:
        console.answer(f"{first.similarity:.4f}  {first.file}  {second.file}")
    if not arguments.quiet:
        console.note(f"{found.pairs_found:,} pairs have a similarity of at least {found.least:g}.")
    return 0


def _draw(index: Index, arguments: argparse.Namespace) -> None:
    from residuum.data.order import spread
    from residuum.evaluation.maps import MOST_POINTS, draw_map, project

    at = spread(len(index), MOST_POINTS)
    labels, made = index.labels, index.made
    some = f"{len(at):,} of {len(index):,} pictures, evenly spread" if len(at) < len(index) else f"{len(at):,} pictures"
    title = f"{Path(arguments.index).name}: {some}, by {made.model['name']}, stage {made.stage}"
    drawn = draw_map(project(index.vectors[at]), [labels[row] for row in at.tolist()], title)
    _written(arguments.map, lambda: arguments.map.write_bytes(drawn))
    if not arguments.json:
        console.answer(f"Map: {arguments.map}")


def _in_words(answer: Answer, *, named: bool) -> str:
    if answer.error is not None:
        return f"{answer.file}: cannot be used: {answer.error}"
    lines = [f"{m.similarity:7.4f}  {m.file}{'' if m.label is None else f'  {m.label}'}" for m in answer.found]
    return "\n".join([f"{answer.file}:", *lines] if named else lines)


def _complain(bad: list[Answer], total: int) -> int:
    """Says that pictures could not be used, if so, and returns the exit code."""
    if not bad:
        return 0
    error = DataError(
        f"{len(bad):,} of {total:,} pictures cannot be used; the first is {bad[0].file}: {bad[0].error}.",
        expected="Expected JPEG, PNG, WebP, GIF, BMP or TIFF files that decode completely.",
        hint="The answer says why for each of them; all the others are searched for.",
    )
    return console.complain(error)


def _similarity(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 2.0
    if not -1 <= number <= 1:
        raise argparse.ArgumentTypeError(f"cannot be {text!r}. Expected a number from -1 to 1")
    return number


def _written(file: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise _not_written(file, str(error.strerror)) from error


def _not_written(file: Path, reason: str) -> ResourceError:
    return ResourceError(
        f"Cannot write {file}: {reason}.",
        expected="Expected a folder that exists and can be written, with space left.",
        hint="Give another place.",
    )
