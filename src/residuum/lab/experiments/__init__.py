"""The experiments: each one function that measures on a bench, with its card: claim, source, rule, scales.

Run one: residuum reproduce NAME. A new one is one file here.
"""

from __future__ import annotations

from residuum.lab.findings import Claim
from residuum.registry import Entry, Registry

EXPERIMENTS: Registry[Claim, None] = Registry("experiment", "residuum.lab.experiments", "residuum reproduce --list")


def every() -> list[Entry[Claim, None]]:
    """Returns all experiments by name, whatever was imported first."""
    return sorted(EXPERIMENTS.entries(), key=lambda entry: entry.name)


__all__ = ["EXPERIMENTS", "every"]
