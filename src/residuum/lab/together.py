"""Nets trained side by side, each in a process of its own: layers of 16 channels on small pictures do not keep several
cores busy, and several nets do.

What such a process does is `apart.py`: it is given a `Request`, tells what it does a record a line, and stops, with
everything saved, when its input ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from residuum import errors
from residuum.errors import ResiduumError, ResourceError
from residuum.threads import cores

if TYPE_CHECKING:
    from residuum.lab.findings import Scale


@dataclass(frozen=True)
class Wanted:
    """A net to be trained: its network with the options that differ from the recipe's, and its seed."""

    model: str
    seed: int
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """What a process is asked to train, and where: the arguments of its `Bench`."""

    experiment: str
    scale: Scale
    out: str
    data: str
    device: str
    at_once: int
    net: Wanted


def train(requests: Sequence[Request], names: Sequence[str], note: Callable[[str], None]) -> None:
    """Trains a net for each request, as many at once as the first of them says; `note` is told how they get on, each by
    its name.

    Raises:
        ResiduumError: what training one of them raised, or a process that the system has ended; the others are stopped,
            and what they have learnt is saved.
    """
    told: queue.Queue[tuple[int, str | None]] = queue.Queue()
    waiting = list(enumerate(requests))
    with _processes() as running:

        def begin() -> None:
            number, request = waiting.pop(0)
            running[number] = _begun(request)
            note(f"{names[number]}: begins")
            threading.Thread(target=_listen, args=(running[number], number, told), daemon=True).start()

        for _ in range(min(requests[0].at_once, len(requests))):
            begin()
        while running:
            number, line = told.get()
            if line is not None:
                _tell(json.loads(line), names[number], note)
                continue
            _refuse_failed(_closed(running.pop(number)), names[number])
            if waiting:
                begin()


def _begun(request: Request) -> subprocess.Popen[str]:
    threads = max(1, cores() // request.at_once)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "residuum.lab.apart", json.dumps(asdict(request))],  # -P: nothing of this folder
        start_new_session=True,  # the keyboard interrupts who asked, and that one ends the process's input
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip


def _listen(process: subprocess.Popen[str], number: int, told: queue.Queue[tuple[int, str | None]]) -> None:
    """Passes on what a process says, line by line, and at last that it has ended."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            told.put((number, line))
    process.wait()
    told.put((number, None))


def _tell(said: dict[str, object], name: str, note: Callable[[str], None]) -> None:
    """Notes a record of a net, as far as it is of use to people; raises the error that its training ended with."""
    if said["kind"] == "error":
        kind = getattr(errors, str(said["name"]))
        while kind.__init__ is not ResiduumError.__init__:  # one that is made of other things than its three parts
            kind = kind.__mro__[1]
        error: ResiduumError = kind(str(said["what"]), expected=str(said["expected"]), hint=str(said["hint"]))
        raise error
    if said["kind"] == "note":
        note(f"{name}: {said['text']}")
    if said["kind"] == "epoch":
        note(f"{name}: epoch {said['epoch']}  loss {said['loss']:.4f}  {said['images_per_s']:,.0f} images/s")


def _closed(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Returns a process that has come to its end; one that still runs is asked to by the end of its input."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    return process


def _refuse_failed(process: subprocess.Popen[str], name: str) -> None:
    """Raises what is to be said of a process that did not train its net, and did not say why."""
    code = process.returncode
    if code == 0:
        return
    by = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with the exit code {code}"
    killed = code == -signal.SIGKILL  # as the system does where memory is short
    raise (ResourceError if killed else ResiduumError)(
        f"The process that trained {name} {by}.",
        expected="Expected memory for all nets that are trained at once." if killed else "Expected a trained net.",
        hint="What it said is above, and what it learnt is saved. Train the nets one after the other with --jobs 1.",
    )


@contextmanager
def _processes() -> Iterator[dict[int, subprocess.Popen[str]]]:
    """Yields the processes, which are asked to stop, and waited for, where they are left running."""
    running: dict[int, subprocess.Popen[str]] = {}
    try:
        yield running
    finally:
        with ThreadPoolExecutor() as pool:  # all at once, for each saves what it has learnt
            list(pool.map(_closed, running.values()))
