"""C sources of the package, made into libraries by the system's compiler when they are first needed.

That takes a second or two, once: the library is kept in the cache folder, under a name that holds source, compiler and
processor. Everything that such a library does, something slower does too, for machines without a compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

from residuum.download import cache_folder

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_ASKED_S, _COMPILED_S = 60, 120
_CPUINFO = Path("/proc/cpuinfo")
_PROCESSOR = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
)  # fmt: skip
"""The lines of Linux's /proc/cpuinfo that tell one kind of processor from another."""


def library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """Returns the library that `source` makes, or None where there is no compiler for it, or no place."""
    try:
        return ctypes.CDLL(str(_built(source, flags)))
    except (OSError, subprocess.SubprocessError):
        return None


def _built(source: Path, flags: tuple[str, ...]) -> Path:
    """Returns the library for this source, compiler and processor, compiled where it is not in the cache.

    Raises:
        OSError: there is no compiler, or no place for the library.
        subprocess.SubprocessError: the compiler does not take it.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    parts = (source.read_bytes(), repr((*_FLAGS, *flags)).encode(), _about(compiler))
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    path = cache_folder() / "kernels" / f"{source.stem}-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            command = [compiler, *_FLAGS, *flags, "-o", str(aside), str(source)]
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILED_S)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    return path


@functools.cache
def _about(compiler: str) -> bytes:
    """Returns what tells compilers and processors apart: the version, and what `native` means here.

    The compiler is asked once: its answer is kept in the cache folder, under a name that changes with the compiler's
    file and with what the system says of the processor. Where it says nothing, the compiler is asked every time.
    """
    kept = _kept(compiler)
    if kept is not None:
        with contextlib.suppress(OSError):
            if told := kept.read_bytes():
                return told
    target = subprocess.run([compiler, *_FLAGS, "-Q", "--help=target"], capture_output=True, timeout=_ASKED_S).stdout
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_ASKED_S).stdout
    about = target + b"\0" + version
    if kept is not None:
        with contextlib.suppress(OSError):  # then it is asked again the next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_name(f".{kept.name}.{os.getpid()}.{threading.get_ident()}")
            aside.write_bytes(about)
            aside.replace(kept)
    return about


def _kept(compiler: str) -> Path | None:
    """Returns where the answer of this compiler on this processor is kept; None where one of them cannot be told."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
        file = Path(compiler).resolve(strict=True)
        found = file.stat()
    except OSError:
        return None
    processor = sorted({line for line in lines if line.partition(":")[0].strip() in _PROCESSOR})
    if not processor:
        return None
    parts = (compiler, str(file), found.st_size, found.st_mtime_ns, _FLAGS, *processor)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return cache_folder() / "kernels" / f"compiler-{key}.txt"
