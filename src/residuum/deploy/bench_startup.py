"""How long programs take to begin: residuum's help, its import, and the first step of a training run.

Each is a process of its own, from its start to its end; a run, to the moment at which it tells of its first step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from residuum import hardware
from residuum.deploy.bench import Bench, Measured, Tell, about
from residuum.errors import ResourceError
from residuum.timing import Figure, Measure, in_turns

RUN = (
    "train", "--recipe", "resnet20_cifar10_fast", "--data", "synthetic:256x10x32", "--epochs", "1",
    "--set", "log_every_steps=1", "--verbose",
)  # fmt: skip
"""The run whose first step is awaited: ResNet-20 on batches of 128 pictures."""

_TIMEOUT_S = 600.0
_KEPT_LINES = 20


def startup(*, device: str = "auto", turns: int = 7, tell: Tell | None = None) -> Bench:
    """Measures processes in milliseconds: --help, `import residuum`, `import torch` as a yardstick, and a run's first
    step.

    Raises:
        UsageError: there is no such device.
        ResourceError: a process failed, or took ten minutes.
    """
    place = hardware.choose_device(device)
    arms: dict[str, tuple[str, Measure]] = {
        "help": ("residuum --help", partial(seconds, ["-m", "residuum", "--help"])),
        "import residuum": ("import residuum, without torch", partial(seconds, _importing("residuum"))),
        "import torch": ("import torch, for comparison", partial(seconds, _importing("torch"))),
        "first step": ("residuum train, to the end of its first step", partial(seconds_to_first_step, device)),
    }
    found = in_turns({name: measure for name, (_, measure) in arms.items()}, turns, tell=tell)
    measured = [Measured(name, arms[name][0], "ms", Figure.of(values).times(1000)) for name, values in found.items()]
    return Bench("startup", tuple(measured), about(place))


def _importing(name: str) -> list[str]:
    return ["-c", f"import {name}"]


def seconds(words: Sequence[str]) -> float:
    """Returns how long Python takes with these words, from start to end.

    Raises:
        ResourceError: it failed, or took ten minutes.
    """
    return _seconds_until(None, words)


def seconds_to_first_step(device: str = "auto") -> float:
    """Returns how long `residuum train` takes until its first step is done. What it leaves is removed.

    Raises:
        ResourceError: it failed before, or took ten minutes.
    """
    with tempfile.TemporaryDirectory(prefix="residuum-bench-") as folder:
        words = ["-m", "residuum", *RUN, "--device", device, "--out", str(Path(folder) / "run")]
        return _seconds_until("step 1/", words)


def _seconds_until(awaited: str | None, words: Sequence[str]) -> float:
    """Returns the seconds until a line on standard error begins with what is awaited; without that, until the end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    took = None
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.strip())
            if awaited is not None and said[-1].startswith(awaited):
                took = time.perf_counter() - started
                process.kill()
                break
        code = process.wait()
        if took is None and awaited is None and code == 0:
            took = time.perf_counter() - started
        timer.cancel()
    if took is None:
        raise ResourceError(
            f"A process that was to be timed ended with the code {code}: {' '.join(said) or 'it said nothing'}",
            expected=f"Expected it to end well, within {_TIMEOUT_S / 60:.0f} minutes.",
            hint=f"Try it: python {' '.join(words)}",
        )
    return took
