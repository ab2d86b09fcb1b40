"""Patterns of shards: `train-*.tar` as a shell matches it, and `train-{000000..000123}.tar`, which names each one."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from residuum.data.paths import displayed
from residuum.errors import DataError
from residuum.userpath import expanded

MOST_FILES = 1_000_000

_BRACES = re.compile(r"\{(?:(?P<first>[0-9]+)\.\.(?P<last>[0-9]+)|(?P<words>[^{}]*,[^{}]*))\}")


def is_pattern(source: str) -> bool:
    """Whether `source` is a pattern and not a path."""
    return glob.has_magic(source) or _BRACES.search(source) is not None


def files_of(source: str) -> list[Path]:
    """Returns the files that a pattern matches, and that its braces name, each once.

    Raises:
        DataError: a file that the braces name is not there.
    """
    names: dict[str, None] = {}
    for name in _alternatives(str(expanded(source))):
        if glob.has_magic(name):
            names |= dict.fromkeys(sorted(glob.glob(name)))  # noqa: PTH207 (the pattern may be absolute)
        else:
            names[name] = None
    files = [Path(name) for name in names]
    missing = [file for file in files if not file.is_file()] if _BRACES.search(source) else []
    if missing:
        raise DataError(
            f"{len(missing):,} of the {len(files):,} files of {displayed(source)!r} are missing: "
            f"{displayed(missing[0].name)}.",
            expected="Expected every file that the braces name.",
            hint="Download what is missing, or name what is there.",
        )
    return files


def _alternatives(pattern: str) -> list[str]:
    """Returns what a pattern's braces stand for: {000..123} numbers of one width, {a,b} words."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    if match["words"] is not None:
        inside = match["words"].split(",")
    else:
        first, last, width = int(match["first"]), int(match["last"]), len(match["first"])
        if not 0 <= last - first < MOST_FILES:
            raise DataError(
                f"The braces {match[0]} name {last - first + 1:,} files.",
                expected=f"Expected from 1 to {MOST_FILES:,}.",
                hint="For example: 'train-{000000..000123}.tar'",
            )
        inside = [f"{number:0{width}d}" for number in range(first, last + 1)]
    return [
        found for word in inside for found in _alternatives(pattern[: match.start()] + word + pattern[match.end() :])
    ]
