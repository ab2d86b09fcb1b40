"""Signals turned into a question that the loop asks between two steps, so that what is saved is never half a step."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from residuum.errors import Interrupted, Stopped


class Stop:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def error(self, run_folder: object) -> Stopped:
        """Returns what the run ends with, once it is saved."""
        kind = Interrupted if self.signal == signal.SIGINT else Stopped
        name = signal.Signals(self.signal or signal.SIGTERM).name
        return kind(
            f"Stopped by {name}; everything is saved.",
            expected="",
            hint=f"Go on with: residuum train --resume {shlex.quote(str(run_folder))}",
        )


@contextlib.contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """While it lasts, SIGINT, SIGTERM and SIGUSR1 ask `stop`; a second one of a kind ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = number
        signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
