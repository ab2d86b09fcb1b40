"""How much memory there is to be had: of the machine, of the container, and of this process; and how it is kept.

Source: the kernel's documentation of /proc/meminfo, and of cgroup v1 and v2 for the limits of containers; glibc's
    mallopt(3) for `keep_freed`.
"""

from __future__ import annotations

import ctypes
import math
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_bytes() -> float:
    """Returns what can be had without swapping and without being killed for it; infinity where nobody says."""
    return min(_of_machine(), _of_container(), _of_process())


def peak_bytes() -> int | None:
    """Returns the most memory that this process has had at once; None where nobody counts it.

    The kernel's own count for this process: the one that `resource` tells begins with that of the process before it.
    """
    return _kilobytes(Path("/proc/self/status"), "VmHWM")


def keep_freed() -> None:
    """Tells glibc to keep freed memory for the next step instead of giving it back to the kernel after each.

    A training step on a CPU allocates and frees the same large blocks over and over; without this each is mapped,
    zeroed and unmapped anew. Does nothing where the C library has no mallopt.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def control_groups(controller: str, *names: tuple[str, str]) -> Iterator[tuple[str, ...]]:
    """Yields what the control groups of this process, and those around them, say in files.

    Each of `names` is a file of cgroup v2 and the one of v1 that says the same.
    """
    for line in _OWN_CGROUPS.read_text().splitlines() if _OWN_CGROUPS.is_file() else ():
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controller if controllers else _CGROUPS
        place = root / path.lstrip("/")
        for folder in (place, *place.parents):
            files = [folder / name[bool(controllers)] for name in names]
            if folder.is_relative_to(root) and all(file.is_file() for file in files):
                yield tuple(file.read_text().strip() for file in files)


def _of_machine() -> float:
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return math.inf if found is None else found


def _of_container() -> float:
    limits = control_groups(
        "memory", ("memory.max", "memory.limit_in_bytes"), ("memory.current", "memory.usage_in_bytes")
    )
    return min((max(0, int(most) - int(used)) for most, used in limits if most.isdecimal()), default=math.inf)


def _of_process() -> float:
    """The limit on the address space (ulimit -v) less what is in use."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _kilobytes(Path("/proc/self/status"), "VmSize")
    return math.inf if most == resource.RLIM_INFINITY or used is None else max(0, most - used)


def _kilobytes(file: Path, key: str) -> int | None:
    """Returns a line of a file of the kernel's, in bytes."""
    found = re.search(rf"^{key}:\s*(\d+) kB", file.read_text() if file.is_file() else "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None
