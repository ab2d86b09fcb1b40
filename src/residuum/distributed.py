"""Many processes seen from one: its rank, and the size of the world. Without torchrun it is a world of one."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's place in the world, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0
