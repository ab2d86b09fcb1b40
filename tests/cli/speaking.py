"""How the tests speak to the command line, and what it answers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from residuum.cli import console

TINY = ["--data", "synthetic:60x3x16", "--model", "resnet20_cifar", "--img-size", "8", "--epochs", "1"]
"""What makes `train` a matter of a second."""


@dataclass(frozen=True)
class Said:
    """What a command said, and the code that it ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Say = Callable[..., Said]


@dataclass(frozen=True)
class Trained:
    """A run of `train` in `place`, watched on a terminal: `screen` is everything that the terminal was sent."""

    place: Path
    code: int
    out: str
    screen: str

    @property
    def bundle(self) -> Path:
        """The folder with the weights."""
        return self.place / "runs" / "photos-1" / "best"


@contextlib.contextmanager
def terminal() -> Iterator[tuple[io.TextIOWrapper, Callable[[], str]]]:
    """Yields a stream that is a terminal, and a function that ends it and returns what was written to it."""
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w", encoding="utf-8")
    seen = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):  # the other end was closed
            while piece := os.read(master, 65536):
                seen.extend(piece)

    listener = threading.Thread(target=listen)
    listener.start()

    def end() -> str:
        stream.close()
        listener.join(timeout=10)
        return seen.decode("utf-8")

    try:
        yield stream, end
    finally:
        end()
        os.close(master)


def without_codes(screen: str) -> str:
    """Returns what a terminal was sent without the codes that move the cursor and choose colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "\n")


def picture(path: Path, seed: int, px: int = 12) -> None:
    """Writes a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(path)


def every_file(place: Path) -> dict[str, int]:
    """Returns all that is in a folder: name to size, -1 for folders."""
    return {
        path.relative_to(place).as_posix(): path.stat().st_size if path.is_file() else -1 for path in place.rglob("*")
    }


def stop_after_an_epoch(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Sends this process a signal as soon as the first epoch is reported."""
    note = console.note

    def heard(text: str) -> None:
        note(text)
        if text.startswith("epoch 1/"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr("residuum.cli.console.note", heard)
