"""Arms of a comparison as processes of their own, measured whenever the other end asks.

A process decides once how many threads it has, what it compiles and what its libraries keep; so arms that are to be
compared must not share one. `Arm` is the end that asks. The other end calls `serve` with a function that measures once:

    serve(lambda: updates_a_second(training(), steps=60))
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 1800.0

_ANSWER = "arm: "


class ArmError(Exception):
    """An arm that failed, with the last lines that it said."""


class Arm:
    """A process that measures one round each time that it is asked, and waits in between."""

    def __init__(self, name: str, words: Sequence[str], *, settle_s: float = 1.0) -> None:
        self.name = name
        self._settle_s = settle_s
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            env=environment(),
        )  # fmt: skip
        try:
            self._answer()  # that it is ready
        except ArmError:
            self.close()
            raise

    def __call__(self) -> float:
        """Measures once, after a pause in which what other arms have begun comes to its end."""
        time.sleep(self._settle_s)
        assert self._process.stdin is not None
        try:
            print(file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise ArmError(f"{self.name} is gone: {self._last_words()}") from error
        return float(self._answer()["value"])

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.startswith(_ANSWER):  # what libraries print is no answer
                    return answered(line)
        finally:
            timer.cancel()
        raise ArmError(f"{self.name} failed: {self._last_words()}")

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()[-2000:]


def once(words: Sequence[str]) -> float:
    """Runs an arm that measures once in a process of its own, and returns what it found."""
    return float(told(words)["value"])


def told(words: Sequence[str]) -> Mapping[str, Any]:
    """Runs an arm that answers once, and returns all that it tells.

    Raises:
        ArmError: it failed; the error has its last words.
    """
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=TIMEOUT_S, env=environment()
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    if done.returncode != 0 or not answers:
        raise ArmError(f"{' '.join(words)} failed: {done.stderr.strip()[-2000:]}")
    return answered(answers[-1])


def answer(**said: Any) -> None:
    """Tells the other end."""
    print(f"{_ANSWER}{json.dumps(said)}", flush=True)


def answered(line: str) -> Mapping[str, Any]:
    """Returns what a line tells that `answer` has printed."""
    said: Mapping[str, Any] = json.loads(line.removeprefix(_ANSWER))
    return said


def environment() -> dict[str, str]:
    """Returns the environment of an arm: this one, in which it finds the same residuum and these files."""
    import residuum

    source = str(Path(residuum.__file__).resolve().parents[1])
    places = [source, str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}


def serve(measure: Callable[[], float]) -> None:
    """Says that it is ready, and measures each time that it is asked, until the other end is closed."""
    answer(ready=True)
    for _ in sys.stdin:
        answer(value=measure())


def rate_of(updates: Iterator[int], steps: int, lead_in: int = 0) -> Callable[[], float]:
    """Returns a function that measures how many pictures a second `steps` more `updates` take; each is told as its
    number of pictures. A `lead_in` of updates comes before the clock starts, and uses up what waits from the last time.
    """

    def measure() -> float:
        for _ in islice(updates, lead_in):
            pass
        started = time.perf_counter()
        images = sum(islice(updates, steps))
        return images / (time.perf_counter() - started)

    return measure
