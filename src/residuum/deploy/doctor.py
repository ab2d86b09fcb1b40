"""What a report of a bug needs: facts about software and machine, what is wrong with them, and a test of seconds.

This must work where much else does not. So nothing heavy is imported at the top, every section is gathered by itself,
and what raises is part of the answer. Nothing is written but into temporary files, nothing is downloaded or sent; of
the environment only the variables named here are read.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from residuum import software
from residuum.errors import ResiduumError, UsageError

TIME_LIMIT_S = 120.0
"""When the self-test gives up: it takes some ten seconds, and what hangs would hang for ever."""

SETTINGS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CC", "CXX", "LD_PRELOAD", "PYTHONPATH", "RESIDUUM_CACHE",
    "RESIDUUM_OFFLINE", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
PROCESSES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_PROCID",
    "SLURM_LOCALID", "SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME",
    "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "GLOO_SOCKET_IFNAME",
)  # fmt: skip
"""What torchrun and SLURM tell the processes that train together."""

_TIGHT_BYTES, _SCARCE_BYTES = 100_000_000, 2_000_000_000
"""Free space that a single ResNet-50 does not fit in, and that a few runs fill."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something wrong, and what to do about it. "harm": training stops at it; "note": training goes on all the same."""

    severity: Literal["harm", "note"]
    what: str
    do: str


@dataclass(frozen=True)
class Section:
    """Facts of one kind, in JSON's types, and what is wrong with them; `{"error": ...}` where they cannot be had."""

    name: str
    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether the facts could not be had."""
        return "error" in self.facts


@dataclass(frozen=True)
class Result:
    """How one test of the self-test went: `detail` is what was seen, or, in one line, why it failed."""

    name: str
    ok: bool
    seconds: float
    detail: str

    def as_dict(self) -> Facts:
        """The result in JSON's types."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def examine(device: str = "auto") -> Iterator[Section]:
    """Yields the sections, those first that need no library, so that they are told even where one ends the process.

    Raises:
        UsageError: there is no such device.
    """
    if device != "auto":
        with contextlib.suppress(ImportError, OSError):  # told below
            importlib.import_module("residuum.hardware").choose_device(device)
    gathering: dict[str, tuple[Callable[[], Facts], Callable[[Facts], Iterator[Finding]]]] = {
        "residuum": (software.origin, _nothing),
        "system": (_system, _nothing),
        "libraries": (_libraries, _judge_libraries),
        "environment": (lambda: _environment(SETTINGS), _nothing),
        "disk": (_disk, _judge_disk),
        "pictures": (_pictures, _judge_pictures),
        "devices": (lambda: _devices(device), _judge_devices),
        "distributed": (_distributed, _nothing),
    }
    for name, (gather, judge) in gathering.items():
        try:
            facts = gather()
            yield Section(name, facts, tuple(judge(facts)))
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 (what cannot be found out is part of the answer)
            reason = _in_a_line(error)
            what = f"The section '{name}' cannot be told: {reason}."
            yield Section(
                name, {"error": reason}, (Finding("harm", what, "Mend what it names, for training needs it too."),)
            )


def self_test(device: str = "auto", limit_s: float = TIME_LIMIT_S) -> Iterator[Result]:
    """Yields the result of each test as it ends; nothing that a test raises gets out of here."""
    deadline = time.monotonic() + limit_s
    with tempfile.TemporaryDirectory(prefix="residuum-doctor-", ignore_cleanup_errors=True) as place:
        found: dict[str, Callable[[], str]] = {}

        def own_modules() -> str:
            found.update(_tests(device, Path(place)))
            return "what training and prediction need imports"

        yield _timed("libraries", software.import_all, deadline)
        yield _timed("residuum", own_modules, deadline)
        for name, test in found.items():
            yield _timed(name, test, deadline)


def _tests(device: str, place: Path) -> dict[str, Callable[[], str]]:
    """Returns the tests for a device, each with a folder of its own; imports everything that they need."""
    from residuum import hardware

    selftest = importlib.import_module("residuum.deploy.selftest")
    chosen = hardware.choose_device(device)

    def bound(name: str, test: Callable[..., str]) -> Callable[[], str]:
        def run() -> str:
            (place / name).mkdir()
            return test(chosen, place / name)

        return run

    return {name: bound(name, test) for name, test in selftest.tests(chosen).items()}


def _timed(name: str, test: Callable[[], str], deadline: float) -> Result:
    """Runs a test in a thread of its own, for what hangs in a driver cannot be interrupted, only left behind."""
    outcome: list[tuple[bool, str]] = []

    def run() -> None:
        try:
            outcome.append((True, test()))
        except ResiduumError as error:
            outcome.append((False, " ".join(error.what.split())))
        except Exception as error:  # noqa: BLE001 (whatever a test raises is its result)
            outcome.append((False, _in_a_line(error)))

    started = time.monotonic()
    if started >= deadline:
        return Result(name, False, 0.0, "not run: the time was up")
    thread = threading.Thread(target=run, name=f"residuum-doctor-{name}", daemon=True)
    thread.start()
    thread.join(deadline - started)
    seconds = time.monotonic() - started
    ok, detail = outcome[0] if outcome else (False, f"no result after {seconds:.0f} s")
    return Result(name, ok, seconds, detail)


def _in_a_line(error: Exception) -> str:
    """Returns an exception's name, the first line of what it says, and where it was raised."""
    said = next(iter(str(error).splitlines()), "").rstrip(".")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if said else ''}{said}{where}"


def _nothing(_: Facts) -> Iterator[Finding]:
    yield from ()


def _system() -> Facts:
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        distribution = None
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "distribution": distribution,
        "libc": " ".join(platform.libc_ver()).strip() or None,
    }


def _libraries() -> Facts:
    return {
        library.name: {"version": library.version, "wanted": library.wanted, "problem": library.problem}
        for library in software.libraries()
    }


def _environment(names: tuple[str, ...]) -> Facts:
    return {name: os.environ[name] for name in names if name in os.environ}


def _disk() -> Facts:
    from residuum.deploy import storage

    return {"places": storage.places(), "cached": storage.cached()}


def _pictures() -> Facts:
    """Returns the format's name -> the library that decodes it, with its version; None where there is none."""
    from PIL import features

    from residuum import imaging

    turbo, ng = features.version_feature("libjpeg_turbo"), features.version_feature("zlib_ng")
    decoders = {
        "JPEG": features.check("jpg") and (f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"),
        "PNG": features.check("zlib") and (f"zlib-ng {ng}" if ng else f"zlib {features.version('zlib')}"),
        "WEBP": features.check("webp") and f"libwebp {features.version('webp')}",
        "TIFF": features.check("libtiff") and f"libtiff {features.version('libtiff')}",
    }
    return {name: decoders.get(name, "Pillow itself") or None for name in imaging.FORMATS}


def _devices(device: str) -> Facts:
    from residuum.deploy import machine

    return machine.devices(device)


def _distributed() -> Facts:
    from residuum.deploy import machine

    return {"backends": machine.backends(), "environment": _environment(PROCESSES)}


def _judge_libraries(facts: Facts) -> Iterator[Finding]:
    if not facts:
        yield Finding(
            "note",
            "What residuum needs is not known, for it was copied here, not installed.",
            "Install it: pip install . in its folder.",
        )
    for name, library in facts.items():
        if library["problem"]:
            wanted = f">={library['wanted']}" if library["wanted"] else ""
            has = f" ({library['version']})" if library["version"] else ""
            yield Finding(
                "harm",
                f"{name}{has} {library['problem']}; residuum needs {name}{wanted}.",
                f"Install it: pip install '{name}{wanted}'",
            )


def _judge_disk(facts: Facts) -> Iterator[Finding]:
    remedies = {
        "working folder": "Go to another folder, or give one with --out.",
        "temporary files": "Set TMPDIR to a folder that can be written.",
        "cache": "Set RESIDUUM_CACHE to a folder that can be written; without one, sets cannot be downloaded.",
    }
    told: set[int] = set()
    for place in facts["places"]:
        use, folder, free = place["use"], place["folder"], place["free_bytes"]
        severity: Literal["harm", "note"] = "harm" if use == "working folder" else "note"
        if place["refusal"]:
            what = f"The folder {folder} ({use}) cannot be written: {place['refusal']}."
            yield Finding(severity, what, remedies[use])
        elif free < _SCARCE_BYTES and place["total_bytes"] not in told:  # three folders may be of one disk
            told.add(place["total_bytes"])
            severity = severity if free < _TIGHT_BYTES else "note"
            what = f"The disk of {folder} ({use}) has {free / 1e9:.2f} GB left."
            yield Finding(severity, what, "Free some space: a run of ResNet-50 needs 0.5 GB.")


def _judge_pictures(facts: Facts) -> Iterator[Finding]:
    for name, decoder in facts.items():
        if decoder is None:
            yield Finding(
                "harm",
                f"This Pillow cannot decode {name}.",
                "Install one that was built with everything: pip install --force-reinstall pillow",
            )


def _judge_devices(facts: Mapping[str, Any]) -> Iterator[Finding]:
    cores, quota, threads = facts["cores"], facts["cores_quota"], facts["threads"]
    usable = min(cores, quota or cores)
    if threads > usable:
        yield Finding(
            "note",
            f"torch computes in {threads} threads, and this process has {usable:g} cores' worth of time.",
            f"Training may be faster with OMP_NUM_THREADS={max(1, int(usable))}.",
        )
    elif threads < cores // 2:  # two threads of a core are one to torch
        yield Finding(
            "note",
            f"torch computes in {threads} thread{'s' if threads > 1 else ''}, and {cores} cores can be used.",
            "Training on the processor is faster with more: unset OMP_NUM_THREADS, or set it to the number of cores.",
        )
    if facts["gpu_driver"] and not facts["gpus"]:
        built = f"is built for CUDA {facts['cuda']}" if facts["cuda"] else "is built without CUDA"
        yield Finding(
            "note",
            f"There is a driver for NVIDIA's GPUs ({facts['gpu_driver']}), and torch, which {built}, finds no GPU.",
            "Look at CUDA_VISIBLE_DEVICES; else install the torch that pytorch.org names for this driver.",
        )
    for text in facts["warnings"]:
        yield Finding("note", f"torch warns: {text}", "If a GPU was expected here, this says why there is none.")
