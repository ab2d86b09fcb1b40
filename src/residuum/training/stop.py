"""Signals turned into a question that the loop asks between two steps, so that what is saved is never half a step.

Before the first step and after the last there is nothing to save that is not saved already; then a signal ends the run
at once, wherever it is.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from residuum.errors import Interrupted, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""What asks a run to stop: the keyboard, the system or a batch queue, SLURM before it takes a job off, the terminal."""


class Stop:
    """Whether somebody asked the run to stop. `at_once` while everything is saved.

    `signal` is what this process has heard, at whatever moment; `agreed` is what all processes have told each other.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.agreed = 0
        self.folder: Path | None = None
        self.at_once = True

    def error(self) -> Stopped:
        """Returns what the run ends with, once it is saved."""
        number = self.agreed or self.signal
        kind = Interrupted if number == signal.SIGINT else Stopped
        name = signal.Signals(number).name
        if self.folder is None:
            return kind(f"Stopped by {name}, before there was anything to save.")
        return kind(
            f"Stopped by {name}; everything is saved.",
            hint=f"Go on with: residuum train --resume {shlex.quote(str(self.folder))}",
        )

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """While it lasts, a signal is only noted: the loop asks for it between two steps, and saves."""
        self.at_once = False
        try:
            yield
        finally:
            self.at_once = True
        if self.signal:  # it came after the last question
            raise self.error()


@contextlib.contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """While it lasts, SIGNALS ask `stop`; a second one of a kind ends the process at once.

    Raises:
        Stopped, Interrupted: a signal came while everything was saved.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = number
        signal.signal(number, signal.SIG_DFL)
        if stop.at_once:
            raise stop.error()

    # What is ignored stays ignored: so nohup keeps a run going when its terminal goes.
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
