"""What `compile = true` takes: torch.compile writes C++ for processors and Triton for GPUs, and has them compiled.

Source: torch's tutorial "Compile Time Caching Configuration" for `keep_compiled_code`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

from residuum.download import cache_folder
from residuum.errors import UsageError

_COMPILED = "TORCHINDUCTOR_CACHE_DIR"


def compile_lacks(device: torch.device) -> str | None:
    """Returns what `compile = true` would miss on `device`, or None."""
    if device.type == "mps":
        return None
    compiler = os.environ.get("CXX") or "g++" if device.type == "cpu" else os.environ.get("CC") or "cc"
    if shutil.which(compiler) is None:
        return f"compiler ({compiler})"
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton"
    headers = Path(sysconfig.get_path("include"))
    return None if (headers / "Python.h").is_file() else f"Python.h in {headers}"


def refuse_if_it_cannot(device: torch.device, wanted: bool) -> None:
    """Raises UsageError where it is wanted, and would fail in the first step."""
    lacks = compile_lacks(device) if wanted else None
    if lacks is not None:
        raise UsageError(
            f"compile = true cannot be used on {device}: there is no {lacks}.",
            expected="Expected a C++ compiler and Python's headers, and Triton for a GPU.",
            hint="Install them (on Debian and Ubuntu: g++ and python3-dev), or leave compile out.",
        )


def keep_compiled_code() -> None:
    """Lets the next run find what torch compiles in this one: in `compiled` of the folder where downloads are kept,
    unless TORCHINDUCTOR_CACHE_DIR names another. Called before the first compiled step.

    torch's own choice, a folder for temporary files, stays where ours cannot be written to.
    """
    if os.environ.get(_COMPILED):
        return
    folder = cache_folder() / "compiled"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            os.environ[_COMPILED] = str(folder)
