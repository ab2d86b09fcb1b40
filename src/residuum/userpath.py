"""A path as somebody wrote it."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Returns the path with ~ as the home folder; as it is where ~ is the name of nobody, so of a file perhaps."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
