"""Folders that are written aside, under a hidden name beside the place where they belong, and renamed when complete.

`NAME` is written as `.NAME.writing-*`; the older one waits in `.NAME.older` while the new one takes its place. Whoever
is killed leaves one of these behind, which the next writer of `NAME` finds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path


def new_place(folder: Path) -> Path:
    """Returns where the content of `folder` may be written first; nothing is there."""
    return folder.parent / f"{_prefix(folder)}writing-{os.getpid()}-{secrets.token_hex(4)}"


def older(folder: Path) -> Path:
    """Returns where what `folder` held before is moved."""
    return folder.parent / f"{_prefix(folder)}older"


def remove_unfinished(folder: Path) -> None:
    """Removes what killed writers of `folder` left."""
    for sibling in folder.parent.iterdir():
        if sibling.name.startswith(f"{_prefix(folder)}writing-"):
            shutil.rmtree(sibling, ignore_errors=True)


def put_in_place(finished: Path, folder: Path, *, keep_older: bool = False) -> None:
    """Renames the folder `finished` to `folder`; what was there is back in its place if that fails."""
    before = older(folder)
    replaces = folder.is_dir()
    if replaces:
        _remove(before, folder)
        folder.rename(before)
    try:
        finished.rename(folder)
    except OSError:
        if replaces:
            before.rename(folder)
        raise
    flush_names(folder.parent)
    if not keep_older:
        _remove(before, folder)


def _remove(place: Path, folder: Path) -> None:
    """Removes a folder that readers of `folder` may look for: none of them finds half of it."""
    gone = new_place(folder)
    with contextlib.suppress(OSError):
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def flush_names(folder: Path) -> None:
    """Makes the names in `folder` survive a power cut, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _prefix(folder: Path) -> str:
    """What the names of all siblings that belong to `folder` start with."""
    return f".{folder.name}."
