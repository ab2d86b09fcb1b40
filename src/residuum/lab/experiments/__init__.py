"""The experiments: each one function that measures on a bench, with its card: claim, source, rule, scales.

Run one: residuum reproduce NAME. A new one is one file here.
"""

from __future__ import annotations

from residuum.lab.findings import Claim
from residuum.registry import Registry

EXPERIMENTS: Registry[Claim, None] = Registry("experiment", "residuum.lab.experiments", "residuum reproduce --list")

__all__ = ["EXPERIMENTS"]
