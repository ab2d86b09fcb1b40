"""Flags turned into changes of a recipe, and into the environment's word for no network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from residuum.errors import UsageError


def changes_of(arguments: argparse.Namespace, keys: Sequence[str]) -> dict[str, object]:
    """Returns what the flags named in `keys` and every `--set KEY=VALUE` change; the recipe checks the values.

    Raises:
        UsageError: a `--set` without a key or an equals sign.
    """
    changes: dict[str, object] = {key: value for key in keys if (value := getattr(arguments, key)) is not None}
    for change in arguments.changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set {change!r} changes nothing.",
                expected="Expected KEY=VALUE, without spaces or in quotes.",
                hint="For example: --set optim.lr=0.05",
            )
        changes[key.strip()] = value.strip()
    return changes


def go_offline(offline: bool) -> None:
    """Forbids every download of this process where `offline`."""
    if offline:
        os.environ["RESIDUUM_OFFLINE"] = "1"
