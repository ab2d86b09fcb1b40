"""Pictures named on the command line: files, folders that are searched, and - for one on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from residuum.errors import DataError, UsageError


def files_of(paths: Sequence[str]) -> list[str]:
    """Returns the pictures that the paths name: a folder's pictures in natural order, everything else as it is.

    Raises:
        UsageError: standard input is named twice.
        DataError: there are no pictures in a folder.
    """
    from residuum.data.paths import natural_key

    if paths.count("-") > 1:
        raise UsageError(
            f"Standard input is named {paths.count('-')} times: {' '.join(paths)}.",
            expected="Expected - once: there is one picture on standard input.",
            hint="Give the other pictures as files.",
        )
    files: list[str] = []
    for path in paths:
        if path == "-" or not Path(path).is_dir():
            files.append(path)
            continue
        found = sorted(_pictures_in(path), key=natural_key)
        if not found:
            raise DataError(
                f"There are no pictures in the folder {path}.",
                expected="Expected files such as a.jpg, a.png, a.webp, a.gif, a.bmp or a.tiff.",
                hint="Give the files by name if they end in something else.",
            )
        files += found
    return files


def standard_input() -> bytes:
    """Returns what is on standard input, which is nothing where the shell closed it."""
    stream = sys.stdin
    return b"" if stream is None else stream.buffer.read()


def _pictures_in(folder: str) -> Iterator[str]:
    """Yields the files in `folder` and below that end like pictures; hidden files and folders are passed over."""
    from residuum.imaging import EXTENSIONS

    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield str(Path(place) / name)
