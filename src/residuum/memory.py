"""How much memory there is to be had: of the machine, of the container, and of this process."""

from __future__ import annotations

import math
import re
import resource
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def available_bytes() -> float:
    """Returns what can be had without swapping and without being killed for it; infinity where nobody says."""
    return min(_of_machine(), _of_container(), _of_process())


def _of_machine() -> float:
    found = re.search(r"^MemAvailable: *([0-9]+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) * 1024 if found else math.inf


def _of_container() -> float:
    """The limit of the control group less what is in use, in either version of Linux's control groups."""
    for limit, usage in _CGROUP_FILES:
        most, used = _read(_CGROUP / limit).strip(), _read(_CGROUP / usage).strip()
        if most.isdecimal() and used.isdecimal():
            return max(0, int(most) - int(used))
    return math.inf


def _of_process() -> float:
    """The limit on the address space (ulimit -v) less what is in use."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = re.search(r"^VmSize: *([0-9]+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
    return math.inf if most == resource.RLIM_INFINITY or not found else max(0, most - int(found[1]) * 1024)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
