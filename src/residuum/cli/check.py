"""Looks for everything in a set of pictures that would harm training, and changes none of them.

It reads every picture to its end, and compares all of them with one another. The exit code is 3 if anything would
harm training. The report, with thumbnails, is a new file in the current folder: residuum-check.html, or
residuum-check-2.html where there is one, and so on. Nothing is overwritten, and nothing written among the pictures.

With --bundle it also looks for labels that are likely to be wrong: each picture is compared, by the vectors of that
network, with the pictures most like it. It must know pictures of this kind, as one that was trained on them
does, though it may repeat wrong ones that it has learnt: residuum train --folds 5 takes longer, and asks others.

examples:
  residuum check my_photos
  residuum check my_photos --out check.html
  residuum check labels.csv --json --no-report
  residuum check my_photos --bundle runs/photos-1/best --csv suspicious.csv
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.errors import DataError, ResourceError, UsageError
from residuum.userpath import expanded

if TYPE_CHECKING:
    import torch

    from residuum.cli.csvfile import WriteRow
    from residuum.data.check import Checked
    from residuum.data.findings import Finding
    from residuum.data.survey import Survey
    from residuum.evaluation.label_issues import LabelIssue
    from residuum.models.saved import Saved

_NAMED = 3
"""Files of a finding that are named; the report and --json have them all."""
_LISTED_CLASSES = 40
_WIDTH = 100
_SECONDS_BETWEEN_LINES = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("data", metavar="DATA", help="digits, cifar10, cifar100, a folder, a .csv, or .parquet or .tar shards")
    add("-o", "--out", metavar="FILE", help="where to write the report, a new file (./residuum-check.html)")
    add("--no-report", action="store_true", help="write no report")
    text = "also look for labels that are likely to be wrong, by the vectors of this trained network"
    add("--bundle", metavar="BUNDLE", type=Path, help=text)
    add("--csv", metavar="FILE", help="with --bundle: also write the suspicious labels as a table")
    flags.add_device(parser)
    add("-j", "--workers", type=flags.whole_number(0), default=0, metavar="N", help="threads that decode (0: chosen)")
    add("--offline", action="store_true", help="use no network")
    add("--json", action="store_true", help="print what was found as JSON, with every file")
    add("-q", "--quiet", action="store_true", help="no progress display")


def run(arguments: argparse.Namespace) -> int:
    """Checks."""
    from residuum.cli.changes import go_offline
    from residuum.data.check import examined
    from residuum.data.survey import survey

    _refuse_idle_flags(arguments)
    go_offline(arguments.offline)
    place = _report_place(arguments)
    network = None if arguments.bundle is None else _network(arguments)
    found = survey(arguments.data)
    if network is not None:
        _refuse_several(found)
    with _table(arguments) as write:
        with _progress(quiet=arguments.quiet) as progress:
            checked = examined(arguments.data, found, workers=arguments.workers, progress=progress)
        issues = [] if network is None else _label_issues(arguments, checked, *network)
        for issue in issues:
            write(issue.as_dict())
    checked = checked.with_findings(_as_findings(issues, checked, arguments.bundle))
    failure = _write(place, checked) if place is not None else None
    report = None if place is None or failure is not None else str(place)
    if arguments.json:
        told = {} if network is None else {"label_issues": [issue.as_dict() for issue in issues]}
        console.answer_json({**checked.as_dict(), **told, "report": report})
    else:
        console.answer(in_words(checked, report))
    if failure is not None:
        raise failure
    return DataError.exit_code if checked.harmful else 0


def _refuse_idle_flags(arguments: argparse.Namespace) -> None:
    if arguments.bundle is None and (arguments.csv is not None or arguments.device != "auto"):
        flag = "--csv" if arguments.csv is not None else "--device"
        raise UsageError(
            f"{flag} is for suspicious labels, which are not asked for.",
            expected="Expected --bundle BUNDLE with it.",
            hint="Leave it out, or name a trained network: --bundle runs/photos-1/best",
        )


def _network(arguments: argparse.Namespace) -> tuple[Saved, torch.device]:
    """Returns the trained network and where it computes, before the long work."""
    from residuum import hardware
    from residuum.models import saved

    place = hardware.choose_device(arguments.device)
    return saved.load(arguments.bundle, place), place


def _refuse_several(found: Survey) -> None:
    from residuum.evaluation.label_check import refuse_several

    refuse_several(found.parts.values())


def _table(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[WriteRow]:
    from residuum.cli.csvfile import csv_writer

    if arguments.csv is None:
        return csv_writer(None, ())
    if _is_among(Path(arguments.csv), expanded(arguments.data)):
        raise _among(arguments.csv, arguments.data, "--csv ~/suspicious.csv")
    from residuum.evaluation.label_issues import COLUMNS  # imports torch

    return csv_writer(arguments.csv, COLUMNS)


def _label_issues(
    arguments: argparse.Namespace, checked: Checked, network: Saved, device: torch.device
) -> list[LabelIssue]:
    from residuum.cli import progress
    from residuum.evaluation.label_check import neighbours_issues
    from residuum.evaluation.origin import trained_on

    if checked.images - len(checked.unusable) < 2:
        return []  # which the check has said already
    if trained_on(network.card, arguments.data) and not arguments.quiet:
        console.note(
            f"The network in {arguments.bundle} was trained on these labels, and may repeat wrong ones that it "
            f"has learnt. By networks that were not trained on them: residuum train --data {arguments.data} --folds 5"
        )
    with progress.counting("comparing", checked.images, quiet=arguments.quiet) as tell:
        return neighbours_issues(
            network,
            list(checked.survey.parts.values()),
            device,
            unusable=checked.unusable,
            workers=arguments.workers,
            tell=tell,
        )


def _as_findings(issues: list[LabelIssue], checked: Checked, bundle: Path | None) -> list[Finding]:
    if not issues:
        return []
    from residuum.evaluation.label_check import NEIGHBOURS, findings_of

    by = f", by the {NEIGHBOURS} pictures most like each (vectors of {bundle})"
    return findings_of(issues, list(checked.survey.parts.values()), by)


def _report_place(arguments: argparse.Namespace) -> Path | None:
    """Returns the file that the report is written to: new, and outside of the set; None for none.

    Raises:
        UsageError: --out exists or lies among the pictures.
        ResourceError: its folder cannot be written.
    """
    from residuum.data.places import located  # imports numpy

    data = located(arguments.data)
    if arguments.no_report:
        return None
    if arguments.out is not None:
        out = Path(arguments.out)
        if out.exists():
            raise UsageError(
                f"{out} exists already.",
                expected="Expected the name of a new file for the report.",
                hint="Give another one to --out, or remove it.",
            )
        if _is_among(out, data):
            raise _among(out, data, "--out ~/residuum-check.html")
        return _writable(out)
    if _is_among(Path("residuum-check.html"), data):
        console.note("No report is written, for the current folder is part of the set. To have one: --out FILE")
        return None
    names = (Path(f"residuum-check{f'-{number}' if number > 1 else ''}.html") for number in count(1))
    return _writable(next(name for name in names if not os.path.lexists(name)))


def _writable(place: Path) -> Path:
    """Returns `place`; raises ResourceError before the long work where its folder takes no file."""
    folder = place.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise _not_written(place, "the folder cannot be written" if folder.is_dir() else "there is no such folder")
    return place


def _is_among(file: Path, data: Path) -> bool:
    return data.is_dir() and file.resolve().is_relative_to(data.resolve())


def _among(file: str | Path, data: str | Path, instead: str) -> UsageError:
    return UsageError(
        f"{file} lies among the pictures of {data}.",
        expected="Expected a place outside of the set, which is not changed.",
        hint=f"For example: {instead}",
    )


def _write(place: Path, checked: Checked) -> ResourceError | None:
    """Writes the report; returns what went wrong, so that the answer is given first."""
    from residuum.data.check_report import write_check_report

    try:
        write_check_report(place, checked)
    except OSError as error:
        return _not_written(place, str(error.strerror))
    return None


def _not_written(place: Path, reason: str) -> ResourceError:
    return ResourceError(
        f"Cannot write the report {place}: {reason}.",
        expected="Expected a folder that exists and can be written.",
        hint="Give another place with --out, or leave the report out: --no-report",
    )


def in_words(checked: Checked, report: str | None) -> str:
    """Returns what a check found: the counts, the findings, the verdict."""
    lines = [_counts(checked)]
    for severity, title in (("harm", "Would harm training"), ("note", "Worth knowing")):
        findings = [finding for finding in checked.findings if finding.severity == severity]
        if findings:
            lines += ["", title]
            lines += [line for finding in findings for line in _finding(finding)]
    lines += ["", checked.verdict]
    if report is not None:
        lines.append(f"Report with pictures: {report}")
    if not checked.harmful:
        lines.append(f"Next: residuum train --data {checked.source}")
    return "\n".join(lines)


def _counts(checked: Checked) -> str:
    """Returns the table of classes and splits."""
    parts = list(checked.splits)
    rows = [[name, *(f"{counts[part]:,}" for part in parts)] for name, counts in checked.counts.items()]
    if len(rows) > _LISTED_CLASSES:
        rows = [*rows[:_LISTED_CLASSES], [f"and {len(rows) - _LISTED_CLASSES:,} more", *("" for _ in parts)]]
    rows.append(["all", *(f"{checked.splits[part]:,}" for part in parts)])
    head = ["class", *(parts if checked.survey.divided else ["pictures"] * len(parts))]
    return console.table(head, rows, right=range(1, len(head)))


def _finding(finding: Finding) -> Iterator[str]:
    yield ""
    yield from _wrapped(finding.what, "  ")
    yield from _wrapped(finding.do, "    ")
    if finding.groups:
        for group in finding.groups[:_NAMED]:
            named = [_named(finding, name) for name in group[:_NAMED]]
            yield f"      {' = '.join(named)}{' and others' if len(group) > _NAMED else ''}"
        more = len(finding.groups) - _NAMED
    else:
        yield from (f"      {_named(finding, name)}" for name in finding.files[:_NAMED])
        more = len(finding.files) - _NAMED
    if more > 0:
        yield f"      and {more:,} more"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _named(finding: Finding, name: str) -> str:
    return f"{name} ({finding.remarks[name]})" if finding.remarks.get(name) else name


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Yields what is told how many pictures are done: a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("[bold]checking"), BarColumn(), MofNCompleteColumn(), TextColumn("pictures"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("check", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines()


class _Lines:
    """A line on stderr every ten seconds."""

    def __init__(self) -> None:
        self.told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self.told > _SECONDS_BETWEEN_LINES:
            console.note(f"Read {done:,} of {total:,} pictures.")
            self.told = time.monotonic()
