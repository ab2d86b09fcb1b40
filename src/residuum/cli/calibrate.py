"""Makes probabilities as sure as they are right: writes a bundle again with a temperature and, if wanted, a threshold.

They are chosen on pictures that the network was not trained on: without --data the validation part that training held
out, else the validation part of DATA, its test part, or all of it. The temperature changes no class that is predicted.
It is judged by pictures that did not choose it: each half of them by the temperature of the other half. Training does
all this to the bundle that it keeps.

With --unknown-below, the answer to pictures of a lower probability is "unknown": auto is the highest threshold that
answers 95 percent of the pictures.

examples:
  residuum calibrate resnet20 --data cifar10 --out resnet20-calibrated
  residuum calibrate runs/photos-1/best --unknown-below auto --out photos-careful
  residuum calibrate runs/photos-1/best --data new_photos --unknown-below 0.8 --out photos-new
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from residuum.cli import console, flags

if TYPE_CHECKING:
    from residuum.evaluation.calibrate import Calibrated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    flags.add_bundle(parser)
    text = "digits, cifar10, cifar100, a folder, a .csv, or .parquet or .tar shards (default: what it was trained on)"
    add("--data", metavar="DATA", help=text)
    add("--split", metavar="PART", help="train, val or test (default: val, else test, else everything)")
    text = "the probability below which the answer is unknown (auto: 95 percent are answered; default: none)"
    flags.add_unknown_below(parser, text)
    add("-o", "--out", metavar="BUNDLE", required=True, help="the folder to write, which must not be there")
    flags.add_precision(parser)
    flags.add_batch_size(parser, 256)
    flags.add_workers(parser)
    flags.add_on_bad_image(parser, "left out and named")
    flags.add_device(parser)
    flags.add_offline(parser, "a set")
    flags.add_json(parser, "what was chosen, and what it is worth")
    flags.add_loudness(parser, "what it is chosen with")


def run(arguments: argparse.Namespace) -> int:
    """Calibrates."""
    from residuum.cli import progress
    from residuum.cli.changes import go_offline
    from residuum.evaluation.calibrate import calibrate

    go_offline(arguments.offline)
    done = calibrate(
        arguments.bundle,
        arguments.data,
        arguments.split,
        out=arguments.out,
        unknown_below="none" if arguments.unknown_below is None else arguments.unknown_below,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        device=arguments.device,
        workers=arguments.workers,
        on_bad_image=arguments.on_bad_image,
        watch=progress.watching("calibrating", quiet=arguments.quiet),
    )
    if done.world.is_main:
        _tell(done, arguments)
    return 0


def _tell(done: Calibrated, arguments: argparse.Namespace) -> None:
    from residuum.evaluation.calibrate import in_words

    found = done.calibration
    if arguments.verbose:
        console.note(f"Calibrated {arguments.bundle} on {done.what}, in {arguments.precision}.")
    if not arguments.quiet:
        for name, reason in done.skipped.items():
            console.note(f"Skipped {name}: {reason}.")
    if arguments.json:
        console.answer_json({"bundle": str(done.folder), **found.as_dict(), "skipped": done.skipped})
        return
    console.answer(in_words(found, f"{found.found['images']:,} pictures of {done.what}"))
    console.answer(f"Next: residuum predict {done.folder} PICTURE")
