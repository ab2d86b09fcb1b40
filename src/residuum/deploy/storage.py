"""Where residuum writes: the folders it needs, the room in them, and what lies in its cache. No torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from residuum.download import cache_folder


def places() -> list[dict[str, Any]]:
    """Returns the folders that are written to, each with its room. JSON types. Nothing is left in them."""
    return [
        _place("working folder", Path.cwd()),
        _place("temporary files", Path(tempfile.gettempdir())),
        _place("cache", cache_folder()),
    ]


def cached() -> list[dict[str, Any]]:
    """Returns what lies in the cache, by name: the sets, weights and indices, with their sizes."""
    folder = cache_folder()
    if not folder.is_dir():
        return []
    return [{"name": entry.name, **_size(entry)} for entry in sorted(folder.iterdir())]


def _place(use: str, folder: Path) -> dict[str, Any]:
    """Tells of a folder; of one that is not there yet, whether it can be made."""
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    room = shutil.disk_usage(nearest)
    return {
        "use": use,
        "folder": str(folder),
        "exists": nearest == folder.absolute(),
        "free_bytes": room.free,
        "total_bytes": room.total,
        "refusal": _refusal(nearest),
    }


def _refusal(folder: Path) -> str | None:
    """Returns why nothing can be written into `folder`, or None; tried out, for permissions do not tell all."""
    if not folder.is_dir():
        return "it is a file"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"residuum")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _size(entry: Path) -> Mapping[str, int]:
    """Returns how many files there are in `entry`, which may be one itself, and their bytes; links are not followed."""
    if not entry.is_dir() or entry.is_symlink():
        return {"files": 1, "bytes": entry.lstat().st_size}
    sizes = []
    for place, _, files in os.walk(entry):
        sizes += [(Path(place) / name).lstat().st_size for name in files]
    return {"files": len(sizes), "bytes": sum(sizes)}
