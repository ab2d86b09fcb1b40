"""Makes vectors of pictures, for searching, clustering, or another program: a Parquet file, one row a picture.

Pictures are files, folders (searched for pictures), - for one on standard input, or a set with --data, whose classes
go along. A picture that cannot be used is a row with its error, and the exit code is 3. The file says how its vectors
were made, so that 'residuum search' embeds a query in the same way.

examples:
  residuum embed runs/photos-1/best holiday/ --out holiday.parquet
  residuum embed resnet50 --weights imagenet holiday/ --out holiday.parquet
  residuum embed runs/cifar-1/best --data cifar10 --split test --out test.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.cli.pictures import files_of, standard_input
from residuum.errors import DataError, UsageError

if TYPE_CHECKING:
    from residuum.deploy.embed import Done

_SAID = 10
"""So many pictures that cannot be used are named; the file has them all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("network", metavar="BUNDLE|MODEL", help="the folder best/ of a run, or a network's name (with --weights)")
    add("paths", metavar="PATH", nargs="*", help="pictures, folders, or - for a picture on standard input")
    text = "also, or instead: digits, cifar10, cifar100, a folder of classes, a .csv, or .parquet or .tar shards"
    add("--data", metavar="DATA", help=text)
    add("--split", metavar="PART", help="train, val or test of --data (default: all of it)")
    add("-o", "--out", metavar="FILE", type=Path, required=True, help="the file to write, such as vectors.parquet")
    text = "the weights of MODEL: imagenet (default), a name, a file or a bundle"
    add("--weights", metavar="WEIGHTS", help=text)
    text = "the stage whose output is taken, from 1 (default: the last, as the classifier sees it)"
    add("--stage", type=flags.whole_number(1), metavar="N", help=text)
    text = "keep the whole map of every channel instead of its mean: long vectors"
    add("--no-pool", dest="pooled", action="store_false", help=text)
    flags.add_precision(parser)
    flags.add_batch_size(parser, 256)
    flags.add_workers(parser)
    flags.add_device(parser)
    flags.add_accept_license(parser)
    flags.add_offline(parser, "weights or a set")
    flags.add_json(parser, "what was written")
    flags.add_loudness(parser, "what is embedded with")


def run(arguments: argparse.Namespace) -> int:
    """Embeds."""
    from residuum.cli import progress
    from residuum.cli.changes import accept_licence, go_offline
    from residuum.deploy.embed import choose, embed, open_maker
    from residuum.deploy.vectors import refuse_to_replace

    _check(arguments)
    go_offline(arguments.offline)
    accept_licence(arguments.accept_license)
    refuse_to_replace(arguments.out)
    files = files_of(arguments.paths)
    maker = open_maker(
        arguments.network,
        weights=arguments.weights,
        stage=arguments.stage,
        pooled=arguments.pooled,
        device=arguments.device,
        precision=arguments.precision,
    )
    if arguments.verbose:
        place = f"stage {maker.embedder.stage}, on {maker.device} in {arguments.precision}"
        console.note(f"Embedding with {maker.model['name']} in {arguments.network}: {maker.dim:,} numbers, {place}.")
    pictures = [standard_input() if file == "-" else file for file in files]
    sets = choose(maker.preprocessing.mode, pictures, arguments.data, arguments.split, maker.labels)
    with progress.counting("embedding", sum(len(images) for images, _ in sets), quiet=arguments.quiet) as tell:
        done = embed(maker, arguments.out, sets, batch_size=arguments.batch_size, workers=arguments.workers, tell=tell)
    _tell(done, arguments)
    return _complain(done)


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.paths and arguments.data is None:
        raise UsageError(
            "There are no pictures to embed.",
            expected="Expected files or folders, or a set: --data DATA",
            hint="See: residuum embed --help",
        )
    if arguments.split is not None and arguments.data is None:
        raise UsageError(
            f"--split {arguments.split} is a part of a set, and none is named.",
            expected="Expected --data DATA with it.",
            hint="Leave out --split, or name the set.",
        )


def _tell(done: Done, arguments: argparse.Namespace) -> None:
    if arguments.json:
        made = done.made
        what = {"out": str(done.path), "pictures": done.pictures, "vectors": done.pictures - done.bad_count}
        how = {"dim": made.dim, "stage": made.stage, "pooled": made.pooled, "fingerprint": made.fingerprint}
        console.answer_json({**what, **how, "errors": done.bad})
        return
    for name, reason in list(done.bad.items())[: 0 if arguments.quiet else _SAID]:
        console.note(f"{name} cannot be used: {reason}.")
    vectors = f"{done.pictures - done.bad_count:,} vectors of {done.made.dim:,} numbers"
    console.answer(f"{vectors}, of {done.made.model['name']}, stage {done.made.stage}, in {done.path}")
    if not arguments.quiet:
        console.note(f"Next: residuum search {done.path} PICTURE")


def _complain(done: Done) -> int:
    """Says that pictures could not be used, if so, and returns the exit code."""
    if not done.bad:
        return 0
    name, reason = next(iter(done.bad.items()))
    error = DataError(
        f"{done.bad_count:,} of {done.pictures:,} pictures cannot be used; the first is {name}: {reason}.",
        expected="Expected JPEG, PNG, WebP, GIF, BMP or TIFF files that decode completely.",
        hint=f"The column 'error' of {done.path} says why for each of them; all the others have their vectors.",
    )
    return console.complain(error)
