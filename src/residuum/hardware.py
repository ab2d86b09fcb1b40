"""What the machine computes with: the device and the number format."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch

from residuum import memory, native, software
from residuum.errors import UsageError
from residuum.threads import cores

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Autocast = Callable[[], contextlib.AbstractContextManager[object]]


def choose_device(name: str = "auto", place: int = 0) -> torch.device:
    """Returns the device called `name`; "auto" is a CUDA device, else Apple's, else the CPU. Of several CUDA devices
    it is number `place`, where the name has no number: processes on one machine take one each.

    Raises:
        UsageError: no such device, or not on this machine.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{place if torch.cuda.device_count() > 1 else 0}"  # SLURM may show each process its own alone
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.index or 0) >= here.get(device.type, 0):
        have = [kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}" for kind, count in here.items() if count]
        raise UsageError(
            f"The device {name!r} is not on this machine.",
            expected=f"Expected auto, or one of {', '.join(have)}.",
            hint="Leave --device out to let residuum choose.",
        )
    return device


def choose_precision(wanted: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Returns the number format to compute in; "auto" is bf16 where the hardware has instructions for it, else fp32.

    Raises:
        UsageError: no such format; or fp16 on a CPU, where neither gradients nor speed survive it.
    """
    if wanted not in get_args(Precision):
        raise UsageError(
            f"No precision is called {wanted!r}.",
            expected=f"Expected one of {', '.join(get_args(Precision))}.",
            hint="Leave it out for the default.",
        )
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError(
            "fp16 cannot be used on a CPU.", expected="Expected fp32, bf16 or auto.", hint="Use --precision bf16."
        )
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def autocast(precision: Literal["fp32", "bf16", "fp16"], device: torch.device) -> Autocast:
    """Returns a function whose context computes matrix products and convolutions in `precision`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if precision == "fp32":
        if device.type == "cuda":  # where torch rounds float32 to 10 bits in convolutions by default
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
            torch.backends.cuda.matmul.fp32_precision = "ieee"
        return contextlib.nullcontext
    return functools.partial(torch.autocast, device.type, dtype)


def take(device: torch.device) -> None:
    """Makes `device` the one that this process computes on."""
    memory.keep_freed()
    if device.type == "cuda":
        torch.cuda.set_device(device)


def describe(device: torch.device) -> dict[str, object]:
    """Returns what a figure needs beside it: versions, processor, cores, device. JSON types."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device_type": device.type,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "bf16_in_hardware": choose_precision("auto", device) == "bf16",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": software.versions(),
    }


def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(errors="replace") if file.exists() else ""


def instructions() -> frozenset[str]:
    """Returns what Linux calls the processor's instruction sets, such as avx512_bf16; none elsewhere."""
    for line in _cpuinfo().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def bf16_kernels(source: Path) -> ctypes.CDLL | None:
    """Returns the library that a C source makes (see `native`) which needs bfloat16 instructions of AVX-512; None where
    the processor has none, or there is no compiler."""
    return native.library(source) if "avx512_bf16" in instructions() else None


def _cpu_has_bf16() -> bool:
    return bool(instructions() & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_name() -> str:
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.split(":", maxsplit=1)[1].strip()
    return platform.processor() or platform.machine()
