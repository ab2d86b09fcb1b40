"""Decodes a set of pictures once, into a cache that trains several times as fast as the files.

The cache is a folder that --data takes in the place of the set: the same classes, parts, names and order, so that the
same pictures are held out. Shorter sides above --px are brought to --px; what crops and augmentations need is left to
training. It is refused when the set has changed since. The same command again makes it anew, where it has to be.

examples:
  residuum cache photos --out photos-cache
  residuum train --data photos-cache
  residuum cache imagenet --out /fast/imagenet --px 288 -j 16
"""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console, flags

if TYPE_CHECKING:
    from types import FrameType

    from residuum.data.cache_writer import Cached, Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("data", metavar="DATA", help="digits, cifar10, cifar100, a folder, a .csv, or .parquet or .tar shards")
    add("-o", "--out", metavar="DIR", type=Path, required=True, help="the folder to write; an older cache is replaced")
    text = (
        "shorter side at which pictures are kept, at least what evaluation resizes to (256); 0 keeps them as they are"
    )
    add("--px", type=flags.whole_number(0), default=256, metavar="N", help=text)
    text = "how larger pictures are resized: bilinear (default) or bicubic, as the recipe's data.interpolation"
    add("--interpolation", choices=("bilinear", "bicubic"), default="bilinear", metavar="KIND", help=text)
    text = "what | in a label of a table means: several classes, a letter of one, or auto: several if any has it"
    add("--labels", choices=("auto", "one", "several"), default="auto", metavar="auto|one|several", help=text)
    flags.add_on_bad_image(parser, "noted, for training to skip")
    flags.add_workers(parser)
    flags.add_offline(parser, "a set")
    flags.add_json(parser, "what was written")
    flags.add_loudness(parser, "how pictures are kept")


def run(arguments: argparse.Namespace) -> int:
    """Caches."""
    from residuum.cli import progress
    from residuum.cli.changes import go_offline
    from residuum.data.cache_writer import write

    go_offline(arguments.offline)
    with _terminated_as_interrupted(), ExitStack() as stack:
        tell: list[Callable[[int], None]] = []

        def before(plan: Plan) -> None:
            if not arguments.quiet:
                console.note(_planned(plan))
            if arguments.verbose:
                console.note(_kept(arguments))
            tell.append(stack.enter_context(progress.counting("caching", plan.pictures, quiet=arguments.quiet)))

        done = write(
            arguments.data,
            arguments.out,
            px=arguments.px,
            interpolation=arguments.interpolation,
            labels=arguments.labels,
            on_bad_image=arguments.on_bad_image,
            workers=arguments.workers,
            before=before,
            progress=lambda count: tell[0](count),
        )
    if not arguments.quiet:
        for name, reason in done.bad.items():
            console.note(f"Noted {name}: {reason}.")
    if arguments.json:
        console.answer_json(done.as_dict())
    else:
        console.answer(_in_words(done))
    return 0


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Lets a polite request to stop (SIGTERM) clear up as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _planned(plan: Plan) -> str:
    return (
        f"{plan.pictures:,} pictures of {plan.source} will take about {plan.bytes / 1e9:.2f} GB in {plan.folder}; "
        f"{plan.free_bytes / 1e9:.2f} GB are free there."
    )


def _kept(arguments: argparse.Namespace) -> str:
    if not arguments.px:
        return "Every picture is kept as large as it is."
    return f"Shorter sides above {arguments.px} pixels are brought to {arguments.px}, {arguments.interpolation}."


def _in_words(done: Cached) -> str:
    place = shlex.quote(str(done.folder))
    bad = f", of which {len(done.bad):,} cannot be used and are skipped with --on-bad-image skip" if done.bad else ""
    size = f"{done.pictures:,} pictures{bad}, {done.bytes / 1e9:.2f} GB"
    if not done.made:
        return f"{done.folder} is up to date: {size}.\nNext: residuum train --data {place}"
    took = console.duration(done.seconds)
    return f"Cached {size}, in {done.folder}, in {took}.\nNext: residuum train --data {place}"
