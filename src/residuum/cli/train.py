"""Trains a network and leaves a run folder: the model, its scores, plots and a report.

Without arguments it trains on handwritten digits. With --data FOLDER it trains on photos, one folder for each class.
What the flags do not name is decided by the recipe.

examples:
  residuum train
  residuum train --data my_photos --epochs 30
  residuum train --recipe resnet20_cifar10_fast --data cifar10 --seed 1
  residuum train --data my_photos --model resnet50 --weights imagenet
  residuum train --recipe mine.toml --set optim.lr=0.05 --set augment.mixup=0.2
  residuum train --resume runs/photos-1
  torchrun --nproc-per-node=8 -m residuum train --data my_photos
"""

from __future__ import annotations

import argparse

from residuum.cli import console, flags

_KEYS = ("model", "weights", "epochs", "batch_size", "img_size", "lr", "seed", "precision", "workers", "on_bad_image")


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
    add("--lr", metavar="RATE", help="the highest learning rate")
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
    add("--dry-run", action="store_true", help="print the recipe that would run, and leave; no picture is opened")
    add("--offline", action="store_true", help="use no network: fail instead of downloading a set or weights")
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
    from residuum.cli import progress
    from residuum.distributed import announced
    from residuum.training.train import train

    quiet = arguments.quiet or not announced().is_main
    with progress.training(quiet=quiet, verbose=arguments.verbose) as listener:
        done = train(
            arguments.recipe,
            data=arguments.data,
            out=arguments.out,
            resume=arguments.resume,
            override=arguments.override,
            device=arguments.device,
            listener=listener,
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


def _show(arguments: argparse.Namespace, changes: dict[str, object]) -> int:
    from residuum import recipe
    from residuum.errors import UsageError
    from residuum.training.choose import choose_recipe

    if arguments.resume is not None:
        raise UsageError(
            f"--dry-run has nothing to show of --resume {arguments.resume}.",
            expected="Expected one of the two: a resumed run has its recipe already.",
            hint=f"See that recipe in: {arguments.resume}/recipe.toml",
        )
    chosen = choose_recipe(arguments.recipe, arguments.data, changes)
    if arguments.json:
        console.answer_json(recipe.to_dict(chosen))
    else:
        console.answer(recipe.to_toml(chosen).rstrip())
    return 0
