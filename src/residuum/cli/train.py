"""Trains a network and leaves a run folder: the model, its scores, plots and a report.

Without arguments it trains on handwritten digits. With --data FOLDER it trains on photos, one folder for each class,
from weights that know ImageNet where these can be had, and says which values it chose and why. With --data
TABLE.csv, of lines of path,label, pictures may have several classes with | between them. What neither the flags
nor the pictures decide is decided by the recipe.

examples:
  residuum train
  residuum train --data my_photos
  residuum train --data my_photos --recipe photos_probe
  residuum train --data my_photos --epochs 30 --find-lr
  residuum train --data my_photos --folds 5
  residuum train --data my_photos --unknown-below auto
  residuum train --recipe resnet20_cifar10_fast --data cifar10 --seed 1
  residuum train --data my_photos --model resnet50 --weights imagenet
  residuum train --recipe mine.toml --set optim.lr=0.05 --set augment.mixup=0.2
  residuum train --resume runs/photos-1
  torchrun --nproc-per-node=8 -m residuum train --data my_photos
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.cli.uncollected import uncollected

if TYPE_CHECKING:
    from residuum.training.records import Listener

_KEYS = (
    "model",
    "weights",
    "epochs",
    "batch_size",
    "img_size",
    "resize",
    "lr",
    "unknown_below",
    "seed",
    "precision",
    "workers",
    "on_bad_image",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("--data", metavar="DATA", help="digits, cifar10, cifar100, a folder, a .csv, or .parquet or .tar shards")
    add("-c", "--recipe", metavar="NAME|FILE", help="a recipe's name or a TOML file (list: residuum recipes)")
    add("--model", metavar="NAME", help="the network (list: residuum models)")
    text = "what the network starts from: imagenet, a name (list: residuum weights), a file, a bundle, or none"
    add("--weights", metavar="WEIGHTS", help=text)
    add("--epochs", metavar="N", help="passes over the training pictures")
    text = "pictures in an update (auto: the recipe's, in as many parts as memory needs)"
    add("-b", "--batch-size", metavar="N|auto", help=text)
    add("--img-size", metavar="PX", help="the side, in pixels, of what the network sees")
    text = "how a picture becomes a square: shorter-crop (its middle), squash (whatever its shape), pad (with borders)"
    add("--resize", metavar="HOW", help=text)
    add("--lr", metavar="RATE", help="the highest learning rate")
    add("--find-lr", action="store_true", help="choose the learning rate by a short trial with a rising one")
    text = "cross-validate: train N times, each time without another N-th of the pictures, which then measures"
    add("--folds", type=flags.whole_number(2), metavar="N", help=text)
    text = "the probability below which the trained network's answer is unknown (auto: 95 percent are answered)"
    add("--unknown-below", metavar="auto|P|none", help=text)
    add("--seed", metavar="N", help="where all randomness starts")
    add("--precision", metavar="FORMAT", help="number format to compute in: auto, fp32, bf16, fp16")
    add("-j", "--workers", metavar="N", help="threads that decode pictures (0: chosen by the processor)")
    text = "whether a picture that cannot be used ends it (default) or is left out and named"
    add("--on-bad-image", metavar="error|skip", help=text)
    text = "any other key of the recipe; may be repeated (keys: residuum recipes show NAME)"
    add("--set", metavar="KEY=VALUE", action="append", default=[], dest="changes", help=text)
    add("-o", "--out", metavar="DIR", help="the run folder, new or empty (default: runs/<recipe>-<n>)")
    text = "go on with the run in this folder, exactly where it was stopped; other flags change its recipe"
    add("--resume", metavar="RUN", help=text)
    text = "with --resume: go on even with another network or other pictures than it was started with"
    add("--override", action="store_true", help=text)
    flags.add_device(parser)
    add("--tensorboard", action="store_true", help="also write TensorBoard's event files, into RUN/tensorboard")
    add("--dry-run", action="store_true", help="print the recipe that would run, and leave; nothing is downloaded")
    flags.add_offline(parser, "a set or weights")
    flags.add_accept_license(parser)
    flags.add_json(parser, "the result (with --dry-run: the recipe)")
    flags.add_loudness(parser, "every step that is recorded")


def run(arguments: argparse.Namespace) -> int:
    """Trains."""
    from residuum.cli.changes import accept_licence, changes_of, go_offline

    go_offline(arguments.offline)
    accept_licence(arguments.accept_license)
    changes = changes_of(arguments, _KEYS)
    if arguments.dry_run:
        return _show(arguments, changes)
    if arguments.folds is not None or _is_cross_validation(arguments.resume):
        return _cross_validate(arguments, changes)
    with uncollected():
        from residuum.cli import progress
        from residuum.distributed import announced
        from residuum.training.train import train

    quiet = arguments.quiet or not announced().is_main
    with progress.training(quiet=quiet, verbose=arguments.verbose) as shown, _listening(arguments, shown) as listener:
        done = train(
            arguments.recipe,
            data=arguments.data,
            out=arguments.out,
            resume=arguments.resume,
            override=arguments.override,
            device=arguments.device,
            listener=listener,
            find_lr=arguments.find_lr,
            changes=changes,
        )
    if not done.world.is_main:
        return 0
    from residuum.cli.outcome import as_json, in_words

    if arguments.json:
        console.answer_json(as_json(done))
    else:
        console.answer(in_words(done))
    return 0


@contextmanager
def _listening(arguments: argparse.Namespace, shown: Listener | None) -> Iterator[Listener | None]:
    if not arguments.tensorboard:
        yield shown
        return
    from residuum.training.tensorboard import TensorBoard

    board = TensorBoard(shown)
    try:
        yield board
    finally:
        board.close()


def _is_cross_validation(resume: str | None) -> bool:
    if resume is None:
        return False
    from pathlib import Path

    from residuum.training.folds import is_cross_validation

    return is_cross_validation(Path(resume))


def _cross_validate(arguments: argparse.Namespace, changes: dict[str, object]) -> int:
    from residuum.errors import UsageError

    with uncollected():
        from residuum.cli import outcome, progress
        from residuum.training.folds import cross_validate
        from residuum.training.train import refuse_contradictions

    if arguments.resume is None:
        refuse_contradictions(None, arguments.out, arguments.override, arguments.find_lr, changes)
    else:
        given = [
            *changes,
            *(flag for flag in ("folds", "out", "recipe", "data") if getattr(arguments, flag) is not None),
        ]
        if given or arguments.find_lr or arguments.override:
            raise UsageError(
                "A cross-validation that is resumed goes on as it began.",
                expected="Expected --resume FOLDER alone.",
                hint=f"Go on with: residuum train --resume {arguments.resume}",
            )
    quiet, verbose = arguments.quiet, arguments.verbose
    with progress.training(quiet=quiet, verbose=verbose) as shown, _listening(arguments, shown) as listener:
        done = cross_validate(
            arguments.recipe,
            folds=arguments.folds or 0,
            data=arguments.data,
            out=arguments.out,
            resume=arguments.resume,
            device=arguments.device,
            listener=listener,
            find_lr=arguments.find_lr,
            changes=changes,
        )
    if arguments.json:
        console.answer_json(done.as_dict())
    else:
        console.answer(outcome.of_folds_in_words(done))
    return 0


def _show(arguments: argparse.Namespace, changes: dict[str, object]) -> int:
    from residuum import recipe
    from residuum.training.choose import choose
    from residuum.training.train import refuse_contradictions, refuse_if_taken

    _refuse_what_a_dry_run_cannot_show(arguments)
    refuse_contradictions(None, arguments.out, arguments.override, False, changes)
    refuse_if_taken(arguments.out)
    if arguments.folds is not None:
        changes |= {"data.folds": arguments.folds, "data.fold": 0}
    chosen, reasons = choose(arguments.recipe, arguments.data, changes, download=False)
    for reason in () if arguments.quiet else reasons:
        console.note(reason)
    if arguments.folds is not None and not arguments.quiet:
        console.note(f"This is fold 1 of {arguments.folds}; the others differ in data.fold alone.")
    if arguments.json:
        console.answer_json(recipe.to_dict(chosen))
    else:
        console.answer(recipe.to_toml(chosen).rstrip())
    return 0


def _refuse_what_a_dry_run_cannot_show(arguments: argparse.Namespace) -> None:
    from residuum.errors import UsageError

    if arguments.resume is not None:
        raise UsageError(
            f"--dry-run has nothing to show of --resume {arguments.resume}.",
            expected="Expected one of the two: a resumed run has its recipe already.",
            hint=f"See that recipe in: {arguments.resume}/recipe.toml",
        )
    if arguments.find_lr:
        raise UsageError(
            "--dry-run cannot show what --find-lr would choose: that takes a trial.",
            expected="Expected one of the two.",
            hint="Leave out --find-lr for the recipe without it, or --dry-run to train.",
        )
