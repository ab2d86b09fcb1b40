"""What somebody named as an image set: one of those known by name, or a place on the disk."""

from __future__ import annotations

from pathlib import Path

from residuum.data.paths import displayed
from residuum.errors import DataError, UsageError
from residuum.userpath import expanded

NAMED = ("digits", "synthetic", "cifar10", "cifar100")
"""The sets that are known by name."""


def is_named(source: str) -> bool:
    """Whether a source is a set that is known by name, and no path."""
    return source.split(":", maxsplit=1)[0] in NAMED


def located(source: str) -> Path:
    """Returns where a set is on the disk, be it there or not.

    Raises:
        DataError: it may not be looked at.
        UsageError: nothing is named.
    """
    path = expanded(source)
    try:
        path.stat()
    except PermissionError as error:
        raise DataError(
            f"{displayed(source)!r} may not be looked at ({error.strerror}).",
            expected="Expected a folder or a file that you may read, in folders that you may enter.",
            hint="Look at the permissions of it and of the folders around it, or name another set.",
        ) from error
    except (OSError, ValueError):
        pass  # it is not there, or has a name that no file can have
    if not source.strip():
        raise UsageError(
            "No image set is named: there is nothing between the quotes.",
            expected=f"Expected a path, or one of {', '.join(NAMED)}.",
            hint="Name the current folder as: --data .",
        )
    return path


def root_of(source: str) -> str:
    """Returns what the names of a source's pictures begin with, wherever the set lies."""
    path = expanded(source)
    return str(path if path.is_dir() else path.parent)
