"""Repeats an experiment of the papers, and puts the paper's number beside the measured one.

Without an experiment, lists them. 'tables' writes docs/reproduction.md and README's table from the results that are
kept under docs/results. An experiment that was stopped goes on with the same command; nets that were trained once
serve all experiments of one --out.

examples:
  residuum reproduce --list
  residuum reproduce degradation
  residuum reproduce degradation --scale small --data cifar10
  residuum reproduce paths --scale small --data cifar10 --bundle resnet20 --bundle resnet56
  residuum reproduce tables
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console, flags

if TYPE_CHECKING:
    from residuum.lab.reproduce import Reproduced

_OWN = ("scale", "data", "seeds", "bundle", "device", "jobs", "offline")
"""What neither the list nor the tables take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("experiment", nargs="?", metavar="EXPERIMENT", help="its name, or tables (default: list them)")
    add(
        "--list",
        action="store_true",
        help="list the experiments (with --json: what they claim, and what each scale does)",
    )
    text = "smoke: under a minute; small: under an hour on two cores; full: the paper's budget (default: smoke)"
    add("--scale", choices=("smoke", "small", "full"), metavar="SCALE", help=text)
    add("--data", metavar="DATA", help="the set of pictures (default: digits for smoke, else cifar10)")
    add("--seeds", type=flags.whole_number(1), metavar="N", help="how often each net is trained (default: by scale)")
    text = "a trained net to use in the place of the one of its name; may be repeated"
    add("--bundle", metavar="BUNDLE", action="append", type=Path, help=text)
    text = "the laboratory's folder (default: runs/reproduce); for tables: the project's folder (default: this one)"
    add("-o", "--out", metavar="DIR", type=Path, help=text)
    text = "nets that are trained side by side (default: as many as cores; 1 on a GPU and at smoke)"
    add("--jobs", type=flags.whole_number(1), metavar="N", help=text)
    flags.add_device(parser)
    flags.add_offline(parser, "a set")
    flags.add_json(parser, "what was found (or the list)")
    flags.add_loudness(parser, "every step that is recorded")
    parser.set_defaults(device=None)


def run(arguments: argparse.Namespace) -> int:
    """Reproduces, lists, or writes the tables."""
    if arguments.list or arguments.experiment is None:
        _refuse_others(arguments, "--list", (*_OWN, "out", "experiment"))
        return _list(in_json=arguments.json)
    if arguments.experiment == "tables":
        _refuse_others(arguments, "tables", _OWN)
        return _tables(arguments.out or Path(), in_json=arguments.json)
    from residuum.cli import progress
    from residuum.cli.changes import go_offline
    from residuum.lab.reproduce import as_json, reproduce

    go_offline(arguments.offline)
    with progress.training(quiet=arguments.quiet, verbose=arguments.verbose) as listener:
        done = reproduce(
            arguments.experiment,
            scale=arguments.scale or "smoke",
            data=arguments.data,
            seeds=arguments.seeds,
            bundles=arguments.bundle or (),
            out=arguments.out,
            device=arguments.device or "auto",
            jobs=arguments.jobs,
            listener=listener,
        )
    if arguments.json:
        console.answer_json(as_json(done))
    else:
        console.answer(in_words(done))
    return 0


def in_words(done: Reproduced) -> str:
    """Returns what was found as lines: claim, figures, checks, verdict, where the report is."""
    rows = [[measure.what, measure.in_words(), measure.paper or "-"] for measure in done.finding.measures]
    lines = [
        f"{done.experiment}, {done.scale}: {done.claim.claim}",
        "",
        console.table(("what", "measured here", "paper"), rows),
        "",
        *(f"{'holds        ' if check.holds else 'does not hold'}  {check.what}" for check in done.finding.checks),
        "",
        f"Verdict  {done.verdict}",
        f"Took     {console.duration(done.seconds)}, trainings included",
        f"Report   {done.folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _refuse_others(arguments: argparse.Namespace, what: str, flags_of_others: tuple[str, ...]) -> None:
    from residuum.errors import UsageError

    for name in flags_of_others:
        if getattr(arguments, name):
            said = "an experiment" if name == "experiment" else f"--{name}"
            raise UsageError(
                f"{said[:1].upper()}{said[1:]} means nothing to residuum reproduce {what}.",
                expected="Expected it alone.",
                hint="See: residuum reproduce --help",
            )


def _list(*, in_json: bool) -> int:
    from residuum.lab.experiments import every

    entries = every()
    if in_json:
        listed = [
            {
                "name": entry.name,
                "summary": entry.summary,
                "claim": entry.card.claim,
                "source": entry.card.source,
                "rule": entry.card.rule,
                "scales": {str(scale): words for scale, words in entry.card.scales.items()},
                "seeds": {str(scale): count for scale, count in entry.card.seeds.items()},
                "takes": sorted(entry.card.takes),
            }
            for entry in entries
        ]
        console.answer_json({"experiments": listed})
        return 0
    rows = [[entry.name, entry.summary] for entry in entries]
    console.answer(console.table(("experiment", "what it measures"), rows))
    return 0


def _tables(root: Path, *, in_json: bool) -> int:
    from residuum.lab import tables

    written = [str(path) for path in tables.write(root)]
    if in_json:
        console.answer_json({"written": written})
    else:
        console.answer("\n".join(f"Wrote {path}" for path in written))
    return 0
