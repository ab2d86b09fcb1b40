"""Every exception that residuum raises on purpose, as one tree.

An error says three things: what happened (with the value), what was expected, and what to do next. Each class knows the
exit code that the command line ends with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ResiduumError(Exception):
    """The root of the tree; catch it to catch everything that residuum raises on purpose."""

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", hint: str = "") -> None:
        self.what = what
        self.expected = expected
        self.hint = hint
        super().__init__(" ".join(part for part in (what, expected, hint) if part))


class UsageError(ResiduumError):
    """A wrong argument, name or flag."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe key that does not exist, or a value of the wrong type or out of range."""


class DataError(ResiduumError):
    """A picture or an image set that cannot be used."""

    exit_code = 3


class PictureError(DataError):
    """One picture that cannot be opened safely. `name` is the file, `reason` says why, without the name."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(
            f"Cannot use the picture {name}: {reason}.",
            expected="Expected a JPEG, PNG, WebP, GIF, BMP or TIFF file that decodes completely.",
            hint="Replace or remove the file; 'residuum check' lists all such files of a set.",
        )


class WeightsError(ResiduumError):
    """Weights or a bundle that are not available, or whose content is not what its hash says."""

    exit_code = 4


class NetworkError(ResiduumError):
    """Data that must be downloaded and cannot be, or whose content is not what its hash says."""

    exit_code = 4


class ResourceError(ResiduumError):
    """Out of disk or of memory, or a folder that cannot be written."""

    exit_code = 5


class PeerError(ResourceError):
    """Another process of this run has failed, or is gone; the exit code is that of its error, where it left word."""

    def __init__(self, what: str, *, expected: str = "", hint: str = "", exit_code: int = 5) -> None:
        super().__init__(what, expected=expected, hint=hint)
        self.exit_code = exit_code


class DivergedError(ResiduumError):
    """The loss is not finite any more."""

    exit_code = 6


class VerificationError(ResiduumError):
    """Something that was checked is not as it must be."""

    exit_code = 7


class Stopped(ResiduumError):  # noqa: N818 (not an error: the run was asked to)
    """Stopped by a signal, with a checkpoint saved; run again to go on."""

    exit_code = 75


class Interrupted(Stopped):
    """Interrupted from the keyboard, with a checkpoint saved."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns 'Did you mean a, b?' with the closest of `known`, or an empty string where nothing is close."""
    close = difflib.get_close_matches(name.lower(), sorted(known), n=count, cutoff=0.6)
    return f"Did you mean {', '.join(close)}?" if close else ""
