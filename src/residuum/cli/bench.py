"""Measures how fast this machine is: training steps and epochs, inference, loading, or how long programs take to begin.

The arms of a measurement are taken in turns; what is shown is the median, and the slowest and the fastest turn. Leave
the machine alone meanwhile. Without --data the pictures are random ones (for 'data': JPEG files made for this).

  train    steps from batches that are there, epochs with their loading, loading alone, memory; --profile says where a
           step's time goes
  infer    a network (a name, or a bundle) in every mode of this machine; with --data, how far the modes agree
  data     pictures decoded, cut, augmented and normalised, by all cores
  startup  --help, import, and the first step of a run

examples:
  residuum bench train
  residuum bench train --model resnet50 --batch-size 32 --profile
  residuum bench train --data my_photos --out speed.csv
  residuum bench infer --model runs/photos-1/best --data my_photos
  residuum bench data --data my_photos --json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from residuum.cli import console, flags
from residuum.errors import UsageError

if TYPE_CHECKING:
    from residuum.deploy.bench import Bench
    from residuum.training.step_profile import StepProfile

_RECIPE = ("data", "recipe", "batch_size", "img_size", "workers", "changes", "steps", "turns", "device", "offline")
_TAKES = {
    "train": {*_RECIPE, "model", "precision", "profile"},
    "infer": {"model", "data", "batch_size", "img_size", "steps", "turns", "device", "offline"},
    "data": set(_RECIPE),
    "startup": {"turns", "device"},
}
"""What each measurement takes beside --out, --json, --quiet and --verbose."""

_KEYS = ("model", "batch_size", "img_size", "precision", "workers")
_TURNS = {"train": 5, "infer": 5, "data": 5, "startup": 7}
_STEPS = {"train": 20, "infer": 10, "data": 20}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("what", choices=tuple(_TAKES), metavar="train|infer|data|startup", help="what to measure")
    text = "the network (list: residuum models); for infer also a bundle (default: resnet20_cifar, for infer resnet50)"
    add("--model", metavar="NAME|BUNDLE", help=text)
    text = "digits, cifar10, a folder, a .csv, or .parquet or .tar shards (default: pictures made for this)"
    add("--data", metavar="DATA", help=text)
    add("-c", "--recipe", metavar="NAME|FILE", help="the recipe to train or to load by (list: residuum recipes)")
    add("-b", "--batch-size", type=flags.whole_number(1), metavar="N", help="pictures at a time")
    add("--img-size", type=flags.whole_number(1), metavar="PX", help="the side, in pixels, of what the network sees")
    add("--precision", metavar="FORMAT", help="number format to train in: auto, fp32, bf16, fp16")
    text = "threads that decode pictures (default: chosen by the processor; for data one a core)"
    add("-j", "--workers", type=flags.whole_number(0), metavar="N", help=text)
    text = "any other key of the recipe; may be repeated (keys: residuum recipes show NAME)"
    add("--set", metavar="KEY=VALUE", action="append", default=[], dest="changes", help=text)
    text = "batches in a turn (default: 20, for infer 10)"
    add("--steps", type=flags.whole_number(1), metavar="N", help=text)
    add("--turns", type=flags.whole_number(1), metavar="N", help="how often each arm is measured (default: 5 or 7)")
    add("--profile", action="store_true", help="for train: say where a step's time goes")
    flags.add_device(parser)
    add("-o", "--out", metavar="CSV", help="also add what was measured to this table, one row an arm")
    flags.add_offline(parser, "a set")
    flags.add_json(parser, "what was measured")
    flags.add_loudness(parser, "which arm is being measured")
    parser.set_defaults(device=None)


def run(arguments: argparse.Namespace) -> int:
    """Measures."""
    from residuum.cli.changes import go_offline
    from residuum.cli.csvfile import csv_writer, rows_there

    _refuse_what_means_nothing(arguments)
    go_offline(arguments.offline)
    from residuum.deploy.bench import COLUMNS

    before = rows_there(arguments.out, COLUMNS)
    with csv_writer(arguments.out, COLUMNS, flag="--out") as write:
        for row in before:
            write(row)
        done = _measured(arguments)
        for measured in done.rows():
            write(measured)
    if arguments.json:
        console.answer_json({**done.as_dict(), "out": arguments.out})
    else:
        console.answer(in_words(done))
        _remark(done, arguments)
    return 0


def _refuse_what_means_nothing(arguments: argparse.Namespace) -> None:
    takes = _TAKES[arguments.what]
    for name in sorted(set.union(*_TAKES.values()) - takes):
        if getattr(arguments, name):
            others = [what for what, taken in _TAKES.items() if name in taken]
            flag = "--set" if name == "changes" else f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} means nothing to residuum bench {arguments.what}.",
                expected=f"Expected it with {' or '.join(others)}.",
                hint="See: residuum bench --help",
            )


def _measured(arguments: argparse.Namespace) -> Bench:
    from residuum.cli.changes import changes_of

    what = arguments.what
    more: dict[str, Any] = {"device": arguments.device or "auto", "turns": arguments.turns or _TURNS[what]}
    if not arguments.quiet:
        more["tell"] = _teller(arguments.verbose)
    if what == "startup":
        from residuum.deploy.bench_startup import startup

        return startup(**more)
    from residuum.deploy import bench

    more |= {"data": arguments.data, "steps": arguments.steps or _STEPS[what]}
    if what == "infer":
        given = {"batch_size": arguments.batch_size, "img_size": arguments.img_size, "model": arguments.model}
        return bench.infer(**more, **{key: value for key, value in given.items() if value is not None})
    changes = changes_of(arguments, [key for key in _KEYS if key in _TAKES[what]])
    if what == "data":
        return bench.data(arguments.recipe, changes=changes, **more)
    return bench.train(arguments.recipe, changes=changes, profiled=arguments.profile, **more)


def _teller(verbose: bool) -> Callable[[str], None]:
    """Returns what is told of each arm that is about to be measured: the first time, or always."""
    told: set[str] = set()

    def tell(arm: str) -> None:
        if verbose or arm not in told:
            console.note(f"measuring: {arm}")
        told.add(arm)

    return tell


def in_words(done: Bench) -> str:
    """Returns what was measured as a table, and where a step's time went as another."""
    rows = [
        [arm.what, _short(arm.figure.median), _span(arm.figure.low, arm.figure.high), arm.unit, arm.meaning]
        for arm in done.arms
    ]
    lines = [console.table(("what", "median", "from - to", "unit", "which is"), rows, right=(1, 2))]
    if done.profile is not None:
        lines += ["", profile_in_words(done.profile)]
    return "\n".join(lines)


def profile_in_words(found: StepProfile) -> str:
    """Returns where a step's time went as a table whose rows add up to the step."""
    from residuum.training.step_profile import FUSED

    rows = [[name, f"{ms:.2f}", f"{100 * ms / found.step_ms:.1f} %"] for name, ms in found.groups.items()]
    rows.append(["the step", f"{found.step_ms:.2f}", "100.0 %"])
    lines = [console.table(("where a step's time goes", "ms", "share"), rows, right=(1, 2))]
    lines.append(
        f"The mean of {found.steps} steps, loading included; without the profiler one takes "
        f"{found.without_profiler_ms:.2f} ms."
    )
    if found.fused:
        lines.append(f"Norms are computed together {FUSED}.")
    return "\n".join(lines)


def _remark(done: Bench, arguments: argparse.Namespace) -> None:
    if arguments.quiet:
        return
    about = done.about
    parts = [
        f"{about[key]}" if key in ("model", "precision") else f"{key.replace('_', ' ')} {about[key]}"
        for key in ("model", "recipe", "data", "batch_size", "img_size", "precision")
        if about.get(key)
    ]
    parts += [f"{about['machine']}, {about['cores']} cores", f"torch {about['torch']}"]
    console.note("; ".join(parts))
    for note in done.notes:
        console.note(note)
    if arguments.out:
        console.note(f"Added to {arguments.out}.")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(low: float, high: float) -> str:
    return "" if low == high else f"{_short(low)} - {_short(high)}"
