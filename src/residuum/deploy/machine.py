"""What computes here: processor, memory, GPUs, what torch can do with them, and what several processes speak over."""

from __future__ import annotations

import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from residuum import hardware
from residuum.compiling import compile_lacks
from residuum.memory import available_bytes, control_groups
from residuum.models import functions

_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes its lack of a limit as a number near 2^63."""


def devices(name: str) -> dict[str, Any]:
    """Returns the processors and what `--device name` and `--precision auto` mean on this machine. JSON types.

    Raises:
        UsageError: there is no such device.
    """
    with warnings.catch_warnings(record=True) as caught:  # torch says so where the driver and it do not fit together
        warnings.simplefilter("always")
        device = hardware.choose_device(name)
        gpus = [_gpu(number) for number in range(torch.cuda.device_count())]
    about = hardware.describe(torch.device("cpu"))
    lacks = compile_lacks(device)
    return {
        "device": str(device),
        "precision_auto": _precision(device),
        "compile": lacks is None,
        "compile_lacks": lacks,
        "fused": functions.library() is not None,
        "processor": about["device"],
        "bf16_in_hardware": about["bf16_in_hardware"],
        "cores": about["cores"],
        "cores_in_machine": os.cpu_count(),
        "cores_quota": _cores_quota(),
        "threads": about["threads"],
        "memory": _memory(),
        "gpus": gpus,
        "gpu_driver": _nvidia_driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if gpus else None,  # type: ignore[no-untyped-call]
        "mps": torch.backends.mps.is_available(),
        "warnings": [" ".join(str(warning.message).split()) for warning in caught],
    }


def backends() -> list[str]:
    """Returns what this torch has for processes that train together, by the names of `torch.distributed`."""
    spoken = torch.distributed
    if not spoken.is_available():
        return []
    there = {"gloo": spoken.is_gloo_available(), "nccl": spoken.is_nccl_available(), "mpi": spoken.is_mpi_available()}
    return [name for name, is_there in there.items() if is_there]


def _precision(device: torch.device) -> str:
    if device.type != "cuda":
        return hardware.choose_precision("auto", device)
    with torch.cuda.device(device):  # torch answers for the current one
        return hardware.choose_precision("auto", device)


def _gpu(number: int) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(number)
    return {
        "device": f"cuda:{number}",
        "name": about.name,
        "memory_bytes": about.total_memory,
        "capability": f"{about.major}.{about.minor}",
        "bf16_in_hardware": _precision(torch.device("cuda", number)) == "bf16",
    }


def _nvidia_driver() -> str | None:
    """Returns the version of NVIDIA's driver, whether torch uses it or not; None where there is none."""
    file = Path("/proc/driver/nvidia/version")
    if not file.is_file():
        return None
    version = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", file.read_text(errors="replace"))
    return version[1] if version else "unknown"


def _memory() -> dict[str, int | None]:
    groups = control_groups("memory", ("memory.max", "memory.limit_in_bytes"))
    limits = [int(text) for (text,) in groups if text.isdecimal()]
    available = available_bytes()
    return {
        "total_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "available_bytes": None if math.isinf(available) else int(available),
        "limit_bytes": min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None),
    }


def _cores_quota() -> float | None:
    """Returns how many cores' worth of time a container gets; None for no limit."""
    quotas = []
    for (text,) in control_groups("cpu", ("cpu.max", "cpu.cfs_quota_us")):
        quota, period = (*text.split(), "100000")[:2]
        if quota.isdecimal():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
