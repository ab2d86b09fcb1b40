"""Where a cache is written: aside, in a hidden folder beside the place where it belongs, renamed when it is complete.

What stops before that leaves nothing but, after `kill -9`, that folder, which the next one that is made there removes.
A cache has one writer at a time and any number of readers; who reads an older one keeps it until it ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from residuum import aside
from residuum.data import cache
from residuum.data.paths import displayed
from residuum.errors import ResourceError, UsageError
from residuum.userpath import expanded


@contextmanager
def in_place_when_done(folder: Path, bytes_needed: int) -> Iterator[Path]:
    """Yields a folder to write to, which then takes the place of the cache; whatever is raised, it is removed."""
    new = aside.new_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        try:
            new.mkdir()
            yield new
            aside.put_in_place(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise ResourceError(
            f"Cannot write the cache {displayed(str(folder))}: {error.strerror or error}.",
            expected=f"Expected a folder that can be written, with about {bytes_needed / 1e9:.2f} GB of space.",
            hint="Free some space, or give another place with --out. Nothing is left of what was written.",
        ) from error


def refuse_place(folder: Path, source: str) -> None:
    """Refuses to write among the pictures, or in the place of anything but a cache or an empty folder."""
    data = expanded(source)
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise UsageError(
            f"{displayed(str(folder))} lies among the pictures of {displayed(source)}.",
            expected="Expected a place outside of the set, which is not changed.",
            hint="Give another one to --out.",
        )
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise UsageError(
                f"{displayed(str(folder))} is a file.",
                expected="Expected the name of a new folder.",
                hint="Give another one to --out.",
            )
    elif not cache.is_cache(folder) and any(folder.iterdir()):
        raise UsageError(
            f"{displayed(str(folder))} is a folder that holds something else than a cache.",
            expected=f"Expected no such folder, an empty one, or a cache (with {cache.CARD}).",
            hint="Give another one to --out.",
        )


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left, and puts an older cache back that one of them had moved aside."""
    aside.remove_unfinished(folder)
    older = aside.older(folder)
    if older.exists():
        if folder.exists():
            shutil.rmtree(older, ignore_errors=True)
        else:
            older.rename(folder)


def flush(file: IO[bytes]) -> None:
    """Brings what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def free_bytes(folder: Path) -> int:
    """Returns how much the disk that `folder` is on, or will be, has left."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free
