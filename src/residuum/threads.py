"""How many threads: the cores that this process may use, which in a container are fewer than the machine has."""

from __future__ import annotations

import os


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
