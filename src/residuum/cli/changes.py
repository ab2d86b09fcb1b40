"""Flags turned into changes of a recipe, and into the environment's words for no network and for a licence."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from residuum.errors import UsageError


def changes_of(arguments: argparse.Namespace, keys: Sequence[str]) -> dict[str, object]:
    """Returns what the flags named in `keys` and every `--set KEY=VALUE` change; the recipe checks the values.

    Keys are dotted, aliases resolved.

    Raises:
        UsageError: a `--set` without a key or an equals sign, or a key that is given twice with different values.
    """
    from residuum.recipe import ALIASES

    given = {key: getattr(arguments, key) for key in keys}
    changes: dict[str, object] = {ALIASES.get(key, key): value for key, value in given.items() if value is not None}
    for change in arguments.changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set {change!r} changes nothing.",
                expected="Expected KEY=VALUE, without spaces or in quotes.",
                hint="For example: --set optim.lr=0.05",
            )
        key, value = ALIASES.get(key.strip(), key.strip()), value.strip()
        if changes.setdefault(key, value) != value:
            raise UsageError(
                f"The recipe key '{key}' is given twice: {changes[key]!r} and {value!r}.",
                expected="Expected one value.",
                hint="Leave out one of them.",
            )
    return changes


def go_offline(offline: bool) -> None:
    """Forbids every download of this process where `offline`."""
    if offline:
        os.environ["RESIDUUM_OFFLINE"] = "1"


def accept_licence(accepted: bool) -> None:
    """Allows this process weights under a non-commercial licence where `accepted`."""
    if accepted:
        os.environ["RESIDUUM_ACCEPT_LICENSE"] = "1"
